"""Refining the latents of one picture: encoder time for rate, with the same decoder.

The analysis is one guess for all pictures. Here the latents y of this picture descend on what its
file costs,

    J(y) = bits(y) + lambda * 255^2 * MSE(y) * pixels,

through the synthesis and through the rate model of the weights file (`LatentTwin`), as in Campos
et al., "Content Adaptive Optimization for Neural Image Compression" (CVPR workshops 2019) and Yang,
Bamler, Mandt, "Improving Inference for Neural Image Compression" (NeurIPS 2020). The latter sample
roundings at a falling temperature; here each is replaced by its mean, so that the descent is
deterministic and a few steps do. A residual r = k + f with 0 <= f < 1 stands for k + 1 with
probability

    p = 1/2 + 1/2 tanh((f - 1/2) / s) / tanh(1 / (2 s))

and for k otherwise: its latent becomes k + p, its bits are interpolated between those of k and
k + 1, and the squared error grows by a share of the variance p (1 - p).

What comes out is coded like all latents, and is used only where the coded picture is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rhodec.codecs.codec_interface import Report
from rhodec.codecs.transform_model import TransformModel
from rhodec.entropy.gaussian_tables import SCALE_LEVELS
from rhodec.entropy.latent_codec import HyperLatentCodec
from rhodec.entropy.latent_format import HYPER_STRIDE, QUALITY_STEPS
from rhodec.entropy.latent_twin import LatentTwin, Quantise
from rhodec.entropy.likelihoods import gaussian_bits, scale_from_level

if TYPE_CHECKING:
    from rhodec.codecs.transform_codec import Coded

STRIDE = 16  # pixels per latent position
TILE = 64  # latent rows and columns that are refined together, about a megapixel
HALO = 4  # latent positions around a tile that its loss sees; they keep their values

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Descent:
    """Adam with a cosine over `steps`. Pairs are the values at the start and at the end."""

    steps: int
    step_size: float  # quantisation steps, at the start
    softness: tuple[float, float] = (0.25, 0.05)  # s, in quantisation steps
    # Share of the rounding's variance that counts. At first none, or latents could not leave the
    # integers next to them; in the end more than all, or they would stay between two.
    variance: tuple[float, float] = (0.0, 2.5)
    damping: float = 0.1  # bits per quantisation step: flatter slopes move a latent less
    betas: tuple[float, float] = (0.2, 0.9)  # little momentum: latents stop at integers sooner


DESCENTS = {
    1: Descent(1, 0.05),
    2: Descent(2, 0.06),
    3: Descent(4, 0.06),
    4: Descent(8, 0.08),
    5: Descent(15, 0.1),
    6: Descent(25, 0.08),
    7: Descent(40, 0.06),
    8: Descent(65, 0.05),
    9: Descent(100, 0.04),
}
# What is then tried as the price of a bit (`HyperLatentCodec.quantise`): the second suits few
# steps; after many, nearly plain rounding is best.
RATE_WEIGHTS = (0.004, 0.012)


def refined(
    start: Coded,
    image: npt.NDArray[np.uint8],
    y: Float32,
    z: npt.NDArray[np.int32],
    effort: int,
    report: Report | None = None,
) -> Coded:
    """The best of `start`, the coding of latents y (h, w, C) and z, and what `effort` 1..9 finds.

    Best has the least bits + lambda * 255^2 * MSE * pixels, of the picture in 8 bits. `report` gets
    the share done in 0..1, bits per pixel and PSNR in dB of the relaxed problem after each step.
    """
    codec, quality_step = start.codec, start.quality_step
    latent_codec = codec.latent_codec
    if not isinstance(latent_codec, HyperLatentCodec):
        raise ValueError(f"codec {codec.name} has no hyperprior and no effort but 0")
    model = codec.model.requires_grad_(False)
    low, high = model.rates.span
    quality = torch.full((1,), low + (high - low) * quality_step / QUALITY_STEPS)
    distortion_weight = float(model.lambda_of(quality)) * 255**2 / 3  # bits per (0..1)^2

    def cost(coded: Coded) -> float:
        return coded.estimated_bits + distortion_weight * _squares(image, codec.reconstruct(coded))

    twin = _twin(latent_codec)
    refinement = Refinement(model, twin, image, z, quality, quality_step, distortion_weight)
    y = refinement.refine(y, DESCENTS[effort], report)
    best, least = start, cost(start)
    for weight in RATE_WEIGHTS:
        latents = latent_codec.quantise(y, z, quality_step, rate_weight=weight)
        coded = replace(start, latents=latents)
        if (here := cost(coded)) < least:
            best, least = coded, here
    return best


@lru_cache(maxsize=2)
def _twin(latent_codec: HyperLatentCodec) -> LatentTwin:
    return LatentTwin(latent_codec)


def _squares(image: npt.NDArray[np.uint8], shown: npt.NDArray[np.uint8]) -> float:
    """Sum of squared differences, of samples in 0..1; in bands, to bound the memory."""
    total = 0
    for top in range(0, len(image), 256):
        difference = image[top : top + 256].astype(np.int32) - shown[top : top + 256]
        total += int(np.sum(difference * difference, dtype=np.int64))
    return total / 255**2


@dataclass(frozen=True)
class Refinement:
    """A picture at a quality: uint8 `image` (H, W, 3), hyper-latents `z` (h, w, Z)."""

    model: TransformModel
    twin: LatentTwin
    image: npt.NDArray[np.uint8]
    z: npt.NDArray[np.int32]
    quality: Tensor
    quality_step: int
    distortion_weight: float

    def refine(self, y: Float32, descent: Descent, report: Report | None = None) -> Float32:
        """Latents y (rows, columns, C) in quantisation steps -> better ones.

        Works in tiles, so that memory is bounded; each sees its neighbours as they are by then.
        """
        y = y.copy()
        tiles = [(r, c) for r in _parts(y.shape[0]) for c in _parts(y.shape[1])]
        for index, tile in enumerate(tiles):
            for count, (bpp, psnr_db) in enumerate(self._descend(y, tile, descent), start=1):
                if report is not None:
                    report((index + count / descent.steps) / len(tiles), bpp, psnr_db)
        return y

    def _descend(
        self, y: Float32, tile: tuple[slice, slice], descent: Descent
    ) -> Iterator[tuple[float, float]]:
        """Refine one tile of y in place; yields bits per pixel and PSNR in dB of each step."""
        rows, columns = (_with_halo(s, size) for s, size in zip(tile, y.shape[:2], strict=True))
        height, width = rows.stop - rows.start, columns.stop - columns.start
        even = (0, 0, 0, width % 2, 0, height % 2)  # the schedule's cells are 2 x 2
        fixed = F.pad(torch.from_numpy(y[rows, columns].copy()), even)[None]
        inside = F.pad(torch.ones(height, width, 1), even)
        pixels, seen = self._pixels(rows, columns)
        samples = 3 * float(seen.sum())
        features = self.twin.features(self._hyper_latents(rows, columns), self.quality_step)
        features = features[:, : fixed.shape[1], : fixed.shape[2]]
        # What an error of one step costs; the synthesis is nearly orthonormal.
        inverse_gain = self.model.gain(self.model.log_inverse_gain, self.quality)[0]
        step_price = self.distortion_weight * inverse_gain.square()

        inner = tuple(
            slice(part.start - whole.start, part.stop - whole.start)
            for part, whole in zip(tile, (rows, columns), strict=True)
        )
        free = fixed[:, *inner].clone().requires_grad_()
        optimiser = torch.optim.Adam([free], betas=descent.betas, eps=descent.damping)
        for step in range(descent.steps):
            share = step / descent.steps
            cosine = 0.5 + 0.5 * math.cos(math.pi * share)
            optimiser.param_groups[0]["lr"] = descent.step_size * cosine
            rounding = expected_rounding(
                _between(descent.softness, share), _between(descent.variance, share) * step_price
            )
            with torch.enable_grad():
                whole = fixed.clone()
                whole[:, *inner] = free
                y_hat, bits = self.twin(whole, features, inside, rounding)
                x = self.model.synthesise(y_hat[:, :height, :width], self.quality)
                squares = ((x - pixels) * seen).square().sum()
                optimiser.zero_grad()
                (bits + self.distortion_weight * squares).backward()
            optimiser.step()
            mse = max(float(squares.detach()) / samples, 1e-9)
            yield 3 * float(bits.detach()) / samples, -10 * math.log10(mse)
        y[tile] = free.detach()[0].numpy()

    def _hyper_latents(self, rows: slice, columns: slice) -> Tensor:
        """Those of a region that starts on their grid, (1, h, w, Z)."""
        first, second = (
            slice(s.start // HYPER_STRIDE, -(-s.stop // HYPER_STRIDE)) for s in (rows, columns)
        )
        return torch.from_numpy(self.z[first, second].astype(np.float32))[None]

    def _pixels(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """The region's pixels in [0, 1], and 1 where the picture has any, both (1, H, W, .)."""
        y_of, x_of = (slice(s.start * STRIDE, s.stop * STRIDE) for s in (rows, columns))
        part = torch.from_numpy(self.image[y_of, x_of].astype(np.float32) / 255)
        down, right = y_of.stop - y_of.start, x_of.stop - x_of.start
        missing = (0, 0, 0, right - part.shape[1], 0, down - part.shape[0])
        return F.pad(part, missing)[None], F.pad(torch.ones_like(part[..., :1]), missing)[None]


def _parts(size: int) -> list[slice]:
    """Nearly equal parts of at most `TILE` latents, on the grid of the hyper-latents."""
    count = -(-size // TILE)
    step = -(-size // (count * HYPER_STRIDE)) * HYPER_STRIDE
    return [slice(begin, min(begin + step, size)) for begin in range(0, size, step)]


def _with_halo(part: slice, size: int) -> slice:
    return slice(max(0, part.start - HALO), min(size, part.stop + HALO))


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


# ---- expected rounding --------------------------------------------------------------------------

LARGEST = 512  # integers of the table; larger residuals cost what this one does


def expected_rounding(softness: float, variance_price: Tensor) -> Quantise:
    """Stand-in for rounding, see the module's head; `variance_price` (1, 1, C) in bits."""

    def quantise(residual: Tensor, level: Tensor, channels: slice) -> tuple[Tensor, Tensor]:
        k = residual.detach().floor()
        p = torch.tanh((residual - k - 0.5) / softness) / (2 * math.tanh(0.5 / softness)) + 0.5
        cost = _ExpectedBits.apply(k + p, level, variance_price[..., channels])
        assert isinstance(cost, Tensor)
        return k + p, cost

    return quantise


@cache
def _bits_table() -> Tensor:
    """Bits of the integers 0..LARGEST for each scale level, flattened."""
    scales = scale_from_level(torch.arange(SCALE_LEVELS))[:, None]
    return gaussian_bits(torch.arange(LARGEST + 1.0)[None], scales).flatten()


class _ExpectedBits(torch.autograd.Function):
    """Bits of k + p at a fractional scale level, linear in p and in the level, plus
    `variance_price` p (1 - p); even in k + p."""

    @staticmethod
    def forward(ctx, value: Tensor, level: Tensor, variance_price: Tensor) -> Tensor:
        table, width = _bits_table(), LARGEST + 1
        magnitude = value.abs()
        k = magnitude.floor().clamp_max(LARGEST - 1)
        p = (magnitude - k).clamp_max(1)
        lower = level.floor().clamp_max(SCALE_LEVELS - 2)
        at = (lower * width + k).long()
        part = level - lower
        here, wider = table[at], table[at + width]
        here_slope, wider_slope = table[at + 1] - here, table[at + width + 1] - wider
        slope = torch.lerp(here_slope, wider_slope, part)
        ctx.save_for_backward(
            value.sign() * (slope + variance_price * (1 - 2 * p)),
            wider - here + p * (wider_slope - here_slope),
        )
        return torch.lerp(here, wider, part) + p * (slope + variance_price * (1 - p))

    @staticmethod
    def backward(ctx, *grads: Tensor):
        by_value, by_level = ctx.saved_tensors
        return grads[0] * by_value, grads[0] * by_level, None
