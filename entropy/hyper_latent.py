"""Latent model: hyperprior, mean-scale Gaussian, parallel context; the part that is trained.

Scale and mean-scale hyperpriors (Balle et al. 2018; Minnen et al. 2018), the checkerboard context
(He et al. 2021) and the four-step position x channel-group context (DCVC-DC) are one chain that
differs in its `CodingSchedule` and in `means`. `rhodec.entropy.latent_codec` runs the same chain in
integers for files; everything from z_hat to the table level is therefore a `ConvNetwork`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhodec.entropy.coding_schedule import SCHEDULES
from rhodec.entropy.conv_network import ConvNetwork, ConvSpec
from rhodec.entropy.gaussian_tables import SCALE_LEVELS
from rhodec.entropy.latent_format import CONTEXT_LIMIT, HYPER_LIMIT
from rhodec.entropy.likelihoods import (
    FactorizedPrior,
    add_noise,
    clamp_through,
    gaussian_bits,
    level_from_scale,
    round_through,
    scale_from_level,
)

HYPER_INPUT_SCALE = 1 / 8  # float value of one integer step of z_hat, as the networks see it
CONTEXT_INPUT_SCALE = 1 / 32  # float value of one unit of a context input
LEVEL_CENTRE, LEVEL_SPAN = 40.0, 32.0  # table level = centre + span * network output


@dataclass(frozen=True)
class LatentConfig:
    """Sizes of a hyper-latent model: latent, hyper-latent and feature channels, coding schedule."""

    latents: int
    hyper: int
    features: int
    schedule: str = "quad"
    means: bool = True


class HyperLatent(nn.Module):
    """Rate model of y (B, C, H, W), in quantisation steps, H and W multiples of 4."""

    context_shift: Tensor

    def __init__(self, config: LatentConfig):
        super().__init__()
        self.config = config
        c, z, f = config.latents, config.hyper, config.features
        self.schedule = SCHEDULES[config.schedule]
        self.group_size = c // self.schedule.groups
        # h_a: float, encoder only. asinh compresses the range of y.
        self.hyper_analysis = nn.Sequential(
            nn.Conv2d(c, f, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(f, f, 2, 2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(f, f, 3, padding=1, groups=f),
            nn.Conv2d(f, f, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(f, z, 2, 2),
        )
        self.hyper_prior = FactorizedPrior(z)
        # h_s: z_hat and a plane of the quality -> features at the latents' resolution.
        self.hyper_synthesis = ConvNetwork(
            [
                ConvSpec(z + 1, f, kernel=3),
                ConvSpec(f, 4 * f, shuffle=True),
                ConvSpec(f, f, kernel=3, depthwise=True, relu=False),
                ConvSpec(f, f),
                ConvSpec(f, 4 * f, shuffle=True),
                ConvSpec(f, f, kernel=3, depthwise=True, relu=False),
                ConvSpec(f, f),
            ]
        )
        # Features and the latents known so far -> features that see the neighbourhood.
        self.context = ConvNetwork(
            [
                ConvSpec(f + c, f),
                ConvSpec(f, f, kernel=3, depthwise=True, relu=False),
                ConvSpec(f, f),
                ConvSpec(f, f, kernel=3, depthwise=True, relu=False),
                ConvSpec(f, f),
            ]
            if self.schedule.steps > 1
            else []
        )
        # Per step: features -> for each group, its means then its table levels.
        self.heads = nn.ModuleList(
            ConvNetwork([ConvSpec(f, 2 * c, relu=False)]) for _ in range(self.schedule.steps)
        )
        # A context input is y_hat in units of 2**shift / 64 steps, limited to CONTEXT_LIMIT.
        self.register_buffer("context_shift", torch.full((c,), 3, dtype=torch.int64))

    def context_unit(self) -> Tensor:
        """Quantisation steps per unit of a context input, (C, 1, 1)."""
        return (2.0 ** (self.context_shift.float() - 6))[:, None, None]

    def mean_unit(self) -> Tensor:
        """Quantisation steps per unit of a mean output of the heads, (C, 1, 1)."""
        return self.context_unit() / CONTEXT_INPUT_SCALE

    @torch.no_grad()
    def initialise(self, y: Tensor) -> None:
        """Set the context's number ranges and the first scales from typical latents y."""
        spread = y.float().std(dim=(0, 2, 3)).clamp_min(0.05)
        # Eight standard deviations reach the limit (the top quality has four times the spread of
        # the middle one); no finer than 1/8 of a step.
        shift = torch.ceil(torch.log2(64 * 8 * spread / CONTEXT_LIMIT)).clamp(3, 12)
        self.context_shift.copy_(shift.long())
        level = level_from_scale(spread.clamp(0.2, 50))
        bias = ((level - LEVEL_CENTRE) / LEVEL_SPAN).reshape(self.schedule.groups, 1, -1)
        for head in self.heads:
            assert isinstance(head, ConvNetwork)
            layer = head.layers[0]
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            layer.weight.mul_(0.1)
            layer.bias.copy_(torch.cat([torch.zeros_like(bias), bias], 1).flatten())

    def hyper_input(self, z_hat: Tensor, quality: Tensor) -> Tensor:
        """Float input of h_s: z_hat and the quality plane; `quality` (B,) in [0, 1]."""
        plane = quality[:, None, None, None].expand(-1, 1, *z_hat.shape[2:])
        return torch.cat([z_hat * HYPER_INPUT_SCALE, plane.to(z_hat.dtype)], 1)

    def context_input(self, y_hat: Tensor) -> Tensor:
        """Float input of the context network for latents known so far (0 where unknown)."""
        limited = (y_hat / self.context_unit()).clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
        return limited * CONTEXT_INPUT_SCALE

    def forward(
        self, y: Tensor, quality: Tensor, noise: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y -> (y_hat, bits of y (B,), bits of z (B,)).

        Rates use additive noise in training (`noise`) and rounding otherwise; y_hat is always
        rounded, with straight-through gradients (Minnen & Singh 2020).
        """
        z = self.hyper_analysis(torch.asinh(y)).float()
        z = clamp_through(z, -HYPER_LIMIT, HYPER_LIMIT)
        z_hat = round_through(z)
        z_bits = self.hyper_prior.bits(add_noise(z) if noise else z_hat).sum((1, 2, 3))
        features = self.hyper_synthesis(self.hyper_input(z_hat, quality))

        cells = [y[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        known = [list(torch.zeros_like(c).split(self.group_size, 1)) for c in cells]
        mean_unit = self.mean_unit().split(self.group_size)
        y_bits = torch.zeros_like(z_bits)
        for step in range(self.schedule.steps):
            f = features
            if step > 0:
                y_hat = _join_cells([torch.cat(groups, 1) for groups in known])
                f = self.context(torch.cat([features, self.context_input(y_hat)], 1))
            head = self.heads[step]
            for group, position in self.schedule.members(step):
                target = cells[position][:, self._channels(group)]
                out = self._head_group(head, f[:, :, position // 2 :: 2, position % 2 :: 2], group)
                mean, level = out.float().chunk(2, 1)
                mean = mean * mean_unit[group] if self.config.means else torch.zeros_like(mean)
                level = clamp_through(LEVEL_CENTRE + LEVEL_SPAN * level, 0, SCALE_LEVELS - 1)
                residual = target - mean
                rounded = round_through(residual)
                bits = gaussian_bits(
                    add_noise(residual) if noise else rounded, scale_from_level(level)
                )
                y_bits = y_bits + bits.sum((1, 2, 3))
                known[position][group] = rounded + mean
        return _join_cells([torch.cat(groups, 1) for groups in known]), y_bits, z_bits

    def _channels(self, group: int) -> slice:
        return slice(group * self.group_size, (group + 1) * self.group_size)

    def _head_group(self, head: nn.Module, features: Tensor, group: int) -> Tensor:
        """The head's outputs for one channel group: its rows of the 1x1 convolution only."""
        assert isinstance(head, ConvNetwork)
        layer = head.layers[0]
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        rows = slice(2 * group * self.group_size, 2 * (group + 1) * self.group_size)
        out = F.linear(
            features.permute(0, 2, 3, 1), layer.weight.flatten(1)[rows], layer.bias[rows]
        )
        return out.permute(0, 3, 1, 2)


def _join_cells(cells: list[Tensor]) -> Tensor:
    """Four (B, C, H/2, W/2) tensors, one per cell position, -> (B, C, H, W)."""
    b, c, h, w = cells[0].shape
    stacked = torch.stack(cells, 2).reshape(b, 4 * c, h, w)
    return F.pixel_shuffle(stacked, 2)
