"""The verb `rhodec bdrate`: Bjontegaard deltas between results files, tables and published curves.

Parsing and printing only; the numbers and the judging are in `bjontegaard`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from rhodec.evaluate.argument_values import parse_window
from rhodec.evaluate.bjontegaard import (
    Curve,
    CurveWarning,
    Method,
    bd_quality,
    bd_rate,
    bd_rate_per_picture,
    common_quality,
)
from rhodec.evaluate.curve_tables import TABLE_SUFFIXES, read_curve_table
from rhodec.evaluate.named_curves import (
    METRIC_ALIASES,
    PUBLISHED_PREFIX,
    NamedCurve,
    metric_name,
    of_published,
    points_of,
    read_curve_file,
)
from rhodec.evaluate.published_curves import list_datasets, load_per_picture, published_curve

EXAMPLES = """\
examples:
  rhodec bdrate vtm-9.1 results/rho.json                 the anchor first
  rhodec bdrate results/vvc.json results/*.json --method cubic --window 29,38
  rhodec bdrate results/jpeg-420.json results/rho.json --per-image
  rhodec bdrate anchor.csv mine.tsv --metric ms-ssim --json

A curve is a results file of rhodec or CompressAI (.json), a table with columns such as bpp and
psnr_rgb, and perhaps picture and quality (.tsv, .csv), or the name of a published curve. Doubtful
curves are warned of, and those without a meaningful delta refused with the reason.

Exit codes: 0 all deltas exist, 1 some were refused, 2 a mistake in the command line."""


@dataclass
class Comparison:
    """The deltas of one curve against the anchor; None where `refused` says why not.

    `quality_range` is where the BD-rate was taken. Per picture: mean in per cent, half of its 95 %
    interval, each picture's value, and the reasons of those without one.
    """

    anchor: str
    test: str
    metric: str
    method: str
    bd_rate_percent: float | None = None
    bd_quality_db: float | None = None
    quality_range: tuple[float, float] | None = None
    warnings: list[str] = field(default_factory=list)
    refused: str | None = None
    per_image: dict[str, Any] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rhodec bdrate`."""
    parser.description = "Bjontegaard deltas of curves against an anchor."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("anchor", metavar="ANCHOR", help="a file or a published curve")
    parser.add_argument("test", nargs="+", metavar="TEST", help="curves to compare with it")
    parser.add_argument(
        "--method", choices=get_args(Method), default="pchip", help="how curves are fitted (pchip)"
    )
    parser.add_argument(
        "--metric",
        default="psnr-rgb",
        metavar="NAME",
        help="ms-ssim, psnr-y, psnr-yuv, ... (psnr-rgb)",
    )
    parser.add_argument(
        "--window", type=parse_window, metavar="LOW,HIGH", help="only this range of quality counts"
    )
    parser.add_argument(
        "--per-image", action="store_true", help="every picture by itself, and their mean"
    )
    parser.add_argument(
        "--dataset", choices=list_datasets(), help="of published curves (kodak, or the files')"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """The exit code: 0 all deltas exist, 1 some were refused, 2 a mistake in the command line."""
    try:
        metric = metric_name(args.metric)
        words = [args.anchor, *args.test]
        dataset = args.dataset or _dataset_of_files(words) or "kodak"
        anchor, *tests = (_load(word, dataset, args.per_image) for word in words)
        for test in tests:
            _check_same_pictures(anchor, test)
    except (OSError, ValueError) as error:
        print(f"rhodec: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    found = [
        compare(anchor, test, metric, args.method, args.window, args.per_image) for test in tests
    ]
    if args.json:
        print(json.dumps([asdict(comparison) for comparison in found], indent=1))
    else:
        for comparison in found:
            _print(comparison)
    return 1 if any(comparison.refused for comparison in found) else 0


def compare(
    anchor: NamedCurve,
    test: NamedCurve,
    metric: str = "psnr-rgb",
    method: Method = "pchip",
    window: tuple[float, float] | None = None,
    with_pictures: bool = False,
) -> Comparison:
    """BD-rate and, without a window, BD-quality, between curves of means and per picture.

    Doubts and refusals are part of the answer, not raised.
    """
    result = Comparison(anchor.name, test.name, metric, method)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CurveWarning)
        try:
            curves = _points(anchor, metric, result), _points(test, metric, result)
            result.bd_rate_percent = bd_rate(*curves, method, window=window)
            low, high = common_quality(*curves)
            if window is None:
                result.quality_range = low, high
                result.bd_quality_db = bd_quality(*curves, method)
            else:
                result.quality_range = max(low, window[0]), min(high, window[1])
            if with_pictures:
                result.per_image = _compare_pictures(anchor, test, metric, method, window)
        except ValueError as error:
            result.refused = str(error)
    doubts = [str(w.message) for w in caught if issubclass(w.category, CurveWarning)]
    result.warnings += dict.fromkeys(doubts)
    return result


def _points(curve: NamedCurve, metric: str, result: Comparison) -> Curve:
    values = curve.values.get(metric)
    if not values:
        raise ValueError(f"{curve.name} has no {metric}")
    points = points_of(curve.values, metric)
    if len(points[0]) < len(values):
        count = len(values) - len(points[0])
        result.warnings.append(f"{curve.name}: {count} points without a finite {metric} left out")
    return points


def _compare_pictures(
    anchor: NamedCurve,
    test: NamedCurve,
    metric: str,
    method: Method,
    window: tuple[float, float] | None,
) -> dict[str, Any]:
    curves = []
    for curve in (anchor, test):
        per_image = curve.record.get("per_image")
        if not per_image:
            raise ValueError(f"{curve.name} has no values of single pictures")
        # A published table names pictures without their extension.
        curves.append({Path(n).stem: points_of(v, metric) for n, v in per_image.items()})
    deltas = bd_rate_per_picture(curves[0], curves[1], method, window=window)
    return {
        "mean_percent": deltas.mean,
        "half_width_percent": deltas.half_width if math.isfinite(deltas.half_width) else None,
        "pictures": deltas.per_picture,
        "refused": deltas.refused,
    }


def _load(word: str, dataset: str, with_pictures: bool) -> NamedCurve:
    """A curve by the name of its file, or a published one."""
    suffix = Path(word).suffix.lower()
    if suffix in TABLE_SUFFIXES:
        return read_curve_table(Path(word))
    if suffix == ".json":
        curve = read_curve_file(Path(word))
        values = {METRIC_ALIASES.get(key, key): found for key, found in curve.values.items()}
        return replace(curve, values=values)
    name = word.removeprefix(PUBLISHED_PREFIX)
    curve = of_published(published_curve(name, dataset))
    record: dict[str, Any] = {"dataset": {"name": dataset}}
    if with_pictures:
        pictures = load_per_picture(name, dataset)
        record["per_image"] = {n: {"bpp": c[0], "psnr-rgb": c[1]} for n, c in pictures.items()}
    return replace(curve, record=record)


def _dataset_of_files(words: Sequence[str]) -> str | None:
    """The data set that the first results file names, for published curves beside it."""
    for word in words:
        if Path(word).suffix.lower() == ".json":
            return read_curve_file(Path(word)).dataset.get("name")
    return None


def _check_same_pictures(anchor: NamedCurve, test: NamedCurve) -> None:
    """Raises `ValueError` if both curves say what they were made with, and it is not the same."""
    for key in ("sha256", "name"):
        known = [curve.dataset for curve in (anchor, test) if key in curve.dataset]
        if len(known) == 2 and known[0][key] != known[1][key]:
            raise ValueError(
                f"{anchor.name} and {test.name} are of different pictures: "
                f"{known[0][key] or 'a folder'} and {known[1][key] or 'a folder'}"
            )


def _print(comparison: Comparison) -> None:
    title = f"{comparison.test} against {comparison.anchor}"
    for warning in comparison.warnings:
        print(f"rhodec: {title}: {warning}", file=sys.stderr)
    if comparison.refused:
        print(f"rhodec: {title}: refused: {comparison.refused}", file=sys.stderr)
        print(f"{title}: none")
        return
    assert comparison.quality_range is not None
    text = f"{title}: BD-rate {comparison.bd_rate_percent:+.2f} %"
    if comparison.bd_quality_db is not None:
        text += f", BD-quality {comparison.bd_quality_db:+.3f} dB"
    low, high = comparison.quality_range
    print(f"{text} ({comparison.method}, {low:.2f} to {high:.2f} dB)")
    if comparison.per_image is None:
        return
    pictures, refused = comparison.per_image["pictures"], comparison.per_image["refused"]
    for name, value in pictures.items():
        print(f"  {name}: {value:+.2f} %")
    for name, reason in refused.items():
        print(f"  {name}: none: {reason}")
    interval = comparison.per_image["half_width_percent"]
    spread = "" if interval is None else f" +- {interval:.2f} (95 % interval)"
    print(f"  mean of {len(pictures)}: {comparison.per_image['mean_percent']:+.2f} %{spread}")
