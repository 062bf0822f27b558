"""Copies the results of the shipped codecs from results/*.json into README.md and the model cards.

They go between the markers `<!-- results: NAME -->` and `<!-- end of results -->` on each page.

Run as `python docs/readme_table.py` with rhodec installed, after `rhodec evaluate`.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from rhodec.codecs.registry import load_codec
from rhodec.evaluate import CurveWarning, bd_rate, load_curve

ROOT = Path(__file__).resolve().parent.parent
CARD = ROOT / "codecs" / "weights" / "README.md"
README = ROOT / "README.md"
CODECS = ("rho", "hyperprior")  # those that are measured on all of Kodak
MEASURED = {
    "VVC 4:2:0 (VVenC medium)": "vvc",
    "HEVC 4:4:4 (x265 slow)": "hevc",
    "AVIF 4:4:4 (libaom speed 4)": "avif",
    "WebP": "webp",
    "JPEG 2000": "jpeg2000",
    "JPEG XL (not tuned for PSNR)": "jxl",
    "JPEG 4:2:0 (optimised)": "jpeg-420",
}
PUBLISHED = {
    "published VTM-9.1": "vtm-9.1",
    "published BPG 4:4:4": "bpg444",
    "published mean-scale hyperprior (CompressAI)": "compressai-mbt2018-mean_mse_cuda",
    "published scale hyperprior (CompressAI)": "compressai-bmshj2018-hyperprior_mse_cuda",
    "published factorized prior (CompressAI)": "compressai-bmshj2018-factorized_mse_cuda",
}
Curve = tuple[list[float], list[float]]


def curve(name: str) -> Curve:
    """(bpp, PSNR-RGB) of a results file."""
    results = json.loads((ROOT / "results" / f"{name}.json").read_text())["results"]
    return results["bpp"], results["psnr-rgb"]


def points(name: str) -> str:
    """Rate and PSNR of a codec, as Markdown."""
    bpp, psnr = curve(name)
    return "\n".join(
        [
            "| bpp | " + " | ".join(f"{v:.3f}" for v in bpp) + " |",
            "|---" * (len(bpp) + 1) + "|",
            "| PSNR-RGB, dB | " + " | ".join(f"{v:.2f}" for v in psnr) + " |",
        ]
    )


def bd_rates(names: Sequence[str]) -> str:
    """BD-rates of codecs against what was run here and what was published, as Markdown."""
    titles = " | ".join(f"`{name}`" for name in names)
    rows = [f"| BD-rate in % (PCHIP) against | {titles} |", "|---" * (len(names) + 1) + "|"]
    anchors = {label: curve(name) for label, name in MEASURED.items()}
    anchors |= {label: load_curve(name) for label, name in PUBLISHED.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CurveWarning)  # RESULTS.md has them as footnotes
        for label, anchor in anchors.items():
            values = (f"{bd_rate(anchor, curve(name)):+.1f}" for name in names)
            rows.append(f"| {label} | {' | '.join(values)} |")
    return "\n".join(rows)


def table() -> str:
    """The README's results."""
    return f"{points('rho')}\n\n{bd_rates(CODECS)}"


def card(name: str) -> str:
    """What a weights file says of itself, and its results."""
    codec = load_codec(name)
    assert codec.weights_path
    made = codec.provenance
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| file | {codec.weights_path.stat().st_size / 1e6:.2f} MB |",
            f"| hash in streams | `{codec.weights_hash.hex()}` |",
            f"| steps of the last run | {made['steps']} |",
            f"| wall clock of the last run | {made['minutes']:.0f} minutes |",
            f"| training pictures | {made['training_pictures']} |",
            "",
            "Kodak, real files, mean of per-picture values:",
            "",
            points(name),
            "",
            bd_rates([name]),
        ]
    )


def fill(page: Path, name: str, content: str) -> None:
    """Put `content` between the markers of `name` on a page."""
    begin, end = f"<!-- results: {name} -->\n", "\n<!-- end of results -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text, count = pattern.subn(lambda _: begin + content + end, page.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{page} has {count} places for the results of {name}")
    page.write_text(text, encoding="utf-8")


def main() -> None:
    fill(README, "all", table())
    for name in CODECS:
        fill(CARD, name, card(name))


if __name__ == "__main__":
    main()
