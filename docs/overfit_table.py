"""Prints the model card's tables of `overfit` beside Cool-chic 5.0, from results/overfit.

    rhodec evaluate SMOOTH --codec overfit --effort 4 --quality 36.5,56.5,70,90 --out A
    rhodec evaluate TEXTURED --codec overfit --effort 4 --quality 13.5,36.5,56.5,70 --out B
    rhodec evaluate SMOOTH --codec overfit --effort 6 --quality 36.5,56.5,70 --out A
    rhodec evaluate TEXTURED --codec overfit --effort 6 --quality 36.5,56.5,70 --out B
    python docs/overfit_table.py

SMOOTH is a folder with kodim 07, 19 and 23, TEXTURED one with 01, 05 and 13, A and B are smooth
and textured in results/overfit. These qualities are the lambdas of Cool-chic's published points
(0.02, 0.004, 0.001, 0.0004, 0.0001): for each picture the four whose published rates are nearest
to 0.1 to 1.2 bpp. In brackets: the rate against the published curve of the same picture at the
same PSNR, as the BD-rate interpolates it. Then the mean of the BD-rates and of the seconds that
a file took, wall clock and processor time, and the mean BD-rates of the same pictures against the
codecs in OTHERS.
"""

from __future__ import annotations

import csv
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator

from rhodec.evaluate import CurveWarning, bd_rate

ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / "results" / "overfit"
THEIRS = ROOT / "evaluate" / "published" / "cool-chic-5.0-kodak.tsv"
OTHERS = ("vvc", "hevc", "avif", "jxl", "jpeg-420", "rho")  # in results
COLUMNS = ("picture", "quality", "bpp", "psnr_rgb")  # of our tables
Rows = list[dict[str, str]]
Point = tuple[float, float, float]  # quality (of theirs: lambda), bpp, dB


def rows_of(path: Path) -> Rows:
    """Lines of a table with column names, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t"))


def curves(rows: Rows, columns: tuple[str, str, str, str]) -> dict[str, list[Point]]:
    """Picture -> points by rising PSNR; columns: picture, quality, rate, PSNR."""
    found: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        name, *point = (row[column] for column in columns)
        quality, bpp, psnr = map(float, point)
        found[Path(name).stem].append((quality, bpp, psnr))
    return {name: sorted(points, key=lambda p: p[2]) for name, points in sorted(found.items())}


def curve_of(points: list[Point]) -> tuple[list[float], list[float]]:
    """Rates and PSNRs, as `bd_rate` takes them."""
    return [bpp for _, bpp, _ in points], [psnr for _, _, psnr in points]


def excess(point: Point, theirs: tuple[list[float], list[float]]) -> str:
    """Our rate against theirs at the same PSNR, in brackets; nothing outside their curve."""
    rates, psnrs = theirs
    _, bpp, psnr = point
    log_rate = PchipInterpolator(psnrs, np.log(rates), extrapolate=False)(psnr)
    return "" if np.isnan(log_rate) else f" ({100 * (bpp / np.exp(log_rate) - 1):+.0f} %)"


def show(rows: Rows, published: dict[str, list[Point]]) -> None:
    """One table."""
    ours = curves(rows, COLUMNS)
    qualities = sorted({quality for points in ours.values() for quality, *_ in points})
    heads = ["picture", *(f"quality {q:g}" for q in qualities), "BD-rate"]
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    deltas = []
    for name, points in ours.items():
        theirs = curve_of(published[name])
        cells = dict.fromkeys(qualities, "")
        for point in points:
            cells[point[0]] = f"{point[1]:.3f} bpp, {point[2]:.2f} dB{excess(point, theirs)}"
        deltas.append(bd_rate(theirs, curve_of(points)))
        print("| " + " | ".join([name, *cells.values(), f"{deltas[-1]:+.1f} %"]) + " |")
    wall, cpu = (np.mean([float(row[k]) for row in rows]) for k in ("encode_s", "encode_cpu_s"))
    mean = f"mean of {len(deltas)}: {np.mean(deltas):+.1f} %"
    print(f"{mean}, {wall:.0f} s a file, {cpu:.0f} s of processor time")
    for other in OTHERS:
        others = curves(rows_of(OURS.parent / f"{other}.tsv"), COLUMNS)
        deltas = [bd_rate(curve_of(others[name]), curve_of(ours[name])) for name in ours]
        print(f"against {other}: {np.mean(deltas):+.1f} %")
    print()


def main() -> None:
    warnings.simplefilter("ignore", CurveWarning)
    published = curves(rows_of(THEIRS), ("seq_name", "lmbda", "rate_bpp", "psnr_db"))
    tables: dict[str, Rows] = defaultdict(list)
    for path in sorted(OURS.glob("**/*.tsv")):
        if path.parent.name != "cache":  # journals of runs that are not finished
            tables[path.stem] += rows_of(path)
    for title, rows in tables.items():
        print(title)
        show(rows, published)


if __name__ == "__main__":
    main()
