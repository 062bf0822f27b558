"""Copies the results of rho from results/*.json into README.md, between its two markers.

Run as `python docs/readme_table.py` with rhodec installed, after `rhodec evaluate`.
"""

from __future__ import annotations

import json
from pathlib import Path

from rhodec.evaluate import bd_rate, load_curve

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
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
    rows += [f"| {label} | {bd_rate(a, (bpp, psnr)):+.1f} |" for label, a in anchors.items()]
    return "\n".join(rows)


def main() -> None:
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    path.write_text(f"{head}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
