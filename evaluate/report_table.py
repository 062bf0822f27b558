"""Rows -> results files -> tables: means, Bjontegaard deltas and times in Markdown.

A results file is the JSON that CompressAI's plots read (`name`, `results` with parallel lists),
extended by the values of every picture, the averaging rule, the conditions, versions and machines.
`results_page` makes the whole of RESULTS.md from such files, so no number in it is typed.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rhodec.evaluate import quality_metrics as metrics
from rhodec.evaluate.bjontegaard import (
    Curve,
    CurveWarning,
    Method,
    bd_rate,
    bd_rate_per_picture,
    common_quality,
)
from rhodec.evaluate.published_curves import PublishedCurve
from rhodec.evaluate.rate_distortion import (
    HEADER,
    PictureCoder,
    Row,
    TestPicture,
    dataset_digest,
    dataset_name,
    environment,
    to_line,
)

Summary = dict[str, Any]

AVERAGING = (
    "bpp and every metric: per picture, then the mean over pictures; ms-ssim is linear and per RGB "
    "channel; psnr-rgb-of-mean-mse: the PSNR of the mean of the MSEs; psnr-y and psnr-yuv: BT.601, "
    "4:4:4, psnr-yuv = (4Y + U + V) / 6, psnr-yuv-611 = (6Y + U + V) / 8, psnr-yuv-mse-411 = the "
    "PSNR of (4 MSE_Y + MSE_U + MSE_V) / 6; times in seconds per picture"
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
    "estimated-bpp": lambda row: row.estimated_bpp,
    "encoding_time": lambda row: row.encode_s,
    "decoding_time": lambda row: row.decode_s,
    "encoding_cpu_time": lambda row: row.encode_cpu_s,
    "decoding_cpu_time": lambda row: row.decode_cpu_s,
}


# ---- results files ------------------------------------------------------------------------------


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
        key: [_finite(math.fsum(map(value, point)) / len(point)) for point in points]
        for key, value in RESULT_KEYS.items()
    }
    results["psnr-rgb-of-mean-mse"] = [
        _finite(metrics.psnr_of_mean_mse(row.mse for row in point)) for point in points
    ]
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
            name: {
                key: [_finite(value(point[i])) for point in points]
                for key, value in RESULT_KEYS.items()
            }
            for i, name in enumerate(names)
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
    """A results file; raises `ValueError` if it is not one."""
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
    bpp, quality = values["bpp"], values[metric]
    if any(value is None for value in (*bpp, *quality)):
        raise ValueError(f"{metric} is infinite or was not measured at some of the points")
    if metric.startswith("ms-ssim"):
        quality = [metrics.ms_ssim_db(value) for value in quality if value is not None]
    return list(bpp), list(quality)  # type: ignore[return-value]  # no None is left


def published_values(curve: PublishedCurve) -> dict[str, Sequence[float | None]]:
    """A published curve in the shape of `results`."""
    values: dict[str, Sequence[float | None]] = {"bpp": curve.bpp, "psnr-rgb": curve.psnr_db}
    return values | ({"ms-ssim-rgb": curve.ms_ssim} if curve.ms_ssim else {})


class _Notes:
    """Numbered footnotes, each text once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"({self.texts.index(text) + 1})"

    def lines(self) -> str:
        return "".join(f"\n({i}) {text}." for i, text in enumerate(self.texts, 1))


# ---- tables -------------------------------------------------------------------------------------


def rate_table(summary: Summary) -> str:
    """Rate, quality and times of one codec at each of its qualities."""
    results = summary["results"]
    columns = [
        ("quality", [f"{quality:g}" for quality in summary["quality"]]),
        ("bpp", _texts(results["bpp"], 4)),
        ("estimated bpp", _texts(results["estimated-bpp"], 4)),
        ("PSNR-RGB", _texts(results["psnr-rgb"], 2)),
        ("PSNR of mean MSE", _texts(results["psnr-rgb-of-mean-mse"], 2)),
        ("PSNR-Y", _texts(results["psnr-y"], 2)),
        ("MS-SSIM", _texts(results["ms-ssim-rgb"], 4)),
        ("MS-SSIM dB", _texts([_to_db(value) for value in results["ms-ssim-rgb"]], 2)),
        ("encode s", _texts(results["encoding_time"], 3)),
        ("decode s", _texts(results["decoding_time"], 3)),
    ]
    columns = [(head, cells) for head, cells in columns if set(cells) != {"-"}]
    return _table([head for head, _ in columns], list(zip(*(c for _, c in columns), strict=True)))


def bd_table(
    summaries: Sequence[Summary],
    published: Sequence[PublishedCurve] = (),
    metric: str = "psnr-rgb",
    method: Method = "pchip",
) -> str:
    """BD-rate of every measured codec (rows) against every other one and the published curves.

    Per cent, with the common range of quality in brackets; doubts and refusals are footnotes.
    """
    anchors = {summary["name"]: summary["results"] for summary in summaries}
    for curve in published:
        values = published_values(curve)
        if metric in values:
            anchors[f"{curve.name} (published)"] = values
    notes = _Notes()
    rows = [
        [
            summary["name"],
            *(
                "0" if name == summary["name"] else _bd_cell(values, summary, metric, method, notes)
                for name, values in anchors.items()
            ),
        ]
        for summary in summaries
    ]
    return _table(["codec", *(f"against {name}" for name in anchors)], rows) + notes.lines()


def _bd_cell(anchor: Any, summary: Summary, metric: str, method: Method, notes: _Notes) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CurveWarning)
        try:
            curves = curve_of(anchor, metric), curve_of(summary["results"], metric)
            value = bd_rate(*curves, method)
            low, high = common_quality(*curves)
        except ValueError as error:
            return f"none {notes.mark(str(error))}"
    doubts = [str(w.message) for w in caught if issubclass(w.category, CurveWarning)]
    marks = "".join(f" {notes.mark(doubt)}" for doubt in doubts)
    return f"{value:+.1f} [{low:.1f}, {high:.1f}]{marks}"


def per_picture_table(summaries: Sequence[Summary], method: Method = "pchip") -> str:
    """Mean over the pictures of BD-rates per picture (PSNR-RGB), with its 95 % interval."""
    notes = _Notes()
    rows = []
    for test in summaries:
        cells = [test["name"]]
        for anchor in summaries:
            if anchor is test:
                cells.append("0")
                continue
            try:
                deltas = bd_rate_per_picture(_per_picture(anchor), _per_picture(test), method)
            except ValueError as error:
                cells.append(f"none {notes.mark(str(error))}")
                continue
            cell = f"{deltas.mean:+.1f}"
            if math.isfinite(deltas.half_width):
                cell += f" +- {deltas.half_width:.1f}"
            if deltas.refused:
                reason = next(iter(deltas.refused.values()))
                count = f"{len(deltas.refused)} of {len(test['per_image'])} pictures left out"
                cell += f" {notes.mark(f'{count}, the first because {reason}')}"
            cells.append(cell)
        rows.append(cells)
    heads = ["codec", *(f"against {summary['name']}" for summary in summaries)]
    return _table(heads, rows) + notes.lines()


def _per_picture(summary: Summary) -> dict[str, Curve]:
    return {name: curve_of(values) for name, values in summary["per_image"].items()}


def results_page(
    summaries: Sequence[Summary],
    published: Sequence[PublishedCurve] = (),
    method: Method = "pchip",
) -> str:
    """The whole of RESULTS.md; raises `ValueError` for results of different data sets."""
    if not summaries:
        raise ValueError("no results to report")
    if len({summary["dataset"]["sha256"] for summary in summaries}) > 1:
        raise ValueError("these results are of different pictures and cannot be compared")
    dataset = summaries[0]["dataset"]
    megapixels = f"{dataset['pixels'] / 1e6:.1f} megapixels"
    parts = [
        "# Results",
        "Made by `rhodec evaluate`; do not edit. "
        f"Data set: {dataset['name'] or 'a folder of pictures'}, "
        f"{dataset['pictures']} pictures, {megapixels} (SHA-256 {dataset['sha256'][:16]}). "
        "Rates count whole files on disk over true pixels; distortion is of the decoded 8-bit "
        "picture; every value is taken per picture and then averaged.",
        "## BD-rate",
        f"Per cent of rate at equal PSNR-RGB, negative: fewer bits; method {method}, between "
        "curves of means; in brackets the range in dB that both curves reach.",
        bd_table(summaries, published, "psnr-rgb", method),
    ]
    if all(None not in summary["results"]["ms-ssim-rgb"] for summary in summaries):
        parts += [
            "At equal MS-SSIM in dB:",
            bd_table(summaries, published, "ms-ssim-rgb", method),
        ]
    if len(summaries) > 1:
        parts += [
            "Mean of the BD-rates of single pictures (PSNR-RGB) and its 95 % interval:",
            per_picture_table(summaries, method),
        ]
    parts.append("## Rate, distortion and time")
    for summary in summaries:
        parts += [f"### {summary['name']}", rate_table(summary)]
    parts += [
        "Times are wall seconds per picture, from pixels to a file on disk and back; they were "
        "measured on:",
        "\n".join(f"- {name}" for name in sorted({m for s in summaries for m in s["machines"]})),
        "## Conditions",
    ]
    for summary in summaries:
        lines = [f"- {key}: {value}" for key, value in summary["conditions"].items()]
        parts.append("\n".join([f"{summary['name']}:", "", *lines]))
    if published:
        lines = [f"- {curve.name}: {curve.source}" for curve in published]
        parts += ["## Sources of published curves", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also aligned in a terminal; numbers to the right."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    padded = [
        "| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def _texts(values: Sequence[float | None], decimals: int) -> list[str]:
    return ["-" if value is None else f"{value:.{decimals}f}" for value in values]


def _to_db(linear: float | None) -> float | None:
    return None if linear is None else _finite(metrics.ms_ssim_db(linear))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
