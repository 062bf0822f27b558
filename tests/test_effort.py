"""Effort: refined latents cost less, decode like any others, and keep the targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rhodec
from rhodec.codecs import latent_refinement
from rhodec.codecs.latent_refinement import HALO, expected_rounding
from rhodec.codecs.registry import load_transform_codec
from rhodec.codecs.transform_codec import Coded, TransformCodec
from rhodec.entropy.gaussian_tables import SCALE_LEVELS
from rhodec.entropy.latent_codec import FRACTION_BITS, HyperLatentCodec
from rhodec.entropy.latent_format import QUALITY_STEPS
from rhodec.entropy.latent_twin import LatentTwin
from rhodec.entropy.likelihoods import gaussian_bits, scale_from_level
from rhodec.rate_control import MAX_CORRECTIONS, Target, Trial, correct


@pytest.fixture(scope="module")
def codec() -> TransformCodec:
    return load_transform_codec("rho")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    with Image.open(Path(__file__).parent / "data" / "kodim23.png") as image:
        return np.array(image.convert("RGB"))


@pytest.fixture(scope="module")
def crop(photo: np.ndarray) -> np.ndarray:
    """A part of the packaged photograph, uint8 (103, 143, 3): 7 x 9 latents, none of them even."""
    return photo[200:303, 520:663].copy()


@pytest.fixture(scope="module")
def large_crop(photo: np.ndarray) -> np.ndarray:
    """(231, 303, 3): 15 x 19 latents, enough that single bits do not matter for a rate."""
    return photo[200:431, 400:703].copy()


def mean_square(image: np.ndarray, shown: np.ndarray) -> float:
    return float(np.mean((image.astype(np.float64) - shown) ** 2))


def cost(codec: TransformCodec, coded: Coded, image: np.ndarray) -> float:
    """Bits of the payload + lambda * MSE * pixels."""
    low, high = codec.model.rates.span
    quality = torch.tensor(low + (high - low) * coded.quality_step / QUALITY_STEPS)
    distortion = mean_square(image, codec.reconstruct(coded)) * image[..., 0].size
    return 8 * len(coded.payload) + float(codec.model.lambda_of(quality)) * distortion


@pytest.mark.parametrize("quality", [10, 90])
def test_the_twin_has_the_rate_and_the_latents_of_the_integer_chain(
    codec: TransformCodec, large_crop: np.ndarray, quality: float
) -> None:
    crop, latent_codec = large_crop, codec.latent_codec
    assert isinstance(latent_codec, HyperLatentCodec)
    y = codec.latents_of(codec.analyse(crop), quality)
    z = codec.hyper_latents(y)
    step = round(2 * quality)
    latents = latent_codec.quantise(y, z, step, rate_weight=0)
    coded = Coded(codec, latents, crop.shape[0], crop.shape[1], step)

    def plain_rounding(residual, level, channels):
        k = residual.round()
        return k, gaussian_bits(k, scale_from_level(level))

    height, width, _ = y.shape
    y_hat64 = latents.y_hat64 / (1 << FRACTION_BITS)
    padded = torch.zeros(1, height + 1, width + 1, y.shape[2])
    # Quantised latents, so that no residual lies on the border between two symbols.
    padded[0, :height, :width] = torch.from_numpy(y_hat64)
    inside = torch.zeros(height + 1, width + 1, 1)
    inside[:height, :width] = 1
    twin = LatentTwin(latent_codec)
    features = twin.features(torch.from_numpy(z).float()[None], step)
    features = features[:, : height + 1, : width + 1]
    y_hat, bits = twin(padded, features, inside, plain_rounding)

    z_bits = latent_codec.tables.ideal_bits(latents.symbols[: z.size], latents.indexes[: z.size])
    assert float(bits) + z_bits == pytest.approx(coded.estimated_bits, rel=0.005)
    difference = np.abs(y_hat[0, :height, :width].numpy() - y_hat64)
    assert np.quantile(difference, 0.99) < 0.1 and difference.max() < 0.5
    assert not y_hat[0, height:].any() and not y_hat[0, :, width:].any()


def test_expected_bits_are_those_of_integers_and_have_their_slopes() -> None:
    price = torch.full((1, 1, 1), 3.0)
    quantise = expected_rounding(0.2, price)
    level = torch.linspace(0, SCALE_LEVELS - 1, 41)[:, None, None].requires_grad_()
    integers = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0])[None, :, None]
    value, bits = quantise(integers.expand(41, -1, 1), level.expand(-1, 5, 1), slice(None))
    torch.testing.assert_close(value, integers.expand(41, -1, 1), atol=1e-5, rtol=0)
    at_levels = level.detach().round() == level.detach()
    exact = gaussian_bits(integers, scale_from_level(level.detach()))
    chosen = at_levels.expand(-1, 5, 1)
    assert chosen.sum() >= 10
    torch.testing.assert_close(bits[chosen], exact[chosen], atol=1e-3, rtol=1e-3)

    residual = torch.tensor([-2.3, -0.6, -0.2, 0.3, 0.45, 1.7])[None, :, None]
    residual = residual.expand(41, -1, 1).clone().requires_grad_()
    wide = (level.detach() * 0.99 + 0.3).expand(-1, 6, 1).clone().requires_grad_()
    _, bits = quantise(residual, wide, slice(None))
    bits.sum().backward()
    for moved, slope in ((residual, residual.grad), (wide, wide.grad)):
        assert slope is not None
        shifts = []
        for sign in (1, -1):
            with torch.no_grad():
                moved += sign * 1e-2
                shifts.append(quantise(residual, wide, slice(None))[1])
                moved -= sign * 1e-2
        torch.testing.assert_close((shifts[0] - shifts[1]) / 2e-2, slope, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_the_true_cost_falls_with_effort_and_the_file_decodes_to_what_was_shown(
    codec: TransformCodec, crop: np.ndarray, quality: float
) -> None:
    latents = codec.analyse(crop)
    plain_bits = 8 * len(codec.quantise(latents, quality).payload)
    costs = []
    for effort in (0, 1, 4):
        coded = codec.quantise(latents, quality, effort)
        costs.append(cost(codec, coded, crop))
        decoded = codec.decode(coded.payload, 143, 103, quality, coded.digest)
        np.testing.assert_array_equal(decoded, codec.reconstruct(coded))
    # A few bytes of the range coder stand between the estimate that decides and the payload.
    assert costs[1] <= costs[0] + 32
    assert costs[0] - costs[2] > 0.02 * plain_bits  # as many bits could be saved at equal PSNR


def test_a_file_with_effort_is_the_same_each_time_and_needs_no_effort_to_decode(
    codec: TransformCodec, crop: np.ndarray
) -> None:
    data = rhodec.encode(crop, quality=80, effort=2)
    assert data == rhodec.encode(crop, quality=80, effort=2)
    assert data != rhodec.encode(crop, quality=80)
    coded = codec.quantise(codec.analyse(crop), 80, effort=2)
    np.testing.assert_array_equal(rhodec.decode(data), codec.reconstruct(coded))


def test_tiles_bound_what_is_differentiated_and_gain_as_much(
    codec: TransformCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Image.open(Path(__file__).parent / "data" / "kodim23.png") as image:
        picture = np.array(image.convert("RGB"))[100:292, 250:490].copy()  # 12 x 15 latents
    latents = codec.analyse(picture)
    seen: list[int] = []
    differentiate = LatentTwin.__call__

    def watched(self, y, *others):
        seen.append(max(y.shape[1:3]))
        return differentiate(self, y, *others)

    monkeypatch.setattr(LatentTwin, "__call__", watched)
    costs = [cost(codec, codec.quantise(latents, 80), picture)]
    for tile in (latent_refinement.TILE, 8):
        monkeypatch.setattr(latent_refinement, "TILE", tile)
        costs.append(cost(codec, codec.quantise(latents, 80, effort=4), picture))
    assert max(seen) == 16 and seen[-1] <= 8 + 2 * HALO
    plain, whole, tiled = costs
    assert whole < 0.99 * plain
    assert plain - tiled > 0.8 * (plain - whole)


def test_steps_are_reported_and_an_interrupt_ends_them(
    codec: TransformCodec, crop: np.ndarray
) -> None:
    latents, reports = codec.analyse(crop), []
    codec.quantise(latents, 50, 3, report=lambda *values: reports.append(values))
    shares, rates, psnrs = zip(*reports, strict=True)
    assert list(shares) == sorted(shares) and shares[-1] == 1
    assert max(rates) < 2 and min(psnrs) > 25

    def interrupt(*values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        codec.quantise(latents, 50, 3, report=interrupt)


@pytest.mark.parametrize("effort", [-1, 10])
def test_an_effort_outside_0_to_9_is_a_value_error(codec: TransformCodec, effort: int) -> None:
    with pytest.raises(ValueError, match=r"in 0\.\.9"):
        codec.quantise(codec.analyse(np.zeros((4, 4, 3), np.uint8)), 50, effort)
    with pytest.raises(ValueError, match="no effort"):
        rhodec.encode(np.zeros((4, 4, 3), np.uint8), effort=effort)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (17, 3), (3, 70)])
def test_tiny_pictures_can_be_refined(
    codec: TransformCodec, crop: np.ndarray, width: int, height: int
) -> None:
    picture = np.ascontiguousarray(crop[:height, :width])
    assert rhodec.decode(rhodec.encode(picture, effort=2)).shape == picture.shape


def test_targets_hold_with_effort_and_the_picture_is_better(crop: np.ndarray) -> None:
    size = 900
    plain, refined = (rhodec.encode(crop, size=size, effort=effort) for effort in (0, 3))
    assert 0.96 * size <= len(refined) <= size
    errors = [mean_square(crop, rhodec.decode(data)) for data in (plain, refined)]
    assert errors[1] < errors[0]

    rate_bpp = 8 * len(rhodec.encode(crop, bpp=0.5, effort=2)) / crop[..., 0].size
    assert rate_bpp == pytest.approx(0.5, rel=0.03)

    plain, refined = (rhodec.encode(crop, psnr=37, effort=effort) for effort in (0, 3))
    psnr_db = 10 * math.log10(255**2 / mean_square(crop, rhodec.decode(refined)))
    assert 37 <= psnr_db < 37.3
    assert len(refined) < len(plain)


def trials_of(measure: Callable[[int], float], is_psnr: bool) -> Callable[[int], Trial]:
    def try_index(index: int) -> Trial:
        value = measure(index)
        return Trial(index, bytes(index), value) if is_psnr else Trial(index, bytes(round(value)))

    return try_index


@pytest.mark.parametrize("slope", [0.009, 0.015, 0.022])
@pytest.mark.parametrize("gain", [0.0, 0.05, 0.15])
def test_few_trials_with_effort_correct_the_quality(slope: float, gain: float) -> None:
    def size(index: int) -> float:
        return 4000 * math.exp(slope * index)

    try_index = trials_of(lambda index: (1 - gain) * size(index), is_psnr=False)
    for index in (30, 100, 170):
        plain = Trial(index, bytes(round(size(index))))
        wanted = len(plain.data) + 7
        chosen, count = correct(Target("size", wanted), 1000, try_index, plain)
        assert count <= MAX_CORRECTIONS
        assert math.exp(-2 * slope) * wanted <= len(chosen.data) <= wanted
        chosen, count = correct(Target("bpp", 8 * wanted / 1000), 1000, try_index, plain)
        assert abs(len(chosen.data) / wanted - 1) <= slope

    for index in (30, 100, 170):
        try_db = trials_of(lambda i: 26 + 4 * slope * i + 4 * gain, is_psnr=True)
        goal = 26 + 4 * slope * index - 0.01
        chosen, count = correct(Target("psnr", goal), 1000, try_db, Trial(index, b"", goal))
        assert count <= MAX_CORRECTIONS and chosen.psnr_db is not None
        assert goal <= chosen.psnr_db <= goal + 0.15


def test_where_no_trial_with_effort_is_right_the_plain_file_stays() -> None:
    plain = Trial(100, bytes(5000), 33.0)
    larger = trials_of(lambda index: 9000.0, is_psnr=False)
    assert correct(Target("size", 5000), 1000, larger, plain)[0] is plain
    worse = trials_of(lambda index: 20.0, is_psnr=True)
    assert correct(Target("psnr", 33), 1000, worse, plain)[0] is plain
    lossless = trials_of(lambda index: math.inf, is_psnr=True)
    assert correct(Target("psnr", 33), 1000, lossless, plain)[0].psnr_db == math.inf
