"""Networks of the overfitted codec: their shapes, and how a file describes them.

All weights are integers in 2^-10. A file names one of the shipped sets and codes the difference to
it, layer by layer: with a step of 2^shift, chosen by the encoder, and the Gaussian table whose
scale fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from rhodec.bitstream.rans import CodingTables, Decoder, encode
from rhodec.bitstream.stream_error import StreamError
from rhodec.entropy.gaussian_tables import SCALE_LEVELS, SCALE_MAX, SCALE_MIN, load_tables

LEVELS = 7  # latent grids, each half as wide and high as the one before
INPUTS = 20  # of the context network: 14 neighbours, 6 values of coarser grids
TAPS = 4  # free taps of an upsampling filter
WEIGHT_SCALE = 1024
MAX_WEIGHT = 32767
MAX_SHIFT = 10
SUM_LIMIT = 60000  # of an output's weights: below 2^31 / 2^15 with room for rounding
UNCHANGED = 255  # stands for the shift of a layer that is as shipped

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Positions = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Architecture:
    """Sizes of the networks; about 4/3 (h^2 + 22 h + 40) + 10 f + 54 r + 60 products a pixel.

    hidden: width of both hidden layers of the context network; features: width of the synthesis;
    residual: channels between its two 3x3 convolutions.
    """

    hidden: int = 16
    features: int = 32
    residual: int = 6


@dataclass
class Networks:
    """Weights as flat vectors in the order of FORMAT.md: float32 while fitting, else int32."""

    context: npt.NDArray
    synthesis: npt.NDArray

    def copy(self) -> Networks:
        return Networks(self.context.copy(), self.synthesis.copy())

    def as_floats(self) -> Networks:
        """Integers in 2^-10 as float32."""
        return Networks(
            (self.context / WEIGHT_SCALE).astype(np.float32),
            (self.synthesis / WEIGHT_SCALE).astype(np.float32),
        )


def _matrices(shapes: list[tuple[int, int]]) -> list[Positions]:
    """Matrices of successive positions."""
    out, at = [], 0
    for rows, columns in shapes:
        out.append(np.arange(at, at + rows * columns).reshape(rows, columns))
        at += rows * columns
    return out


def context_layers(sizes: Architecture) -> list[Positions]:
    """Positions of the three layers' weights, each with its biases as the last rows."""
    h = sizes.hidden
    shapes = [(INPUTS, h), (h, h), (h + INPUTS, 2), (LEVELS, h), (1, h), (LEVELS, 2)]
    parts = _matrices(shapes)
    return [np.vstack([weight, bias]) for weight, bias in zip(parts[:3], parts[3:], strict=True)]


def synthesis_layers(sizes: Architecture) -> list[Positions]:
    """Positions of the upsampling filters and of the four layers, biases as the last rows."""
    f, r = sizes.features, sizes.residual
    return _matrices([(LEVELS - 1, TAPS), (LEVELS + 1, f), (f + 1, 3), (27 + 1, r), (9 * r + 1, 3)])


@cache
def _tables() -> CodingTables:
    return CodingTables(*load_tables())


def quantised(value: Float32, base: Int32, shift: int) -> Int32:
    """Differences to the base in steps of 2^shift."""
    steps = np.rint((value.astype(np.float64) * WEIGHT_SCALE - base) / (1 << shift))
    reach = (MAX_WEIGHT - np.abs(base)) >> shift  # keeps every weight in range
    return np.clip(steps, -reach, reach).astype(np.int32)


def is_codable(layer: Int32) -> bool:
    """Whether the integer networks take a layer (inputs and, in its last rows, biases, by outputs).

    Stricter than FORMAT.md's bound, in that it does not look which rows are biases.
    """
    return int(np.abs(layer.astype(np.int64)).sum(axis=0).max()) <= SUM_LIMIT


def best_scale(steps: Int32) -> tuple[int, float]:
    """A coding table with few bits for these differences, and the bits."""
    flat, tables = steps.ravel(), _tables()
    spread = float(np.sqrt(np.mean(flat.astype(np.float64) ** 2)))
    spread = min(max(spread, SCALE_MIN), SCALE_MAX)
    near = round((SCALE_LEVELS - 1) * np.log(spread / SCALE_MIN) / np.log(SCALE_MAX / SCALE_MIN))
    # Differences have long tails, so the best Gaussian is often narrower than their spread.
    levels = range(max(0, near - 16), min(SCALE_LEVELS, near + 5), 2)
    costs = {
        level: tables.ideal_bits(flat, np.full(flat.size, level, np.uint16)) for level in levels
    }
    best = min(costs, key=lambda level: costs[level])
    return best, costs[best]


def pack_networks(layers: list[tuple[int, Int32]]) -> bytes:
    """Bytes of (shift or UNCHANGED, differences in steps) of all layers in turn."""
    head, symbols, indexes = bytearray(), [], []
    for shift, steps in layers:
        level = 0
        if shift != UNCHANGED:
            level, _ = best_scale(steps)
            symbols.append(steps.ravel())
            indexes.append(np.full(steps.size, level, np.uint16))
        head += bytes([shift, level])
    stream = b""
    if symbols:
        stream = encode(np.concatenate(symbols), np.concatenate(indexes), _tables())
    return bytes(head) + len(stream).to_bytes(4, "little") + stream


def unpack_networks(data: bytes, base: Networks, sizes: Architecture) -> tuple[Networks, int]:
    """Networks of a file and the bytes they took; StreamError for what no encoder writes."""
    parts = [(base.context, layer) for layer in context_layers(sizes)]
    parts += [(base.synthesis, layer) for layer in synthesis_layers(sizes)]
    head = 2 * len(parts)
    if len(data) < head + 4:
        raise StreamError("overfit: the networks are cut off")
    size = int.from_bytes(data[head : head + 4], "little")
    end = head + 4 + size
    if end > len(data):
        raise StreamError("overfit: the networks are cut off")
    shifts, levels = data[0:head:2], data[1:head:2]
    changed = [k for k, shift in enumerate(shifts) if shift != UNCHANGED]
    if any(shifts[k] > MAX_SHIFT or levels[k] >= SCALE_LEVELS for k in changed):
        raise StreamError("overfit: a layer has an unknown step or scale")
    out = base.copy()
    decoder = Decoder(data[head + 4 : end], _tables())
    for k in changed:
        source, layer = parts[k]
        steps = decoder.decode(np.full(layer.size, levels[k], np.uint16)).reshape(layer.shape)
        value = source[layer].astype(np.int64) + (steps.astype(np.int64) << shifts[k])
        if np.abs(value).max() > MAX_WEIGHT:
            raise StreamError("overfit: a weight is out of range")
        target = out.context if source is base.context else out.synthesis
        target[layer] = value
    decoder.finish()
    return out, end
