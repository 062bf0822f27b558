"""Prints the model card's tables of `overfit` beside Cool-chic 5.0, from results/overfit/*.tsv.

    rhodec evaluate SIX --codec overfit --quality 36.5,49.5,62.5 --effort 4 --out results/overfit
    python docs/overfit_table.py

SIX is a folder with kodim 01, 05, 07, 13, 19 and 23. In brackets: the rate against Cool-chic's
published points of the same picture at the same PSNR, the logarithm of the rate interpolated. At
last the mean of the BD-rates and of the seconds of processor time that a file took.
"""

from __future__ import annotations

import csv
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np

from rhodec.evaluate import CurveWarning, bd_rate

ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / "results" / "overfit"
THEIRS = ROOT / "evaluate" / "published" / "cool-chic-5.0-kodak.tsv"
Points = dict[str, list[tuple[float, float]]]


def rows_of(path: Path) -> list[dict[str, str]]:
    """Lines of a table with column names, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t"))


def points(path: Path, picture: str, rate: str, psnr: str) -> Points:
    """Picture -> (bpp, dB) by rising PSNR, from the named columns."""
    found: Points = defaultdict(list)
    for row in rows_of(path):
        found[Path(row[picture]).stem].append((float(row[rate]), float(row[psnr])))
    return {name: sorted(curve, key=lambda point: point[1]) for name, curve in found.items()}


def show(path: Path, theirs: Points) -> None:
    """One table."""
    deltas = []
    for name, curve in sorted(points(path, "picture", "bpp", "psnr_rgb").items()):
        (rates, psnrs), (bpp, psnr) = zip(*theirs[name], strict=True), zip(*curve, strict=True)
        same = np.exp(np.interp(psnr, psnrs, np.log(rates)))
        cells = [
            f"{r:.3f} bpp, {p:.2f} dB ({100 * (r / s - 1):+.0f} %)"
            for r, p, s in zip(bpp, psnr, same, strict=True)
        ]
        try:
            deltas.append(bd_rate((rates, psnrs), (bpp, psnr)))
            last = f"{deltas[-1]:+.1f} %"
        except ValueError as error:
            last = str(error)
        print("| " + " | ".join([name, *cells, last]) + " |")
    seconds = np.mean([float(row["encode_cpu_s"]) for row in rows_of(path)])
    mean = f"mean of {len(deltas)}: {np.mean(deltas):+.1f} %"
    print(f"{mean}, {seconds:.0f} s of processor time a file\n")


def main() -> None:
    warnings.simplefilter("ignore", CurveWarning)
    theirs = points(THEIRS, "seq_name", "rate_bpp", "psnr_db")
    for path in sorted(OURS.glob("*.tsv")):
        print(path.stem)
        show(path, theirs)


if __name__ == "__main__":
    main()
