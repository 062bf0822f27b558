"""Rate-distortion curves from tables: CSV or TSV of any tool that names its columns.

One row per point, or per point and picture: ours (`rhodec evaluate`), Cool-chic's, or a file typed
by hand. Names of columns are recognised whatever their capitals and hyphens.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from rhodec.evaluate.named_curves import NamedCurve

TABLE_SUFFIXES = (".tsv", ".csv")
DELIMITERS = {".tsv": "\t", ".csv": ","}

RATE_COLUMNS = ("bpp", "rate_bpp", "bits_per_pixel")
PICTURE_COLUMNS = ("picture", "image", "seq_name", "sequence", "file", "filename")
POINT_COLUMNS = ("quality", "lmbda", "lambda", "qp", "point")
# Metric as in results files -> columns that hold it.
METRIC_COLUMNS = {
    "psnr-rgb": ("psnr_rgb", "psnr", "psnr_db"),
    "ms-ssim-rgb": ("ms_ssim_rgb", "ms_ssim", "msssim"),
    "psnr-y": ("psnr_y",),
    "psnr-yuv": ("psnr_yuv", "psnr_yuv_411"),
    "psnr-yuv-611": ("psnr_yuv_611",),
    "psnr-yuv-mse-411": ("psnr_yuv_mse_411",),
}

Values = dict[str, list[float | None]]


def read_curve_table(path: Path) -> NamedCurve:
    """A table as a curve of means and, if it names pictures, `per_image` in its record.

    Lines that start with `#` are comments. Raises `ValueError` for columns that are missing, values
    that are not numbers, and points that do not have all pictures.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [line for line in lines if line.strip() and not line.startswith("#")]
    reader = csv.DictReader(rows, delimiter=DELIMITERS[path.suffix.lower()])
    names = {name.strip().lower().replace("-", "_"): name for name in reader.fieldnames or ()}
    rate = _column(names, RATE_COLUMNS)
    columns = {key: _column(names, known) for key, known in METRIC_COLUMNS.items()}
    columns = {"bpp": rate, **{key: name for key, name in columns.items() if name}}
    if rate is None or len(columns) == 1:
        raise ValueError(f"{path}: no columns of rate and quality, such as bpp and psnr_rgb")
    records = list(reader)
    if not records:
        raise ValueError(f"{path}: no rows")

    def values_of(chosen: Sequence[dict[str, str]]) -> Values:
        return {key: [_number(r, name, path) for r in chosen] for key, name in columns.items()}

    picture, point = _column(names, PICTURE_COLUMNS), _column(names, POINT_COLUMNS)
    if picture is None:
        return NamedCurve(path.stem, values_of(records), {})
    by_picture: dict[str, list[dict[str, str]]] = {}
    for record in records:
        by_picture.setdefault(record[picture], []).append(record)
    points = {
        name: [r[point] if point else str(i) for i, r in enumerate(chosen)]
        for name, chosen in by_picture.items()
    }
    first = next(iter(points.values()))
    for name, own in points.items():
        if sorted(own) != sorted(first) or len(set(own)) != len(own):
            raise ValueError(f"{path}: {name} has not the same points as the other pictures")
        by_picture[name] = [by_picture[name][own.index(label)] for label in first]
    per_image = {name: values_of(chosen) for name, chosen in by_picture.items()}
    means = {
        key: [_mean([values[key][i] for values in per_image.values()]) for i in range(len(first))]
        for key in columns
    }
    return NamedCurve(path.stem, means, {"per_image": per_image})


def _column(names: dict[str, str], known: Sequence[str]) -> str | None:
    return next((names[name] for name in known if name in names), None)


def _number(record: dict[str, str], name: str | None, path: Path) -> float | None:
    text = record[name or ""]
    try:
        value = float(text)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: {text!r} in column {name} is not a number") from None
    return value if math.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None
