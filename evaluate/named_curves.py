"""Curves by name for plots and reports: results files, other tools' JSON and published curves.

A word is a results file if it ends in `.json`, else the name of a published curve. Anything with
CompressAI's shape will do, `{"name": ..., "results": {"bpp": [...], "psnr-rgb": [...]}}`; what our
own files say beyond that (times, single pictures, data set, conditions) is used where it is there.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhodec.evaluate import quality_metrics
from rhodec.evaluate.bjontegaard import CurveWarning, Method, bd_rate
from rhodec.evaluate.published_curves import PublishedCurve, published_curve
from rhodec.evaluate.results_file import published_values

PUBLISHED_PREFIX = "published:"

# Name on the command line and in results files -> what stands at an axis.
METRICS = {
    "psnr-rgb": "PSNR-RGB (dB)",
    "psnr-y": "PSNR-Y (dB)",
    "psnr-yuv": "PSNR-YUV 4:1:1 (dB)",
    "psnr-yuv-611": "PSNR-YUV 6:1:1 (dB)",
    "psnr-yuv-mse-411": "PSNR of YUV MSE 4:1:1 (dB)",
    "ms-ssim-rgb": "MS-SSIM (dB)",
    "ssimulacra2": "SSIMULACRA 2",
}
METRIC_ALIASES = {"psnr": "psnr-rgb", "ms-ssim": "ms-ssim-rgb"}

Values = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class NamedCurve:
    """A codec's results: `values` by key with one entry per rate point, and the file's rest.

    `record` is the content of the results file, empty for a published curve; `source` says where a
    published curve is from.
    """

    name: str
    values: Values
    record: Mapping[str, Any]
    source: str | None = None

    @property
    def is_published(self) -> bool:
        return self.source is not None

    @property
    def dataset(self) -> Mapping[str, Any]:
        return self.record.get("dataset") or {}

    def seconds_per_megapixel(self, key: str = "decoding_time") -> list[float]:
        """Times of the rate points; empty where they or the data set's size are not known."""
        pictures, pixels = self.dataset.get("pictures"), self.dataset.get("pixels")
        times = self.values.get(key) or []
        if not pictures or not pixels or any(value is None for value in times):
            return []
        return [value * pictures / pixels * 1e6 for value in times if value is not None]


def metric_name(text: str) -> str:
    """The key of a metric or of its alias; raises `ValueError` for others."""
    name = METRIC_ALIASES.get(text, text)
    if name not in METRICS:
        raise ValueError(f"metric {text!r} is not one of {', '.join((*METRIC_ALIASES, *METRICS))}")
    return name


def load_named_curves(words: Sequence[str], dataset: str | None = None) -> list[NamedCurve]:
    """The curves that the words name, in their order.

    `dataset` is that of published curves where no results file says it. Raises `ValueError` for a
    name given twice, an unknown one, results of different pictures, and a published mean next to
    results of other pictures than those it was made with.
    """
    measured = {word: read_curve_file(Path(word)) for word in words if word.endswith(".json")}
    shown = [curve for curve in measured.values() if curve.dataset.get("sha256")]
    if len({curve.dataset["sha256"] for curve in shown}) > 1:
        raise ValueError("these results are of different pictures and cannot be compared")
    known = {curve.dataset.get("name") for curve in shown}
    curves = []
    for word in words:
        if word in measured:
            curves.append(measured[word])
            continue
        if known == {None}:
            raise ValueError(
                f"{word} is a published mean over a whole data set; the results are of other "
                "pictures, so the comparison would mean nothing"
            )
        where = next(iter(known), None) or dataset or "kodak"
        curves.append(of_published(published_curve(word.removeprefix(PUBLISHED_PREFIX), where)))
    names = [curve.name for curve in curves]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"two curves are called {twice.pop()}")
    return curves


def read_curve_file(path: Path) -> NamedCurve:
    """A results file of ours or one in CompressAI's shape; raises `ValueError` for anything else.

    A file that cannot be read is an `OSError`.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        name, values = record["name"], record["results"]
        lengths = {len(values[key]) for key in values}
        rates = values["bpp"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not a results file: {error!r}") from error
    if lengths != {len(rates)} or not rates:
        raise ValueError(f"{path}: not a results file: its lists have different lengths")
    return NamedCurve(str(name), values, record)


def of_published(curve: PublishedCurve) -> NamedCurve:
    """A published curve in the same form."""
    return NamedCurve(curve.name, published_values(curve), {}, curve.source)


def points_of(values: Values, metric: str) -> tuple[list[float], list[float]]:
    """(bpp, quality) by increasing rate; MS-SSIM in dB.

    Points without a finite value are left out: MS-SSIM of small pictures, PSNR of exact copies.
    """
    points = []
    for bpp, value in zip(values["bpp"], values.get(metric) or [], strict=False):
        if bpp is None or value is None:
            continue
        quality = quality_metrics.ms_ssim_db(value) if metric.startswith("ms-ssim") else value
        if math.isfinite(quality):
            points.append((bpp, quality))
    points.sort()
    return [bpp for bpp, _ in points], [quality for _, quality in points]


def judged_bd_rate(
    anchor: Values, test: Values, metric: str, method: Method = "pchip"
) -> tuple[float | None, list[str]]:
    """BD-rate in per cent or None, and the doubts about it or the reason why there is none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CurveWarning)
        try:
            value = bd_rate(points_of(anchor, metric), points_of(test, metric), method)
        except ValueError as error:
            return None, [str(error)]
    return value, [str(w.message) for w in caught if issubclass(w.category, CurveWarning)]
