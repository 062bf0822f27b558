"""Results -> tables: rates, Bjontegaard deltas, means per picture; as Markdown.

A `Table` is cells of plain text with footnotes; `latex_table` prints the same ones.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rhodec.evaluate.bjontegaard import (
    Curve,
    CurveWarning,
    Method,
    bd_rate,
    bd_rate_per_picture,
    common_quality,
)
from rhodec.evaluate.published_curves import PublishedCurve
from rhodec.evaluate.results_file import Summary, curve_of, decibels, published_values

Window = tuple[float, float] | None


@dataclass
class Table:
    """Heads, rows of cells, and numbered footnotes, each text once."""

    heads: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """The mark of a footnote, which is added if it is new."""
        if text not in self.notes:
            self.notes.append(text)
        return f"({self.notes.index(text) + 1})"

    def only(self, heads: Sequence[str]) -> Table:
        """The table with those of its columns that have these heads."""
        kept = [i for i, head in enumerate(self.heads) if head in heads]
        rows = [[row[i] for i in kept] for row in self.rows]
        return Table([self.heads[i] for i in kept], rows, self.notes)

    def markdown(self) -> str:
        """A Markdown table that is also aligned in a terminal; numbers to the right."""
        lines = [self.heads, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.heads))]
        padded = [
            "| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + " |"
            for line in lines
        ]
        rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
        notes = "".join(f"\n({i}) {text}." for i, text in enumerate(self.notes, 1))
        # Without an empty line before it, a footnote would be a row of the table.
        return "\n".join([padded[0], rule, *padded[1:]]) + ("\n" + notes if notes else "")


def rate_table(summary: Summary) -> Table:
    """Rate, quality and times of one codec at each of its qualities; empty columns are left out."""
    results = summary["results"]
    columns = [
        ("quality", [f"{quality:g}" for quality in summary["quality"]]),
        ("bpp", _texts(results["bpp"], 4)),
        ("estimated bpp", _texts(results["estimated-bpp"], 4)),
        ("PSNR-RGB", _texts(results["psnr-rgb"], 2)),
        ("PSNR of mean MSE", _texts(results["psnr-rgb-of-mean-mse"], 2)),
        ("PSNR-Y", _texts(results["psnr-y"], 2)),
        ("MS-SSIM", _texts(results["ms-ssim-rgb"], 4)),
        ("MS-SSIM dB", _texts([decibels(value) for value in results["ms-ssim-rgb"]], 2)),
        ("SSIMULACRA2", _texts(results["ssimulacra2"], 2)),
        ("encode s", _texts(results["encoding_time"], 3)),
        ("encode CPU s", _texts(results["encoding_cpu_time"], 3)),
        ("decode s", _texts(results["decoding_time"], 3)),
        ("decode CPU s", _texts(results["decoding_cpu_time"], 3)),
    ]
    columns = [(head, cells) for head, cells in columns if set(cells) != {"-"}]
    rows = zip(*(cells for _, cells in columns), strict=True)
    return Table([head for head, _ in columns], [list(row) for row in rows])


def bd_table(
    summaries: Sequence[Summary],
    published: Sequence[PublishedCurve] = (),
    metric: str = "psnr-rgb",
    method: Method = "pchip",
    *,
    against: Sequence[str] = (),
    window: Window = None,
) -> Table:
    """BD-rate of every measured codec (rows) against measured and published ones (columns).

    Per cent, with the common range of quality in brackets; doubts and refusals are footnotes.
    `against` names the columns, all without it; `window` is one range of quality for all.
    """
    anchors = {summary["name"]: summary["results"] for summary in summaries}
    for curve in published:
        values = published_values(curve)
        if metric in values:
            anchors[f"{curve.name} (published)"] = values
    chosen = {
        name: values
        for name, values in anchors.items()
        if not against or name.removesuffix(" (published)") in against
    }
    table = Table(["codec", *(f"against {name}" for name in chosen)])
    for summary in summaries:
        cells = [
            "0"
            if name == summary["name"]
            else _bd_cell(values, summary["results"], metric, method, window, table)
            for name, values in chosen.items()
        ]
        table.rows.append([summary["name"], *cells])
    return table


def _bd_cell(
    anchor: Mapping[str, Sequence[float | None]],
    test: Mapping[str, Sequence[float | None]],
    metric: str,
    method: Method,
    window: Window,
    table: Table,
) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CurveWarning)
        try:
            curves = curve_of(anchor, metric), curve_of(test, metric)
            value = bd_rate(*curves, method, window=window)
            low, high = common_quality(*curves)
        except ValueError as error:
            return f"none {table.mark(str(error))}"
    if window is not None:
        low, high = max(low, window[0]), min(high, window[1])
    doubts = [str(w.message) for w in caught if issubclass(w.category, CurveWarning)]
    marks = "".join(f" {table.mark(doubt)}" for doubt in doubts)
    return f"{value:+.1f} [{low:.1f}, {high:.1f}]{marks}"


def per_picture_table(
    summaries: Sequence[Summary],
    method: Method = "pchip",
    *,
    against: Sequence[str] = (),
    window: Window = None,
) -> Table:
    """Mean over the pictures of BD-rates per picture (PSNR-RGB), with its 95 % interval."""
    anchors = [s for s in summaries if not against or s["name"] in against]
    table = Table(["codec", *(f"against {summary['name']}" for summary in anchors)])
    curves = {summary["name"]: _per_picture(summary) for summary in summaries}
    for test in summaries:
        cells = [test["name"]]
        for anchor in anchors:
            if anchor is test:
                cells.append("0")
                continue
            pairs = curves[anchor["name"]], curves[test["name"]]
            try:
                deltas = bd_rate_per_picture(*pairs, method, window=window)
            except ValueError as error:
                cells.append(f"none {table.mark(str(error))}")
                continue
            cell = f"{deltas.mean:+.1f}"
            if math.isfinite(deltas.half_width):
                cell += f" +- {deltas.half_width:.1f}"
            if deltas.refused:
                reason = next(iter(deltas.refused.values()))
                count = f"{len(deltas.refused)} of {len(test['per_image'])} pictures left out"
                cell += f" {table.mark(f'{count}, the first because {reason}')}"
            cells.append(cell)
        table.rows.append(cells)
    return table


def _per_picture(summary: Summary) -> dict[str, Curve]:
    """Curves of the single pictures; one without a value is not finite, and refused as such."""
    curves = {}
    for name, values in summary["per_image"].items():
        try:
            curves[name] = curve_of(values)
        except ValueError:
            curves[name] = values["bpp"], [math.nan] * len(values["bpp"])
    return curves


def timing_table(summaries: Sequence[Summary]) -> Table:
    """Seconds per megapixel: the mean over all qualities of a codec, wall and processor time."""
    table = Table(["codec", "encode s/MP", "encode CPU s/MP", "decode s/MP", "decode CPU s/MP"])
    keys = ("encoding_time", "encoding_cpu_time", "decoding_time", "decoding_cpu_time")
    for summary in summaries:
        per_megapixel = summary["dataset"]["pictures"] / summary["dataset"]["pixels"] * 1e6
        means = [math.fsum(summary["results"][key]) / len(summary["quality"]) for key in keys]
        table.rows.append([summary["name"], *(f"{mean * per_megapixel:.3f}" for mean in means)])
    return table


def _texts(values: Sequence[float | None], decimals: int) -> list[str]:
    return ["-" if value is None else f"{value:.{decimals}f}" for value in values]
