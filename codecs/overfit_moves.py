"""Moves rounded latents of the overfitted codec by one, alone or in pairs, where J gets smaller.

The gradient says which way, and how much a move may bring; what it does bring is measured: moves
far enough from each other are made at the same time, and each is judged by the bits and the squared
error around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rhodec.codecs import _overfit_fitting as fitting

Float32 = npt.NDArray[np.float32]
Places = npt.NDArray[np.int32]  # (count, 2): rows and columns of a grid

LATENT_LIMIT = 127.0
# Latents on each side of a move over which its effect is summed up (train/NOTES.md)
AROUND = 3
# Bits that the gradient must promise: a move by one takes some 11 of them back (the same).
PROMISE = 6.0


class Sweep(NamedTuple):
    """Rounds of moves after a new gradient."""

    grid: int  # counted from the finest
    rounds: int
    # The latent so many rows below and columns to the right moves too: the same way (1), the other
    # way (-1); 0: it does not.
    partner: tuple[int, int, int] = (0, 0, 0)


SWEEPS = (Sweep(0, 40), Sweep(1, 20), Sweep(2, 8), Sweep(0, 20), Sweep(1, 10))
PARTNERS = ((0, 1, 1), (0, 1, -1), (1, 0, 1), (1, 0, -1), (1, 1, -1), (1, -1, -1))


class Movable(Protocol):
    """What is needed of a `Fit`."""

    height: int
    width: int
    finest: int
    places: list[tuple[int, int, int, int]]
    y: Float32

    def plane(self, latents: Float32, level: int) -> Float32: ...
    def gradient(self) -> Float32: ...
    def measure(
        self, latents: Float32, lengths: Float32, errors: Float32
    ) -> tuple[float, float]: ...
    def judge(
        self,
        level: int,
        around: int,
        places: Places,
        before: tuple[Float32, Float32],
        after: tuple[Float32, Float32],
    ) -> npt.NDArray[np.float64]: ...


def sweeps(share: float) -> list[Sweep]:
    """SWEEPS with a share of the rounds."""
    return [sweep._replace(rounds=max(1, round(share * sweep.rounds))) for sweep in SWEEPS]


def sweeps_of_pairs() -> list[Sweep]:
    """For what single moves have left; those come once more after them."""
    return [Sweep(grid, 15, partner) for grid in (0, 1) for partner in PARTNERS] + sweeps(0.5)


def move_latents(
    fit: Movable,
    plan: list[Sweep],
    tell: Callable[[int, tuple[float, float]], None] | None = None,
) -> None:
    """Rounds the latents and improves them; what the fit has is a valid result all the time.

    `tell`: called after every round of the plan's with its number and (bits, squared error).
    """
    np.rint(fit.y, out=fit.y)
    trial, lengths, new_lengths = (np.empty_like(fit.y) for _ in range(3))
    errors, new_errors = (np.empty(fit.height * fit.width, np.float32) for _ in range(2))
    done = 0
    for grid, rounds, partner in plan:
        level = fit.finest + grid
        height, width, stride, origin = fit.places[level]
        down, right, same = partner
        around = AROUND + max(down, abs(right))
        places, ways = _promising(fit, level, partner)
        np.copyto(trial, fit.y)
        fit.measure(trial, lengths, errors)
        for _ in range(rounds):
            chosen = np.frombuffer(
                fitting.choose_apart(height, width, 2 * around, places), np.bool_
            )
            now, way = places[chosen], ways[chosen]
            places, ways = places[~chosen], ways[~chosen]
            at = origin + now[:, 0] * stride + now[:, 1]
            other = at + down * stride + right
            trial[at] += way
            trial[other] += same * way
            state = fit.measure(trial, new_lengths, new_errors)
            changes = fit.judge(level, around, now, (lengths, errors), (new_lengths, new_errors))
            for moved in (at, other):
                better = moved[changes < 0]
                fit.y[better] = trial[better]
                trial[moved] = fit.y[moved]
            if tell is not None:
                tell(done, state)
            done += 1


def _promising(fit: Movable, level: int, partner: tuple[int, int, int]) -> tuple[Places, Float32]:
    """Latents of a grid whose moves may pay, the best first, and which way each goes."""
    down, right, same = partner
    left, end = max(0, -right), fit.places[level][1] - max(0, right)

    def pairs(latents: Float32) -> tuple[Float32, Float32]:
        plane = fit.plane(latents, level)
        return plane[: len(plane) - down, left:end], plane[down:, left + right : end + right]

    (gradient, beside), (value, other) = pairs(fit.gradient()), pairs(fit.y)
    gradient = gradient + same * beside
    way = -np.sign(gradient)
    stays = np.maximum(np.abs(value + way), np.abs(other + same * way)) <= LATENT_LIMIT
    promise = np.where(stays, np.abs(gradient), 0)
    rows, columns = np.nonzero(promise > PROMISE)
    order = np.argsort(-promise[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    return np.stack([rows, columns + left], 1).astype(np.int32), way[rows, columns]
