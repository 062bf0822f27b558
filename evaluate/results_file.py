"""Rows -> a results file: means by quality and the values of every picture, and back.

A results file is the JSON that CompressAI's plots read (`name`, `results` with parallel lists),
extended by the values and the hash of every coded picture, the averaging rule, the conditions,
versions and machines. Beside it lies a table with one row per measurement.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rhodec.evaluate import quality_metrics as metrics
from rhodec.evaluate.bjontegaard import Curve
from rhodec.evaluate.picture_coders import PictureCoder
from rhodec.evaluate.picture_sets import TestPicture, dataset_digest, dataset_name
from rhodec.evaluate.published_curves import PublishedCurve
from rhodec.evaluate.results_journal import HEADER, Row, to_line
from rhodec.evaluate.run_environment import environment

Summary = dict[str, Any]

AVERAGING = (
    "bpp and every metric: per picture, then the mean over pictures; ms-ssim-rgb is linear and per "
    "RGB channel; ms-ssim-rgb-db: -10 log10(1 - m) of the mean m; psnr-rgb-of-mean-mse: the PSNR "
    "of the mean of the MSEs; psnr-y and psnr-yuv: BT.601, 4:4:4, psnr-yuv = (4Y + U + V) / 6, "
    "psnr-yuv-611 = (6Y + U + V) / 8, psnr-yuv-mse-411 = the PSNR of (4 MSE_Y + MSE_U + MSE_V) / 6;"
    " times in seconds per picture, wall clock, cpu with the programs that a codec ran"
)

# Key in the JSON -> value of a row; the names that CompressAI uses where it has one.
RESULT_KEYS: dict[str, Callable[[Row], float]] = {
    "bpp": lambda row: row.bpp,
    "psnr-rgb": lambda row: row.psnr_rgb,
    "ms-ssim-rgb": lambda row: row.ms_ssim,
    "mse-rgb": lambda row: row.mse,
    "psnr-y": lambda row: row.psnr_y,
    "psnr-yuv": lambda row: row.psnr_yuv_411,
    "psnr-yuv-611": lambda row: row.psnr_yuv_611,
    "psnr-yuv-mse-411": lambda row: row.psnr_yuv_mse_411,
    "ssimulacra2": lambda row: row.ssimulacra2,
    "estimated-bpp": lambda row: row.estimated_bpp,
    "encoding_time": lambda row: row.encode_s,
    "decoding_time": lambda row: row.decode_s,
    "encoding_cpu_time": lambda row: row.encode_cpu_s,
    "decoding_cpu_time": lambda row: row.decode_cpu_s,
}


def summarise(coder: PictureCoder, rows: Sequence[Row], pictures: Sequence[TestPicture]) -> Summary:
    """Rows -> the content of a results file: means by rising quality, and every picture's values.

    `results` has the shape of CompressAI's files. Values that do not exist (MS-SSIM of small
    pictures) or are infinite (PSNR of exact copies) are None. Raises `ValueError` unless every
    quality has every picture.
    """
    names = [picture.name for picture in pictures]
    by_quality: dict[float, dict[str, Row]] = {}
    for row in rows:
        by_quality.setdefault(row.quality, {})[row.picture] = row
    for quality, found in by_quality.items():
        if sorted(found) != sorted(names):
            raise ValueError(f"{coder.name}: quality {quality:g} has not all pictures")
    qualities = sorted(by_quality)
    points = [[by_quality[quality][name] for name in names] for quality in qualities]

    results: dict[str, list[float | None]] = {
        key: [finite(math.fsum(map(value, point)) / len(point)) for point in points]
        for key, value in RESULT_KEYS.items()
    }
    results["psnr-rgb-of-mean-mse"] = [
        finite(metrics.psnr_of_mean_mse(row.mse for row in point)) for point in points
    ]
    results["ms-ssim-rgb-db"] = [decibels(value) for value in results["ms-ssim-rgb"]]
    return {
        "name": coder.name,
        "description": f"{coder.conditions['software']}; {coder.conditions['command']}",
        "results": results,
        "quality": qualities,
        "averaging": AVERAGING,
        "dataset": {
            "name": dataset_name(pictures),
            "pictures": len(names),
            "pixels": sum(picture.width * picture.height for picture in pictures),
            "sha256": dataset_digest(pictures),
        },
        "fingerprint": coder.fingerprint,
        "conditions": coder.conditions,
        "machines": sorted({row.machine for row in rows}),
        "environment": environment(),
        "per_image": {
            picture.name: {
                **{
                    key: [finite(value(point[i])) for point in points]
                    for key, value in RESULT_KEYS.items()
                },
                "file_bytes": [point[i].file_bytes for point in points],
                "file_sha256": [point[i].file_sha256 for point in points],
                "pixels_sha256": picture.pixels_sha256,
            }
            for i, picture in enumerate(pictures)
        },
    }


def write_results(folder: Path, summary: Summary, rows: Sequence[Row]) -> Path:
    """Write `NAME.json` and `NAME.tsv`, each replaced as a whole; the path of the JSON."""
    path = folder / f"{summary['name']}.json"
    table = "".join(line + "\n" for line in (HEADER, *map(to_line, rows)))
    write_atomically(path.with_suffix(".tsv"), table)
    write_atomically(path, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return path


def write_atomically(path: Path, text: str) -> None:
    """Create or replace a text file so that it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_results(path: Path) -> Summary:
    """A results file of ours; raises `ValueError` if it is not one."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        missing = {"name", "results", "quality", "per_image", "dataset"} - set(summary)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a results file: {error}") from error
    if missing:
        raise ValueError(f"{path}: not a results file: it lacks {', '.join(sorted(missing))}")
    return summary


# ---- curves -------------------------------------------------------------------------------------


def curve_of(values: Mapping[str, Sequence[float | None]], metric: str = "psnr-rgb") -> Curve:
    """(bpp, quality) from the lists of a results file; MS-SSIM in dB.

    Raises `ValueError` where a value is missing, as the PSNR of exact copies is.
    """
    bpp, quality = values["bpp"], values.get(metric) or [None]
    if any(value is None for value in (*bpp, *quality)):
        raise ValueError(f"{metric} is infinite or was not measured at some of the points")
    if metric in ("ms-ssim-rgb", "ms-ssim"):
        quality = [metrics.ms_ssim_db(value) for value in quality if value is not None]
    return list(bpp), list(quality)  # type: ignore[return-value]  # no None is left


def published_values(curve: PublishedCurve) -> dict[str, Sequence[float | None]]:
    """A published curve in the shape of `results`."""
    values: dict[str, Sequence[float | None]] = {"bpp": curve.bpp, "psnr-rgb": curve.psnr_db}
    return values | ({"ms-ssim-rgb": curve.ms_ssim} if curve.ms_ssim else {})


def decibels(linear: float | None) -> float | None:
    """MS-SSIM in dB; None for None and for 1."""
    return None if linear is None else finite(metrics.ms_ssim_db(linear))


def finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
