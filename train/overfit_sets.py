"""Makes the weights of `overfit`: where fits start from.

    python -m rhodec.train.overfit_sets PICTURES overfit.safetensors

    python -m rhodec.train.overfit_sets PICTURES small.safetensors --starts 1 --hidden 10 ..
    python -m rhodec.train.overfit_sets PICTURES overfit-1000.safetensors --finest 1 \\
        --from small.safetensors --add small.safetensors

    python -m rhodec.train.overfit_sets PICTURES overfit.safetensors --plain before.safetensors

One start for each of a few lambdas. Networks that suit many pictures are found in two stages; with
`--from` the starts of an earlier file, widened, take the place of the first.
First they are fitted to a mosaic of crops, as to one picture. The first, from random weights,
begins with the coarsest grids alone and adds one after the other; otherwise the finer grids take
part in what the coarser ones do for less, and stay dense. The other lambdas follow from their
neighbours.
Then each is fitted to one picture after the other and moved a part of the way every time (Reptile,
Nichol et al. 2018, arXiv:1803.02999), so that it becomes a start from which short fits go far.

The analysis is the running mean of regressions. With `--plain` no pictures are needed: the starts
of a file get filters of their own latents that do nothing yet.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from rhodec.codecs.config_table import from_table
from rhodec.codecs.overfit_analysis import Float32, first_latents, regress
from rhodec.codecs.overfit_fitting import Fit
from rhodec.codecs.overfit_networks import (
    INPUTS,
    LEVELS,
    MAX_WEIGHT,
    WEIGHT_SCALE,
    Architecture,
    Networks,
    plain_filters,
)
from rhodec.codecs.weights_file import WeightsFile, pack_weights, read_weights
from rhodec.train.photo_patches import picture_files, read_rgb, split_files

CROP = 128
HELD_OUT = 20  # pictures that stay unseen
FIRST_LAMBDA = 1e-3
NEIGHBOURS = {4e-4: 1e-3, 1e-4: 4e-4, 4e-3: 1e-3, 2e-2: 4e-3}  # lambda -> the one it follows
FIRST_STEPS, NEXT_STEPS, ROUND_STEPS = 400, 180, 220
FIRST_STAGE, NEXT_STAGE = 40, 20  # steps with the coarsest 3, 4, 5 and 6 grids
MOSAIC, NEXT_MOSAIC = (4, 4), (4, 6)  # rows and columns of crops
PICTURE = 256, 384  # rows and columns of the crops that starts are moved by
FIT_STEPS = 160
MOVES = 0.5, 0.2  # share of a fit's way that a start is moved, at first and at last


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
    found = _rounded(Networks(np.concatenate(context), np.concatenate(synthesis)))
    return replace(found, own=plain_filters() if sizes.own else None)


def _rounded(networks: Networks) -> Networks:
    """Integer weights, as files need them."""

    def rounded(weights: np.ndarray) -> np.ndarray:
        scaled = np.rint(weights.astype(np.float64) * WEIGHT_SCALE)
        return np.clip(scaled, -MAX_WEIGHT, MAX_WEIGHT).astype(np.int32)

    return networks.changed(rounded)


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
    parser.add_argument("--rounds", type=int, default=24, help="pictures that move each start")
    parser.add_argument("--from", dest="before", type=Path, help="weights to widen, no mosaics")
    parser.add_argument("--plain", type=Path, help="weights to give filters, nothing else")
    parser.add_argument("--add", type=Path, help="weights of these sizes whose starts come first")
    parser.add_argument("--starts", type=int, default=1 + len(NEIGHBOURS), help="of mosaics")
    parser.add_argument("--moves", type=float, nargs=2, default=MOVES, help="first and last share")
    parser.add_argument("--finest", type=int, default=0, help="grid that has latents first, 0 or 1")
    parser.add_argument("--hidden", type=int, default=Architecture.hidden)
    parser.add_argument("--features", type=int, default=Architecture.features)
    parser.add_argument("--residual", type=int, default=Architecture.residual)
    parser.add_argument("--own", action="store_true", help="filter every grid's own latents")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.plain:
        args.out.write_bytes(with_plain_filters(read_weights(args.plain)))
        return
    random = np.random.default_rng(args.seed)
    sizes = Architecture(args.hidden, args.features, args.residual, args.own)
    earlier = read_weights(args.add) if args.add else None
    if earlier and from_table(Architecture, earlier.config) != sizes:
        parser.error(f"{args.add} has networks of other sizes")
    files, _ = split_files(picture_files(args.pictures), HELD_OUT)

    found = (
        widened(args.before, sizes, args.finest, random)
        if args.before
        else from_mosaics(files, sizes, args.finest, random, args.starts)
    )
    for i in range(args.rounds):
        image = crop(files, random)
        move = args.moves[0] + (args.moves[1] - args.moves[0]) * i / args.rounds
        for rate_lambda, one in found.items():
            one.move(image, sizes, args.finest, rate_lambda, move, f"picture {i}")
    table = {"files": len(files), "seed": args.seed, "rounds": args.rounds}
    starts = arrays_of(found, args.finest)
    if earlier:
        starts = {name: np.concatenate([earlier.arrays[name], new]) for name, new in starts.items()}
    args.out.write_bytes(pack_weights("overfit", asdict(sizes), table, starts | tables()))


def with_plain_filters(weights: WeightsFile) -> bytes:
    """The same starts for an architecture with own filters, which change nothing."""
    sizes = replace(from_table(Architecture, weights.config), own=True)
    filters = np.tile(plain_filters().astype(np.int16), (len(weights.part("int")["finest"]), 1))
    arrays = weights.arrays | {"int.own": filters}
    return pack_weights("overfit", asdict(sizes), weights.provenance, arrays)


def from_mosaics(
    files: list[Path],
    sizes: Architecture,
    finest: int,
    random: np.random.Generator,
    count: int,
) -> dict[float, Found]:
    """The first stage: networks for the first `count` lambdas, fitted to two mosaics."""
    image = mosaic(files, *MOSAIC, random)
    fits: dict[float, Fit] = {}
    for rate_lambda in (FIRST_LAMBDA, *NEIGHBOURS)[:count]:
        is_first = rate_lambda == FIRST_LAMBDA
        before = None if is_first else fits[NEIGHBOURS[rate_lambda]].networks
        start = random_networks(sizes, random) if before is None else _rounded(before)
        fits[rate_lambda] = fit = Fit(image, sizes, start, rate_lambda, finest)
        if is_first:
            coarse_to_fine(fit, FIRST_STAGE, FIRST_STEPS)
        else:
            coarse_to_fine(fit, NEXT_STAGE, NEXT_STEPS)
        _tell("mosaic 0", fit)
    image = mosaic(files, *NEXT_MOSAIC, random)
    found: dict[float, Found] = {}
    for rate_lambda, last in fits.items():
        fit = Fit(image, sizes, _rounded(last.networks), rate_lambda, finest)
        fit.set_levels(first_latents(fit.target, regress(last.target, last.levels())))
        fit.descend(ROUND_STEPS)
        found[rate_lambda] = Found(fit.networks, regress(fit.target, fit.levels()))
        _tell("mosaic 1", fit)
    return found


def widened(
    before: Path, sizes: Architecture, finest: int, random: np.random.Generator
) -> dict[float, Found]:
    """The starts of an earlier weights file with more units, which have no effect yet.

    Of two for one lambda that which was made for this finest grid, or else the later one.
    """
    weights = read_weights(before)
    old = from_table(Architecture, weights.config)
    ints, floats = weights.part("int"), weights.part("float")
    found = {}
    for k in np.argsort(ints["finest"] == finest, kind="stable"):
        rate_lambda = float(floats["lambda"][k])
        networks = Networks(ints["context"][k], ints["synthesis"][k])
        wide = _widen(networks, old, sizes, random)
        if sizes.own:
            wide.own = ints["own"][k].astype(np.int32) if old.own else plain_filters()
        wide = wide.as_floats()
        found[rate_lambda] = Found(wide, floats["analysis"][k].astype(np.float32))
    return found


def _matrices(vector: np.ndarray, shapes: list[tuple[int, int]]) -> list[np.ndarray]:
    """A flat vector as matrices in the order of FORMAT.md."""
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    return [
        part.reshape(shape) for part, shape in zip(np.split(vector, ends[:-1]), shapes, strict=True)
    ]


def _widen(
    networks: Networks, old: Architecture, new: Architecture, random: np.random.Generator
) -> Networks:
    """Integer networks with more units: random inputs of a usual size, no effect."""
    h, f, r = old.hidden, old.features, old.residual
    more_h, more_f, more_r = new.hidden - h, new.features - f, new.residual - r

    def inputs(matrix: np.ndarray, count: int, share: float) -> np.ndarray:
        return random.normal(0, share * matrix.std(), (len(matrix), count))

    first, second, last, first_bias, second_bias, last_bias = _matrices(
        networks.context, [(INPUTS, h), (h, h), (h + INPUTS, 2), (LEVELS, h), (1, h), (LEVELS, 2)]
    )
    context = [
        np.hstack([first, inputs(first, more_h, 0.3)]),
        np.vstack(
            [np.hstack([second, inputs(second, more_h, 0.3)]), np.zeros((more_h, h + more_h))]
        ),
        np.vstack([last[:h], np.zeros((more_h, 2)), last[h:]]),
        np.hstack([first_bias, np.zeros((LEVELS, more_h))]),
        np.hstack([second_bias, np.zeros((1, more_h))]),
        last_bias,
    ]
    filters, mix, mix_bias, colour, colour_bias, spread, spread_bias, gather, gather_bias = (
        _matrices(
            networks.synthesis,
            [
                (LEVELS - 1, 4),
                (LEVELS, f),
                (1, f),
                (f, 3),
                (1, 3),
                (27, r),
                (1, r),
                (9 * r, 3),
                (1, 3),
            ],
        )
    )
    synthesis = [
        filters,
        np.hstack([mix, inputs(mix, more_f, 0.5)]),
        np.hstack([mix_bias, np.zeros((1, more_f))]),
        np.vstack([colour, np.zeros((more_f, 3))]),
        colour_bias,
        np.hstack([spread, inputs(spread, more_r, 0.5)]),
        np.hstack([spread_bias, np.zeros((1, more_r))]),
        np.vstack([gather, np.zeros((9 * more_r, 3))]),
        gather_bias,
    ]
    flat = [np.rint(np.concatenate([m.ravel() for m in part])) for part in (context, synthesis)]
    return Networks(flat[0].astype(np.int32), flat[1].astype(np.int32))


def crop(files: list[Path], random: np.random.Generator) -> np.ndarray:
    """(PICTURE, 3) of a random picture that is large enough."""
    height, width = PICTURE
    while True:
        picture = read_rgb(files[random.integers(len(files))])
        y, x = picture.shape[0] - height, picture.shape[1] - width
        if y >= 0 and x >= 0:
            y, x = random.integers(y + 1), random.integers(x + 1)
            return np.ascontiguousarray(picture[y : y + height, x : x + width])


@dataclass
class Found:
    """What is known for one lambda: float networks and analysis."""

    networks: Networks
    analysis: Float32

    def move(
        self,
        image: np.ndarray,
        sizes: Architecture,
        finest: int,
        rate_lambda: float,
        share: float,
        name: str,
    ) -> None:
        """Fit a picture and go a share of the way to what was found."""
        fit = Fit(image, sizes, _rounded(self.networks), rate_lambda, finest)
        fit.set_levels(first_latents(fit.target, self.analysis))
        fit.descend(FIT_STEPS)
        _tell(name, fit)
        for name in ("context", "synthesis", "own"):
            start, end = getattr(self.networks, name), getattr(fit.networks, name)
            if start is not None:
                start += np.float32(share) * (end - start)
        self.analysis += np.float32(share / 4) * (regress(fit.target, fit.levels()) - self.analysis)


def arrays_of(found: dict[float, Found], finest: int) -> dict[str, np.ndarray]:
    """The starts as arrays of a weights file."""
    starts = [_rounded(one.networks) for one in found.values()]
    owns = [start.own for start in starts if start.own is not None]
    return {
        **({"int.own": np.stack(owns).astype(np.int16)} if owns else {}),
        "int.finest": np.full(len(found), finest, np.uint8),
        "float.lambda": np.array(list(found), np.float32),
        "float.analysis": np.stack([f.analysis for f in found.values()]).astype(np.float16),
        "int.context": np.stack([start.context for start in starts]).astype(np.int16),
        "int.synthesis": np.stack([start.synthesis for start in starts]).astype(np.int16),
    }


def tables() -> dict[str, np.ndarray]:
    """Those of the probabilities (bitstream/FORMAT.md, section 8)."""
    return {
        "int.octave": np.array([round(2 ** (30 - i / 4096)) for i in range(4096)], np.uint32),
        "int.inverse": np.array(
            [round(2**20 / (math.log(2) * math.exp(i / 16 - 5))) for i in range(161)], np.uint32
        ),
    }


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
