"""Makes the weights of `overfit`: networks to start from, and the analysis that goes with them.

    python -m rhodec.train.overfit_sets PICTURES overfit.safetensors

One set for each of a few lambdas. Networks that suit many pictures are found as those of one
are: they are fitted to a mosaic of crops. The first, from random weights, starts with the coarsest
grids alone and adds one after the other; otherwise the finer grids take part in what the coarser
ones do for less, and stay dense. The other lambdas follow from their neighbours. In each further
round every set goes on with a new mosaic, whose latents start from the regression on the mosaic
before.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rhodec.codecs.overfit_analysis import first_latents, regress
from rhodec.codecs.overfit_fitting import Fit
from rhodec.codecs.overfit_networks import (
    INPUTS,
    LEVELS,
    MAX_WEIGHT,
    WEIGHT_SCALE,
    Architecture,
    Networks,
)
from rhodec.codecs.weights_file import pack_weights
from rhodec.train.photo_patches import picture_files, read_rgb, split_files

CROP = 128
HELD_OUT = 20  # pictures that stay unseen
FIRST_LAMBDA = 1e-3
NEIGHBOURS = {4e-4: 1e-3, 1e-4: 4e-4, 4e-3: 1e-3, 2e-2: 4e-3}  # lambda -> the one it follows
FIRST_STEPS, NEXT_STEPS, ROUND_STEPS = 400, 180, 220
FIRST_STAGE, NEXT_STAGE = 40, 20  # steps with the coarsest 3, 4, 5 and 6 grids


def mosaic(files: list[Path], rows: int, columns: int, random: np.random.Generator) -> np.ndarray:
    """(rows * CROP, columns * CROP, 3) of one random crop each of that many different pictures."""
    crops = []
    for index in random.permutation(len(files)):
        picture = read_rgb(files[index])
        height, width = picture.shape[:2]
        if min(height, width) < CROP:
            continue
        y, x = random.integers(height - CROP + 1), random.integers(width - CROP + 1)
        crops.append(picture[y : y + CROP, x : x + CROP])
        if len(crops) == rows * columns:
            lines = [crops[row * columns : (row + 1) * columns] for row in range(rows)]
            return np.concatenate([np.concatenate(line, axis=1) for line in lines])
    raise ValueError(f"a mosaic needs {rows * columns} pictures of {CROP} pixels or more")


def random_networks(sizes: Architecture, random: np.random.Generator) -> Networks:
    """Where the first set starts: cubic upsampling, a residual of zero, the rest random."""
    h, f, r = sizes.hidden, sizes.features, sizes.residual
    cubic = np.array([-0.0274, 0.2275, 0.8705, -0.0706])  # at a quarter of the way
    context = [
        random.normal(0, 0.2, INPUTS * h),
        random.normal(0, math.sqrt(1.4 / h), h * h),
        random.normal(0, 0.02, (h + INPUTS) * 2),
        np.zeros(LEVELS * h + h + LEVELS * 2),
    ]
    synthesis = [
        np.tile(cubic, LEVELS - 1),
        random.normal(0, 0.3, LEVELS * f),
        np.zeros(f),
        random.normal(0, math.sqrt(1 / f), f * 3),
        np.zeros(3),
        random.normal(0, 0.1, 27 * r),
        np.zeros(r + 9 * r * 3 + 3),
    ]
    return _rounded(Networks(np.concatenate(context), np.concatenate(synthesis)))


def _rounded(networks: Networks) -> Networks:
    """Integer weights, as files need them."""
    parts = [
        np.clip(np.rint(v.astype(np.float64) * WEIGHT_SCALE), -MAX_WEIGHT, MAX_WEIGHT)
        for v in (networks.context, networks.synthesis)
    ]
    return Networks(parts[0].astype(np.int32), parts[1].astype(np.int32))


def coarse_to_fine(fit: Fit, stage: int, steps: int) -> None:
    """Fit from latents of zero, with the coarsest grids alone at first."""
    for lowest in range(LEVELS - 3, 0, -1):
        for _ in range(stage):
            fit.step(0.2, 0.01, (0.4, 2.0))
            for h, w, stride, origin in fit.places[:lowest]:
                fit.y[origin : origin + (h - 1) * stride + w] = 0
    fit.descend(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the weights of overfit.")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=2, help="mosaics after the first")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random, sizes = np.random.default_rng(args.seed), Architecture()
    files, _ = split_files(picture_files(args.pictures), HELD_OUT)

    image = mosaic(files, 4, 4, random)
    fits: dict[float, Fit] = {}
    for rate_lambda in (FIRST_LAMBDA, *NEIGHBOURS):
        is_first = rate_lambda == FIRST_LAMBDA
        before = None if is_first else fits[NEIGHBOURS[rate_lambda]].networks
        start = random_networks(sizes, random) if before is None else _rounded(before)
        fits[rate_lambda] = fit = Fit(image, sizes, start, rate_lambda)
        if is_first:
            coarse_to_fine(fit, FIRST_STAGE, FIRST_STEPS)
        else:
            coarse_to_fine(fit, NEXT_STAGE, NEXT_STEPS)
        _tell("mosaic 0", fit)
    for number in range(1, args.rounds + 1):
        image = mosaic(files, 4, 6, random)
        for rate_lambda, last in fits.items():
            fit = Fit(image, sizes, _rounded(last.networks), rate_lambda)
            fit.set_levels(first_latents(fit.target, regress(last.target, last.levels())))
            fit.descend(ROUND_STEPS)
            fits[rate_lambda] = fit
            _tell(f"mosaic {number}", fit)
    args.out.write_bytes(
        weights_of(fits, sizes, {"files": len(files), "seed": args.seed, "rounds": args.rounds})
    )


def weights_of(fits: dict[float, Fit], sizes: Architecture, provenance: dict) -> bytes:
    """The weights file of fitted mosaics, one set for each lambda."""
    sets = [_rounded(fit.networks) for fit in fits.values()]
    analysis = [regress(fit.target, fit.levels()) for fit in fits.values()]
    arrays = {
        "int.context": np.stack([s.context for s in sets]).astype(np.int16),
        "int.synthesis": np.stack([s.synthesis for s in sets]).astype(np.int16),
        "int.octave": np.array([round(2 ** (30 - i / 4096)) for i in range(4096)], np.uint32),
        "int.inverse": np.array(
            [round(2**20 / (math.log(2) * math.exp(i / 16 - 5))) for i in range(161)], np.uint32
        ),
        "float.lambda": np.array(list(fits), np.float32),
        "float.analysis": np.stack(analysis).astype(np.float16),
    }
    return pack_weights("overfit", asdict(sizes), provenance, arrays)


def _tell(name: str, fit: Fit) -> None:
    bits, squares = fit.bits(fit.networks.context), fit.squares(fit.networks.synthesis)
    rate_bpp = bits / (fit.height * fit.width)
    print(
        f"{name} lambda {fit.rate_lambda:g}: {rate_bpp:.4f} bpp, {fit.psnr_db(squares):.2f} dB, "
        f"loss {fit.loss(bits, squares):.6f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
