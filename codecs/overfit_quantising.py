"""Rounds the weights of a network together: what one loses, those after it make up for.

The optimal brain surgeon (Hassibi & Stork, NIPS 1992) as GPTQ (Frantar et al., ICLR 2023) applies
it to rounding: weights are rounded one after the other, and the rest moves to the least of a
quadratic cost each time. A weight goes where its share of that cost and its bits together are
least; so moves along which the cost is flat, of which a fit makes many, are taken back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from rhodec.codecs.overfit_networks import (
    MAX_SHIFT,
    MAX_WEIGHT,
    SUM_LIMIT,
    UNCHANGED,
    CodedLayer,
    StartLayer,
    coding_tables,
    is_codable,
)

Float64 = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
# Shares of each curvature and of the median that are added: the estimate is noisy, it is true only
# near by, and the weights of a unit that is off all over the picture have none.
DAMPINGS = (0.03, 0.3, 3.0, 30.0)
TRUST = 1.3  # times the cost expected from the curvatures; if it is more, the next damping is tried
FIRST_SHIFT = 4
REACH = 512  # counts beyond it are taken to cost as much as REACH


@cache
def _bits() -> Float64:
    """Bits of the counts -REACH .. REACH (columns) in every table (rows)."""
    tables = coding_tables()
    counts = np.arange(-REACH, REACH + 1, dtype=np.int32)
    return np.stack(
        [tables.symbol_bits(counts, np.full(len(counts), i, np.uint16)) for i in range(len(tables))]
    )


class JointRounding:
    """The layers of one network whose weights are rounded together."""

    def __init__(
        self, exact: list[Float64], curvature: Float64, sources: list[StartLayer], damping: float
    ):
        """exact: weights of each layer in 2^-10; curvature: second derivatives of the cost in bits
        by these weights, all layers' in turn.
        """
        self.sources = sources
        self.ends = np.cumsum([layer.size for layer in exact])
        self.start = np.concatenate([s.weights.ravel() for s in sources])
        flat = np.concatenate([_limited(layer).ravel() for layer in exact])
        own = np.diag(curvature)
        damped = curvature + np.diag(damping * (own + np.median(own)) + 1e-9)
        # The most sensitive weights first, while there are many left to make up for them.
        self.order = np.argsort(-own, kind="stable")
        inverse = np.linalg.inv(damped[np.ix_(self.order, self.order)])
        self.factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
        self.moves = (flat - self.start)[self.order]
        self.offsets = [0] * len(sources)

    def split(self, vector: npt.NDArray) -> list[npt.NDArray]:
        """A value for every weight -> the layers'."""
        parts = np.split(vector, self.ends[:-1])
        return [p.reshape(s.weights.shape) for p, s in zip(parts, self.sources, strict=True)]

    def round(self, shifts: list[int]) -> tuple[list[npt.NDArray[np.int32]], float]:
        """(counts of every layer, cost and bits together) with the tables' offsets of last time."""
        steps = np.concatenate(
            [np.full(s.weights.size, 1 << k) for s, k in zip(self.sources, shifts, strict=True)]
        )
        tables = np.concatenate(
            [s.tables(k, o) for s, k, o in zip(self.sources, shifts, self.offsets, strict=True)]
        )
        reach = (MAX_WEIGHT - np.abs(self.start)) // steps
        bits, left = _bits(), self.moves.copy()
        counts = np.zeros(len(left), np.int64)
        total = 0.0
        ordered = (part[self.order].tolist() for part in (steps, tables, reach))
        for i, (step, table, limit) in enumerate(zip(*ordered, strict=True)):
            move, row = float(left[i]), self.factor[i]
            below = math.floor(move / step)
            least, best, error = math.inf, 0, 0.0
            for count in (below, below + 1, 0):
                count = max(-limit, min(limit, count))
                missed = (move - count * step) / row[i]
                price = missed * missed / 2 + bits[table, REACH + max(-REACH, min(REACH, count))]
                if price < least:
                    least, best, error = price, count, missed
            counts[self.order[i]] = best
            total += least
            left[i + 1 :] -= error * row[i + 1 :]
        return [part.astype(np.int32) for part in self.split(counts)], total

    def tuned(self, shifts: list[int]) -> tuple[list[npt.NDArray[np.int32]], float]:
        """`round` twice, with the tables' offsets that suit the first result."""
        counts, _ = self.round(shifts)
        self.offsets = [
            s.best_offset(c, k)[0] for s, c, k in zip(self.sources, counts, shifts, strict=True)
        ]
        return self.round(shifts)

    def best_shifts(self) -> list[int]:
        """Those with the least cost and bits: all alike first, then each."""
        shifts = [FIRST_SHIFT] * len(self.sources)
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

    def coded(self) -> tuple[list[CodedLayer], float, float]:
        """(layers, their bits, expected cost) with the best steps. A layer that integer networks
        don't take stays as shipped.
        """
        shifts = self.best_shifts()
        counts, total = self.tuned(shifts)
        layers, bits = [], 0.0
        for source, c, k, o in zip(self.sources, counts, shifts, self.offsets, strict=True):
            bits += coding_tables().ideal_bits(c.ravel(), source.tables(k, o))
            fits = is_codable(source.restored(c, k))
            layers.append(CodedLayer(k, o, c) if fits else CodedLayer(UNCHANGED, 0, 0 * c))
        return layers, bits, total - bits


def round_together(
    exact: list[Float64],
    curvature: Float64,
    sources: list[StartLayer],
    cost: Callable[[list[Integers]], float],
) -> list[CodedLayer]:
    """The layers of one network; `cost`: what integer weights cost in truth, without their bits."""
    before = cost([np.rint(layer).astype(np.int64) for layer in exact])
    found = []
    for damping in DAMPINGS:
        layers, bits, expected = JointRounding(exact, curvature, sources, damping).coded()
        after = cost([s.weights_of(layer) for s, layer in zip(sources, layers, strict=True)])
        found.append((after + bits, layers))
        if after - before < TRUST * expected + 0.1 * bits:
            break
    return min(found, key=lambda one: one[0])[1]


def round_alone(
    exact: Float64, source: StartLayer, cost: Callable[[Integers], float]
) -> CodedLayer:
    """A small layer by itself; `cost`: that of integer weights, without their bits."""
    best, least = CodedLayer(UNCHANGED, 0, np.zeros(exact.shape, np.int32)), cost(source.weights)
    for shift in range(MAX_SHIFT // 2 + 1):
        counts = np.rint((exact - source.weights) / (1 << shift)).astype(np.int32)
        integers = source.restored(counts, shift)
        if not is_codable(integers):
            continue
        offset, bits = source.best_offset(counts, shift)
        total = bits + cost(integers)
        if total < least:
            best, least = CodedLayer(shift, offset, counts), total
    return best


def _limited(layer: Float64) -> Float64:
    """With columns scaled down that are too large for the integer networks."""
    sums = np.abs(layer).sum(axis=0)
    return layer * np.minimum(1, 0.98 * SUM_LIMIT / np.maximum(sums, 1))
