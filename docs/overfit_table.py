"""Prints the model card's table of `overfit` beside Cool-chic 5.0, from results/overfit/*.tsv.

    rhodec evaluate SIX --codec overfit --quality 36.5,49.5,62.5 --effort 4 --out results/overfit
    python docs/overfit_table.py

SIX is a folder with kodim 01, 05, 07, 13, 19 and 23. In brackets: the rate against Cool-chic's
published points of the same picture at the same PSNR, the logarithm of the rate interpolated.
"""

from __future__ import annotations

import csv
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np

from rhodec.evaluate import CurveWarning, bd_rate

ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / "results" / "overfit" / "overfit-effort4.tsv"
THEIRS = ROOT / "evaluate" / "published" / "cool-chic-5.0-kodak.tsv"
Points = dict[str, list[tuple[float, float]]]


def points(path: Path, picture: str, rate: str, psnr: str) -> Points:
    """Picture -> (bpp, dB) by rising PSNR, from the named columns."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    found: Points = defaultdict(list)
    for row in csv.DictReader(lines, delimiter="\t"):
        found[Path(row[picture]).stem].append((float(row[rate]), float(row[psnr])))
    return {name: sorted(curve, key=lambda point: point[1]) for name, curve in found.items()}


def main() -> None:
    warnings.simplefilter("ignore", CurveWarning)
    theirs = points(THEIRS, "seq_name", "rate_bpp", "psnr_db")
    for name, curve in sorted(points(OURS, "picture", "bpp", "psnr_rgb").items()):
        (rates, psnrs), (bpp, psnr) = zip(*theirs[name], strict=True), zip(*curve, strict=True)
        same = np.exp(np.interp(psnr, psnrs, np.log(rates)))
        cells = [
            f"{r:.3f} bpp, {p:.2f} dB ({100 * (r / s - 1):+.0f} %)"
            for r, p, s in zip(bpp, psnr, same, strict=True)
        ]
        try:
            delta = f"{bd_rate((rates, psnrs), (bpp, psnr)):+.1f} %"
        except ValueError as error:
            delta = str(error)
        print("| " + " | ".join([name, *cells, delta]) + " |")


if __name__ == "__main__":
    main()
