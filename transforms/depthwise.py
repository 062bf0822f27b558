"""Transforms for few multiplications on a plain CPU: everything at 1/8 and 1/16 resolution.

Depthwise-separable residual blocks in the manner of DCVC-RT (Jia et al., CVPR 2025), started as a
Karhunen-Loeve transform (`klt_initialise`). Tensors are (B, H, W, C): a 1x1 convolution is
then a plain matrix product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM_STRIDE = 8  # pixel rows and columns per position of the first layer
LATENT_STRIDE = 16  # pixel rows and columns per latent position


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """(B, H, W, C) -> (B, H/block, W/block, block*block*C), rows before columns before channels."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // block, block, w // block, block, c).transpose(2, 3)
    return x.reshape(b, h // block, w // block, block * block * c)


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """Inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    c //= block * block
    x = x.reshape(b, h, w, block, block, c).transpose(2, 3)
    return x.reshape(b, h * block, w * block, c)


class DepthwiseBlock(nn.Module):
    """x + 1x1(dw3x3(act(1x1 x))), then x + 1x1(act(1x1 x)) with twofold expansion.

    The last layer of each branch starts at zero, so a new block is the identity.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.mix_in = nn.Linear(channels, channels)
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.mix_out = nn.Linear(channels, channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.reduce = nn.Linear(2 * channels, channels)
        for last in (self.mix_out, self.reduce):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        t = F.leaky_relu(self.mix_in(x), 0.1)
        t = self.spatial(t.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.mix_out(t).to(x.dtype)  # under autocast branches are bf16, the sum is not
        return x + self.reduce(F.leaky_relu(self.expand(x), 0.1)).to(x.dtype)


class PreciseLinear(nn.Linear):
    """A layer that autocast leaves in float32: it carries the picture itself, not a correction."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:  # has no autocast
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


def _blocks(count: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*[DepthwiseBlock(channels) for _ in range(count)])


class DepthwiseAnalysis(nn.Module):
    """g_a: (B, H, W, 3) in [-0.5, 0.5], H and W multiples of 16 -> y (B, H/16, W/16, latents).

    `gain` (B, 1, 1, wide) multiplies the features at 1/16: the rate point steers the transform.
    """

    def __init__(self, narrow: int, wide: int, latents: int, blocks: tuple[int, int]):
        super().__init__()
        self.stem = PreciseLinear(3 * STEM_STRIDE**2, narrow)
        self.fine = _blocks(blocks[0], narrow)
        self.down = nn.Linear(4 * narrow, wide)
        self.coarse = _blocks(blocks[1], wide)
        self.head = PreciseLinear(wide, latents)

    def features(self, x: Tensor) -> Tensor:
        """The part that does not depend on the rate: pixels -> (B, H/16, W/16, wide)."""
        x = self.fine(self.stem(space_to_depth(x, STEM_STRIDE)))
        return self.down(space_to_depth(x, 2)).to(x.dtype)

    def latents_of(self, features: Tensor, gain: Tensor) -> Tensor:
        """The rest: features and `gain` -> y."""
        return self.head(self.coarse(features * gain))


class DepthwiseSynthesis(nn.Module):
    """g_s: y_hat (B, h, w, latents) -> (B, 16h, 16w, 3) around [-0.5, 0.5].

    `gain` (B, 1, 1, wide) multiplies the features at 1/16.
    """

    def __init__(self, narrow: int, wide: int, latents: int, blocks: tuple[int, int]):
        super().__init__()
        self.head = PreciseLinear(latents, wide)
        self.coarse = _blocks(blocks[1], wide)
        self.up = nn.Linear(wide, 4 * narrow)
        self.fine = _blocks(blocks[0], narrow)
        self.tail = PreciseLinear(narrow, 3 * STEM_STRIDE**2)

    def forward(self, y: Tensor, gain: Tensor) -> Tensor:
        y = self.coarse(self.head(y) * gain)
        y = self.fine(depth_to_space(self.up(y).to(y.dtype), 2))
        return depth_to_space(self.tail(y), STEM_STRIDE)


@torch.no_grad()
def klt_initialise(
    analysis: DepthwiseAnalysis, synthesis: DepthwiseSynthesis, pixels: Tensor
) -> None:
    """Make the pair a truncated Karhunen-Loeve transform of the patches `pixels` (B, H, W, 3).

    The stem takes the leading principal components of 8x8x3 blocks, `down` those of 2x2 groups of
    the stem's outputs; the heads pass the leading components on; the synthesis has the transposes.
    With the blocks at the identity the codec starts as a linear, orthonormal transform coder.
    """
    linears = (analysis.stem, analysis.down, analysis.head)
    mirrors = (synthesis.tail, synthesis.up, synthesis.head)
    for layer in (*linears, *mirrors):
        nn.init.zeros_(layer.bias)
    x = space_to_depth(pixels, STEM_STRIDE)
    for layer, mirror in zip(linears[:2], mirrors[:2], strict=True):
        basis = principal_components(x.reshape(-1, x.shape[-1]), layer.out_features)
        layer.weight.copy_(basis)
        mirror.weight.copy_(basis.T)
        if layer is analysis.stem:
            x = space_to_depth(F.linear(x, basis), 2)
    for layer in (analysis.head, synthesis.head):
        nn.init.eye_(layer.weight)


def principal_components(samples: Tensor, count: int) -> Tensor:
    """Leading eigenvectors (rows, orthonormal) of the second moment of (N, D) samples."""
    samples = samples.double()
    _, vectors = torch.linalg.eigh(samples.T @ samples / len(samples))
    return vectors.flip(1)[:, :count].T.float()
