"""The metrics against values worked out by hand and a second implementation."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from rhodec.evaluate import quality_metrics as metrics


def noisy_pair(height: int, width: int, sigma: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[0:height, 0:width]
    waves = [100 * np.sin(x / (9 + c)) * np.cos(y / (13 - c)) for c in range(3)]
    original = 128 + np.stack(waves, axis=2)
    decoded = original + random.normal(0, sigma, original.shape)
    return to_bytes(original), to_bytes(decoded)


def to_bytes(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.round(samples), 0, 255).astype(np.uint8)


def uniform(value: tuple[int, int, int], height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


# ---- PSNR ---------------------------------------------------------------------------------------


def test_psnr_of_a_known_error_is_the_textbook_value() -> None:
    original = uniform((100, 100, 100))
    decoded = original.copy()
    decoded[0, 0] = (110, 90, 100)  # squares 200 over 72 samples
    assert metrics.mse(original, decoded) == 200 / 72
    expected = 10 * math.log10(65025 / (200 / 72))
    assert metrics.psnr_rgb(original, decoded) == pytest.approx(expected, abs=1e-12)


def test_differences_do_not_wrap_around_in_8_bits() -> None:
    black, white = uniform((0, 0, 0)), uniform((255, 255, 255))
    assert metrics.mse(black, white) == metrics.mse(white, black) == 65025
    assert metrics.psnr_rgb(black, white) == 0


def test_equal_pictures_have_an_infinite_psnr() -> None:
    picture = uniform((1, 2, 3))
    assert metrics.psnr_rgb(picture, picture) == math.inf
    assert metrics.psnr_yuv(picture, picture) == math.inf


def test_the_error_of_a_tall_picture_counts_every_band_of_rows() -> None:
    original = np.zeros((600, 2, 3), np.uint8)
    decoded = original.copy()
    decoded[[0, 255, 256, 599]] = 3
    assert metrics.mse(original, decoded) == 9 * 4 / 600


def test_psnr_of_mean_mse_is_below_the_mean_of_psnrs_unless_all_are_equal() -> None:
    errors = [4.0, 100.0]
    mean_of_psnrs = sum(map(metrics.psnr_of_mse, errors)) / 2
    assert metrics.psnr_of_mean_mse(errors) == pytest.approx(10 * math.log10(65025 / 52))
    assert metrics.psnr_of_mean_mse(errors) < mean_of_psnrs - 3
    assert metrics.psnr_of_mean_mse([7.0, 7.0]) == pytest.approx(metrics.psnr_of_mse(7.0))
    with pytest.raises(ValueError, match="no errors"):
        metrics.psnr_of_mean_mse([])


# ---- YCbCr --------------------------------------------------------------------------------------


def test_ycbcr_of_primaries_follows_jfif_and_bt709() -> None:
    red = metrics.to_ycbcr(uniform((255, 0, 0)))[0, 0]
    assert red == pytest.approx([76.245, -43.027652, 127.5], abs=1e-6)
    blue = metrics.to_ycbcr(uniform((0, 0, 255)), "bt709")[0, 0]
    assert blue == pytest.approx([18.411, 127.5, -11.691008], abs=1e-6)
    white = metrics.to_ycbcr(uniform((255, 255, 255)), "bt709")[0, 0]
    assert white == pytest.approx([255, 0, 0], abs=1e-9)


def test_a_grey_error_is_an_error_of_luma_alone() -> None:
    original, decoded = uniform((50, 90, 130)), uniform((53, 93, 133))
    y, cb, cr = metrics.plane_errors(original, decoded)
    assert y == pytest.approx(9)
    assert max(cb, cr) < 1e-20
    assert metrics.psnr_y(original, decoded) == pytest.approx(metrics.psnr_rgb(original, decoded))


def test_the_three_yuv_weightings_are_those_of_their_projects() -> None:
    errors = (2.0, 5.0, 11.0)
    y, u, v = (10 * math.log10(65025 / error) for error in errors)
    assert metrics.combine_planes(errors, "6:1:1") == pytest.approx((6 * y + u + v) / 8)
    assert metrics.combine_planes(errors, "4:1:1") == pytest.approx((4 * y + u + v) / 6)
    assert metrics.combine_planes(errors, "mse 4:1:1") == pytest.approx(10 * math.log10(65025 / 4))
    original, decoded = noisy_pair(40, 30)
    planes = metrics.plane_errors(original, decoded, "bt709")
    for weighting in ("6:1:1", "4:1:1", "mse 4:1:1"):
        value = metrics.psnr_yuv(original, decoded, weighting, "bt709")
        assert value == metrics.combine_planes(planes, weighting)
    with pytest.raises(ValueError, match="weighting"):
        metrics.combine_planes(errors, "1:1:1")  # type: ignore[arg-type]


# ---- MS-SSIM ------------------------------------------------------------------------------------


def ms_ssim_by_torch(original: np.ndarray, decoded: np.ndarray) -> float:
    """The same definition by two-dimensional convolutions and average pooling."""
    at = torch.arange(11, dtype=torch.float64) - 5
    taps = torch.exp(-(at**2) / 4.5)
    window = torch.outer(taps, taps) / taps.sum() ** 2
    kernel = window.expand(3, 1, 11, 11)
    x, y = (torch.from_numpy(p).double().permute(2, 0, 1)[None] for p in (original, decoded))
    weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]
    result = torch.ones(3, dtype=torch.float64)
    for scale, weight in enumerate(weights):
        mx, my = F.conv2d(x, kernel, groups=3), F.conv2d(y, kernel, groups=3)
        vx = F.conv2d(x * x, kernel, groups=3) - mx * mx
        vy = F.conv2d(y * y, kernel, groups=3) - my * my
        vxy = F.conv2d(x * y, kernel, groups=3) - mx * my
        term = (2 * vxy + 58.5225) / (vx + vy + 58.5225)
        if scale == 4:
            term = term * (2 * mx * my + 6.5025) / (mx * mx + my * my + 6.5025)
        result *= term.mean((0, 2, 3)).clamp(min=0) ** weight
        padding = [x.shape[2] % 2, x.shape[3] % 2]
        x, y = (F.avg_pool2d(p, 2, padding=padding) for p in (x, y))
    return float(result.mean())


@pytest.mark.parametrize(("height", "width"), [(192, 176), (161, 207)])
def test_ms_ssim_agrees_with_a_second_implementation(height: int, width: int) -> None:
    for sigma in (3.0, 40.0):
        original, decoded = noisy_pair(height, width, sigma)
        expected = ms_ssim_by_torch(original, decoded)
        assert expected < 0.999
        assert metrics.ms_ssim(original, decoded) == pytest.approx(expected, abs=1e-9)


def test_ms_ssim_agrees_with_the_package_of_the_field() -> None:
    # Written by pytorch-msssim 1.0.0, `ms_ssim(x, y, data_range=255)` on float64 tensors; its
    # window has 32-bit weights.
    assert metrics.ms_ssim(*noisy_pair(192, 176)) == pytest.approx(0.96207058868, abs=1e-6)
    assert metrics.ms_ssim(*noisy_pair(161, 207)) == pytest.approx(0.96210453846, abs=1e-6)


def test_ms_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    original, slightly = noisy_pair(170, 180, 2)
    _, strongly = noisy_pair(170, 180, 30)
    assert metrics.ms_ssim(original, original) == pytest.approx(1, abs=1e-12)
    assert metrics.ms_ssim(original, strongly) < metrics.ms_ssim(original, slightly) < 1


def test_an_inverted_picture_has_no_similarity_instead_of_an_undefined_one() -> None:
    original, _ = noisy_pair(170, 180)
    assert metrics.ms_ssim(original, 255 - original) == 0


def test_ms_ssim_in_decibels() -> None:
    assert metrics.ms_ssim_db(0.99) == pytest.approx(20)
    assert metrics.ms_ssim_db(1.0) == math.inf


def test_a_picture_too_small_for_five_scales_is_refused_with_its_size() -> None:
    original, decoded = noisy_pair(160, 400)
    with pytest.raises(ValueError, match="400 x 160"):
        metrics.ms_ssim(original, decoded)


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [metrics.psnr_rgb, metrics.psnr_y, metrics.ms_ssim])
def test_pictures_that_cannot_be_compared_are_refused(metric) -> None:
    picture = uniform((1, 2, 3), 170, 170)
    with pytest.raises(ValueError, match="shapes differ"):
        metric(picture, picture[:-1])
    with pytest.raises(ValueError, match="uint8"):
        metric(picture, picture / 255)  # a decoder's output before rounding
    with pytest.raises(ValueError, match="no samples"):
        metric(picture[:0], picture[:0])


# ---- SSIMULACRA 2 -------------------------------------------------------------------------------


def test_ssimulacra2_is_100_for_equal_pictures_and_falls_with_noise() -> None:
    pytest.importorskip("ssimulacra2")
    original, noisy = noisy_pair(64, 80, sigma=4)
    _, noisier = noisy_pair(64, 80, sigma=16)
    assert metrics.ssimulacra2(original, original) == pytest.approx(100)
    scores = [metrics.ssimulacra2(original, decoded) for decoded in (noisy, noisier)]
    assert 100 > scores[0] > scores[1] + 20


def test_ssimulacra2_of_jpeg_files_is_on_the_scale_of_its_authors() -> None:
    # Their scale: the average JPEG 4:2:0 of quality 35 has 50; 90 is visually lossless.
    pytest.importorskip("ssimulacra2")
    with Image.open(Path(__file__).parent / "data" / "kodim23.png") as image:
        original = np.array(image.convert("RGB"))[100:356, 200:456]
    scores = []
    for quality in (35, 95):
        file = BytesIO()
        Image.fromarray(original).save(file, "JPEG", quality=quality)
        scores.append(metrics.ssimulacra2(original, np.array(Image.open(file))))
    assert 35 < scores[0] < 65 < 80 < scores[1] < 100


def test_ssimulacra2_of_tiny_pictures_is_refused() -> None:
    pytest.importorskip("ssimulacra2")
    with pytest.raises(ValueError, match="at least 8 pixels; this picture has 9 x 7"):
        metrics.ssimulacra2(uniform((0, 0, 0), 7, 9), uniform((0, 0, 0), 7, 9))
