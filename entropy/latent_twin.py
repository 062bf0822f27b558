"""Differentiable twin of the integer networks of a weights file: the exact rate model, with grads.

A weights file holds the hyper-decoder, the context network and the heads only as integers. Here
the same chain runs on floats in the integers' own units, without the rounding between layers, so
that the rate of a picture's latents can be minimised by gradient descent. Nothing here chooses a
coding table; what the encoder finds goes through `rhodec.entropy.latent_codec` like all latents.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhodec.entropy.gaussian_tables import SCALE_LEVELS
from rhodec.entropy.integer_network import IntegerLayer, IntegerNetwork
from rhodec.entropy.latent_codec import FRACTION_BITS, HyperLatentCodec
from rhodec.entropy.latent_format import CONTEXT_FRACTION_BITS, CONTEXT_LIMIT
from rhodec.entropy.likelihoods import clamp_through

Quantise = Callable[[Tensor, Tensor, slice], tuple[Tensor, Tensor]]


class LatentTwin:
    """The chain of a `HyperLatentCodec` on float tensors (B, H, W, C) with H and W even."""

    def __init__(self, codec: HyperLatentCodec) -> None:
        self.codec = codec
        self.hyper_synthesis = _layers(codec.hyper_synthesis)
        self.context = [] if codec.context is None else _layers(codec.context)
        self.heads = [_FloatLayer(head[0]) for head in codec.heads]
        # A context input is y_hat in units of 2^shift / 64 steps.
        self.context_scale = torch.from_numpy(2.0 ** (FRACTION_BITS - codec.context_shift)).float()

    def features(self, z: Tensor, quality_step: int) -> Tensor:
        """Integers z (B, h, w, Z) -> features (B, 4h, 4w, F)."""
        plane = torch.full_like(z[..., :1], float(self.codec.quality_plane[quality_step]))
        x = torch.cat([z, plane], -1)
        for layer in self.hyper_synthesis:
            x = layer(x)
        return x

    def __call__(
        self, y: Tensor, features: Tensor, inside: Tensor, quantise: Quantise
    ) -> tuple[Tensor, Tensor]:
        """Latents y (B, H, W, C) in steps, `features` of them -> (y_hat, bits of all).

        `quantise(residual, level, channels)` stands in for rounding: it returns the residual as
        a decoder would get it, and the bits of each element, from the fractional table level.
        `inside` (H, W, 1) is 1 in the picture and 0 where an odd size was padded to an even one.
        """
        limit = CONTEXT_LIMIT << CONTEXT_FRACTION_BITS
        codec, m = self.codec, self.codec.group_size
        features = features * inside
        zeros = torch.zeros_like(y[:, ::2, ::2, :m])
        known = [[zeros] * codec.schedule.groups for _ in range(4)]
        bits = y.new_zeros(())
        for step, head in enumerate(self.heads):
            f = features
            if step and self.context:
                seen = (_join_cells(known) * self.context_scale).clamp(-limit, limit)
                f = torch.cat([features, seen], -1)
                for layer in self.context:
                    f = layer(f) * inside  # what lies outside is zero for every layer
            for group, position in codec.schedule.members(step):
                rows, columns = slice(position // 2, None, 2), slice(position % 2, None, 2)
                channels = slice(group * m, (group + 1) * m)
                out = head(f[:, rows, columns], slice(2 * group * m, 2 * (group + 1) * m))
                mean = out[..., :m] / (1 << FRACTION_BITS) if codec.means else zeros
                level = clamp_through(out[..., m:], 0, SCALE_LEVELS - 1)
                residual, cost = quantise(y[:, rows, columns, channels] - mean, level, channels)
                is_real = inside[rows, columns]
                bits = bits + (cost * is_real).sum()
                known[position][group] = (residual + mean) * is_real
        return _join_cells(known), bits


class _FloatLayer:
    """An `IntegerLayer` in floating point, without the rounding of its result."""

    def __init__(self, layer: IntegerLayer) -> None:
        factor = layer.multiplier * 0.5 ** layer.shift.astype(np.float64)
        self.layer = layer
        self.weight = torch.from_numpy(layer.weight * factor[:, None, None, None]).float()
        self.bias = torch.from_numpy(layer.bias * factor).float()
        self.is_rectified = not layer.low.any()  # other clamps lie far outside what occurs

    def __call__(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """(B, H, W, in) -> (B, H', W', out); `rows` chooses outputs of a pointwise layer."""
        layer = self.layer
        if layer.kernel == 1 and not layer.depthwise:
            x = F.linear(x, self.weight.flatten(1)[rows], self.bias[rows])
        else:
            groups = layer.inputs if layer.depthwise else 1
            x = x.permute(0, 3, 1, 2)
            x = F.conv2d(x, self.weight, self.bias, padding=layer.kernel // 2, groups=groups)
            x = x.permute(0, 2, 3, 1)
        if self.is_rectified:
            x = x.relu()
        if layer.shuffle:
            x = F.pixel_shuffle(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        return x


def _layers(network: IntegerNetwork) -> list[_FloatLayer]:
    return [_FloatLayer(layer) for layer in network.layers]


def _join_cells(cells: list[list[Tensor]]) -> Tensor:
    """Channel groups at the four positions of every cell -> (B, H, W, C)."""
    joined = torch.stack([torch.cat(groups, -1) for groups in cells], 3)
    b, h, w, _, c = joined.shape
    joined = joined.reshape(b, h, w, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
    return joined.reshape(b, 2 * h, 2 * w, c)
