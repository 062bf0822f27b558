"""The data sets of the field: what is in them, how to get them, and whether a folder is one.

A manifest in `dataset_manifests/` names the files of a set and what is known of each: sides, number
of pixels, frames, bytes, the SHA-256 of the file and of the pixels (`picture_sets.pixels_digest`).
Pixels are what counts, since a PNG may be written anew. What is not known is not in the manifest,
and is not verified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DatasetFile:
    """What is known of a picture or a raw video; None for what is not."""

    name: str
    width: int | None = None
    height: int | None = None
    pixels: int | None = None
    frames: int | None = None
    frames_per_second: int | None = None
    pixel_format: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    pixels_sha256: str | None = None

    @property
    def is_proven(self) -> bool:
        """A hash is known, so that equality can be proven."""
        return bool(self.sha256 or self.pixels_sha256)


@dataclass(frozen=True)
class Dataset:
    """A manifest; `kind` is `pictures` or `videos` (raw planar YUV)."""

    name: str
    title: str
    kind: str
    count: int
    licence: str
    obtain: list[str]
    notes: list[str]
    files: list[DatasetFile]


@dataclass
class Verdict:
    """How a folder compares with a manifest: `missing` and `wrong` speak against it.

    `proven` files have the right hash, `plausible` ones agree in all that is known but have no
    hash; `others` lie in the folder and are not part of the set.
    """

    dataset: str
    proven: list[str] = field(default_factory=list)
    plausible: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """All files are there and none is wrong; other pictures would change a mean over all."""
        return not (self.missing or self.wrong or self.others)


def known_datasets() -> dict[str, Dataset]:
    """All manifests by name."""
    return dict(_manifests())


def known_dataset(name: str) -> Dataset:
    """The manifest of that name; raises `ValueError` for others."""
    if name not in _manifests():
        raise ValueError(f"no data set is called {name!r}; there is {', '.join(_manifests())}")
    return _manifests()[name]


def dataset_by_pixels(digests: Iterable[str]) -> str | None:
    """The name of the set whose pictures have exactly these `pixels_sha256`, in any order.

    This is the only proof that a published curve was made with the same pictures.
    """
    asked = sorted(digests)
    for name, dataset in _manifests().items():
        known = [file.pixels_sha256 for file in dataset.files if file.pixels_sha256]
        if len(known) == dataset.count and sorted(known) == asked:
            return name
    return None


def verify_folder(folder: Path, dataset: Dataset) -> Verdict:
    """Compare the files of a folder with a manifest; raises `ValueError` for no folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    verdict = Verdict(dataset.name)
    for file in dataset.files:
        path = folder / file.name
        if not path.is_file():
            verdict.missing.append(file.name)
        elif reason := _difference(path, file, dataset.kind):
            verdict.wrong[file.name] = reason
        else:
            (verdict.proven if file.is_proven else verdict.plausible).append(file.name)
    verdict.others = _others(folder, dataset)
    return verdict


def guess_dataset(folder: Path) -> Dataset:
    """The set that has most of the folder's names; raises `ValueError` if none has any."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found = {path.name for path in folder.iterdir()}
    common = {n: len(found & {f.name for f in d.files}) for n, d in _manifests().items()}
    best = max(common, key=common.__getitem__)
    if not common[best]:
        raise ValueError(f"{folder}: no file of a known data set; there is {', '.join(common)}")
    return _manifests()[best]


def _difference(path: Path, file: DatasetFile, kind: str) -> str | None:
    """Why the file is not the one of the manifest; None where all that is known agrees."""
    if file.sha256 and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256:
        return None
    if kind == "videos":
        size = path.stat().st_size
        return None if size == file.bytes else f"{size} bytes instead of {file.bytes}"

    from rhodec.evaluate.picture_sets import pixels_digest, read_picture

    try:
        image = read_picture(path)
    except ValueError as error:
        return f"not a picture: {error}"
    height, width = image.shape[:2]
    if file.width and (width, height) != (file.width, file.height):
        return f"{width} x {height} instead of {file.width} x {file.height}"
    if file.pixels and width * height != file.pixels:
        return f"{width * height} pixels instead of {file.pixels}"
    if file.pixels_sha256 and pixels_digest(image) != file.pixels_sha256:
        return "other pixels"
    return None


def _others(folder: Path, dataset: Dataset) -> list[str]:
    from rhodec.evaluate.picture_sets import PICTURE_EXTENSIONS

    extensions = PICTURE_EXTENSIONS if dataset.kind == "pictures" else (".yuv",)
    names = {file.name for file in dataset.files}
    found = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in extensions)
    return [name for name in found if name not in names]


@cache
def _manifests() -> dict[str, Dataset]:
    found = {}
    for entry in files("rhodec.evaluate").joinpath("dataset_manifests").iterdir():
        if entry.name.endswith(".json"):
            page: dict[str, Any] = json.loads(entry.read_text(encoding="utf-8"))
            page["files"] = [DatasetFile(**record) for record in page["files"]]
            found[page["name"]] = Dataset(**page)
    return dict(sorted(found.items()))
