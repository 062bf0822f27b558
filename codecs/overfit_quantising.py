"""Rounds the weights of a network together: what one loses, those after it make up for.

The optimal brain surgeon (Hassibi & Stork, NIPS 1992) as GPTQ (Frantar et al., ICLR 2023) applies
it to rounding: weights are rounded one after the other, and the rest moves to the least of a
quadratic cost each time. A weight goes where its share of that cost and its bits together are
least. Now and then the rest goes down the true cost, which is not quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

from rhodec.codecs.overfit_networks import (
    MAX_SHIFT,
    MAX_WEIGHT,
    SUM_LIMIT,
    UNCHANGED,
    CodedLayer,
    Int32,
    coding_tables,
    is_codable,
)
from rhodec.entropy.gaussian_tables import SCALE_LEVELS, SCALE_MAX, SCALE_MIN

Float64 = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
# Moves the weights of layers, in 2^-10, where they are free, to a lower cost.
Adjust = Callable[[list[Float64], list[Booleans]], list[Float64]]

# Share of each curvature and of the median that is added: the estimate is noisy, it is true only
# near by, and the weights of a unit that is off all over the picture have none.
DAMPING = 0.003
MORE, TRIES = 10, 5  # times as much in the next try
TRUST = 1.3  # times the cost expected from the curvatures; if it is more, there is a next try
FIRST_SHIFT = 4
REACH = 512  # counts beyond it are taken to cost as much as REACH
NEAR = 12  # tables around the one of the counts' spread that are tried
GROUPS = 32  # of weights, between which those that are left are adjusted


@cache
def _bits() -> list[list[float]]:
    """Bits of the counts -REACH .. REACH (columns) in every table (rows)."""
    tables = coding_tables()
    counts = np.arange(-REACH, REACH + 1, dtype=np.int32)
    return [
        tables.symbol_bits(counts, np.full(len(counts), i, np.uint16)).tolist()
        for i in range(len(tables))
    ]


def _table_of(spread: float) -> int:
    """The table whose standard deviation is nearest to a spread in steps."""
    octaves = math.log(max(spread, SCALE_MIN) / SCALE_MIN) / math.log(SCALE_MAX / SCALE_MIN)
    return min(round(octaves * (SCALE_LEVELS - 1)), SCALE_LEVELS - 1)


def _rms(values: npt.NDArray) -> float:
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


def best_table(counts: Int32) -> int:
    """The table that codes the counts in the fewest bits."""
    middle = _table_of(_rms(counts))
    near = range(max(0, middle - NEAR), min(SCALE_LEVELS, middle + NEAR + 1))
    return min(near, key=lambda table: CodedLayer(0, table, counts).bits())


class JointRounding:
    """The layers of one network whose weights are rounded together."""

    def __init__(
        self, exact: list[Float64], curvature: Float64, starts: list[Integers], damping: float
    ):
        """exact, starts: weights of each layer in 2^-10, wanted and given; curvature: second
        derivatives of the cost in bits by these weights, all layers' in turn.
        """
        self.starts = starts
        self.ends = np.cumsum([layer.size for layer in exact])
        moves = [_limited(layer) - start for layer, start in zip(exact, starts, strict=True)]
        self.spreads = [_rms(move) for move in moves]  # in 2^-10
        own = np.diag(curvature)
        damped = curvature + np.diag(damping * (own + np.median(own)) + 1e-9)
        # The most sensitive weights first, while there are many left to make up for them.
        self.order = np.argsort(-own, kind="stable")
        inverse = np.linalg.inv(damped[np.ix_(self.order, self.order)])
        self.factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
        self.moves = self._ordered(moves)

    def _ordered(self, layers: list[npt.NDArray]) -> npt.NDArray:
        return np.concatenate([layer.ravel() for layer in layers])[self.order]

    def _layers(self, ordered: npt.NDArray) -> list[npt.NDArray]:
        flat = np.empty_like(ordered)
        flat[self.order] = ordered
        parts = np.split(flat, self.ends[:-1])
        return [part.reshape(s.shape) for part, s in zip(parts, self.starts, strict=True)]

    def _adjusted(self, moves: Float64, done: int, adjust: Adjust) -> Float64:
        """All moves, those after the first `done` better."""
        starts = [start.astype(np.float64) for start in self.starts]
        weights = [s + move for s, move in zip(starts, self._layers(moves), strict=True)]
        better = adjust(weights, self._layers(np.arange(len(moves)) >= done))
        changed = self._ordered([b - s for b, s in zip(better, starts, strict=True)])
        return np.concatenate([moves[:done], changed[done:]])

    def round(self, shifts: list[int], adjust: Adjust | None = None) -> tuple[list[Int32], float]:
        """(counts of every layer, cost and bits together), with tables of `spreads`."""
        tables, reach = [], []
        for start, spread, shift in zip(self.starts, self.spreads, shifts, strict=True):
            tables.append(np.full(start.shape, _table_of(spread / (1 << shift))))
            reach.append((MAX_WEIGHT - np.abs(start)) >> shift)
        steps = [np.full(s.shape, 1 << k) for s, k in zip(self.starts, shifts, strict=True)]
        ordered = (self._ordered(part).tolist() for part in (steps, tables, reach))
        scales = self.factor.diagonal().tolist()
        bits, left = _bits(), self.moves.copy()
        counts = np.zeros(len(left), np.int32)
        group = -(-len(left) // GROUPS)
        total = 0.0
        for i, (step, table, limit, scale) in enumerate(zip(*ordered, scales, strict=True)):
            if adjust is not None and i > 0 and i % group == 0:
                left = self._adjusted(left, i, adjust)
            move, costs = float(left[i]), bits[table]
            below = math.floor(move / step)
            least, best, error = math.inf, 0, 0.0
            for count in (below, below + 1, 0):
                count = max(-limit, min(limit, count))
                missed = (move - count * step) / scale
                price = missed * missed / 2 + costs[REACH + max(-REACH, min(REACH, count))]
                if price < least:
                    least, best, error = price, count, missed
            counts[i], left[i] = best, best * step
            total += least
            left[i + 1 :] -= error * self.factor[i, i + 1 :]
        return self._layers(counts), total

    def tuned(self, shifts: list[int]) -> tuple[list[Int32], float]:
        """`round` twice, the second time with the spreads of the first result."""
        counts, _ = self.round(shifts)
        self.spreads = [_rms(c) * (1 << k) for c, k in zip(counts, shifts, strict=True)]
        return self.round(shifts)

    def best_shifts(self) -> list[int]:
        """Those with the least cost and bits: all alike first, then each."""
        shifts = [FIRST_SHIFT] * len(self.starts)
        _, least = self.tuned(shifts)
        every = range(len(shifts))
        for group in (every, *([k] for k in every)):
            for way in (1, -1):
                before = least
                while True:
                    tried = [s + way if k in group else s for k, s in enumerate(shifts)]
                    if not 0 <= min(tried) <= max(tried) <= MAX_SHIFT:
                        break
                    _, total = self.round(tried)
                    if total >= least:
                        break
                    shifts, least = tried, total
                if least < before:
                    break
        return shifts

    def coded(self, adjust: Adjust | None = None) -> Iterator[tuple[list[CodedLayer], float]]:
        """(layers with the best steps, cost to expect), without `adjust` and with it. A layer that
        integer networks don't take stays that of the start.
        """
        shifts = self.best_shifts()
        yield self._coded(shifts, *self.tuned(shifts))
        if adjust is not None:
            yield self._coded(shifts, *self.round(shifts, adjust))

    def _coded(
        self, shifts: list[int], counts: list[Int32], total: float
    ) -> tuple[list[CodedLayer], float]:
        layers = []
        for c, k, start in zip(counts, shifts, self.starts, strict=True):
            total -= (layer := CodedLayer(k, best_table(c), c)).bits()
            fits = is_codable(layer.added_to(start))
            layers.append(layer if fits else CodedLayer(UNCHANGED, 0, c))
        return layers, total


def round_together(
    exact: list[Float64],
    curvature: Float64,
    starts: list[Integers],
    cost: Callable[[list[Integers]], float],
    damping: float = DAMPING,
    adjust: Adjust | None = None,
) -> list[CodedLayer]:
    """The layers of one network; `cost`: what integer weights cost in truth, without their bits.

    `damping`: the first that is tried; the better the curvature is known, the less is needed.
    `adjust`: of the layers; without it the rest only follows the curvature.
    """
    before = cost([np.rint(layer).astype(np.int64) for layer in exact])
    found = []
    for more in range(TRIES):
        rounding = JointRounding(exact, curvature, starts, damping * MORE**more)
        is_as_expected = False
        for layers, expected in rounding.coded(adjust):
            after = cost([layer.added_to(s) for s, layer in zip(starts, layers, strict=True)])
            bits = sum(layer.bits() for layer in layers)
            found.append((after + bits, layers))
            is_as_expected = after - before < TRUST * expected + 0.1 * bits
        if is_as_expected:
            break
    return min(found, key=lambda one: one[0])[1]


def round_alone(exact: Float64, start: Integers, cost: Callable[[Integers], float]) -> CodedLayer:
    """A small layer by itself; `cost`: that of integer weights, without their bits."""
    best, least = CodedLayer(UNCHANGED, 0, np.zeros(exact.shape, np.int32)), cost(start)
    for shift in range(MAX_SHIFT // 2 + 1):
        counts = np.rint((exact - start) / (1 << shift)).astype(np.int32)
        layer = CodedLayer(shift, best_table(counts), counts)
        integers = layer.added_to(start)
        if is_codable(integers) and (total := layer.bits() + cost(integers)) < least:
            best, least = layer, total
    return best


def _limited(layer: Float64) -> Float64:
    """With columns scaled down that are too large for the integer networks."""
    sums = np.abs(layer).sum(axis=0)
    return layer * np.minimum(1, 0.98 * SUM_LIMIT / np.maximum(sums, 1))
