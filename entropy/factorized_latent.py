"""Latent model without a hyperprior: one learned density per channel; the part that is trained.

The factorized prior of Balle et al. (ICLR 2018, appendix 6.1), widened to a variable rate: a
channel's density keeps its form and is stretched by a scale that depends on the quality. Without
that, one table would serve latents whose spread in steps differs more than tenfold.
`rhodec.entropy.latent_codec.FactorizedLatentCodec` codes files with the tables frozen from it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rhodec.entropy.latent_format import QUALITY_CLASSES
from rhodec.entropy.likelihoods import FactorizedPrior, add_noise, round_through

_MIN_LIKELIHOOD = 1e-9


class FactorizedLatent(nn.Module):
    """Rate model of y (B, C, H, W) in quantisation steps."""

    def __init__(self, latents: int):
        super().__init__()
        self.prior = FactorizedPrior(latents, initial_scale=1.0)
        # Steps per unit of the prior's argument, by class and channel.
        self.log_scale = nn.Parameter(torch.zeros(QUALITY_CLASSES, latents))

    @torch.no_grad()
    def initialise(self, y: Tensor, log_gains: Tensor) -> None:
        """Set the scales from typical latents y (B, C, H, W) at gain 1 and each class's gains.

        `log_gains` (QUALITY_CLASSES, C) are natural logarithms.
        """
        magnitude = y.abs().mean((0, 2, 3))
        # A scale under a third of a step is never needed: nearly all mass is in the bin of zero.
        self.log_scale.copy_((magnitude.clamp_min(1e-6).log() + log_gains).clamp_min(-1.0))

    def likelihood(self, values: Tensor, classes: Tensor) -> Tensor:
        """Probability of the unit bin around each value; values (B, C, N), `classes` int (B,).

        Export freezes table `class * C + channel` from it.
        """
        b, c, n = values.shape
        unit = torch.exp(-self.log_scale[classes])[:, :, None]
        low, high = (
            self.prior.logits_of_cdf(((values + edge) * unit).transpose(0, 1).reshape(c, 1, -1))
            for edge in (-0.5, 0.5)
        )
        sign = -torch.sign(low + high).detach()  # the side on which sigmoids do not cancel
        p = (torch.sigmoid(sign * high) - torch.sigmoid(sign * low)).abs()
        return p.reshape(c, b, n).transpose(0, 1)

    def forward(
        self, y: Tensor, quality: Tensor, noise: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y -> (y_hat, bits of y (B,), zeros (B,) as there is no z); `quality` (B,) in [0, 1].

        Rates use additive noise in training (`noise`) and rounding otherwise; y_hat is always
        rounded, with straight-through gradients (Minnen & Singh 2020).
        """
        y_hat = round_through(y)
        values = (add_noise(y) if noise else y_hat).float().flatten(2)
        classes = torch.round(quality * (QUALITY_CLASSES - 1)).long()
        p = self.likelihood(values, classes)
        y_bits = -torch.log2(p.clamp_min(_MIN_LIKELIHOOD)).sum((1, 2))
        return y_hat, y_bits, torch.zeros_like(y_bits)
