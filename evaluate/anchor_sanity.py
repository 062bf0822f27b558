"""Do the anchors that were run here lie where they must beside the published curves of Kodak?

A curve of the same codec by another hand is the only check that finds a wrong colour path, a
perceptual default or bytes that were not counted. The two never agree exactly: the settings, the
versions and the conventions of scoring differ, so that each pair has its own expected BD-rate. The
expectations were measured with Pillow 13.0, x265 4.3, VVenC 1.15 and libaom 3.14 (PCHIP, PSNR-RGB,
common range); `TOLERANCE` leaves room for other versions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rhodec.evaluate.bjontegaard import CurveWarning, bd_rate
from rhodec.evaluate.published_curves import load_curve

TOLERANCE = 1.0  # points of per cent


class Expectation(NamedTuple):
    """The BD-rate in per cent of an anchor against a published curve, and why it is not 0."""

    published: str
    bd_rate: float
    reason: str


EXPECTATIONS: dict[str, tuple[Expectation, ...]] = {
    "jpeg-420": (
        Expectation(
            "jpeg",
            -12.5,
            "both are 4:2:0; here with optimised Huffman tables and progressive scans, which saves "
            "most below 0.5 bpp",
        ),
    ),
    "jpeg-444": (
        Expectation(
            "jpeg",
            -4.1,
            "optimised tables and progressive scans save more than 4:4:4 costs against the "
            "published 4:2:0",
        ),
    ),
    "webp": (Expectation("webp", -2.5, "method 6 here, the default 4 there"),),
    "jpeg2000": (
        Expectation(
            "jpeg2000",
            -20.4,
            "9/7 wavelet and OpenJPEG's own colour transform here, ffmpeg's 8-bit planes and its "
            "defaults there; both at constant rates",
        ),
    ),
    "hevc": (
        Expectation(
            "hm",
            -2.3,
            "x265 on 10-bit planes here, the reference encoder on 8-bit planes there",
        ),
        Expectation(
            "bpg_444_x265_ycbcr",
            -1.9,
            "the same encoder; 10-bit planes here, 8-bit planes in a container there",
        ),
    ),
    "avif": (
        Expectation(
            "av1",
            6.6,
            "libaom at speed 4 in one pass here, at speed 0 in two passes there; the container of "
            "AVIF takes 275 bytes of each file, about 2 %",
        ),
    ),
    "avif-420": (Expectation("av1", 13.9, "as avif, and 4:2:0 instead of the published 4:4:4"),),
    "vvc": (
        Expectation(
            "vtm-9.1",
            1.3,
            "VVenC medium on 4:2:0 at 10 bits here, the reference encoder on 4:4:4 at 8 bits "
            "there; the distance shrinks as the rate grows",
        ),
    ),
    "vvc-faster": (
        Expectation("vtm-9.1", 16.5, "as vvc, and the preset: faster needs 14 % more than medium"),
    ),
}


class Finding(NamedTuple):
    """An anchor beside a published curve; `measured` is its BD-rate, or why there is none."""

    anchor: str
    expectation: Expectation
    measured: float | str

    @property
    def is_expected(self) -> bool:
        return (
            not isinstance(self.measured, str)
            and abs(self.measured - self.expectation.bd_rate) <= TOLERANCE
        )


def check_anchors(summaries: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """The findings for the summaries (contents of results files) of anchors on Kodak.

    Codecs without a published curve and results of other pictures have none.
    """
    findings = []
    for summary in summaries:
        if summary["dataset"]["name"] != "kodak":
            continue
        for expectation in EXPECTATIONS.get(summary["name"], ()):
            results = summary["results"]
            curve = results["bpp"], results["psnr-rgb"]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", CurveWarning)
                    measured = bd_rate(load_curve(expectation.published), curve)
            except ValueError as error:
                measured = str(error)
            findings.append(Finding(summary["name"], expectation, measured))
    return findings


def sanity_table(findings: Sequence[Finding]) -> str:
    """The findings as a Markdown table; empty if there are none."""
    if not findings:
        return ""
    lines = [
        "| anchor | published curve | BD-rate % | expected % | as expected | why it is not 0 |",
        "|---|---|--:|--:|---|---|",
    ]
    for finding in findings:
        anchor, expectation, measured = finding
        value = f"none: {measured}" if isinstance(measured, str) else f"{measured:+.1f}"
        lines.append(
            f"| {anchor} | {expectation.published} | {value} | {expectation.bd_rate:+.1f} "
            f"| {'yes' if finding.is_expected else 'NO'} | {expectation.reason} |"
        )
    return "\n".join(lines)
