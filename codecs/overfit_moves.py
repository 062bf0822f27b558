"""Moves single rounded latents of the overfitted codec by one, where that makes J smaller.

The gradient says which way, and how much a move may bring; what it does bring is measured: moves
far enough from each other are made at the same time, and each is judged by the bits and the squared
error around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

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
# Grid, counted from the finest, and rounds of moves after each new gradient.
SWEEPS = ((0, 40), (1, 20), (2, 8), (0, 20), (1, 10))


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


def sweeps(share: float) -> list[tuple[int, int]]:
    """SWEEPS with a share of the rounds."""
    return [(grid, max(1, round(share * rounds))) for grid, rounds in SWEEPS]


def move_latents(
    fit: Movable,
    plan: list[tuple[int, int]],
    tell: Callable[[int, tuple[float, float]], None] | None = None,
) -> None:
    """Rounds the latents and improves them; what the fit has is a valid result all the time.

    `tell`: called after every round of the plan's with its number and (bits, squared error).
    """
    np.rint(fit.y, out=fit.y)
    trial, lengths, new_lengths = (np.empty_like(fit.y) for _ in range(3))
    errors, new_errors = (np.empty(fit.height * fit.width, np.float32) for _ in range(2))
    done = 0
    for grid, rounds in plan:
        level = fit.finest + grid
        height, width, stride, origin = fit.places[level]
        places, ways = _promising(fit, level)
        np.copyto(trial, fit.y)
        fit.measure(trial, lengths, errors)
        for _ in range(rounds):
            chosen = np.frombuffer(
                fitting.choose_apart(height, width, 2 * AROUND, places), np.bool_
            )
            now, way = places[chosen], ways[chosen]
            places, ways = places[~chosen], ways[~chosen]
            at = origin + now[:, 0] * stride + now[:, 1]
            trial[at] += way
            state = fit.measure(trial, new_lengths, new_errors)
            changes = fit.judge(level, AROUND, now, (lengths, errors), (new_lengths, new_errors))
            better = at[changes < 0]
            fit.y[better] = trial[better]
            trial[at] = fit.y[at]
            if tell is not None:
                tell(done, state)
            done += 1


def _promising(fit: Movable, level: int) -> tuple[Places, Float32]:
    """Latents of a grid whose moves may pay, the best first, and which way each goes."""
    gradient, value = fit.plane(fit.gradient(), level), fit.plane(fit.y, level)
    way = -np.sign(gradient)
    promise = np.where(np.abs(value + way) <= LATENT_LIMIT, np.abs(gradient), 0)
    rows, columns = np.nonzero(promise > PROMISE)
    order = np.argsort(-promise[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    return np.stack([rows, columns], 1).astype(np.int32), way[rows, columns]
