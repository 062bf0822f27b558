"""Rate-distortion curves that others published, as anchors: `load_curve("vtm-9.1")`.

The points lie in `published/` as they were found; every curve names the repository it comes from.
PSNR is the mean over the data set of the PSNR of each picture in RGB, MS-SSIM is linear, unless a
note says otherwise. A curve holds for its data set only, so a comparison needs the very same
pictures.

`vtm-9.1` is the customary anchor of learned compression (CompressAI's `vtm.json`). It was made with
an 8-bit colour conversion and scored against the converted picture; from tests with x265 that
differs from correct rounding by about 1 % of rate.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

# Names that would otherwise collide within a data set, or that users know by another name:
# (file, name in the file) -> name here.
RENAMED = {
    ("kodak.json", "vtm"): "vtm-9.1",
    ("clic2020-professional-test.json", "vtm"): "vtm-9.1",
    ("kodak-more.json", "VTM"): "vtm-c3",
    ("kodak-more.json", "JPEG"): "jpeg-c3",
    ("kodak-more.json", "JPEG2000"): "jpeg2000-c3",
}
ALIASES = {"vtm": "vtm-9.1", "cool-chic-5.0": "cool-chic-5.0-mean-psnr"}

PER_PICTURE = {
    ("cool-chic-5.0", "kodak"): "cool-chic-5.0-kodak.tsv",
    ("cool-chic-5.0", "clic2020-professional-valid"): (
        "cool-chic-5.0-clic2020-professional-valid.tsv"
    ),
}


@dataclass(frozen=True)
class PublishedCurve:
    """One curve, by increasing rate; `ms_ssim` is linear, or None where it was not published."""

    name: str
    dataset: str
    source: str
    bpp: tuple[float, ...]
    psnr_db: tuple[float, ...]
    ms_ssim: tuple[float, ...] | None = None


def list_curves(dataset: str = "kodak") -> list[str]:
    """The names of the curves of a data set, sorted; `ValueError` for a set without curves."""
    return sorted(_curves(dataset))


def list_datasets() -> list[str]:
    """The data sets for which there are curves."""
    return sorted(_all_curves())


def load_curve(name: str, dataset: str = "kodak") -> tuple[list[float], list[float]]:
    """(bpp, PSNR-RGB in dB) of a published curve, ready for `bd_rate`.

    Capitals do not matter. Raises `ValueError` for an unknown data set or curve.
    """
    curve = published_curve(name, dataset)
    return list(curve.bpp), list(curve.psnr_db)


def published_curve(name: str, dataset: str = "kodak") -> PublishedCurve:
    """A published curve with its source; raises `ValueError` as `load_curve` does."""
    curves = _curves(dataset)
    key = _slug(name)
    if key not in curves:
        key = ALIASES.get(key, key)
    if key not in curves:
        near = [known for known in sorted(curves) if key.split("-")[0] in known] or sorted(curves)
        raise ValueError(
            f"no published curve of {dataset} is called {name!r}; there is {', '.join(near)}"
        )
    return curves[key]


def load_per_picture(
    name: str, dataset: str = "kodak"
) -> dict[str, tuple[list[float], list[float]]]:
    """Curves (bpp, PSNR-RGB in dB) of the single pictures, by picture name without extension.

    Raises `ValueError` where only the mean was published.
    """
    file_name = PER_PICTURE.get((_slug(name), dataset))
    if file_name is None:
        known = ", ".join(f"{curve} on {set_}" for curve, set_ in PER_PICTURE)
        raise ValueError(f"no curves per picture of {name!r} on {dataset!r}; there is {known}")
    points: dict[str, list[tuple[float, float]]] = {}
    lines = (line for line in _text(file_name).splitlines() if not line.startswith("#"))
    for row in csv.DictReader(lines, delimiter="\t"):
        point = float(row["rate_bpp"]), float(row["psnr_db"])
        points.setdefault(row["seq_name"], []).append(point)
    return {
        picture: ([bpp for bpp, _ in sorted(pairs)], [psnr for _, psnr in sorted(pairs)])
        for picture, pairs in points.items()
    }


def _curves(dataset: str) -> dict[str, PublishedCurve]:
    every = _all_curves()
    if dataset not in every:
        raise ValueError(f"no published curves of {dataset!r}; there is {', '.join(sorted(every))}")
    return every[dataset]


@cache
def _all_curves() -> dict[str, dict[str, PublishedCurve]]:
    """Data set -> name -> curve; curves without PSNR are left out."""
    found: dict[str, dict[str, PublishedCurve]] = {}
    names = sorted(entry.name for entry in files("rhodec.evaluate").joinpath("published").iterdir())
    for file_name in names:
        if not file_name.endswith(".json"):
            continue
        page = json.loads(_text(file_name))
        curves = found.setdefault(page["dataset"], {})
        for record in page["curves"]:
            values = record["results"]
            if "psnr-rgb" not in values:
                continue
            name = RENAMED.get((file_name, record["name"])) or _slug(record["name"])
            if name in curves:
                raise RuntimeError(f"two published curves are called {name!r}: name one in RENAMED")
            order = sorted(range(len(values["bpp"])), key=values["bpp"].__getitem__)
            ms_ssim = values.get("ms-ssim-rgb")
            curves[name] = PublishedCurve(
                name=name,
                dataset=page["dataset"],
                source=record["source"],
                bpp=tuple(values["bpp"][i] for i in order),
                psnr_db=tuple(values["psnr-rgb"][i] for i in order),
                ms_ssim=None if ms_ssim is None else tuple(ms_ssim[i] for i in order),
            )
    return found


def _slug(name: str) -> str:
    """A name that can be typed: `C3 (Adaptive)` -> `c3-adaptive`."""
    return name.lower().replace("(", "").replace(")", "").replace(" ", "-")


def _text(file_name: str) -> str:
    return (files("rhodec.evaluate") / "published" / file_name).read_text(encoding="utf-8")
