"""Random patches from a folder of pictures, held in memory as 8-bit RGB."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".ppm"})
MAX_DOWNSCALE = 2.0  # patches may be shrunk by up to this factor: more scales, fewer artifacts


def picture_files(folder: Path) -> list[Path]:
    """All picture files below `folder` but hidden ones, sorted; ValueError when there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    files = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    if not files:
        raise ValueError(f"no picture in {folder} (looked for {', '.join(sorted(SUFFIXES))})")
    return files


def split_files(files: list[Path], held_out: int) -> tuple[list[Path], list[Path]]:
    """(training, validation): `held_out` of the sorted `files`, spread evenly.

    The same for the same files; with other files in the folder, other pictures are held out.
    """
    if not 0 < held_out < len(files):
        raise ValueError(f"held_out is {held_out}, but there are {len(files)} pictures in all")
    chosen = {(2 * i + 1) * len(files) // (2 * held_out) for i in range(held_out)}
    train = [f for i, f in enumerate(files) if i not in chosen]
    return train, [files[i] for i in sorted(chosen)]


def read_rgb(path: Path) -> np.ndarray:
    """uint8 (H, W, 3); 16-bit grey is rounded to 8 bits, alpha dropped. ValueError if damaged."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # Pillow's own conversion clips these at 255
                grey = np.asarray(image).astype(np.int64).clip(0, 65535)
                return np.repeat(((grey + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
            if image.has_transparency_data:
                # Pillow warns where a transparent palette goes straight to RGB.
                return np.asarray(image.convert("RGBA"))[:, :, :3].copy()
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_all(files: list[Path], minimum_side: int, quiet: bool = False) -> list[np.ndarray]:
    """All pictures with both sides at least `minimum_side`; ValueError when there is none."""
    with ThreadPoolExecutor() as pool:
        bar = tqdm(pool.map(read_rgb, files), "reading", len(files), unit="picture", disable=quiet)
        pictures = [p for p in bar if min(p.shape[:2]) >= minimum_side]
    if not pictures:
        raise ValueError(f"no picture has sides of {minimum_side} pixels or more")
    if len(pictures) < len(files) and not quiet:
        left_out = f"{len(files) - len(pictures)} of {len(files)} pictures"
        print(f"{left_out} are left out: a side is under {minimum_side} pixels", file=sys.stderr)
    return pictures


class PhotoPatches:
    """Batches of augmented patches; batch `step` depends only on (seed, step), so runs resume.

    Augmentation: random crop, shrinking by up to 2 (for half of the patches), flip, transpose.
    Large pictures are drawn more often, by area^0.7.
    """

    def __init__(self, pictures: list[np.ndarray], seed: int):
        self.pictures = pictures
        self.seed = seed
        weights = np.array([p.shape[0] * p.shape[1] for p in pictures], float) ** 0.7
        self.weights = weights / weights.sum()

    def batch(self, step: int, size: int, side: int) -> np.ndarray:
        """uint8 (size, side, side, 3)."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.pictures), size, p=self.weights)
        return np.stack([self._patch(rng, self.pictures[i], side) for i in chosen])

    def _patch(self, rng: np.random.Generator, picture: np.ndarray, side: int) -> np.ndarray:
        height, width, _ = picture.shape
        limit = min(MAX_DOWNSCALE, min(height, width) / side)
        factor = rng.uniform(1, limit) if rng.random() < 0.5 and limit > 1 else 1.0
        crop = round(side * factor)
        top = rng.integers(0, height - crop + 1)
        left = rng.integers(0, width - crop + 1)
        patch = picture[top : top + crop, left : left + crop]
        if crop != side:
            image = Image.fromarray(np.ascontiguousarray(patch))
            patch = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        if rng.random() < 0.5:
            patch = patch.transpose(1, 0, 2)
        return patch

    def stream(self, requests: Iterator[tuple[int, int, int]]) -> Generator[np.ndarray]:
        """Batches for (step, size, side) requests, prepared ahead in one background thread."""
        ready: queue.Queue[np.ndarray | BaseException | None] = queue.Queue(maxsize=4)
        stop = threading.Event()

        def put(item: np.ndarray | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    return ready.put(item, timeout=0.5)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for step, size, side in requests:
                    if stop.is_set():
                        return
                    put(self.batch(step, size, side))
                put(None)
            except BaseException as error:  # handed to the consumer, which raises it
                put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()
