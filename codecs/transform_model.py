"""What all transform codecs share: analysis -> gains -> latent model -> inverse gains -> synthesis.

One model serves every rate: per-channel gains, interpolated over the quality, scale the latents
before rounding (gain units: Cui et al., "Asymmetric Gained Deep Image Compression", CVPR 2021), and
the training loss weighs distortion by the matching lambda.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RateRange:
    """lambdas: rate-distortion weight at quality 0 and 1, geometric between, for the loss
    bpp + lambda * 255^2 * MSE; knots: points of the gains over the quality; span: the trained
    qualities that a file's 0..100 stands for, where a little outside 0..1 extrapolates the gains.
    """

    lambdas: tuple[float, float] = (0.0005, 0.1)
    knots: int = 9
    span: tuple[float, float] = (0.0, 1.0)


class TransformModel(nn.Module):
    """Float model: pictures (B, H, W, 3) in [0, 1], H and W multiples of `size_multiple`.

    A codec gives `analysis(x, gain) -> y` and `synthesis(y, gain) -> x` on (B, H, W, C) tensors and
    `latent(y, quality, noise) -> (y_hat, bits of y, bits of z)` on (B, C, H, W). The analysis is
    split into `features`, which do not depend on the quality, and `latents_of`.
    """

    size_multiple = 64
    analysis: nn.Module
    synthesis: nn.Module
    latent: nn.Module

    def __init__(self, rates: RateRange, latents: int, steered: int):
        """`latents`: channels of y; `steered`: features that the quality's gains multiply."""
        super().__init__()
        self.rates = rates
        # High-rate theory: with orthonormal transforms the best step is proportional to
        # 1 / sqrt(lambda); the constant is the optimum for three colour planes in [0, 1].
        low, high = (0.5 * math.log(value / 4e-4) for value in rates.lambdas)
        start = torch.linspace(low, high, rates.knots)[:, None]
        self.log_gain = nn.Parameter(start.repeat(1, latents))
        self.log_inverse_gain = nn.Parameter(-start.repeat(1, latents))
        self.log_analysis_gain = nn.Parameter(torch.zeros(rates.knots, steered))
        self.log_synthesis_gain = nn.Parameter(torch.zeros(rates.knots, steered))

    def lambda_of(self, quality: Tensor) -> Tensor:
        """Rate-distortion weight of a quality in [0, 1]."""
        low, high = self.rates.lambdas
        return low * (high / low) ** quality

    def gain(self, log_gains: Tensor, quality: Tensor) -> Tensor:
        """Gains (B, 1, 1, C) at quality (B,) in [0, 1], geometric between the knots."""
        place = quality * (self.rates.knots - 1)
        lower = place.floor().clamp(0, self.rates.knots - 2).long()
        weight = (place - lower)[:, None]
        return torch.exp(torch.lerp(log_gains[lower], log_gains[lower + 1], weight))[:, None, None]

    def features(self, x: Tensor) -> Tensor:
        """The part of the analysis that serves every quality."""
        return self.analysis.features(x - 0.5)  # type: ignore[operator]

    def latents_of(self, features: Tensor, quality: Tensor) -> Tensor:
        """Features -> latents in quantisation steps (B, h, w, C)."""
        gain = self.gain(self.log_analysis_gain, quality)
        y = self.analysis.latents_of(features, gain)  # type: ignore[operator]
        return y.float() * self.gain(self.log_gain, quality)

    def synthesise(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """Quantised latents in steps (B, h, w, C) -> pictures, not clipped."""
        y = y_hat * self.gain(self.log_inverse_gain, quality)
        return self.synthesis(y, self.gain(self.log_synthesis_gain, quality)).float() + 0.5

    def forward(
        self, x: Tensor, quality: Tensor, noise: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x -> (x_hat, bits of y (B,), bits of z (B,)); quality (B,) in [0, 1]."""
        y = self.latents_of(self.features(x), quality).permute(0, 3, 1, 2)
        y_hat, y_bits, z_bits = self.latent(y, quality, noise)
        return self.synthesise(y_hat.permute(0, 2, 3, 1), quality), y_bits, z_bits

    def initialise(self, pixels: Tensor) -> None:
        """Fit a new model's start to sample pictures (B, H, W, 3) in [0, 1]."""
        raise NotImplementedError
