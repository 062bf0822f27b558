"""The transforms of the first learned codecs: four 5x5 convolutions of stride 2 with GDN between.

Analysis and synthesis of Balle et al., "End-to-end optimized image compression" (ICLR 2017), in the
sizes of Balle et al. (ICLR 2018). Unlike there, a pair starts as a Karhunen-Loeve transform
(`gdn_klt_initialise`). Tensors are (B, H, W, C).

The synthesis uses transposed convolutions: each is the exact adjoint of an analysis layer, which
the start needs, and has 25 multiplications per weight pair and input position where a 3x3
convolution with depth-to-space, for the same reach, has 36. The checkerboard patterns that
transposed convolutions are known for come from unequal overlaps of random kernels; the start has
no overlap.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhodec.transforms.depthwise import principal_components, space_to_depth

KERNEL = 5
LEVELS = 4  # convolutions of stride 2: 16 pixel rows and columns per latent position
BETA_FLOOR = 1e-6
# gamma is in units of 1/variance. Pictures in [-0.5, 0.5] have details of about 0.1 in the
# orthonormal scale of the start, so that gammas matter from about 100 on.
GAMMA_UNIT = 64.0


class GeneralisedNormalisation(nn.Module):
    """GDN, x_i / n_i, or its approximate inverse x_i * n_i, n_i^2 = beta_i + sum_j gamma_ij x_j^2.

    x (B, H, W, C). beta and gamma stay positive as squares of the parameters: steps of gamma shrink
    with gamma, as they must where many small ones add up. It starts close to the identity.
    Balle et al., "Density modeling of images using a generalized normalization transformation"
    (ICLR 2016), there with a lower bound in addition to the square.
    """

    def __init__(self, channels: int, inverse: bool = False):
        super().__init__()
        self.inverse = inverse
        self.root_beta = nn.Parameter(torch.ones(channels))
        # Not 0, where the gradient of the square vanishes.
        self.root_gamma = nn.Parameter(torch.full((channels, channels), 0.005))

    def forward(self, x: Tensor) -> Tensor:
        beta = self.root_beta.square() + BETA_FLOOR
        gamma = GAMMA_UNIT * self.root_gamma.square()
        power = F.linear(x.square(), gamma, beta)
        return x * (torch.sqrt(power) if self.inverse else torch.rsqrt(power))


class GdnAnalysis(nn.Module):
    """g_a: (B, H, W, 3) in [-0.5, 0.5], H and W multiples of 16 -> y (B, H/16, W/16, latents)."""

    def __init__(self, channels: int, latents: int):
        super().__init__()
        widths = 3, channels, channels, channels, latents
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], KERNEL, 2, KERNEL // 2) for i in range(LEVELS)
        )
        self.norms = nn.ModuleList(GeneralisedNormalisation(channels) for _ in range(LEVELS - 1))

    def features(self, x: Tensor) -> Tensor:
        """All of it: as in the papers, nothing depends on the rate."""
        x = _convolve(self.convolutions[0], x)
        for norm, convolution in zip(self.norms, self.convolutions[1:], strict=True):
            x = _convolve(convolution, norm(x))
        return x

    def latents_of(self, features: Tensor, gain: Tensor) -> Tensor:
        """The features themselves; `gain` is empty, as gains here would be gains on y."""
        return features


class GdnSynthesis(nn.Module):
    """g_s: y_hat (B, h, w, latents) -> (B, 16h, 16w, 3) around [-0.5, 0.5]; `gain` is empty."""

    def __init__(self, channels: int, latents: int):
        super().__init__()
        widths = latents, channels, channels, channels, 3
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(
                widths[i], widths[i + 1], KERNEL, 2, padding=KERNEL // 2, output_padding=1
            )
            for i in range(LEVELS)
        )
        self.norms = nn.ModuleList(
            GeneralisedNormalisation(channels, inverse=True) for _ in range(LEVELS - 1)
        )

    def forward(self, y: Tensor, gain: Tensor) -> Tensor:
        y = _convolve(self.convolutions[0], y)
        for norm, convolution in zip(self.norms, self.convolutions[1:], strict=True):
            y = _convolve(convolution, norm(y))
        return y


def _convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """A (B, C, H, W) layer on a (B, H, W, C) tensor, which is torch's "channels last"."""
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@torch.no_grad()
def gdn_klt_initialise(analysis: GdnAnalysis, synthesis: GdnSynthesis, pixels: Tensor) -> None:
    """Make the pair a truncated Karhunen-Loeve transform of `pixels` (B, H, W, 3), close to linear.

    Each convolution takes the principal components of 2x2 groups of the outputs before, as the
    four taps that cover its own group; the other taps start at 0. The synthesis is the adjoint.
    Where a layer has more channels than a group has components, the spare ones get noise and the
    layer after ignores them: they do nothing yet but have a gradient.
    """
    x = pixels
    own = slice(KERNEL // 2, KERNEL // 2 + 2)  # output i sees inputs 2i - 2 to 2i + 2
    for layer, mirror in zip(analysis.convolutions, synthesis.convolutions[::-1], strict=True):
        assert isinstance(layer, nn.Conv2d) and isinstance(mirror, nn.ConvTranspose2d)
        assert layer.bias is not None and mirror.bias is not None
        groups = space_to_depth(x, 2)
        used = min(layer.out_channels, groups.shape[-1])
        basis = principal_components(groups.flatten(0, 2), used)
        nn.init.zeros_(layer.weight)
        nn.init.normal_(layer.weight[used:], std=(layer.in_channels * KERNEL**2) ** -0.5)
        taps = basis.reshape(used, 2, 2, -1).permute(0, 3, 1, 2)
        layer.weight[:used, : x.shape[-1], own, own] = taps
        mirror.weight.copy_(layer.weight)
        nn.init.zeros_(layer.bias)
        nn.init.zeros_(mirror.bias)
        x = F.linear(groups, basis)
