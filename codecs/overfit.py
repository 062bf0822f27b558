"""`overfit`: networks and latents fitted to one picture and stored in its file.

In the manner of Cool-chic (Ladune et al., ICCV 2023) and C3 (Kim et al., CVPR 2024): seven latent
grids from full size to 1/64, a context network that predicts every latent from its neighbours and
from coarser grids, learned upsampling and a small synthesis. The decoder works on integers, so the
pixels are the same on every machine. The networks start from shipped sets; a file codes the
difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rhodec.bitstream._crc32c import crc32c
from rhodec.bitstream.stream_error import StreamError
from rhodec.codecs.codec_interface import Pixels, Report
from rhodec.codecs.config_table import from_table
from rhodec.codecs.overfit_decoder import Int8, decode_latents, encode_latents, render
from rhodec.codecs.overfit_networks import (
    LEVELS,
    Architecture,
    CodedLayer,
    Networks,
    pack_networks,
    unpack_networks,
)
from rhodec.codecs.weights_file import WeightsFile

if TYPE_CHECKING:
    from rhodec.codecs.overfit_fitting import Fit


# Of each effort, with grid 0; without it one takes two thirds of the time, so there are more.
ITERATIONS = (40, 100, 200, 400, 2000, 7000, 14000)
WITHOUT_GRID_0 = 1.5
CODEC_ID = 5
# Detail beside lambda, from which latents for every pixel are worth their time (train/NOTES.md).
# Below, fits of so many iterations try out whether they still are.
DETAIL, THOROUGH = 0.8, 1600
GRID_TRIAL = 100  # iterations with grid 0
# Long fits go further from the starts of this lambda than from nearer ones, but where the nearest
# is better by a share after a trial (train/NOTES.md). That is only tried where lambda is far away.
LEADING_LAMBDA = 1e-3
LONG = 400  # iterations
NEAR = math.log(8)
TRIAL, ADVANTAGE = 50, 0.1  # iterations, share of the loss


def lambda_of(quality: float) -> float:
    """Weight of the rate in  MSE / 255^2 + lambda * bpp:  0.05 at quality 0, 0.00005 at 100."""
    return 0.05 * 10 ** (-3 * quality / 100)


def detail(image: Pixels) -> float:
    """Mean squared error of the means of 2x2 samples, on the scale of 0..1."""
    height, width = (size // 2 * 2 for size in image.shape[:2])
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return float(blocks.var(axis=(1, 3), dtype=np.float32).mean()) / 255**2 if blocks.size else 0.0


def finest_grid(image: Pixels, rate_lambda: float) -> int:
    """Of a fit: 0, or 1 where detail is so cheap that fits without grid 0 are as good."""
    return 0 if detail(image) > DETAIL * rate_lambda else 1


def as_many(iterations: int, finest: int) -> int:
    """Iterations that take as long as so many with grid 0."""
    return round(iterations * (WITHOUT_GRID_0 if finest else 1))


class _Work:
    """Reports pieces of work, one after the other, as one."""

    def __init__(self, report: Report | None, total: float) -> None:
        self.report, self.total, self.done = report, total, 0.0

    def next(self, size: float) -> Report | None:
        """For a piece of so much of the total."""
        report = self.report
        first, share = self.done / self.total, size / self.total
        self.done += size
        if report is None:
            return None
        return lambda done, rate_bpp, psnr_db: report(first + share * done, rate_bpp, psnr_db)


class _Stopped(Exception):
    """A trial was interrupted: what it has is the result."""

    def __init__(self, number: int, fit: Fit) -> None:
        super().__init__()
        self.number, self.fit = number, fit


@dataclass
class OverfitPicture:
    """A picture, and what has been fitted to it: the last fit serves the next as a start."""

    image: Pixels
    last: tuple[float, int, OverfitCoded] | None = None  # quality, effort
    state: tuple[int, Fit] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class OverfitCoded:
    """A picture at one quality: the bytes, and what the decoder makes of them."""

    payload: bytes
    pixels: Pixels
    network_bytes: int
    estimated_bits: float  # of the latents by the float networks, and of the networks' bytes

    @cached_property
    def digest(self) -> int:
        return crc32c(self.pixels.tobytes())


class OverfitCodec:
    """The codec, ready for use. `quality` is 0..100 in half steps, `effort` 0..6."""

    max_effort = len(ITERATIONS) - 1
    codec_id = CODEC_ID
    is_fitted = True
    pixels_are_exact = True

    def __init__(self, name: str, weights: WeightsFile, path: Path | None = None) -> None:
        self.name, self.weights_hash, self.provenance = name, weights.hash, weights.provenance
        self.weights_path = path
        self.sizes = from_table(Architecture, weights.config)
        ints, floats = weights.part("int"), weights.part("float")
        if "finest" not in ints:
            raise ValueError(f"{path or name}: weights of an earlier version, for other files")
        own = ints["own"] if self.sizes.own else [None] * len(ints["finest"])
        self.tables = ints["octave"], ints["inverse"]
        self.starts = [
            Networks(*vectors).changed(lambda weights: weights.astype(np.int32))
            for vectors in zip(ints["context"], ints["synthesis"], own, strict=True)
        ]
        self._lambdas = floats["lambda"].astype(np.float64)
        self._finest = ints["finest"]
        self._analysis = floats["analysis"]

    def analyse(self, image: Pixels) -> OverfitPicture:
        """Nothing yet: fitting needs the quality."""
        return OverfitPicture(image)

    def quantise(
        self,
        picture: OverfitPicture,
        quality: float,
        effort: int = 0,
        report: Report | None = None,
        keep_best: bool = False,
        go_on: bool = False,
    ) -> OverfitCoded:
        """Fit and code; `report` is called after every iteration.

        With `keep_best` a KeyboardInterrupt ends the fit early, and what there is then is coded.
        `go_on` starts from the last fit of this picture, if there is one, and takes half as long.
        """
        if not 0 <= quality <= 100:
            raise ValueError(f"quality {quality} is not in 0..100")
        if picture.last is not None and picture.last[:2] == (quality, effort):
            return picture.last[2]
        rate_lambda = lambda_of(quality)
        finest = finest_grid(picture.image, rate_lambda)
        last = picture.state if go_on else None
        # A fit with all grids may go on anywhere, one without grid 0 where a new one would lack it.
        if last is not None and last[1].finest <= finest:
            number, fit = last
            fit.rate_lambda = rate_lambda
            iterations = as_many(ITERATIONS[effort], fit.finest) // 2
            layers = fit.run(iterations, report, fresh=False, keep_best=keep_best)
        else:
            picture.state = last = None  # its memory is needed
            number, fit, layers = self._fit(
                picture.image, rate_lambda, finest, effort, report, keep_best
            )
        picture.state = number, fit
        latents = [np.rint(level).astype(np.int8).ravel() for level in fit.levels()]
        coded = self._code(number, layers, fit, np.concatenate(latents))
        picture.last = quality, effort, coded
        return coded

    def _fit(
        self,
        image: Pixels,
        rate_lambda: float,
        finest: int,
        effort: int,
        report: Report | None,
        keep_best: bool,
    ) -> tuple[int, Fit, list[CodedLayer]]:
        """(number of the start, fit, layers) for a picture of which nothing is known.

        Trials decide whether grid 0 is left out and which start is taken, where that is open.
        """
        asks_for_grid = finest > 0 and ITERATIONS[effort] >= THOROUGH
        is_long = as_many(ITERATIONS[effort], finest) >= LONG
        is_far = is_long and abs(math.log(rate_lambda / LEADING_LAMBDA)) > NEAR
        work = _Work(
            report, 2 * GRID_TRIAL * asks_for_grid + 2 * TRIAL * is_far + ITERATIONS[effort]
        )

        def first_choice(finest: int) -> int:
            return self._nearest_start(LEADING_LAMBDA if is_long else rate_lambda, finest)

        def loss_of(finest: int, number: int, iterations: int, size: int) -> float:
            fit = self._start(image, rate_lambda, finest, number)
            try:
                return fit.try_out(iterations, work.next(size))
            except KeyboardInterrupt:
                if keep_best:
                    raise _Stopped(number, fit) from None
                raise

        try:
            if asks_for_grid:
                least, with_0 = (
                    loss_of(grid, first_choice(grid), as_many(GRID_TRIAL, grid), GRID_TRIAL)
                    for grid in (finest, 0)
                )
                finest = finest if least < (1 - ADVANTAGE) * with_0 else 0
            number, nearest = first_choice(finest), self._nearest_start(rate_lambda, finest)
            if is_far and number != nearest:
                losses = [loss_of(finest, start, TRIAL, TRIAL) for start in (number, nearest)]
                number = nearest if losses[1] < (1 - ADVANTAGE) * losses[0] else number
        except _Stopped as stopped:
            return stopped.number, stopped.fit, stopped.fit.quantise_networks()
        fit = self._start(image, rate_lambda, finest, number)
        iterations, tell = as_many(ITERATIONS[effort], finest), work.next(ITERATIONS[effort])
        return number, fit, fit.run(iterations, tell, keep_best=keep_best)

    def _nearest_start(self, rate_lambda: float, finest: int) -> int:
        """Number of a start; one for another finest grid counts as twice as far."""
        far = np.abs(np.log(self._lambdas / rate_lambda))
        return int(np.argmin(far + np.where(self._finest == finest, 0, math.log(2))))

    def _start(self, image: Pixels, rate_lambda: float, finest: int, number: int) -> Fit:
        """A fit with the networks of a start and its first latents."""
        from rhodec.codecs.overfit_analysis import first_latents
        from rhodec.codecs.overfit_fitting import Fit

        fit = Fit(image, self.sizes, self.starts[number], rate_lambda, finest)
        fit.set_levels(first_latents(fit.target, self._analysis[number].astype(np.float32)))
        return fit

    def _code(self, number: int, layers: list[CodedLayer], fit: Fit, latents: Int8) -> OverfitCoded:
        size, start = (fit.height, fit.width), self.starts[number]
        head = bytes([number, fit.finest]) + pack_networks(layers)
        networks, _ = unpack_networks(head[2:], start, self.sizes)
        stream = encode_latents(latents, size, fit.finest, self.sizes, networks, self.tables)
        pixels = render(latents, size, self.sizes, networks)
        bits = 8 * len(head) + fit.bits(fit.networks.context)
        return OverfitCoded(head + stream, pixels, len(head), bits)

    def reconstruct(self, coded: OverfitCoded) -> Pixels:
        """The picture that a decoder shows, uint8 (H, W, 3)."""
        return coded.pixels

    def decode(
        self, payload: bytes, width: int, height: int, quality: float, digest: int
    ) -> Pixels:
        """Payload -> uint8 (H, W, 3); StreamError unless the pixels are the encoder's."""
        networks, latents = self.decode_parts(payload, width, height)
        pixels = render(latents, (height, width), self.sizes, networks)
        if crc32c(pixels.tobytes()) != digest:
            raise StreamError(
                f"the decoded pixels differ from the encoder's: the file is damaged, or this "
                f"machine does not run {self.name} {self.weights_hash.hex()} correctly (selftest)"
            )
        return pixels

    def decode_parts(self, payload: bytes, width: int, height: int) -> tuple[Networks, Int8]:
        """Networks and latents of a payload; StreamError for a damaged one."""
        if len(payload) < 2 or payload[0] >= len(self.starts) or payload[1] >= LEVELS:
            raise StreamError("overfit: the file names a start or a grid that does not exist")
        number, finest = payload[:2]
        networks, size = unpack_networks(payload[2:], self.starts[number], self.sizes)
        data = payload[2 + size :]
        size = height, width
        return networks, decode_latents(data, size, finest, self.sizes, networks, self.tables)
