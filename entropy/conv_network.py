"""Float twin of an integer network: a plain chain of convolutions.

Only what `rhodec.entropy.integer_network` can evaluate exactly is allowed here: 1x1 and 3x3
convolutions (dense or depthwise, zero padding), ReLU, and pixel shuffle by two. There are no
residual connections, norms or other activations, so that every layer's scale folds into the
next layer's weights at export.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ConvSpec:
    """One layer: convolution -> ReLU (if `relu`) -> pixel shuffle by two (if `shuffle`).

    `outputs` counts the convolution's channels, before the shuffle divides them by four.
    """

    inputs: int
    outputs: int
    kernel: int = 1
    depthwise: bool = False
    relu: bool = True
    shuffle: bool = False


class ConvNetwork(nn.Module):
    """A chain of `ConvSpec` layers on (B, C, H, W) tensors, zero padded to keep H and W."""

    def __init__(self, specs: Sequence[ConvSpec]):
        super().__init__()
        self.specs = tuple(specs)
        self.layers = nn.ModuleList(
            nn.Conv2d(
                s.inputs,
                s.outputs,
                s.kernel,
                padding=s.kernel // 2,
                groups=s.inputs if s.depthwise else 1,
            )
            for s in self.specs
        )
        for spec, layer in zip(self.specs, self.layers, strict=True):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            if spec.depthwise:  # start as the identity: a signal passes through an untrained chain
                nn.init.normal_(layer.weight, std=0.05)
                with torch.no_grad():
                    layer.weight[:, 0, spec.kernel // 2, spec.kernel // 2] += 1
            elif spec.relu:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        for spec, layer in zip(self.specs, self.layers, strict=True):
            x = apply_layer(spec, layer, x)
        return x


def apply_layer(spec: ConvSpec, layer: nn.Module, x: Tensor) -> Tensor:
    """One layer of a `ConvNetwork` on a (B, C, H, W) tensor."""
    assert isinstance(layer, nn.Conv2d)
    if spec.kernel == 1 and not spec.depthwise:
        # As a matrix product over (B, H, W, C): twice as fast as conv2d for fp32 on a CPU.
        x = F.linear(x.permute(0, 2, 3, 1), layer.weight.flatten(1), layer.bias)
        x = x.permute(0, 3, 1, 2)
    else:
        x = layer(x)
    if spec.relu:
        x = F.relu(x)
    return F.pixel_shuffle(x, 2) if spec.shuffle else x
