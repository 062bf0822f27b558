"""Steps of a coding schedule in C against their definition in numpy, and shared work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rhodec.bitstream.kernel_settings import KernelSettings
from rhodec.codecs.registry import load_transform_codec
from rhodec.entropy import _latent_steps, context_bands, integer_network
from rhodec.entropy.latent_codec import HyperLatentCodec

SKIP, LIMIT, LEVELS = 0, 1016, 64
SIZES = [(1, 1), (2, 5), (7, 4), (6, 9)]


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    threads = integer_network.KERNELS.threads
    yield
    integer_network.set_threads(threads)


def random_step(height: int, width: int, y: int, x: int, group: int):
    """Layout of a member, its outputs, and which of its elements are coded."""
    rng = np.random.default_rng([height, width, y, x, group])
    rows, columns = len(range(y, height, 2)), len(range(x, width, 2))
    levels = rng.integers(-3, LEVELS, (rows, columns, group))
    levels *= rng.random((rows, columns, 1)) < 0.8
    means = rng.integers(-32767, 32768, (rows, columns, group))
    outputs = np.concatenate([means, levels], axis=-1).astype(np.int16)
    layout = (height, width, 3 * group), (y, x, group, group), SKIP
    place = slice(y, None, 2), slice(x, None, 2), slice(group, 2 * group)
    return rng, layout, place, outputs, levels > SKIP


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("y", "x"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("has_means", [True, False])
def test_a_decoder_s_step_follows_the_definition(
    height: int, width: int, y: int, x: int, has_means: bool
) -> None:
    group = 5
    rng, layout, place, outputs, coded = random_step(height, width, y, x, group)
    means, levels = outputs[..., :group].astype(np.int32), outputs[..., group:]
    indexes = np.full(coded.size + 1, 7, np.uint16)
    count = _latent_steps.coded_levels(*layout, has_means, outputs, indexes)
    np.testing.assert_array_equal(indexes[:count], levels[coded])
    assert indexes[-1] == 7

    symbols = rng.integers(-(2**20), 2**20 + 1, count).astype(np.int32)
    shift = rng.integers(0, 17, group).astype(np.int32)
    k = np.zeros(coded.shape, np.int32)
    k[coded] = symbols
    expected = rng.integers(-99, 99, (height, width, 3 * group)).astype(np.int32)
    y_hat = expected.copy()
    latents = expected[place] = 64 * k + (means if has_means else 0)
    seen = np.clip((latents + ((1 << shift) >> 1)) >> shift, -LIMIT, LIMIT)
    known = np.zeros(coded.shape, np.int16)
    more = np.append(symbols, np.int32(123))  # of the next member
    arguments = outputs, more, shift, LIMIT, y_hat, known
    assert _latent_steps.place(*layout, has_means, *arguments) == count
    np.testing.assert_array_equal(y_hat, expected)
    np.testing.assert_array_equal(known, seen)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("has_means", [True, False])
def test_an_encoder_s_step_follows_the_definition(height: int, width: int, has_means: bool) -> None:
    group = 6
    rng, layout, place, outputs, coded = random_step(height, width, 0, 0, group)
    means, levels = outputs[..., :group].astype(np.float32), outputs[..., group:]
    y = (rng.standard_normal((height, width, 3 * group)) * 300).astype(np.float32)
    y[place] = np.where(rng.random(coded.shape) < 0.5, np.round(4 * y[place]) / 4, y[place])  # ties
    y[0, 0, group : group + 2] = 2**19, -(2**19)
    price = (1 + rng.random(LEVELS) / 4).astype(np.float32)
    residual = y[place] - (means / 64 if has_means else np.float32(0))
    magnitude = np.abs(residual)
    k = np.rint(magnitude)
    k -= magnitude < (k - np.float32(0.5)) * price[np.maximum(levels, 0)]
    expected = np.copysign(k, residual).astype(np.int32)[coded]
    symbols, indexes = np.zeros(coded.size, np.int32), np.zeros(coded.size, np.uint16)
    count = _latent_steps.choose(*layout, has_means, outputs, y, price, symbols, indexes)
    np.testing.assert_array_equal(symbols[:count], expected)
    np.testing.assert_array_equal(indexes[:count], levels[coded])


def test_what_does_not_fit_is_refused() -> None:
    steps: Any = _latent_steps  # called with lists of arguments
    _, layout, _, outputs, coded = random_step(6, 4, 1, 0, 5)
    (size, member, skip), count = layout, np.count_nonzero(coded)
    known, y_hat = np.zeros(coded.shape, np.int16), np.zeros(size, np.int32)
    symbols, shift = np.zeros(count, np.int32), np.full(5, 3, np.int32)
    good: list[Any] = [size, member, skip, True, outputs, symbols, shift, LIMIT, y_hat, known]
    assert steps.place(*good) == count
    changes: list[tuple[int, Any]] = [
        (0, (6, 5, 15)),
        (0, (-6, -4, 15)),
        (0, (2**40, 2**40, 15)),
        (1, (2, 0, 5, 5)),
        (1, (1, -1, 5, 5)),
        (1, (1, 0, 11, 5)),
        (1, (1, 0, -1, 5)),
        (1, (1, 0, 5, 0)),
        (4, outputs[1:]),
        (5, symbols[:-1]),
        (5, symbols[:0]),
        (6, shift + 14),
        (6, shift - 4),
        (6, shift[1:]),
        (7, 1 << 15),
        (7, -1),
        (8, y_hat[1:]),
        (9, known[1:]),
    ]
    for index, value in changes:
        with pytest.raises(ValueError, match="out of range"):
            steps.place(*good[:index], value, *good[index + 1 :])
    with pytest.raises(ValueError, match="out of range"):
        steps.coded_levels(*good[:5], np.zeros(coded.size - 1, np.uint16))
    y, price = np.zeros(size, np.float32), np.ones(9, np.float32)
    room = np.zeros(coded.size, np.int32), np.zeros(coded.size, np.uint16)
    steps.choose(*good[:5], y, price, *room)
    for bad in ((y[1:], price, *room), (y, price[:0], *room), (y, price, room[0][1:], room[1])):
        with pytest.raises(ValueError, match="out of range"):
            steps.choose(*good[:5], *bad)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (12, 7), (9, 40)])
def test_bands_and_threads_do_not_change_what_is_coded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load_transform_codec("rho").latent_codec
    assert isinstance(codec, HyperLatentCodec)
    rng = np.random.default_rng(size[0])
    y = (rng.standard_normal((*size, codec.channels)) * 2).astype(np.float32)
    shape = -(-size[0] // 4), -(-size[1] // 4), codec.hyper_channels
    z = rng.integers(-4, 5, shape).astype(np.int32)
    expected = codec.quantise(y, z, 100, "numpy")
    monkeypatch.setattr(context_bands, "THREAD_POSITIONS", 1)
    for threads, positions in ((1, 1 << 14), (3, 1 << 14), (2, 2 * size[1])):
        integer_network.set_threads(threads)
        monkeypatch.setattr(context_bands, "BAND_POSITIONS", positions)
        coded = codec.quantise(y, z, 100)
        np.testing.assert_array_equal(coded.symbols, expected.symbols)
        np.testing.assert_array_equal(coded.indexes, expected.indexes)
        np.testing.assert_array_equal(coded.y_hat64, expected.y_hat64)
        found = codec.decode(codec.payload(coded), *size, 100)
        np.testing.assert_array_equal(found, expected.y_hat64)


class NoKernels:
    def paths(self) -> list[str]:
        return ["portable"]

    def self_test(self, path: str, /) -> bool:
        return path == "portable"


@pytest.mark.parametrize("multiple", [1, 2])
@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_every_row_is_computed_once_and_an_error_in_a_thread_is_seen(
    threads: int, multiple: int
) -> None:
    settings = KernelSettings("RHODEC_NONE", NoKernels(), parallel_macs=10)
    assert settings.kernel_path() == "portable"
    settings.set_threads(threads)
    for rows in ((0, 1), (0, 7), (4, 13)):
        parts: list[tuple[int, int]] = []
        settings.share_rows(parts.append, rows, 100, multiple)
        assert sorted(row for part in parts for row in range(*part)) == list(range(*rows))
        assert all(begin % multiple == rows[0] % multiple for begin, _ in parts)
        assert len(parts) == min(threads, -(-(rows[1] - rows[0]) // multiple))
    parts = []
    settings.share_rows(parts.append, (0, 9), 1)  # not worth a second thread
    assert parts == [(0, 9)]

    def fail(part: tuple[int, int]) -> None:
        if part[1] == 9:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        settings.share_rows(fail, (0, 9), 100)
