"""The whole of RESULTS.md from results files, so that no number in it is typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rhodec.evaluate.bjontegaard import Method
from rhodec.evaluate.published_curves import PublishedCurve
from rhodec.evaluate.report_table import (
    Window,
    bd_table,
    per_picture_table,
    rate_table,
    timing_table,
)
from rhodec.evaluate.results_file import Summary


@dataclass(frozen=True)
class PageOptions:
    """What a page shows: BD-rates by these methods, against these names (all without any), over
    `window` in dB of PSNR; `plot` is the address of a picture of the curves, from the page."""

    methods: Sequence[Method] = ("pchip",)
    against: Sequence[str] = ()
    window: Window = None
    plot: str | None = None


def results_page(
    summaries: Sequence[Summary],
    published: Sequence[PublishedCurve] = (),
    options: PageOptions | None = None,
    sanity: str = "",
) -> str:
    """The page as Markdown; raises `ValueError` for results of different data sets.

    `sanity` is a table of the anchors that were run against published curves of the same codecs.
    """
    options = options or PageOptions()
    if not summaries:
        raise ValueError("no results to report")
    if len({summary["dataset"]["sha256"] for summary in summaries}) > 1:
        raise ValueError("these results are of different pictures and cannot be compared")
    parts = [*_introduction(summaries[0], options), *_bd_rates(summaries, published, options)]
    if sanity:
        parts += [
            "## Anchors against their published curves",
            "BD-rate of what was run here against a curve that others published of the same codec, "
            "and the reason for the difference:",
            sanity,
        ]
    parts.append("## Rate, distortion and time")
    for summary in summaries:
        parts += [f"### {summary['name']}", rate_table(summary).markdown()]
    parts += [*_timing(summaries), "## Conditions"]
    for summary in summaries:
        lines = [f"- {key}: {value}" for key, value in summary["conditions"].items()]
        parts.append("\n".join([f"{summary['name']}:", "", *lines]))
    parts += ["## Environment", _environment(summaries)]
    if published:
        lines = [f"- {curve.name}: {curve.source}" for curve in published]
        parts += ["## Sources of published curves", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _introduction(summary: Summary, options: PageOptions) -> list[str]:
    dataset = summary["dataset"]
    parts = [
        "# Results",
        "Made by `rhodec evaluate`; do not edit. "
        f"Data set: {dataset['name'] or 'a folder of pictures'}, "
        f"{dataset['pictures']} pictures, {dataset['pixels'] / 1e6:.1f} megapixels "
        f"(SHA-256 {dataset['sha256'][:16]}). "
        "Rates count whole files on disk over true pixels; distortion is of the decoded 8-bit "
        "picture; every value is taken per picture and then averaged.",
    ]
    return [*parts, f"![Rate-distortion curves]({options.plot})"] if options.plot else parts


def _bd_rates(
    summaries: Sequence[Summary], published: Sequence[PublishedCurve], options: PageOptions
) -> list[str]:
    against, window = options.against, options.window
    limits = f" only {window[0]:g} to {window[1]:g} dB count," if window else ""
    parts = [
        "## BD-rate",
        "Per cent of rate at equal PSNR-RGB, negative: fewer bits; between curves of means;"
        f"{limits} in brackets the range in dB.",
    ]
    for method in options.methods:
        table = bd_table(summaries, published, "psnr-rgb", method, against=against, window=window)
        parts += [f"Method {method}:", table.markdown()]
    method = options.methods[0]
    if all(None not in summary["results"]["ms-ssim-rgb"] for summary in summaries):
        table = bd_table(summaries, published, "ms-ssim-rgb", method, against=against)
        parts += [f"At equal MS-SSIM in dB, method {method}:", table.markdown()]
    if len(summaries) > 1:
        table = per_picture_table(summaries, method, against=against, window=window)
        if len(table.heads) > 1:
            parts += [
                f"Mean of the BD-rates of single pictures (PSNR-RGB, {method}) and its 95 % "
                "interval:",
                table.markdown(),
            ]
    return parts


def _timing(summaries: Sequence[Summary]) -> list[str]:
    machines = sorted({m for summary in summaries for m in summary["machines"]})
    return [
        "### Times",
        "From pixels to a file on disk and back, wall clock and processor time, which includes the "
        "programs that a codec runs. Means over all qualities, in seconds per megapixel:",
        timing_table(summaries).markdown(),
        "Measured on:",
        "\n".join(f"- {name}" for name in machines),
    ]


def _environment(summaries: Sequence[Summary]) -> str:
    """One line per different environment, with the codecs that it made the page's files of."""
    codecs: dict[str, list[str]] = {}
    for summary in summaries:
        text = ", ".join(f"{key} {value}" for key, value in summary["environment"].items())
        codecs.setdefault(text, []).append(summary["name"])
    return "\n".join(f"- {', '.join(names)}: {text}" for text, names in codecs.items())
