"""Results -> one HTML page with curves, a table and pictures, which needs nothing but a browser.

Everything that the page computes from is in one JSON object (`page_data`); the files of
`report_page/` draw it. The page asks no other machine or file for anything, and its content
security policy tells the browser to refuse if it did.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from rhodec.evaluate.bjontegaard import Method, bd_rate_per_picture, common_quality
from rhodec.evaluate.comparison_pictures import RATES, Comparison, Crop, data_address
from rhodec.evaluate.named_curves import METRICS, NamedCurve, Values, judged_bd_rate, points_of
from rhodec.evaluate.quality_metrics import ms_ssim_db

# In this order in one script, as a page without a server cannot load modules.
SCRIPTS = ("logic.js", "chart.js", "table.js", "viewer.js", "page.js")


def page_data(
    curves: Sequence[NamedCurve],
    title: str,
    *,
    kmac: Mapping[str, float] | None = None,
    pictures: Sequence[Mapping[str, Any]] = (),
    method: Method = "pchip",
) -> dict[str, Any]:
    """What the page shows. `kmac`: decoder kMAC per pixel by codec; `pictures` of `picture_data`.

    Raises `ValueError` for no curves.
    """
    if not curves:
        raise ValueError("no results to report")
    present = [key for key in METRICS if any(points_of(c.values, key)[0] for c in curves)]
    dataset = next((c.dataset for c in curves if c.dataset), {})
    return {
        "title": title,
        "dataset": {key: dataset.get(key) for key in ("name", "pictures", "pixels", "sha256")},
        "averaging": next((c.record["averaging"] for c in curves if "averaging" in c.record), ""),
        "machines": sorted({m for c in curves for m in c.record.get("machines", [])}),
        "method": method,
        "metrics": [{"key": key, "label": METRICS[key]} for key in present],
        "codecs": [_codec_data(curve, present, (kmac or {}).get(curve.name)) for curve in curves],
        "deltas": {key: _deltas(curves, key, method) for key in present},
        "rates": list(RATES),
        "pictures": list(pictures),
    }


def picture_data(
    comparison: Comparison, webp: Sequence[bytes], crop: Crop | None
) -> dict[str, Any]:
    """A picture of the comparison for the page; `webp` in the order of `all_pixels`."""
    height, width = comparison.original.shape[:2]
    original, *rest = (data_address(file) for file in webp)
    sources = iter(rest)
    return {
        "name": comparison.name,
        "width": width,
        "height": height,
        "crop": None if crop is None else vars(crop),
        "original": original,
        "targets": list(comparison.target_bpp),
        "versions": {
            codec: [
                {
                    "quality": version.quality,
                    "bytes": version.file_bytes,
                    "bpp": version.bpp,
                    "psnr": _finite(version.psnr_rgb),
                    "msssim": version.ms_ssim_db,
                    "source": next(sources),
                }
                for version in versions
            ]
            for codec, versions in comparison.versions.items()
        },
    }


def report_page(data: Mapping[str, Any]) -> str:
    """The HTML text of `page_data`."""
    folder = files("rhodec.evaluate") / "report_page"
    template, style = ((folder / name).read_text(encoding="utf-8") for name in FRAME)
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    # A `<` could end the script element; inside of JSON strings it may be written otherwise.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(data["title"]),
        "STYLE": style,
        "DATA": text,
        "SCRIPT": script,
    }
    # One pass over the template, so that nothing in a part is taken for another place.
    head, *pieces = template.split("{{")
    page = [head]
    for piece in pieces:
        name, _, rest = piece.partition("}}")
        page += [parts[name], rest]
    return "".join(page)


FRAME = ("page.html", "page.css")


# ---- parts --------------------------------------------------------------------------------------


def _codec_data(curve: NamedCurve, metrics: Sequence[str], kmac: float | None) -> dict[str, Any]:
    record = curve.record
    return {
        "name": curve.name,
        "published": curve.is_published,
        "source": curve.source,
        "quality": record.get("quality"),
        "values": _shown_values(curve.values, metrics),
        "perPicture": {
            name: _shown_values(values, metrics)
            for name, values in record.get("per_image", {}).items()
        },
        "encode": _mean(curve.seconds_per_megapixel("encoding_time")),
        "decode": _mean(curve.seconds_per_megapixel("decoding_time")),
        "kmac": kmac,
        "conditions": dict(record.get("conditions", {})),
    }


def _shown_values(values: Values, metrics: Sequence[str]) -> dict[str, list[float | None]]:
    """Rates and qualities as the page shows them: MS-SSIM in dB, five digits are plenty."""
    shown = {"bpp": [_rounded(value) for value in values["bpp"]]}
    for key in metrics:
        column = values.get(key)
        if column is not None:
            is_linear = key.startswith("ms-ssim")
            shown[key] = [
                _rounded(ms_ssim_db(v) if is_linear and v is not None else v) for v in column
            ]
    return shown


def _deltas(
    curves: Sequence[NamedCurve], metric: str, method: Method
) -> dict[str, dict[str, dict[str, Any]]]:
    """Anchor -> test -> BD-rate, common range, doubts, and the mean over pictures."""
    return {
        anchor.name: {
            test.name: _delta(anchor, test, metric, method) for test in curves if test is not anchor
        }
        for anchor in curves
    }


def _delta(anchor: NamedCurve, test: NamedCurve, metric: str, method: Method) -> dict[str, Any]:
    value, notes = judged_bd_rate(anchor.values, test.values, metric, method)
    found: dict[str, Any] = {"value": value, "notes": notes}
    if value is None:
        return found
    low, high = common_quality(points_of(anchor.values, metric), points_of(test.values, metric))
    found["range"] = [low, high]
    anchors, tests = (
        {n: points_of(v, metric) for n, v in c.record.get("per_image", {}).items()}
        for c in (anchor, test)
    )
    try:
        deltas = bd_rate_per_picture(anchors, tests, method)
    except ValueError:  # no values per picture, or not of the same ones
        return found
    found["mean"], found["halfWidth"] = deltas.mean, _finite(deltas.half_width)
    if deltas.refused:
        found["leftOut"] = len(deltas.refused)
    return found


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
