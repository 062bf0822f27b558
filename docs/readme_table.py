"""Copies the results of rho from results/*.json into README.md and the model card.

They go between two markers on each page.

Run as `python docs/readme_table.py` with rhodec installed, after `rhodec evaluate`.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from rhodec.codecs.registry import load_codec
from rhodec.evaluate import CurveWarning, bd_rate, load_curve

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
CARD = ROOT / "codecs" / "weights" / "README.md"
PUBLISHED = {
    "published factorized prior (CompressAI)": "compressai-bmshj2018-factorized_mse_cuda",
    "published scale hyperprior (CompressAI)": "compressai-bmshj2018-hyperprior_mse_cuda",
    "published WebP": "webp",
    "published BPG 4:4:4": "bpg444",
    "published VTM-9.1": "vtm-9.1",
}


def curve(name: str) -> tuple[list[float], list[float]]:
    """(bpp, PSNR-RGB) of a results file."""
    results = json.loads((ROOT / "results" / f"{name}.json").read_text())["results"]
    return results["bpp"], results["psnr-rgb"]


def table() -> str:
    """Points of rho and its BD-rates, as Markdown."""
    bpp, psnr = curve("rho")
    rows = [
        "| bpp | " + " | ".join(f"{v:.3f}" for v in bpp) + " |",
        "|---" * (len(bpp) + 1) + "|",
        "| PSNR-RGB, dB | " + " | ".join(f"{v:.2f}" for v in psnr) + " |",
        "",
        "| BD-rate of `rho` (PCHIP) against | % |",
        "|---|---|",
    ]
    anchors = {"JPEG 4:2:0 (Pillow, optimised)": curve("jpeg-420")}
    anchors |= {label: load_curve(name) for label, name in PUBLISHED.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CurveWarning)  # RESULTS.md has them as footnotes
        rows += [f"| {label} | {bd_rate(a, (bpp, psnr)):+.1f} |" for label, a in anchors.items()]
    return "\n".join(rows)


def card() -> str:
    """What the weights file says of itself, and the table."""
    codec = load_codec("rho")
    assert codec.weights_path
    made = codec.provenance
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| file | {codec.weights_path.stat().st_size / 1e6:.2f} MB |",
            f"| hash in streams | `{codec.weights_hash.hex()}` |",
            f"| steps | {made['steps']} |",
            f"| training | {made['minutes'] / 60:.2f} hours of wall clock, two CPU cores |",
            f"| training pictures | {made['training_pictures']} |",
            "",
            "Kodak, real files, mean of per-picture values:",
            "",
            table(),
        ]
    )


def fill(path: Path, content: str) -> None:
    """Put `content` between the page's markers."""
    text = path.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{content}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    fill(ROOT / "README.md", table())
    fill(CARD, card())


if __name__ == "__main__":
    main()
