"""The search for the quality that meets a target."""

from __future__ import annotations

import math

import numpy as np
import pytest

import rhodec
from rhodec.rate_control import (
    MAX_INDEX,
    MAX_TRIALS,
    Target,
    TargetError,
    Trial,
    bracket_crossing,
    search,
)

PIXELS = 393216


def curve(slope: float, bend: float):
    """File sizes that grow like exp(slope q + bend q^2), strictly, as a codec's roughly do."""
    return [round(4000 * math.exp(slope * i + bend * i * i)) + i for i in range(MAX_INDEX + 1)]


CURVES = [curve(0.015, 0.0), curve(0.005, 5e-5), curve(0.025, -4e-5), curve(0.001, 0.0)]


def trials_of(sizes: list[int]):
    return lambda index: Trial(index, bytes(sizes[index]))


@pytest.mark.parametrize("sizes", CURVES)
def test_a_size_gives_the_largest_file_that_fits(sizes: list[int]) -> None:
    for target in (sizes[0], sizes[1] - 1, sizes[77], sizes[77] + 1, sizes[-1] - 1, 2 * sizes[-1]):
        chosen, count = search(Target("size", target), PIXELS, trials_of(sizes))
        assert chosen.quality_index == max(i for i, size in enumerate(sizes) if size <= target)
        assert count <= MAX_TRIALS


@pytest.mark.parametrize("sizes", CURVES)
def test_bits_per_pixel_give_the_nearest_file(sizes: list[int]) -> None:
    for index in (0, 1, 50, 133, 199, 200):
        for excess in (0.997, 1.0, 1.003):
            goal = sizes[index] * excess
            chosen, count = search(Target("bpp", 8 * goal / PIXELS), PIXELS, trials_of(sizes))
            nearest = min(abs(size - goal) for size in sizes)
            assert abs(len(chosen.data) - goal) <= nearest + 1e-6
            assert count <= MAX_TRIALS


def test_a_psnr_gives_the_smallest_quality_that_reaches_it() -> None:
    psnr = [26 + 14 * (i / 200) ** 0.9 for i in range(201)]
    for goal in (20, 26.0, 30, 34.567, 39.99):
        chosen, count = search(
            Target("psnr", goal), PIXELS, lambda i: Trial(i, b"x" * 9, psnr_db=psnr[i])
        )
        assert chosen.quality_index == min(i for i in range(201) if psnr[i] >= goal)
        assert count <= MAX_TRIALS


def test_ordinary_curves_take_few_trials() -> None:
    sizes = curve(0.015, -1e-5)
    counts = [
        search(Target("size", size + 1), PIXELS, trials_of(sizes))[1] for size in sizes[5:195:10]
    ]
    assert max(counts) <= 5
    assert np.mean(counts) <= 4.5


def test_any_function_is_searched_within_the_trials() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        values = random.normal(size=MAX_INDEX + 1)
        values[random.random(MAX_INDEX + 1) < 0.1] = math.inf
        measured = bracket_crossing(lambda i, v=values: v[i], 0.0, 0.01)
        assert len(measured) <= MAX_TRIALS
        below = max((i for i, value in measured.items() if value < 0), default=-1)
        assert below == MAX_INDEX or measured.get(below + 1, -1.0) >= 0


def test_targets_out_of_reach_are_refused_with_the_value_that_is_in_reach() -> None:
    sizes = CURVES[0]
    with pytest.raises(TargetError, match=f"quality 0 the file has {sizes[0]} bytes"):
        search(Target("size", sizes[0] - 1), PIXELS, trials_of(sizes))
    with pytest.raises(TargetError, match="out of reach"):
        search(Target("bpp", 8 * sizes[-1] * 1.03 / PIXELS), PIXELS, trials_of(sizes))
    with pytest.raises(TargetError, match="out of reach"):
        search(Target("bpp", 8 * sizes[0] * 0.97 / PIXELS), PIXELS, trials_of(sizes))
    with pytest.raises(TargetError, match=r"the PSNR is 30\.00 dB"):
        search(Target("psnr", 31), PIXELS, lambda i: Trial(i, b"x", psnr_db=30.0))


def test_a_quality_takes_one_trial() -> None:
    chosen, count = search(Target("quality", 12.5), PIXELS, trials_of(CURVES[0]))
    assert (chosen.quality_index, count) == (25, 1)


def test_targets_that_make_no_sense_are_refused() -> None:
    for options in ({"quality": 101}, {"quality": -1}, {"bpp": 0}, {"psnr": math.nan}):
        with pytest.raises(ValueError, match="must be"):
            Target.from_options(**options)
    with pytest.raises(ValueError, match="quality and size are conflicting"):
        Target.from_options(quality=50, size=1000)
    assert Target.from_options() == Target("quality", 50)


def test_real_files_land_on_their_targets(plain_codec, photo: np.ndarray) -> None:
    pixels = photo.shape[0] * photo.shape[1]
    assert len(rhodec.encode(photo, size=3000)) <= 3000
    assert len(rhodec.encode(photo, size=3000)) >= 0.96 * 3000
    assert 8 * len(rhodec.encode(photo, bpp=8.0)) / pixels == pytest.approx(8.0, rel=0.02)
    shown = rhodec.decode(rhodec.encode(photo, psnr=34))
    error = np.mean((photo.astype(float) - shown) ** 2)
    assert 34 <= 10 * math.log10(255**2 / error) <= 34 * 1.02
    assert plain_codec.analyses == 4
    assert plain_codec.quantisations <= 4 * MAX_TRIALS
