"""The gradients of the encoder in C are those of torch, and its rounding is what it says."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from rhodec.codecs import _overfit_fitting as fitting

sys.path.insert(0, str(Path(__file__).parent))

from overfit_reference import LEVELS, context_shapes, lengths, picture, synthesis_shapes

HIDDEN, FEATURES, RESIDUAL = 8, 12, 5


@pytest.fixture(autouse=True, params=fitting.kernels())
def slack(request: pytest.FixtureRequest) -> Iterator[float]:
    """Every test runs with all the kernels that this processor has.

    How much less exact than those in floats they are: a half has 13 bits less.
    """
    fitting.use(request.param)
    yield 50.0 if request.param.endswith("fp16") else 1.0
    fitting.use(None)


def assert_near(
    ours: np.ndarray, theirs: np.ndarray, relative: float, absolute: float, slack: float
) -> None:
    """Every number near, or with slack 5 % of their length: in a small picture one relu that
    switches on rounding is 4 %.
    """
    if slack == 1:
        np.testing.assert_allclose(ours, theirs, rtol=relative, atol=absolute)
    else:
        assert np.linalg.norm(ours - theirs) <= 0.05 * np.linalg.norm(theirs) + absolute


def padded(levels: list[np.ndarray], height: int, width: int) -> np.ndarray:
    size, places = fitting.geometry(height, width)
    out = np.zeros(size, np.float32)
    for level, (h, w, stride, origin) in zip(levels, places, strict=True):
        for y in range(h):
            out[origin + y * stride : origin + y * stride + w] = level[y]
    return out


def unpadded(flat: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    _, places = fitting.geometry(height, width)
    rows = lambda h, w, s, o: [flat[o + y * s : o + y * s + w] for y in range(h)]  # noqa: E731
    return [np.array(rows(*place)) for place in places]


def flat(levels: Sequence[np.ndarray | torch.Tensor | None]) -> np.ndarray:
    return np.concatenate([np.asarray(level).ravel() for level in levels])


def random_latents(height: int, width: int, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    sizes = [(-(-height >> level), -(-width >> level)) for level in range(LEVELS)]
    return [random.laplace(0, 1.5, size).astype(np.float32) for size in sizes]


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    parts = [random.normal(0, 0.1, int(np.prod(shape))) for shape in shapes.values()]
    return np.concatenate(parts).astype(np.float32)


def rows_reached(height: int, width: int, part: int, parts: int) -> np.ndarray:
    """Positions, in a buffer of latents, of what the gradient of a part's bits is a buffer of."""
    found = []
    for h, _, stride, origin in fitting.geometry(height, width)[1]:
        first, end = max(h * part // parts - 4, -3), min(h * (part + 1) // parts + 4, h + 3)
        start = origin - 16  # the padding on the left
        found.append(np.arange(start + first * stride, start + end * stride))
    return np.concatenate(found)


def as_tensors(levels: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(x).double().requires_grad_() for x in levels]


@pytest.mark.parametrize(
    ("height", "width", "parts"),
    [(1, 1, 1), (5, 70, 1), (67, 3, 2), (41, 133, 1), (41, 133, 3), (9, 20, 16)],
)
def test_rate_and_its_gradients_are_those_of_torch(
    height: int, width: int, parts: int, slack: float
) -> None:
    levels = random_latents(height, width, 1)
    latents, weights = padded(levels, height, width), random_weights(context_shapes(HIDDEN), 2)
    d_weights, d_latents, found = np.zeros_like(weights), np.zeros_like(latents), 0.0
    found_lengths = np.zeros_like(latents)
    for part in range(parts):
        reached = rows_reached(height, width, part, parts)
        d_part = np.full(len(reached), np.nan, np.float32)
        rest = d_part, d_weights, None, part, parts, False, found_lengths
        found += fitting.rate(height, width, 0, HIDDEN, latents, weights, *rest)
        d_latents[reached] += d_part
    exact, w = as_tensors(levels), torch.from_numpy(weights).double().requires_grad_()
    expected_lengths = lengths(exact, w, HIDDEN)
    expected = torch.cat([plane.ravel() for plane in expected_lengths]).sum()
    expected.backward()
    ours = flat(unpadded(found_lengths, height, width))
    theirs = flat([plane.detach() for plane in expected_lengths])
    assert_near(ours, theirs, 1e-3, 1e-3, slack)
    assert found == pytest.approx(float(expected.detach()), rel=1e-5 * slack)
    ours, theirs = flat(unpadded(d_latents, height, width)), flat([x.grad for x in exact])
    assert_near(ours, theirs, 2e-3, 2e-3, slack)
    assert w.grad is not None
    assert_near(d_weights, w.grad.numpy(), 2e-3, 2e-3 * abs(d_weights).max(), slack)


# The synthesis keeps between 1 and 8 rows of a plane, works on 128 columns at a time, and on
# several bands from 256 rows on.
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (2, 64), (5, 70), (8, 9), (9, 128), (67, 3), (41, 133), (263, 5), (401, 3)],
)
def test_distortion_and_its_gradients_are_those_of_torch(
    height: int, width: int, slack: float
) -> None:
    levels = random_latents(height, width, 3)
    weights = random_weights(synthesis_shapes(FEATURES, RESIDUAL), 4)
    weights[-3:] = 4, 0, -4  # the last biases: red and blue come out on both sides of the limits
    target = np.random.default_rng(5).normal(0, 2, (3, height, width)).astype(np.float32)
    d_latents = np.zeros_like(padded(levels, height, width))
    d_weights = np.zeros_like(weights)
    shown, errors = np.zeros_like(target), np.zeros_like(target[0])
    workshop = fitting.workshop(height, width, FEATURES, RESIDUAL)
    for _ in range(2):  # the second call must not see what the first left in memory
        d_latents[:], d_weights[:] = 0, 0
        latents = padded(levels, height, width)
        fitting.begin(workshop, latents, weights)
        rest = latents, weights, target, 0.5, d_latents, shown, None, False, errors
        found = sum(
            fitting.band(workshop, i, *rest)
            for i in reversed(range(len(fitting.parts(height, width))))  # in any order
        )
        fitting.end(workshop, weights, d_latents, d_weights)
    exact, w = as_tensors(levels), torch.from_numpy(weights).double().requires_grad_()
    expected = picture(exact, w, FEATURES, RESIDUAL)
    clipped = expected.detach().clamp(-4, 3.96875)
    assert 0.1 < float((clipped != expected).double().mean()) < 0.9
    through = expected + (clipped - expected).detach()  # gradients as if nothing were clipped
    by_pixel = ((through - torch.from_numpy(target)) ** 2).sum(0)
    squares = by_pixel.sum()
    (0.5 * squares).backward()
    assert_near(shown, expected.detach().numpy(), 1e-4, 1e-4, slack)
    assert_near(errors, by_pixel.detach().numpy(), 1e-4, 1e-3, slack)
    assert found == pytest.approx(float(squares.detach()), rel=1e-5 * slack)
    ours, theirs = flat(unpadded(d_latents, height, width)), flat([x.grad for x in exact])
    assert_near(ours, theirs, 1e-3, 1e-4 * abs(theirs).max(), slack)
    assert w.grad is not None
    assert_near(d_weights, w.grad.numpy(), 1e-3, 1e-4 * abs(d_weights).max(), slack)


def test_gradients_of_latents_stay_finite_where_half_precision_overflows() -> None:
    height, width = 9, 40
    extreme = [np.sign(level) * 127 for level in random_latents(height, width, 1)]
    latents = padded(extreme, height, width)
    weights = 100 * random_weights(context_shapes(HIDDEN), 2)
    d_latents, spare = np.zeros_like(latents), np.zeros_like(weights)
    fitting.rate(height, width, 0, HIDDEN, latents, weights, d_latents, spare)
    assert np.isfinite(d_latents).all()
    weights = 100 * random_weights(synthesis_shapes(FEATURES, RESIDUAL), 4)
    target, workshop = (
        np.zeros((3, height, width)),
        fitting.workshop(height, width, FEATURES, RESIDUAL),
    )
    d_latents, spare = np.zeros_like(latents), np.zeros_like(weights)
    fitting.begin(workshop, latents, weights)
    rest = target.astype(np.float32), 50.0, d_latents, None, None
    assert fitting.band(workshop, 0, latents, weights, *rest) > 0
    fitting.end(workshop, weights, d_latents, spare)
    assert np.isfinite(d_latents).all() and d_latents.any()


def test_rough_and_exact_bands_do_not_see_each_other() -> None:
    fitting.use(None)  # where they differ
    height, width = 41, 200  # rows in half precision begin where others have pixels
    latents = padded(random_latents(height, width, 3), height, width)
    weights = random_weights(synthesis_shapes(FEATURES, RESIDUAL), 4)
    target = np.random.default_rng(5).normal(0, 2, (3, height, width)).astype(np.float32)
    workshop = fitting.workshop(height, width, FEATURES, RESIDUAL)

    def gradient(rough: bool) -> np.ndarray:
        d_latents, d_weights = np.zeros_like(latents), np.zeros_like(weights)
        fitting.begin(workshop, latents, weights, rough)
        rest = latents, weights, target, 0.5, d_latents, None, None, rough
        fitting.band(workshop, 0, *rest)
        fitting.end(workshop, weights, d_latents, d_weights, rough)
        return np.concatenate([d_latents, d_weights])

    found = {rough: gradient(rough) for rough in (False, True)}
    assert_near(found[True], found[False], 1e-5, 1e-5, slack=50)
    for rough in (True, False, True, False):
        np.testing.assert_array_equal(gradient(rough), found[rough])


def test_grids_before_the_finest_count_for_nothing() -> None:
    height, width = 41, 133
    latents = padded(random_latents(height, width, 6), height, width)
    weights = random_weights(context_shapes(HIDDEN), 7)
    found, d_latents = np.zeros_like(weights), np.zeros_like(latents)
    fitting.rate(height, width, 1, HIDDEN, latents, weights, d_latents, found)
    grid_0, *coarser = unpadded(d_latents, height, width)
    assert not grid_0.any() and all(level.any() for level in coarser)

    # All grids, but with the bits of the first times 0.
    _, places = fitting.geometry(height, width)
    signs = padded(
        [np.full((h, w), min(k, 1)) for k, (h, w, *_) in enumerate(places)], height, width
    )
    rows = np.zeros((sum(place[0] for place in places), len(weights)), np.float32)
    fitting.rate(height, width, 0, HIDDEN, latents, weights, np.zeros_like(latents), rows, signs)
    np.testing.assert_allclose(rows.sum(axis=0), found, rtol=1e-4, atol=1e-4 * abs(found).max())

    y, slope = latents.copy(), np.zeros_like(latents)
    softened = np.full_like(latents, 7)
    fitting.soften(height, width, 1, y, 0.3, 2.0, 1, softened, slope)
    assert (unpadded(softened, height, width)[0] == 7).all() and not (softened == 7).all()


@pytest.mark.parametrize(
    ("height", "width", "finest", "parts"),
    [(1, 1, 0, 1), (9, 70, 0, 2), (67, 3, 1, 3), (20, 1100, 0, 1)],
)
def test_own_filters_and_their_gradients_are_those_of_torch(
    height: int, width: int, finest: int, parts: int
) -> None:
    levels = random_latents(height, width, 1)
    d_levels = random_latents(height, width, 2)
    for level in (*levels[:finest], *d_levels[:finest]):
        level[:] = 0
    latents, d_out = padded(levels, height, width), padded(d_levels, height, width)
    filters = np.random.default_rng(3).normal(0, 1, (LEVELS, 4)).astype(np.float32)
    out, d_latents, d_filters = (
        np.zeros_like(latents),
        np.zeros_like(latents),
        np.zeros(28, np.float32),
    )
    for part in range(parts):
        head = height, width, finest, filters.ravel(), latents
        fitting.own(*head, out, part, parts)
        fitting.own_backward(*head, d_out, d_latents, d_filters, part, parts)
    exact, taps = as_tensors(levels), torch.from_numpy(filters).double().requires_grad_()
    expected = []
    for x, t in zip(exact, taps, strict=True):
        line = torch.cat([t.flip(0), t[1:]])
        along_columns = torch.nn.functional.conv2d(
            x[None, None], line.view(1, 1, 7, 1), padding=(3, 0)
        )
        expected.append(
            torch.nn.functional.conv2d(along_columns, line.view(1, 1, 1, 7), padding=(0, 3))[0, 0]
        )
    products = [(y * torch.from_numpy(d)).sum() for y, d in zip(expected, d_levels, strict=True)]
    torch.stack(products).sum().backward()
    assert taps.grad is not None
    found, theirs = flat(unpadded(out, height, width)), flat([y.detach() for y in expected])
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-4)
    found, theirs = flat(unpadded(d_latents, height, width)), flat([x.grad for x in exact])
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-4)
    d_taps = taps.grad.numpy().ravel()
    np.testing.assert_allclose(d_filters, d_taps, rtol=1e-4, atol=1e-5 * abs(d_taps).max())
    # What is beside a row must stay 0: the next filter reads it.
    assert not out[~np.isin(np.arange(len(out)), rows_of(height, width))].any()
    assert not d_latents[~np.isin(np.arange(len(out)), rows_of(height, width))].any()


def rows_of(height: int, width: int) -> np.ndarray:
    """Positions of all latents."""
    return np.concatenate(
        [
            np.arange(origin + y * stride, origin + y * stride + w)
            for h, w, stride, origin in fitting.geometry(height, width)[1]
            for y in range(h)
        ]
    )


def test_adam_takes_from_every_part_what_it_reached() -> None:
    height, width, parts = 77, 21, 3
    latents = padded(random_latents(height, width, 3), height, width)
    weights = random_weights(context_shapes(HIDDEN), 4)
    moved = []
    for count in (1, parts):
        sizes = [len(rows_reached(height, width, part, count)) for part in range(count)]
        d_rate = np.full(sum(sizes), np.nan, np.float32)
        for part, d_part in enumerate(np.split(d_rate, np.cumsum(sizes)[:-1])):
            spare = np.zeros_like(weights)
            fitting.rate(
                height, width, 0, HIDDEN, latents, weights, d_part, spare, None, part, count
            )
        y, first, second = latents.copy(), np.zeros_like(latents), np.zeros_like(latents)
        for part in range(count):
            rest = first, second, 1, 0.1, 0.8, 0.97, np.zeros(7, np.float32), 127.0, part, count
            fitting.adam(height, width, 0, y, None, d_rate, np.zeros_like(y), *rest)
        moved.append(np.concatenate([x.ravel() for x in unpadded(second, height, width)]))
    assert np.isfinite(moved[0]).all() and moved[0].any()
    np.testing.assert_allclose(moved[1], moved[0], rtol=1e-4, atol=1e-7)


def test_floors_of_second_moments_slow_a_grid_down() -> None:
    size, places = fitting.geometry(64, 64)
    d_rate, d_error = np.zeros(sum(fitting.parts(64, 64)), np.float32), np.ones(size, np.float32)
    floors = np.zeros(len(places), np.float32)
    floors[1], floors[2] = 3, math.inf  # beside second moments of 1
    y, first, second = (np.zeros(size, np.float32) for _ in range(3))
    fitting.adam(
        64, 64, 0, y, None, d_rate, d_error, first, second, 1, 0.5, 0.8, 0.97, floors, 9.0, 0, 1
    )
    moved = [float(y[origin]) for *_, origin in places]
    np.testing.assert_allclose(moved[:4], [-0.5, -0.25, 0, -0.5], rtol=1e-5)


def test_rows_of_bands_add_up_to_the_whole(slack: float) -> None:
    height, width = 263, 4
    latents = padded(random_latents(height, width, 6), height, width)
    weights = random_weights(synthesis_shapes(FEATURES, RESIDUAL), 8)
    target = np.random.default_rng(9).normal(0, 2, (3, height, width)).astype(np.float32)
    workshop = fitting.workshop(height, width, FEATURES, RESIDUAL)
    whole, d_latents = np.zeros_like(weights), np.zeros_like(latents)
    rows = np.full((height, len(weights)), np.nan, np.float32)
    fitting.begin(workshop, latents, weights)
    for by_row in (rows, None):
        for i in range(len(fitting.parts(height, width))):
            fitting.band(workshop, i, latents, weights, target, 0.5, d_latents, None, by_row)
    fitting.end(workshop, weights, d_latents, whole)
    filters = 4 * (LEVELS - 1)
    found, largest = rows.sum(axis=0)[filters:], abs(whole).max()
    assert_near(found, whole[filters:], 1e-4, 1e-4 * largest, slack)


def test_gradients_of_rows_add_up_to_the_whole(slack: float) -> None:
    height, width = 41, 133
    latents = padded(random_latents(height, width, 6), height, width)
    weights, d_latents = random_weights(context_shapes(HIDDEN), 7), np.zeros_like(latents)
    whole = np.zeros_like(weights)
    fitting.rate(height, width, 0, HIDDEN, latents, weights, d_latents, whole)
    rows = np.ones((sum(-(-height >> level) for level in range(LEVELS)), len(weights)), np.float32)
    fitting.rate(height, width, 0, HIDDEN, latents, weights, d_latents, rows, np.ones_like(latents))
    np.testing.assert_allclose(rows.sum(axis=0), whole, rtol=1e-4, atol=1e-4 * abs(whole).max())
    odd = np.ones_like(latents)
    *_, stride, origin = fitting.geometry(height, width)[1][0]
    odd[origin + stride : origin + 2 * stride] = -1  # the second row of the finest grid
    before = rows.copy()
    fitting.rate(height, width, 0, HIDDEN, latents, weights, d_latents, rows, odd)
    np.testing.assert_allclose(rows[1], -before[1], rtol=1e-5, atol=1e-5 * abs(before[1]).max())
    np.testing.assert_array_equal(np.delete(rows, 1, axis=0), np.delete(before, 1, axis=0))

    weights = random_weights(synthesis_shapes(FEATURES, RESIDUAL), 8)
    target = np.random.default_rng(9).normal(0, 2, (3, height, width)).astype(np.float32)
    workshop = fitting.workshop(height, width, FEATURES, RESIDUAL)
    whole = np.zeros_like(weights)
    rows = np.ones((height, len(weights)), np.float32)
    fitting.begin(workshop, latents, weights)
    for by_row in (rows, None):
        fitting.band(workshop, 0, latents, weights, target, 0.5, d_latents, None, by_row)
    fitting.end(workshop, weights, d_latents, whole)
    filters = 4 * (LEVELS - 1)
    assert (rows[:, :filters] == 1).all()
    found, largest = rows.sum(axis=0)[filters:], abs(whole).max()
    assert_near(found, whole[filters:], 1e-4, 1e-4 * largest, slack)
