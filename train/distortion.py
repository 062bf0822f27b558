"""What the training loss measures as distortion: one number a picture, the lower the better.

All on the scale of the squared error of 8-bit samples, so that the same lambdas serve.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Wang et al. 2003, as in `rhodec.evaluate.ms_ssim`, which needs more than training does
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW_SIZE, WINDOW_SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
# Squared error that a whole unit of MS-SSIM stands for. CompressAI trains its eight qualities with
# lambdas that have the ratio 1220 to 1330.
MS_SSIM_SCALE = 1280.0
LEAST_TERM = 1e-4  # of a scale: the gradient of its power is infinite at 0


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B, H, W, 3) in [0, 1] -> mean squared error on the 0..255 scale, (B,)."""
    return (x_hat - x).square().mean((1, 2, 3)) * 255**2


def structural_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """(B, H, W, 3) in [0, 1], sides multiples of 16 -> `MS_SSIM_SCALE` (1 - MS-SSIM), (B,).

    MS-SSIM as in `rhodec.evaluate.ms_ssim`, but that a scale counts at least `LEAST_TERM`.
    """
    with torch.autocast(x.device.type, enabled=False):
        a, b = (255 * v.float().permute(0, 3, 1, 2) for v in (x, x_hat))
        product = a.new_ones(a.shape[:2])
        for scale, weight in enumerate(SCALE_WEIGHTS):
            is_last = scale == len(SCALE_WEIGHTS) - 1
            similarity, contrast = _ssim_terms(a, b)
            term = similarity if is_last else contrast
            product = product * term.clamp_min(LEAST_TERM) ** weight
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return MS_SSIM_SCALE * (1 - product.mean(1))


def _ssim_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Means of SSIM and of its contrast-structure factor over (B, C, H, W), each (B, C)."""
    means = _window(torch.cat([a, b, a * a, b * b, a * b]))
    mean_a, mean_b, square_a, square_b, product = means.chunk(5)
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    covariance = product - mean_a * mean_b
    contrast = (2 * covariance + C2) / (variance_a + variance_b + C2)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))


def _window(x: Tensor) -> Tensor:
    """Gaussian means of (B, C, H, W) where the whole window fits.

    As products with banded matrices: on CPUs ten times as fast as convolutions of single planes.
    """
    return _band(x.shape[-2], x).T @ (x @ _band(x.shape[-1], x))


def _band(size: int, like: Tensor) -> Tensor:
    """(size, size - WINDOW_SIZE + 1) matrix that takes a line to its Gaussian means."""
    places = torch.arange(WINDOW_SIZE) - WINDOW_SIZE // 2
    taps = torch.exp(-(places**2) / (2 * WINDOW_SIGMA**2))
    ends = size - WINDOW_SIZE + 1
    rows = torch.arange(ends)[None, :] + torch.arange(WINDOW_SIZE)[:, None]
    band = torch.zeros(size, ends).scatter_(0, rows, (taps / taps.sum())[:, None].expand_as(rows))
    return band.to(like)


DISTORTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": squared_error,
    "ms-ssim": structural_error,
}
LEAST_SIDES = {"mse": 1, "ms-ssim": 192}  # of pictures: five scales of a window of 11 x 11
