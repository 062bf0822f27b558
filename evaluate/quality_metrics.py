"""Distortion of a decoded picture on 8-bit samples: PSNR in RGB and YCbCr, MS-SSIM, SSIMULACRA 2.

Every function takes the original first and the decoded picture second, both uint8 of one shape
(H, W, 3). Averages over a data set are ambiguous, so they have names of their own: the field's
"PSNR" is the mean of the per-picture values, `psnr_of_mean_mse` is another number (up to 0.5 dB
lower on Kodak), and mixing the two moves a BD-rate by several per cent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate1d

PEAK = 255.0

Matrix = Literal["bt601", "bt709"]
Weighting = Literal["6:1:1", "4:1:1", "mse 4:1:1"]

# Luma weights of red and blue (ITU-R BT.601 and BT.709); green has the rest.
LUMA_WEIGHTS: dict[str, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
}

# MS-SSIM: weights of the five scales (Wang, Simoncelli, Bovik 2003, table 1) and SSIM's window.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW_SIZE = 11
WINDOW_SIGMA = 1.5
C1 = (0.01 * PEAK) ** 2
C2 = (0.03 * PEAK) ** 2
# The window has to fit into the smallest scale.
MS_SSIM_MIN_SIDE = (WINDOW_SIZE - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
SSIMULACRA2_MIN_SIDE = 8  # of its first scale


# ---- PSNR ---------------------------------------------------------------------------------------


def mse(original: np.ndarray, decoded: np.ndarray) -> float:
    """Mean squared error over all samples of two uint8 arrays of one shape.

    Exact: the sum runs in integers. Raises `ValueError` for other types or different shapes.
    """
    _check(original, decoded)
    squares = 0
    for row in range(0, original.shape[0], 256):  # in bands, to bound the memory
        rows = slice(row, row + 256)
        difference = original[rows].astype(np.int32) - decoded[rows]
        squares += int(np.sum(difference * difference, dtype=np.int64))
    return squares / original.size


def psnr_of_mse(mean_squared_error: float) -> float:
    """10 log10(255^2 / MSE) in dB; infinite for an error of 0."""
    if mean_squared_error == 0:
        return math.inf
    return 10 * math.log10(PEAK**2 / mean_squared_error)


def psnr_rgb(original: np.ndarray, decoded: np.ndarray) -> float:
    """PSNR in dB from one MSE over the three channels; infinite for equal pictures."""
    return psnr_of_mse(mse(original, decoded))


def psnr_of_mean_mse(errors: Iterable[float]) -> float:
    """PSNR in dB of the mean of per-picture MSEs: the data set as if it were one picture.

    Never above the mean of the per-picture PSNRs (Jensen). Pictures of different sizes count
    equally, as they do in the mean of PSNRs.
    """
    values = list(errors)
    if not values:
        raise ValueError("no errors to average")
    return psnr_of_mse(math.fsum(values) / len(values))


def to_ycbcr(rgb: np.ndarray, matrix: Matrix = "bt601") -> NDArray[np.float64]:
    """Full-range Y'CbCr (H, W, 3) of RGB samples, on the scale 0 to 255, not rounded.

    Chroma is centred on 0. The conversion is exact to float64, so it adds no error of its own.
    """
    if matrix not in LUMA_WEIGHTS:
        raise ValueError(f"matrix {matrix!r} is not one of {', '.join(LUMA_WEIGHTS)}")
    red_weight, blue_weight = LUMA_WEIGHTS[matrix]
    red, green, blue = np.moveaxis(rgb.astype(np.float64), -1, 0)
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    cb = (blue - luma) / (2 * (1 - blue_weight))
    cr = (red - luma) / (2 * (1 - red_weight))
    return np.stack([luma, cb, cr], axis=-1)


def plane_errors(
    original: np.ndarray, decoded: np.ndarray, matrix: Matrix = "bt601"
) -> tuple[float, float, float]:
    """MSE of Y, Cb and Cr at full resolution (4:4:4), on the scale of 8-bit samples."""
    _check(original, decoded)
    difference = to_ycbcr(original, matrix) - to_ycbcr(decoded, matrix)
    y, cb, cr = np.mean(difference * difference, axis=(0, 1))
    return float(y), float(cb), float(cr)


def psnr_y(original: np.ndarray, decoded: np.ndarray, matrix: Matrix = "bt601") -> float:
    """PSNR of luma in dB."""
    return psnr_of_mse(plane_errors(original, decoded, matrix)[0])


def psnr_yuv(
    original: np.ndarray,
    decoded: np.ndarray,
    weighting: Weighting = "6:1:1",
    matrix: Matrix = "bt601",
) -> float:
    """PSNR over luma and chroma in dB, by one of the three conventions in use.

    - `"6:1:1"`: (6 PSNR_Y + PSNR_U + PSNR_V) / 8, of JVET and DCVC;
    - `"4:1:1"`: (4 PSNR_Y + PSNR_U + PSNR_V) / 6, of CompressAI's `psnr-yuv`;
    - `"mse 4:1:1"`: PSNR of (4 MSE_Y + MSE_U + MSE_V) / 6, of Cool-chic.

    Those were made for 4:2:0 video; here chroma has the full resolution of the RGB picture.
    """
    return combine_planes(plane_errors(original, decoded, matrix), weighting)


def combine_planes(errors: tuple[float, float, float], weighting: Weighting) -> float:
    """The weightings of `psnr_yuv`, from the MSE of the three planes."""
    luma, cb, cr = (psnr_of_mse(error) for error in errors)
    if weighting == "6:1:1":
        return (6 * luma + cb + cr) / 8
    if weighting == "4:1:1":
        return (4 * luma + cb + cr) / 6
    if weighting == "mse 4:1:1":
        return psnr_of_mse((4 * errors[0] + errors[1] + errors[2]) / 6)
    raise ValueError(f"weighting {weighting!r} is not one of '6:1:1', '4:1:1', 'mse 4:1:1'")


# ---- MS-SSIM ------------------------------------------------------------------------------------


def ms_ssim(original: np.ndarray, decoded: np.ndarray) -> float:
    """Multi-scale structural similarity, linear, 1 for equal pictures.

    Per RGB channel, then averaged, as learned-compression papers do (Wang et al. 2003 used luma):
    Gaussian window 11 x 11 with sigma 1.5 at whole positions only, K1 = 0.01, K2 = 0.03, five
    scales by 2 x 2 means, negative contrast terms cut to 0. An odd side gets a line of zeros at
    both ends before a 2 x 2 mean, which is what the widely used `pytorch-msssim` does.

    Raises `ValueError` for a side under `MS_SSIM_MIN_SIDE` (161) samples.
    """
    _check(original, decoded)
    if original.ndim != 3:
        raise ValueError(f"a picture has the shape (H, W, C), not {original.shape}")
    if min(original.shape[:2]) < MS_SSIM_MIN_SIDE:
        height, width = original.shape[:2]
        raise ValueError(
            f"MS-SSIM with five scales needs sides of at least {MS_SSIM_MIN_SIDE} pixels; "
            f"this picture has {width} x {height}"
        )
    x = original.astype(np.float64)
    y = decoded.astype(np.float64)
    product = np.ones(x.shape[2])
    for scale, weight in enumerate(SCALE_WEIGHTS):
        is_last = scale == len(SCALE_WEIGHTS) - 1
        similarity, contrast = _ssim_terms(x, y)
        product *= np.maximum(similarity if is_last else contrast, 0) ** weight
        if not is_last:
            x, y = _halve(x), _halve(y)
    return float(product.mean())


def ms_ssim_db(linear: float) -> float:
    """-10 log10(1 - MS-SSIM) in dB; infinite for 1."""
    if linear >= 1:
        return math.inf
    return -10 * math.log10(1 - linear)


def _ssim_terms(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Means per channel of SSIM and of its contrast-structure factor, each (C,)."""
    mean_x, mean_y = _window(x), _window(y)
    variance_x = _window(x * x) - mean_x**2
    variance_y = _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    contrast = (2 * covariance + C2) / (variance_x + variance_y + C2)
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return (luminance * contrast).mean(axis=(0, 1)), contrast.mean(axis=(0, 1))


def _window(x: NDArray) -> NDArray:
    """Gaussian means of (H, W, C) where the whole window fits: (H - 10, W - 10, C)."""
    radius = WINDOW_SIZE // 2
    taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * WINDOW_SIGMA**2))
    taps /= taps.sum()
    rows = correlate1d(x, taps, axis=0)[radius:-radius]
    return correlate1d(rows, taps, axis=1)[:, radius:-radius]


def _halve(x: NDArray) -> NDArray:
    """Means of 2 x 2 samples: (H, W, C) -> ((H + 1) // 2, (W + 1) // 2, C)."""
    odd_rows, odd_columns = x.shape[0] % 2, x.shape[1] % 2
    if odd_rows or odd_columns:
        x = np.pad(x, ((odd_rows, odd_rows), (odd_columns, odd_columns), (0, 0)))
    height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    x = x[:height, :width]
    return (x[0::2, 0::2] + x[0::2, 1::2] + x[1::2, 0::2] + x[1::2, 1::2]) / 4


# ---- perceptual ---------------------------------------------------------------------------------


def ssimulacra2(original: np.ndarray, decoded: np.ndarray) -> float:
    """SSIMULACRA 2 (of libjxl's tools): 100 for equal pictures, below 0 for very bad ones.

    From the package `ssimulacra2` (extra `perceptual`), which needs no weights; learned measures
    such as LPIPS and DISTS fetch those of their networks from elsewhere. Raises `ValueError` for a
    side under `SSIMULACRA2_MIN_SIDE` samples, and `ModuleNotFoundError` without the package.
    """
    from ssimulacra2 import compute_ssimulacra2

    _check(original, decoded)
    if min(original.shape[:2]) < SSIMULACRA2_MIN_SIDE:
        height, width = original.shape[:2]
        raise ValueError(
            f"SSIMULACRA2 needs sides of at least {SSIMULACRA2_MIN_SIDE} pixels; "
            f"this picture has {width} x {height}"
        )
    files = BytesIO(), BytesIO()  # the package reads files
    for file, picture in zip(files, (original, decoded), strict=True):
        Image.fromarray(picture).save(file, "BMP")
    return float(compute_ssimulacra2(*files))


def _check(original: np.ndarray, decoded: np.ndarray) -> None:
    if original.dtype != np.uint8 or decoded.dtype != np.uint8:
        raise ValueError(
            f"metrics are taken on uint8 samples, not on {original.dtype} and {decoded.dtype}"
        )
    if original.shape != decoded.shape:
        raise ValueError(f"shapes differ: {original.shape} and {decoded.shape}")
    if original.size == 0:
        raise ValueError("the pictures have no samples")
