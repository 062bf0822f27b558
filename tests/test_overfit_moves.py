"""Moves of single latents: which are made together, what they cost, and that they pay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rhodec.codecs import _overfit_fitting as fitting
from rhodec.codecs.overfit import OverfitCodec
from rhodec.codecs.overfit_fitting import Fit, error_weight
from rhodec.codecs.overfit_moves import (
    PARTNERS,
    Sweep,
    move_latents,
    sweeps,
    sweeps_of_pairs,
)
from rhodec.codecs.registry import load_codec

PHOTO = Path(__file__).parent / "data" / "kodim23.png"
HEIGHT, WIDTH = 45, 70


def fitted(top: int, left: int, rate_lambda: float) -> Fit:
    """With latents that are not rounded yet."""
    codec = load_codec("overfit")
    assert isinstance(codec, OverfitCodec)
    picture = np.asarray(Image.open(PHOTO).convert("RGB"))[top : top + 128, left : left + 160]
    fit = Fit(np.ascontiguousarray(picture), codec.sizes, codec.starts[0], rate_lambda)
    fit.descend(60)
    return fit


@pytest.fixture(scope="module")
def shared_fit() -> Fit:
    return fitted(200, 300, 1e-3)


@pytest.fixture
def fit(shared_fit: Fit) -> Iterator[Fit]:
    """The same for every test, whatever those before have done to its latents."""
    at_first = shared_fit.y.copy()
    yield shared_fit
    shared_fit.y[:] = at_first


def cost(fit: Fit) -> float:
    """J of the rounded latents."""
    squares = fit.squares(fit.networks.synthesis)
    return fit.bits(fit.networks.context) + error_weight(fit.rate_lambda) * squares


@pytest.mark.parametrize("apart", [0, 1, 6])
def test_chosen_places_are_apart_and_all_others_near_a_better_one(apart: int) -> None:
    random = np.random.default_rng(1)
    places = np.argwhere(random.random((30, 41)) < 0.3).astype(np.int32, order="C")
    random.shuffle(places)
    chosen = np.frombuffer(fitting.choose_apart(30, 41, apart, places), np.bool_)
    far = np.abs(places[:, None] - places[None]).max(axis=2)
    for n in range(len(places)):
        assert chosen[n] == (far[n, :n][chosen[:n]] > apart).all()
    assert len(fitting.choose_apart(30, 41, apart, places[:0])) == 0


@pytest.mark.parametrize(("level", "finest"), [(0, 0), (1, 0), (1, 1), (4, 0)])
def test_moves_are_judged_by_what_is_around_them(level: int, finest: int) -> None:
    random, around, weight = np.random.default_rng(2), 1, 0.7
    size, grids = fitting.geometry(HEIGHT, WIDTH)

    def plane(flat: np.ndarray, grid: int) -> np.ndarray:
        h, w, stride, origin = grids[grid]
        return flat[origin : origin + h * stride].reshape(h, stride)[:, :w]

    old, new = (random.normal(0, 1, size).astype(np.float32) for _ in range(2))
    pixels = HEIGHT * WIDTH
    errors, new_errors = (random.normal(0, 1, pixels).astype(np.float32) for _ in range(2))
    places = np.argwhere(np.ones(grids[level][:2], bool)).astype(np.int32, order="C")
    apart = np.frombuffer(fitting.choose_apart(*grids[level][:2], 2 * around, places), np.bool_)
    places = np.ascontiguousarray(places[apart])

    def sums(flat: np.ndarray, by_pixel: np.ndarray) -> np.ndarray:
        """Of every place."""
        out = []
        for place in places:

            def total(grid: np.ndarray, up: int, place: np.ndarray = place) -> float:
                begin = np.maximum((place - around) * 2**up, 0)
                end = (place + around + 1) * 2**up
                return float(grid[begin[0] : end[0], begin[1] : end[1]].sum(dtype=np.float64))

            bits = [
                total(plane(flat, grid), level - grid)
                for grid in range(max(level - 3, finest), level + 1)
            ]
            out.append(sum(bits) + weight * total(by_pixel.reshape(HEIGHT, WIDTH), level))
        return np.array(out)

    before, after = sums(old, errors), sums(new, new_errors)
    found = np.frombuffer(
        fitting.judge_moves(
            HEIGHT, WIDTH, finest, level, around, places, weight, old, errors, new, new_errors
        )
    )
    np.testing.assert_allclose(found, after - before, rtol=1e-5, atol=1e-3)
    assert (found < 0).any() and (found >= 0).any()
    # Good moves are taken over, and nothing else changes.
    np.testing.assert_allclose(
        sums(old, errors), np.where(found < 0, after, before), rtol=1e-5, atol=1e-3
    )


def test_moves_of_latents_lower_what_a_file_costs(fit: Fit) -> None:
    at_first, before = fit.y.copy(), cost(fit)
    states = []
    move_latents(fit, sweeps(0.2), lambda i, state: states.append((i, *state)))
    assert [i for i, *_ in states] == list(range(sum(sweep.rounds for sweep in sweeps(0.2))))
    assert cost(fit) < 0.99 * before
    np.testing.assert_array_equal(fit.y, np.rint(fit.y))
    assert 0 < np.abs(fit.y - np.rint(at_first)).max() <= 3  # by one in each of a few sweeps
    # What one sweep leaves is hardly worth another.
    least = cost(fit)
    move_latents(fit, sweeps(0.2))
    assert 0.98 * least < cost(fit) <= least


def test_pairs_move_where_neither_of_two_latents_moves_alone() -> None:
    fit = fitted(100, 100, 3e-4)
    while True:
        before = cost(fit)
        move_latents(fit, sweeps(1))
        if cost(fit) == before:
            break
    alone = fit.y.copy()
    gains, ways = [], set()
    for partner in PARTNERS:
        down, right, same = partner
        fit.y[:] = alone
        move_latents(fit, [Sweep(0, 1, partner)])  # in one round pairs lie apart
        assert cost(fit) <= before
        moves = fit.plane(fit.y, 0) - fit.plane(alone, 0)
        ways |= set(np.unique(moves))
        moved = np.argwhere(moves)
        assert len(moved) % 2 == 0
        there = {(int(y), int(x)): moves[y, x] for y, x in moved}
        assert all(
            there.get((y + down, x + right)) == same * way
            or there.get((y - down, x - right)) == same * way
            for (y, x), way in there.items()
        )
        move_latents(fit, [Sweep(0, 15, partner)])
        gains.append(before - cost(fit))
    assert ways == {-1, 0, 1}
    # Not of all on every processor, as the fit differs in its last bits.
    assert sum(gain > 0 for gain in gains) >= len(PARTNERS) / 2 and min(gains) >= 0


def test_pairs_keep_to_grids_of_one_row_or_column() -> None:
    codec = load_codec("overfit")
    assert isinstance(codec, OverfitCodec)
    picture = np.random.default_rng(3).integers(0, 256, (1, 9, 3)).astype(np.uint8)
    for image in (picture, np.ascontiguousarray(picture.transpose(1, 0, 2))):
        fit = Fit(image, codec.sizes, codec.starts[0], 1e-4)
        fit.descend(5)
        np.rint(fit.y, out=fit.y)
        before = cost(fit)
        move_latents(fit, sweeps_of_pairs())
        assert cost(fit) <= before


def test_interrupted_moves_leave_what_was_better(fit: Fit) -> None:
    before = cost(fit)

    def interrupt(i: int, state: tuple[float, float]) -> None:
        if i == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move_latents(fit, sweeps(1), interrupt)
    assert cost(fit) < before


def test_latents_stay_within_what_a_file_holds(fit: Fit) -> None:
    inside = fit.plane(fit.y, 0)
    inside[:] = 127 * np.sign(inside)
    inside[inside == 0] = -127
    move_latents(fit, [Sweep(0, 5), Sweep(0, 5, (1, -1, -1))])
    assert np.abs(fit.y).max() == 127 and (np.abs(fit.plane(fit.y, 0)) < 127).any()


def test_what_is_no_place_is_refused() -> None:
    size, _ = fitting.geometry(8, 8)
    latents, errors = np.zeros(size, np.float32), np.zeros(64, np.float32)
    costs = latents, errors, latents.copy(), errors.copy()
    for places in ([[8, 0]], [[0, -1]]):
        with pytest.raises(ValueError, match="places"):
            fitting.choose_apart(8, 8, 1, np.array(places, np.int32))
        with pytest.raises(ValueError, match="places"):
            fitting.judge_moves(8, 8, 0, 0, 1, np.array(places, np.int32), 1.0, *costs)
    one = np.zeros((1, 2), np.int32)
    with pytest.raises(ValueError, match="places"):
        fitting.choose_apart(8, 8, 1, one.astype(np.int64))
    with pytest.raises(ValueError, match="far"):
        fitting.choose_apart(8, 8, 65, one)
    with pytest.raises(ValueError, match="far"):
        fitting.judge_moves(8, 8, 0, 0, -1, one, 1.0, *costs)
    with pytest.raises(ValueError, match="grid"):
        fitting.judge_moves(8, 8, 0, 7, 1, one, 1.0, *costs)
