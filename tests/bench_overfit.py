"""How far does `overfit` get in which time, beside what Cool-chic 5.0 publishes for the picture?

    python tests/bench_overfit.py kodak/kodim23.png --lambda 0.001 --effort 1 2 3

For each effort one file: its rate, PSNR and loss  1000 (MSE / 255^2 + lambda * bpp),  wall clock
and processor time of encoding, wall clock of decoding. Below stands Cool-chic's published point for
the same lambda, where there is one. Its encoder takes 1.9 s of one core an iteration at about as
many products a pixel, 10,000 iterations by default (measured on a Xeon with AVX-512).
"""

from __future__ import annotations

import argparse
import math
import time
from importlib.resources import files
from pathlib import Path

import numpy as np

from rhodec.codecs.codec_interface import Pixels
from rhodec.codecs.overfit import OverfitCodec, OverfitPicture, lambda_of
from rhodec.codecs.registry import load_codec
from rhodec.evaluate.picture_sets import read_picture

PUBLISHED = files("rhodec.evaluate") / "published" / "cool-chic-5.0-kodak.tsv"


def quality_of(rate_lambda: float) -> float:
    """The quality, in half steps, whose lambda is nearest."""
    exact = -100 / 3 * math.log10(rate_lambda / lambda_of(0))
    return min(max(round(2 * exact) / 2, 0), 100)


def published(name: str, rate_lambda: float) -> tuple[float, float] | None:
    """Cool-chic's (bpp, PSNR) of a Kodak picture at this lambda."""
    for line in PUBLISHED.read_text().splitlines():
        cells = line.split("\t")
        if len(cells) == 6 and cells[1] == name and float(cells[0]) == rate_lambda:
            return float(cells[5]), float(cells[4])
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--lambda", dest="lambdas", type=float, nargs="+", default=[0.001])
    parser.add_argument("--effort", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    codec = load_codec("overfit")
    assert isinstance(codec, OverfitCodec)
    print(f"{'':28}{'bpp':>8}{'dB':>8}{'loss':>8}{'encode s':>10}{'CPU s':>8}{'decode ms':>11}")
    for path in args.pictures:
        pixels = read_picture(path)
        for rate_lambda in args.lambdas:
            for effort in args.effort:
                show(codec, pixels, rate_lambda, effort, f"{path.stem} {rate_lambda:g}")
            known = published(path.stem, rate_lambda)
            if known:
                loss = loss_of(*known, rate_lambda)
                print(f"{'  Cool-chic 5.0, published':28}{known[0]:8.4f}{known[1]:8.3f}{loss:8.4f}")


def loss_of(rate_bpp: float, psnr_db: float, rate_lambda: float) -> float:
    return 1000 * (10 ** (-psnr_db / 10) + rate_lambda * rate_bpp)


def show(codec: OverfitCodec, pixels: Pixels, rate_lambda: float, effort: int, label: str) -> None:
    quality = quality_of(rate_lambda)
    height, width = pixels.shape[:2]
    wall, cpu = time.perf_counter(), time.process_time()
    coded = codec.quantise(OverfitPicture(pixels), quality, effort)
    cpu, between = time.process_time() - cpu, time.perf_counter()
    shown = codec.decode(coded.payload, width, height, quality, coded.digest)
    decoding, wall = time.perf_counter() - between, between - wall
    rate_bpp = 8 * len(coded.payload) / (height * width)
    psnr_db = 10 * math.log10(255**2 / np.mean((shown.astype(float) - pixels) ** 2))
    print(
        f"{f'{label}, effort {effort}':28}{rate_bpp:8.4f}{psnr_db:8.3f}"
        f"{loss_of(rate_bpp, psnr_db, lambda_of(quality)):8.4f}{wall:10.1f}{cpu:8.1f}"
        f"{1000 * decoding:11.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
