"""Networks of the overfitted codec: their shapes, and how a file describes them.

All weights are integers in 2^-10. A file names one of the shipped starts and codes the difference
to it: for each layer with a step, 2^shift, and one Gaussian table. (A table for every weight,
learned from fits, would save 2 % of these bits.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from rhodec.bitstream.rans import CodingTables, Decoder, encode
from rhodec.bitstream.stream_error import StreamError
from rhodec.entropy.gaussian_tables import SCALE_LEVELS, load_tables

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
    """Sizes of the networks.

    hidden: width of both hidden layers of the context network; features: width of the synthesis;
    residual: channels between its two 3x3 convolutions. The first two are even. own: whether every
    grid's own latents are filtered before the synthesis.
    """

    hidden: int = 16
    features: int = 48
    residual: int = 10
    own: bool = False

    @property
    def context_macs(self) -> int:
        """Multiplications of a latent; a picture has about 4/3 latents a pixel."""
        return self.hidden**2 + (INPUTS + 2) * self.hidden + 2 * INPUTS

    @property
    def synthesis_macs(self) -> int:
        """Multiplications of a pixel, upsampling (about 60) and own filters included."""
        filters = 60 + (round(2 * TAPS * 4 / 3) if self.own else 0)
        return (LEVELS + 3) * self.features + 54 * self.residual + filters


@dataclass
class Networks:
    """Weights as flat vectors in the order of FORMAT.md: float32 while fitting, else int32."""

    context: npt.NDArray
    synthesis: npt.NDArray
    own: npt.NDArray | None = None  # filters of the grids' own latents, if there are any

    def changed(self, change: Callable[[npt.NDArray], npt.NDArray]) -> Networks:
        """`change` of every vector there is."""
        own = None if self.own is None else change(self.own)
        return Networks(change(self.context), change(self.synthesis), own)

    def copy(self) -> Networks:
        return self.changed(np.copy)

    def as_floats(self) -> Networks:
        """Integers in 2^-10 as float32."""
        return self.changed(lambda weights: (weights / WEIGHT_SCALE).astype(np.float32))


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


def own_layers(sizes: Architecture) -> list[Positions]:
    """Positions of the filters of the grids' own latents: the middle tap and those of one side."""
    return _matrices([(LEVELS, TAPS)]) if sizes.own else []


def plain_filters() -> Int32:
    """Filters of the grids' own latents that change nothing."""
    return np.tile(np.array([WEIGHT_SCALE] + [0] * (TAPS - 1), np.int32), LEVELS)


def layers_of(sizes: Architecture) -> list[tuple[str, Positions]]:
    """All layers in the order of files: name of the vector, positions in it."""
    parts = {
        "context": context_layers(sizes),
        "synthesis": synthesis_layers(sizes),
        "own": own_layers(sizes),
    }
    return [(name, layer) for name, layers in parts.items() for layer in layers]


@cache
def coding_tables() -> CodingTables:
    return CodingTables(*load_tables())


def is_codable(layer: npt.NDArray[np.integer]) -> bool:
    """Whether the integer networks take a layer (inputs and, in its last rows, biases, by outputs).

    Stricter than FORMAT.md's bound, in that it does not look which rows are biases.
    """
    return int(np.abs(layer.astype(np.int64)).sum(axis=0).max()) <= SUM_LIMIT


@dataclass(frozen=True)
class CodedLayer:
    """How a file describes one layer: differences in steps, the number of their table.

    `shift` may be UNCHANGED; the rest does not matter then.
    """

    shift: int
    table: int
    counts: Int32

    def added_to(self, start: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The integer weights, from those of the start."""
        weights = start.astype(np.int64)
        if self.shift != UNCHANGED:
            weights += self.counts.astype(np.int64) << self.shift
        return weights

    def bits(self) -> float:
        """Code length of the differences."""
        if self.shift == UNCHANGED:
            return 0.0
        return coding_tables().ideal_bits(self.counts.ravel(), _all(self.table, self.counts.size))


def _all(table: int, count: int) -> npt.NDArray[np.uint16]:
    return np.full(count, table, np.uint16)


def pack_networks(layers: list[CodedLayer]) -> bytes:
    """Bytes of all layers in turn."""
    head = b"".join(bytes([layer.shift, layer.table]) for layer in layers)
    coded = [layer for layer in layers if layer.shift != UNCHANGED]
    stream = b""
    if coded:
        symbols = np.concatenate([layer.counts.ravel() for layer in coded])
        indexes = np.concatenate([_all(layer.table, layer.counts.size) for layer in coded])
        stream = encode(symbols, indexes, coding_tables())
    return head + len(stream).to_bytes(4, "little") + stream


def unpack_networks(data: bytes, start: Networks, sizes: Architecture) -> tuple[Networks, int]:
    """Networks of a file and the bytes they took; StreamError for what no encoder writes."""
    places = layers_of(sizes)
    head = 2 * len(places)
    if len(data) < head + 4:
        raise StreamError("overfit: the networks are cut off")
    end = head + 4 + int.from_bytes(data[head : head + 4], "little")
    if end > len(data):
        raise StreamError("overfit: the networks are cut off")
    out = start.copy()
    decoder = Decoder(data[head + 4 : end], coding_tables())
    for k, (vector, layer) in enumerate(places):
        shift, table = data[2 * k], data[2 * k + 1]
        if shift == UNCHANGED:
            continue
        if shift > MAX_SHIFT or table >= SCALE_LEVELS:
            raise StreamError("overfit: a layer has an unknown step or table")
        counts = decoder.decode(_all(table, layer.size)).reshape(layer.shape)
        value = getattr(out, vector)
        weights = CodedLayer(shift, table, counts).added_to(value[layer])
        if np.abs(weights).max() > MAX_WEIGHT:
            raise StreamError("overfit: a weight is out of range")
        value[layer] = weights
    decoder.finish()
    return out, end
