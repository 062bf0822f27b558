"""Does a codec keep its promises on a folder of photographs (Kodak)?

    python tests/kodak_check.py DIR [--codec rho] [--json FILE] [--jobs N]

For every picture at quality 0, 10, ..., 100: the bytes of the file are within 0.5 % + 32 of the
model's estimate, and the file decodes to exactly what the encoder shows. Over all pictures: the
mean PSNR never falls as the quality rises, and mean rates span 0.1 to 1.5 bits per pixel. With a
target: `bpp`, `size` and `psnr` land within 2 %, and a size is never exceeded. Rates count all
bytes of the file, PSNR is of the decoded 8-bit picture. Exit code 1 and a line for each promise
that is broken.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

QUALITIES = tuple(range(0, 101, 10))
RATE_SPAN_BPP = (0.1, 1.5)  # a codec's mean rates must reach at least from here to there
SIZE_SHARE, SIZE_BYTES = 0.005, 32  # a file may be off its estimate by this share plus these bytes
TARGET_SHARE = 0.02
TARGETS_BPP = (0.25, 0.5, 1.0)
TARGETS_BYTES = (15_000, 40_000)
TARGETS_DB = (30.0, 34.0, 38.0)


@dataclass(frozen=True)
class Point:
    """One picture at one quality; `estimated_bytes` is the model's code length and nothing else."""

    picture: str
    quality: float
    file_bytes: int
    estimated_bytes: float
    rate_bpp: float
    psnr_db: float
    is_as_shown: bool

    def fault(self) -> str:
        difference = self.file_bytes - self.estimated_bytes
        if not self.is_as_shown:
            return "decodes to another picture than the encoder shows"
        if abs(difference) > SIZE_SHARE * self.estimated_bytes + SIZE_BYTES:
            return f"{self.file_bytes} bytes for an estimate of {self.estimated_bytes:.0f}"
        return ""


@dataclass(frozen=True)
class Landing:
    """Where a search for a target ended; `kind` is "bpp", "size" or "psnr"."""

    picture: str
    kind: str
    target: float
    reached: float

    @property
    def share(self) -> float:
        """Distance from the target, as a share of it."""
        return self.reached / self.target - 1

    def fault(self) -> str:
        if self.kind == "size" and self.reached > self.target:
            return f"{self.reached:.0f} bytes are over the size of {self.target:.0f}"
        if abs(self.share) > TARGET_SHARE:
            return (
                f"{self.kind} {self.target:g}: {self.reached:.4f} is {100 * self.share:+.2f} % off"
            )
        return ""


def psnr_db(reference: np.ndarray, shown: np.ndarray) -> float:
    """10 log10(255^2 / MSE) over all samples of two uint8 pictures."""
    difference = reference.astype(np.float64) - shown
    mse = float(np.mean(difference * difference))
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def measure_picture(path: Path, codec: str) -> tuple[list[Point], list[Landing]]:
    """All points and targets of one picture, by the public functions."""
    import rhodec
    from rhodec.codecs.registry import load_codec

    pixels = np.array(Image.open(path).convert("RGB"))
    coder = load_codec(codec)
    latents = coder.analyse(pixels)
    points = []
    for quality in QUALITIES:
        data = rhodec.encode(pixels, quality=quality, codec=codec)
        decoded = rhodec.decode(data)
        coded = coder.quantise(latents, quality)
        points.append(
            Point(
                path.name,
                quality,
                len(data),
                coded.estimated_bits / 8,
                rate_of(data, pixels),
                psnr_db(pixels, decoded),
                np.array_equal(decoded, coder.reconstruct(coded)),
            )
        )
    return points, land_targets(path.name, pixels, points, codec)


def rate_of(data: bytes, pixels: np.ndarray) -> float:
    """Bits per pixel of a whole file."""
    return 8 * len(data) / (pixels.shape[0] * pixels.shape[1])


def land_targets(
    name: str, pixels: np.ndarray, points: Sequence[Point], codec: str
) -> list[Landing]:
    """The targets that lie between this picture's lowest and highest quality."""
    import rhodec

    low, high = points[0], points[-1]
    landings = []
    for bpp in TARGETS_BPP:
        if low.rate_bpp < bpp < high.rate_bpp:
            data = rhodec.encode(pixels, bpp=bpp, codec=codec)
            landings.append(Landing(name, "bpp", bpp, rate_of(data, pixels)))
    for size in TARGETS_BYTES:
        if low.file_bytes < size < high.file_bytes:
            data = rhodec.encode(pixels, size=size, codec=codec)
            landings.append(Landing(name, "size", size, len(data)))
    for psnr in TARGETS_DB:
        if low.psnr_db < psnr < high.psnr_db:
            decoded = rhodec.decode(rhodec.encode(pixels, psnr=psnr, codec=codec))
            landings.append(Landing(name, "psnr", psnr, psnr_db(pixels, decoded)))
    return landings


def faults_of_means(means: Sequence[tuple[float, float, float]]) -> list[str]:
    """Broken promises of (quality, mean bpp, mean dB), in ascending order of quality."""
    faults = [
        f"quality {b[0]:g} has a mean PSNR of {b[2]:.3f} dB, quality {a[0]:g} of {a[2]:.3f} dB"
        for a, b in pairwise(means)
        if b[2] < a[2]
    ]
    rates = [rate for _, rate, _ in means]
    if min(rates) > RATE_SPAN_BPP[0] or max(rates) < RATE_SPAN_BPP[1]:
        faults.append(
            f"mean rates span {min(rates):.3f} to {max(rates):.3f} bpp, not "
            f"{RATE_SPAN_BPP[0]} to {RATE_SPAN_BPP[1]}"
        )
    return faults


def means_of(points: Sequence[Point]) -> list[tuple[float, float, float]]:
    """(quality, mean bpp, mean dB) for every quality."""
    means = []
    for quality in QUALITIES:
        those = [p for p in points if p.quality == quality]
        rate = sum(p.rate_bpp for p in those) / len(those)
        means.append((float(quality), rate, sum(p.psnr_db for p in those) / len(those)))
    return means


def _use_one_thread() -> None:
    import torch

    from rhodec.codecs import overfit_fitting
    from rhodec.entropy import integer_network

    torch.set_num_threads(1)
    integer_network.set_threads(1)
    overfit_fitting.set_threads(1)


def _print_table(points: Sequence[Point], landings: Sequence[Landing]) -> None:
    print(f"{'quality':>7} {'bpp':>8} {'PSNR dB':>8}   bytes against the estimate: mean, extremes")
    for quality, rate, psnr in means_of(points):
        off = [p.file_bytes - p.estimated_bytes for p in points if p.quality == quality]
        share = [
            100 * (p.file_bytes / p.estimated_bytes - 1) for p in points if p.quality == quality
        ]
        print(
            f"{quality:7g} {rate:8.4f} {psnr:8.3f}   {np.mean(off):+7.1f}, {min(off):+.1f} to "
            f"{max(off):+.1f} bytes, {min(share):+.2f} to {max(share):+.2f} %"
        )
    print(f"{'target':>7} {'searches':>8} {'off by at most':>16}")
    for kind in ("bpp", "size", "psnr"):
        shares = [100 * abs(o.share) for o in landings if o.kind == kind]
        if shares:
            print(f"{kind:>7} {len(shares):8} {max(shares):14.2f} %")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--codec", default="rho", help="name or weights file")
    parser.add_argument("--count", type=int, help="only the first pictures")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number here")
    args = parser.parse_args(arguments)
    paths = sorted(args.folder.glob("*.png"))[: args.count]
    if not paths:
        parser.error(f"no PNG in {args.folder}")

    points: list[Point] = []
    landings: list[Landing] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, context, initializer=_use_one_thread) as pool:
        results = pool.map(measure_picture, paths, [args.codec] * len(paths))
        for some_points, some_landings in tqdm(results, total=len(paths), unit="picture"):
            points += some_points
            landings += some_landings
    _print_table(points, landings)
    faults = [f"{p.picture}, quality {p.quality:g}: {p.fault()}" for p in points if p.fault()]
    faults += [f"{o.picture}: {o.fault()}" for o in landings if o.fault()]
    faults += faults_of_means(means_of(points))
    if args.json:
        record = {
            "codec": args.codec,
            "points": [asdict(p) for p in points],
            "targets": [asdict(o) for o in landings],
            "faults": faults,
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    for fault in faults:
        print(fault)
    print(f"{len(points)} files and {len(landings)} targets, {len(faults)} broken promises")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
