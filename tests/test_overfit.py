"""The overfitted codec: files decode to exactly what the encoder shows, everywhere."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rhodec
from rhodec.__main__ import main
from rhodec.bitstream import container
from rhodec.bitstream.rans import CodingTables
from rhodec.bitstream.stream_error import StreamError
from rhodec.codecs import _overfit_coding as coding
from rhodec.codecs import overfit, overfit_fitting
from rhodec.codecs.codec_interface import Report
from rhodec.codecs.overfit import OverfitCodec, OverfitCoded
from rhodec.codecs.overfit_decoder import latent_count
from rhodec.codecs.overfit_fitting import (
    CONTEXT_NOISE,
    MOST_NOISE,
    SYNTHESIS_NOISE,
    Fit,
    error_weight,
)
from rhodec.codecs.overfit_networks import (
    UNCHANGED,
    CodedLayer,
    Networks,
    layers_of,
    pack_networks,
    unpack_networks,
)
from rhodec.codecs.overfit_quantising import JointRounding, best_table
from rhodec.codecs.registry import load_codec
from rhodec.codecs.weights_file import read_weights
from rhodec.entropy.gaussian_tables import load_tables

sys.path.insert(0, str(Path(__file__).parent))

import overfit_twin

PHOTO = Path(__file__).parent / "data" / "kodim23.png"
QUICK = (6, 12, 12, 12, 12, 12)
TABLES = CodingTables(*load_tables())


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overfit, "ITERATIONS", QUICK)
    monkeypatch.setattr(overfit, "WITHOUT_GRID_0", 1)


@pytest.fixture(scope="module")
def codec() -> OverfitCodec:
    codec = load_codec("overfit")
    assert isinstance(codec, OverfitCodec)
    return codec


@pytest.fixture(scope="module")
def parrots() -> np.ndarray:
    return np.asarray(Image.open(PHOTO).convert("RGB"))


def crop(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.ascontiguousarray(picture[200 : 200 + height, 300 : 300 + width])


def decoded(codec: OverfitCodec, coded: OverfitCoded) -> np.ndarray:
    height, width = coded.pixels.shape[:2]
    return codec.decode(coded.payload, width, height, 50, coded.digest)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 7), (7, 1), (17, 33), (3, 130), (130, 3), (67, 90)]
)
def test_pictures_of_any_size_decode_to_what_the_encoder_shows(
    codec: OverfitCodec, parrots: np.ndarray, height: int, width: int
) -> None:
    coded = codec.quantise(codec.analyse(crop(parrots, height, width)), 50)
    np.testing.assert_array_equal(decoded(codec, coded), coded.pixels)
    assert 8 * len(coded.payload) <= 1.005 * coded.estimated_bits + 8 * 16


def test_more_iterations_and_a_higher_quality_do_what_they_should(
    codec: OverfitCodec, parrots: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overfit, "ITERATIONS", (12, 40))  # 40: the fewest that users get
    picture = crop(parrots, 96, 128)

    def outcome(quality: float, effort: int) -> tuple[float, float]:
        coded = codec.quantise(codec.analyse(picture), quality, effort)
        return len(coded.payload), float(np.mean((coded.pixels.astype(float) - picture) ** 2))

    def loss(found: tuple[float, float]) -> float:
        rate_bpp = 8 * found[0] / (96 * 128)
        return found[1] / 255**2 + overfit.lambda_of(60) * rate_bpp

    low, high = outcome(30, 1), outcome(90, 1)
    assert high[0] > 1.5 * low[0] and high[1] < low[1] / 4
    assert loss(outcome(60, 1)) < loss(outcome(60, 0))


def test_noise_and_flat_pictures_round_trip(codec: OverfitCodec) -> None:
    random = np.random.default_rng(11)
    for picture in (
        random.integers(0, 256, (45, 50, 3), np.uint8),
        random.integers(0, 2, (45, 50, 3), np.uint8) * np.uint8(255),
        np.full((45, 50, 3), 255, np.uint8),
        np.zeros((45, 50, 3), np.uint8),
    ):
        for quality in (0, 100):
            coded = codec.quantise(codec.analyse(picture), quality)
            np.testing.assert_array_equal(decoded(codec, coded), coded.pixels)


def test_the_decoder_is_the_one_that_the_format_describes(
    codec: OverfitCodec, parrots: np.ndarray
) -> None:
    weights = read_weights(overfit_weights(codec))
    grids = set()
    for height, width, quality in ((1, 1, 50), (13, 18, 95), (18, 13, 40)):
        coded = codec.quantise(codec.analyse(crop(parrots, height, width)), quality, 1)
        grids.add(coded.payload[1])
        twin = overfit_twin.decode(coded.payload, weights.arrays, weights.config, height, width)
        np.testing.assert_array_equal(twin, coded.pixels)
    assert grids == {0, 1}


@pytest.mark.parametrize(
    ("name", "most"), [("overfit", 2000), ("overfit-1000", 1000), ("overfit-500", 500)]
)
def test_presets_keep_to_their_multiplications_and_to_the_format(
    parrots: np.ndarray, name: str, most: int
) -> None:
    preset = load_codec(name)
    assert isinstance(preset, OverfitCodec)
    sizes = preset.sizes
    assert 0.9 * most < sizes.context_macs * 4 / 3 + sizes.synthesis_macs <= most
    weights = read_weights(overfit_weights(preset))
    grids = set()
    for quality in (30, 95):
        picture = crop(parrots, 13, 18)
        coded = preset.quantise(preset.analyse(picture), quality)
        grids.add(coded.payload[1])
        twin = overfit_twin.decode(coded.payload, weights.arrays, weights.config, 13, 18)
        np.testing.assert_array_equal(twin, coded.pixels)
        data = rhodec.encode(picture, codec=name, quality=quality)
        np.testing.assert_array_equal(rhodec.decode(data), coded.pixels)
    assert grids == {0, 1}


def overfit_weights(codec: OverfitCodec) -> Path:
    assert codec.weights_path is not None
    return codec.weights_path


def random_networks(codec: OverfitCodec, seed: int) -> Networks:
    """Networks that no fit would find: large weights, close to what the format allows."""
    random = np.random.default_rng(seed)
    base = codec.starts[0]
    return base.changed(lambda weights: random.normal(0, 500, weights.size).astype(np.int32))


@pytest.mark.parametrize(
    ("height", "width", "finest"), [(1, 1, 0), (37, 70, 0), (70, 37, 1), (5, 200, 0), (9, 9, 6)]
)
def test_every_kernel_path_and_every_band_gives_the_same(
    codec: OverfitCodec, height: int, width: int, finest: int
) -> None:
    sizes, random = codec.sizes, np.random.default_rng(3)
    for seed in range(3):
        networks = random_networks(codec, seed)
        spread = (1, 8, 127)[seed]
        latents = random.integers(-spread, spread + 1, latent_count(height, width)).astype(np.int8)
        coded = latents[-latent_count(height, width, finest) :]
        latents[: -len(coded)] = 0
        tables = codec.tables
        streams, pictures = set(), set()
        for path in coding.paths():
            head = (height, width, finest, sizes.hidden, networks.context, *tables)
            data = coding.encode(*head, coded, path)
            found = np.zeros_like(coded)
            coding.decode(*head, data, found, path)
            np.testing.assert_array_equal(found, coded)
            streams.add(data)
            for band in (height, 7):
                out = np.zeros((height, width, 3), np.uint8)
                for first in range(0, height, band):
                    rows = first, min(first + band, height)
                    coding.render(
                        height,
                        width,
                        sizes.features,
                        sizes.residual,
                        networks.synthesis,
                        networks.own,
                        latents,
                        rows,
                        out[rows[0] : rows[1]].reshape(-1),
                        path,
                    )
                pictures.add(out.tobytes())
        assert len(streams) == len(pictures) == 1


def test_weights_that_could_overflow_are_refused(codec: OverfitCodec) -> None:
    base = codec.starts[0].copy()
    latents = np.zeros(latent_count(4, 4), np.int8)
    base.context[:] = 32767
    with pytest.raises(StreamError, match="too large"):
        coding.encode(4, 4, 0, codec.sizes.hidden, base.context, *codec.tables, latents)
    sizes = 4, 4, codec.sizes.features, codec.sizes.residual
    rest = latents, (0, 4), np.zeros(48, np.uint8)
    for position in range(0, base.synthesis.size, 50):
        large = base.synthesis.copy()
        large[position:] = 32767
        with pytest.raises(StreamError, match="too large"):
            coding.render(*sizes, large, base.own, *rest)
    assert base.own is not None
    for own in (base.own + 31744, np.full_like(base.own, 40000)):  # 32768 in sum, beyond 16 bits
        with pytest.raises(StreamError, match="too large"):
            coding.render(*sizes, base.synthesis, own.astype(np.int32), *rest)
    base.own[4:8] = 0, 32767, 0, 0
    coding.render(*sizes, base.synthesis, base.own, *rest)


def starts_of(codec: OverfitCodec, layers: list[tuple[str, np.ndarray]]) -> list[np.ndarray]:
    return [getattr(codec.starts[0], vector)[place].astype(np.int64) for vector, place in layers]


def test_networks_are_coded_without_loss(codec: OverfitCodec) -> None:
    random, places = np.random.default_rng(5), layers_of(codec.sizes)
    layers = [
        CodedLayer(k % 3, 4 * k, random.integers(-9, 10, place.shape).astype(np.int32))
        for k, (_, place) in enumerate(places)
    ]
    layers[2] = replace(layers[2], shift=UNCHANGED)
    data = pack_networks(layers)
    found, size = unpack_networks(data + b"rest", codec.starts[0], codec.sizes)
    assert size == len(data)
    for layer, before, (vector, place) in zip(
        layers, starts_of(codec, places), places, strict=True
    ):
        changes = layer.shift != UNCHANGED
        expected = before + (layer.counts << layer.shift if changes else 0)
        np.testing.assert_array_equal(getattr(found, vector)[place], expected)
    for place, value in ((0, 11), (1, 128)):  # a shift and a table that there are not
        with pytest.raises(StreamError):
            changed = bytes([*data[:place], value, *data[place + 1 :]])
            unpack_networks(changed, codec.starts[0], codec.sizes)


def rounding_problem(
    codec: OverfitCodec, seed: int
) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray], Callable[[list[CodedLayer]], float]]:
    """(starts, curvature, weights wanted, cost with bits) of two layers; correlated curvature."""
    random = np.random.default_rng(seed)
    starts = starts_of(codec, layers_of(codec.sizes)[1:3])
    count = sum(start.size for start in starts)
    root = random.normal(0, 0.02, (count, count)) * random.uniform(0, 2, (1, count)) ** 2
    curvature = root @ root.T
    exact = [start + random.normal(0, 40, start.shape) for start in starts]

    def cost(layers: list[CodedLayer]) -> float:
        missed = [la.added_to(s) - e for la, s, e in zip(layers, starts, exact, strict=True)]
        d = np.concatenate([part.ravel() for part in missed])
        return float(d @ curvature @ d / 2) + sum(layer.bits() for layer in layers)

    return starts, curvature, exact, cost


def test_joint_rounding_beats_rounding_each_weight_by_itself(codec: OverfitCodec) -> None:
    """Under its own quadratic cost, bits included; correlated curvature, every shift alike."""
    starts, curvature, exact, cost = rounding_problem(codec, 11)

    def layers_of_counts(counts: list[np.ndarray], shift: int) -> list[CodedLayer]:
        return [CodedLayer(shift, best_table(c), c) for c in counts]

    rounding = JointRounding(exact, curvature, starts, 0.03)
    least = math.inf
    for shift in range(2, 7):
        plain = [
            np.rint((e - start) / (1 << shift)).astype(np.int32)
            for start, e in zip(starts, exact, strict=True)
        ]
        by_itself = cost(layers_of_counts(plain, shift))
        together, claimed = rounding.tuned([shift] * len(starts))
        real = cost(layers_of_counts(together, shift))
        assert real < by_itself
        # It counts with more curvature than there is.
        assert real <= claimed + 1
        least = min(least, by_itself)
    assert cost(next(rounding.coded())[0]) < 0.9 * least


def test_weights_not_rounded_yet_are_adjusted_by_the_true_cost(codec: OverfitCodec) -> None:
    """With curvatures that are wrong, and an adjustment that knows the true ones."""
    starts, curvature, exact, cost = rounding_problem(codec, 12)
    count = len(curvature)
    wanted = np.concatenate([layer.ravel() for layer in exact])
    fixed_before, calls = np.zeros(count, np.bool_), 0

    def missed(layers: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([layer.ravel() for layer in layers]) - wanted

    def adjust(weights: list[np.ndarray], free: list[np.ndarray]) -> list[np.ndarray]:
        nonlocal calls
        fixed = ~np.concatenate([layer.ravel() for layer in free])
        assert fixed.sum() > fixed_before.sum() and not (fixed_before & ~fixed).any()
        fixed_before[:], calls = fixed, calls + 1
        d = missed(weights)
        rounded = (d + wanted - np.concatenate([s.ravel() for s in starts]))[fixed]
        np.testing.assert_array_equal(rounded, np.rint(rounded))
        inside = curvature[np.ix_(~fixed, ~fixed)] + 1e-9 * np.eye(count - fixed.sum())
        d[~fixed] = -np.linalg.solve(inside, curvature[np.ix_(~fixed, fixed)] @ d[fixed])
        d[fixed] += 1000  # what is fixed must stay
        parts = np.split(d + wanted, [starts[0].size])
        return [part.reshape(s.shape) for part, s in zip(parts, starts, strict=True)]

    rounding = JointRounding(exact, np.diag(np.diag(curvature)), starts, 0.03)
    (without, _), (with_it, _) = rounding.coded(adjust)
    assert calls > 10
    assert cost(with_it) < 0.9 * cost(without)


def test_rounding_a_fit_together_costs_less_than_plain_rounding(
    codec: OverfitCodec, parrots: np.ndarray
) -> None:
    """By the real cost, so the curvatures that it goes by are those of the fit."""
    fit = Fit(crop(parrots, 128, 160), codec.sizes, codec.starts[0], 1e-3)
    fit.descend(40)
    places = layers_of(codec.sizes)
    exact = fit.networks.copy()

    def cost(layers: list[CodedLayer]) -> float:
        error = error_weight(1e-3) * fit.squares(fit.networks.synthesis)
        return fit.bits(fit.networks.context) + error + 8 * len(pack_networks(layers))

    rounded = cost(fit.quantise_networks())
    fit.networks = exact.copy()
    adjusted = cost(fit.quantise_networks(care=4))
    plain = []
    for shift in range(10):
        layers = []
        for start, (vector, place) in zip(starts_of(codec, places), places, strict=True):
            moves = getattr(exact, vector)[place] * 1024 - start
            counts = np.rint(moves / (1 << shift)).astype(np.int32)
            layers.append(CodedLayer(shift, best_table(counts), counts))
            getattr(fit.networks, vector)[place] = layers[-1].added_to(start) / 1024
        plain.append(cost(layers))
    assert rounded < 0.95 * min(plain)
    assert adjusted < rounded


def test_noise_on_weights_lasts_for_one_step(codec: OverfitCodec, parrots: np.ndarray) -> None:
    """Interrupted or not, the weights are again what they were, and the noise is what it says."""
    fit = Fit(crop(parrots, 128, 160), codec.sizes, codec.starts[0], 4e-3)
    exact, random = fit.networks.copy(), np.random.default_rng(2)
    most = CONTEXT_NOISE / math.sqrt(128 * 160), SYNTHESIS_NOISE * math.sqrt(4e-3 / (128 * 160))
    quiet = fit.step(0.0, 0.0, None)
    with pytest.raises(KeyboardInterrupt), fit._noise(random):
        for vector, bound in zip(("context", "synthesis"), most, strict=True):
            noise = getattr(fit.networks, vector) - getattr(exact, vector)
            bound = min(bound, MOST_NOISE)
            assert 0.95 * bound < np.abs(noise).max() < 1.01 * bound
            assert abs(noise.mean()) < 0.1 * bound
        assert fit.step(0.0, 0.0, None) != quiet
        raise KeyboardInterrupt
    np.testing.assert_allclose(fit.networks.context, exact.context, atol=1e-6)
    np.testing.assert_allclose(fit.networks.synthesis, exact.synthesis, atol=1e-6)


def test_every_truncation_and_every_changed_byte_is_refused(
    codec: OverfitCodec, parrots: np.ndarray
) -> None:
    coded = codec.quantise(codec.analyse(crop(parrots, 24, 20)), 40)
    payload = coded.payload
    for length in range(0, len(payload)):
        with pytest.raises(StreamError):
            codec.decode(payload[:length], 20, 24, 40, coded.digest)
    random = np.random.default_rng(8)
    for position in range(len(payload)):
        damaged = bytearray(payload)
        damaged[position] ^= int(random.integers(1, 256))
        try:
            pixels = codec.decode(bytes(damaged), 20, 24, 40, coded.digest)
        except StreamError:
            continue
        np.testing.assert_array_equal(pixels, coded.pixels)  # a table that codes nothing may change


def test_weights_of_before_the_finest_grid_are_refused(codec: OverfitCodec) -> None:
    weights = read_weights(overfit_weights(codec))
    arrays = {name: array for name, array in weights.arrays.items() if name != "int.finest"}
    with pytest.raises(ValueError, match="earlier version"):
        OverfitCodec("old", replace(weights, arrays=arrays))


def test_grid_0_is_left_out_where_detail_is_cheap(codec: OverfitCodec, parrots: np.ndarray) -> None:
    picture = crop(parrots, 65, 97)
    detail = overfit.detail(picture)
    expected = np.mean([part.var() for part in blocks(picture[:64, :96])]) / 255**2
    assert detail == pytest.approx(float(expected))
    assert overfit.detail(picture[:1]) == 0.0
    edge = next(q / 2 for q in range(201) if detail > overfit.DETAIL * overfit.lambda_of(q / 2))
    for quality, finest in ((edge - 0.5, 1), (edge, 0)):
        coded = codec.quantise(codec.analyse(picture), quality)
        assert coded.payload[1] == finest
        np.testing.assert_array_equal(decoded(codec, coded), coded.pixels)


@pytest.mark.parametrize(("nearest_loss", "takes_nearest"), [(0.89, True), (0.91, False)])
def test_long_fits_take_the_leading_start_unless_a_far_one_is_clearly_better(
    codec: OverfitCodec,
    parrots: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    nearest_loss: float,
    takes_nearest: bool,
) -> None:
    picture, tried = codec.analyse(crop(parrots, 20, 30)), []

    def try_out(fit: Fit, iterations: int, report: object) -> float:
        tried.append(fit.networks.context[0] * 1024)
        return [1.0, nearest_loss][len(tried) - 1]

    monkeypatch.setattr(Fit, "try_out", try_out)
    lambdas = read_weights(codec.weights_path or Path()).part("float")["lambda"]
    assert lambdas[codec.quantise(picture, 20).payload[0]] == np.float32(0.02)  # short: the nearest
    monkeypatch.setattr(overfit, "LONG", QUICK[0])
    assert lambdas[codec.quantise(picture, 37).payload[0]] == np.float32(0.001)
    assert not tried
    number = codec.quantise(picture, 15).payload[0]
    assert lambdas[number] == np.float32(0.02 if takes_nearest else 0.001)
    assert len(tried) == 2 and tried[0] != tried[1]


@pytest.mark.parametrize(("without", "finest"), [(0.89, 1), (0.91, 0)])
def test_thorough_fits_leave_grid_0_out_only_where_that_is_clearly_better(
    codec: OverfitCodec,
    parrots: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    without: float,
    finest: int,
) -> None:
    tried: list[int] = []

    def try_out(fit: Fit, iterations: int, report: object) -> float:
        tried.append(fit.finest)
        return without if fit.finest else 1.0

    monkeypatch.setattr(Fit, "try_out", try_out)
    picture = crop(parrots, 20, 30)
    assert codec.quantise(codec.analyse(picture), 30).payload[1] == 1 and not tried
    monkeypatch.setattr(overfit, "THOROUGH", QUICK[0])
    assert codec.quantise(codec.analyse(picture), 30).payload[1] == finest
    assert sorted(tried) == [0, 1]
    # Where detail is dear there is nothing to ask.
    assert codec.quantise(codec.analyse(picture), 95).payload[1] == 0 and len(tried) == 2


def test_an_interrupted_trial_of_a_start_ends_with_a_valid_file(
    codec: OverfitCodec, parrots: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overfit, "LONG", QUICK[0])
    shares: list[float] = []

    def interrupt(share_done: float, rate_bpp: float, psnr_db: float) -> None:
        shares.append(share_done)
        if len(shares) == overfit.TRIAL + 3:
            raise KeyboardInterrupt

    picture = crop(parrots, 20, 30)
    coded = codec.quantise(codec.analyse(picture), 15, 0, interrupt, keep_best=True)
    np.testing.assert_array_equal(decoded(codec, coded), coded.pixels)
    with pytest.raises(KeyboardInterrupt):
        shares.clear()
        codec.quantise(codec.analyse(picture), 15, 0, interrupt)
    codec.quantise(codec.analyse(picture), 15, 0, lambda done, *_: shares.append(done))
    assert shares[-1] == pytest.approx(1) and np.all(np.diff(shares[overfit.TRIAL + 3 :]) > 0)


def blocks(picture: np.ndarray) -> list[np.ndarray]:
    """2x2 samples of one colour."""
    height, width, _ = picture.shape
    return [
        picture[y : y + 2, x : x + 2, colour]
        for y in range(0, height, 2)
        for x in range(0, width, 2)
        for colour in range(3)
    ]


def test_threads_do_not_change_a_file(codec: OverfitCodec, parrots: np.ndarray) -> None:
    picture = crop(parrots, 272, 48)  # two bands of rows
    payloads = []
    for count in (1, 4):
        before = overfit_fitting.set_threads(count)
        try:
            payloads.append(codec.quantise(codec.analyse(picture), 50).payload)
        finally:
            overfit_fitting.set_threads(before)
    assert payloads[0] == payloads[1]


def test_an_interrupt_with_keep_best_ends_with_a_valid_file(
    codec: OverfitCodec, parrots: np.ndarray
) -> None:
    picture = crop(parrots, 40, 60)

    def interrupt(share_done: float, rate_bpp: float, psnr_db: float) -> None:
        if share_done > 0.2:
            raise KeyboardInterrupt

    coded = codec.quantise(codec.analyse(picture), 50, 1, interrupt, keep_best=True)
    np.testing.assert_array_equal(decoded(codec, coded), coded.pixels)
    with pytest.raises(KeyboardInterrupt):
        codec.quantise(codec.analyse(picture), 50, 1, interrupt)


def test_more_turns_cost_less_and_an_interrupted_one_is_undone(
    codec: OverfitCodec, parrots: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows the descent again and again, in long fits; here they are all long."""
    picture = crop(parrots, 64, 96)
    monkeypatch.setattr(overfit_fitting, "PAIRS", 1)
    monkeypatch.setattr(overfit_fitting, "SHARPENING", 0.3)

    def quantised(turns: int, report: Report | None = None) -> OverfitCoded:
        monkeypatch.setattr(overfit_fitting, "MORE_TURNS", turns)
        return codec.quantise(codec.analyse(picture), 50, 1, report, keep_best=True)

    def loss(coded: OverfitCoded) -> float:
        mse = np.mean((picture - coded.pixels.astype(np.float64)) ** 2)
        return float(mse / 255**2 + overfit.lambda_of(50) * 8 * len(coded.payload) / (64 * 96))

    shares: list[float] = []
    once = quantised(0)
    more = quantised(3, lambda share_done, *_: shares.append(share_done))
    assert loss(more) < loss(once)
    assert shares == sorted(shares) and shares[-1] == 1

    turns, sharpen = 0, Fit.sharpen

    def interrupted(fit: Fit, *arguments: Any, **options: Any) -> None:
        nonlocal turns
        sharpen(fit, *arguments, **options)
        turns += 1
        if turns == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Fit, "sharpen", interrupted)
    assert quantised(3).payload == once.payload


def test_a_target_is_met_and_trials_go_on_from_the_last(
    parrots: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overfit, "ITERATIONS", (12,) * 6)
    picture = np.ascontiguousarray(parrots[300:364, 100:196])  # with detail
    data = rhodec.encode(picture, codec="overfit", bpp=1.5)
    assert 8 * len(data) / (64 * 96) == pytest.approx(1.5, rel=0.1)
    assert container.parse(data).codec_id == overfit.CODEC_ID


def test_the_command_line_encodes_decodes_and_keeps_the_best(
    parrots: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, coded, shown = (str(tmp_path / name) for name in ("a.png", "a.rho", "b.png"))
    Image.fromarray(crop(parrots, 50, 40)).save(source)
    assert (
        main(["encode", "--codec", "overfit", "--keep-best", "--effort", "1", source, coded]) == 0
    )
    assert main(["decode", coded, shown]) == 0
    with Image.open(shown) as picture:
        assert picture.size == (40, 50)
    monkeypatch.setattr(OverfitCodec, "is_fitted", False)
    with pytest.raises(SystemExit) as exit_code:
        main(["encode", "--codec", "overfit", "--keep-best", source, coded])
    assert exit_code.value.code == 2
    assert "--keep-best" in capsys.readouterr().err


def test_decoding_a_file_does_not_import_torch(parrots: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.rho"
    path.write_bytes(rhodec.encode(crop(parrots, 30, 40), codec="overfit"))
    program = (
        "import sys, rhodec; rhodec.decode(open(sys.argv[1], 'rb').read());"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr
