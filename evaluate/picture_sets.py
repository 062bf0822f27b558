"""Folders of pictures as data sets: reading, and knowing a set by its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rhodec.evaluate.known_datasets import dataset_by_pixels

PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif")


@dataclass(frozen=True)
class TestPicture:
    """A picture of a data set; `pixels_sha256` is of its size and its RGB samples."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    path: Path
    width: int
    height: int
    pixels_sha256: str

    @property
    def name(self) -> str:
        return self.path.name


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 (H, W, 3), upright; alpha is ignored, grey becomes RGB.

    Raises `ValueError` for what is not a picture and for more than 8 bits per sample.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{path}: only pictures with 8 bits per sample are measured")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path}: {error}") from error


def pixels_digest(image: np.ndarray) -> str:
    """SHA-256 of `WIDTHxHEIGHT`, a line feed and the RGB samples, row by row."""
    height, width = image.shape[:2]
    return hashlib.sha256(f"{width}x{height}\n".encode() + image.tobytes()).hexdigest()


def find_pictures(folder: Path) -> list[TestPicture]:
    """The pictures in a folder, not in its subfolders, by name; a file stands for itself.

    Raises `ValueError` for no folder, no pictures, or one that cannot be read.
    """
    if folder.is_dir():
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_EXTENSIONS)
    elif folder.is_file():
        paths = [folder]
    else:
        raise ValueError(f"{folder}: no such folder")
    if not paths:
        raise ValueError(f"{folder}: no pictures ({', '.join(PICTURE_EXTENSIONS)})")
    pictures = []
    for path in paths:
        image = read_picture(path)
        height, width = image.shape[:2]
        pictures.append(TestPicture(path, width, height, pixels_digest(image)))
    return pictures


def dataset_digest(pictures: Iterable[TestPicture]) -> str:
    """SHA-256 over the sorted fingerprints of the pictures; names and file formats do not count."""
    lines = sorted(picture.pixels_sha256 for picture in pictures)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def dataset_name(pictures: Sequence[TestPicture]) -> str | None:
    """`kodak` if these are exactly the 24 Kodak pictures; None for a set that is not known."""
    return dataset_by_pixels(picture.pixels_sha256 for picture in pictures)
