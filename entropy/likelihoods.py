"""Differentiable code lengths for training (Balle et al., ICLR 2018; Minnen et al., NeurIPS 2018).

Nothing here chooses a coding table: files are coded with integers only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhodec.entropy.gaussian_tables import SCALE_LEVELS, SCALE_MAX, SCALE_MIN

_LOG_SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_LEVELS - 1)
_MIN_LIKELIHOOD = 1e-9


def scale_from_level(level: Tensor) -> Tensor:
    """Standard deviation in quantisation steps of a (fractional) table level in [0, 127]."""
    return SCALE_MIN * torch.exp(level * _LOG_SCALE_STEP)


def level_from_scale(scale: Tensor) -> Tensor:
    """Fractional table level of a standard deviation in quantisation steps."""
    return torch.log(scale / SCALE_MIN) / _LOG_SCALE_STEP


def gaussian_bits(residual: Tensor, scale: Tensor) -> Tensor:
    """Bits to code a unit bin centred on `residual` under a zero-mean Gaussian.

    -log2(Phi((r + 1/2) / s) - Phi((r - 1/2) / s)), evaluated in the lower tail for accuracy.
    """
    r = residual.abs()
    inverse = (1 / math.sqrt(2)) / scale
    upper = torch.erfc((r - 0.5) * inverse)
    lower = torch.erfc((r + 0.5) * inverse)
    return -torch.log2((0.5 * (upper - lower)).clamp_min(_MIN_LIKELIHOOD))


def round_through(x: Tensor) -> Tensor:
    """round(x) with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


def add_noise(x: Tensor) -> Tensor:
    """x plus uniform noise in [-1/2, 1/2): the training stand-in for rounding."""
    return x + torch.rand_like(x) - 0.5


class _ClampThrough(torch.autograd.Function):
    """clamp(x, low, high) whose gradient passes wherever it would lead back into the range."""

    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (grad,), (x,) = grads, ctx.saved_tensors
        keep = ((x >= ctx.low) | (grad < 0)) & ((x <= ctx.high) | (grad > 0))
        return grad * keep, None, None


def clamp_through(x: Tensor, low: float, high: float) -> Tensor:
    """clamp(x, low, high) whose gradient passes wherever it would lead back into the range."""
    out = _ClampThrough.apply(x, low, high)
    assert isinstance(out, Tensor)
    return out


class FactorizedPrior(nn.Module):
    """A learned density per channel (Balle et al., ICLR 2018, appendix 6.1), for integers.

    The cumulative is a monotone scalar network with layers of three units.
    """

    WIDTHS = (1, 3, 3, 3, 1)

    def __init__(self, channels: int, initial_scale: float = 10.0):
        super().__init__()
        self.channels = channels
        depth = len(self.WIDTHS) - 1
        scale = initial_scale ** (1 / depth)
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for fan_in, fan_out in zip(self.WIDTHS[:-1], self.WIDTHS[1:], strict=True):
            start = math.log(math.expm1(1 / scale / fan_out))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), start)))
            self.biases.append(nn.Parameter(torch.rand(channels, fan_out, 1) - 0.5))
            if len(self.factors) < depth - 1:  # the last layer is linear
                self.factors.append(nn.Parameter(torch.zeros(channels, fan_out, 1)))

    def logits_of_cdf(self, x: Tensor) -> Tensor:
        """Logit of the cumulative at x (C, 1, N)."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = torch.matmul(F.softplus(matrix), x) + bias
            if i < len(self.factors):
                x = x + torch.tanh(self.factors[i]) * torch.tanh(x)
        return x

    def likelihood(self, values: Tensor) -> Tensor:
        """Probability of the unit bin around each value (C, N) of its channel."""
        v = values[:, None, :]
        low, high = self.logits_of_cdf(v - 0.5), self.logits_of_cdf(v + 0.5)
        sign = -torch.sign(low + high).detach()  # the side on which sigmoids do not cancel
        return (torch.sigmoid(sign * high) - torch.sigmoid(sign * low)).abs()[:, 0]

    def bits(self, z: Tensor) -> Tensor:
        """Bits for each element of z (B, C, H, W); in fp32 under autocast too."""
        b, c, h, w = z.shape
        flat = z.float().transpose(0, 1).reshape(c, -1)
        with torch.autocast(z.device.type, enabled=False):
            bits = -torch.log2(self.likelihood(flat).clamp_min(_MIN_LIKELIHOOD))
        return bits.reshape(c, b, h, w).transpose(0, 1)
