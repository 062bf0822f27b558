"""Networks of the overfitted codec: their shapes, and how a file describes them.

All weights are integers in 2^-10. A file names one of the shipped starts and codes the difference
to it. A start has, for every weight, the Gaussian table that fits how far fits move it, measured on
training pictures. For each layer the encoder chooses the step of the differences, 2^shift, and
moves the tables by an offset.
"""

from __future__ import annotations

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
NO_OFFSET = 128  # stands for 0 in a file
SUM_LIMIT = 60000  # of an output's weights: below 2^31 / 2^15 with room for rounding
UNCHANGED = 255  # stands for the shift of a layer that is as shipped
OFFSETS = range(-48, 49, 4)  # that the encoder tries

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Positions = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Architecture:
    """Sizes of the networks.

    hidden: width of both hidden layers of the context network; features: width of the synthesis;
    residual: channels between its two 3x3 convolutions. The first two are even.
    """

    hidden: int = 16
    features: int = 48
    residual: int = 10

    @property
    def context_macs(self) -> int:
        """Multiplications of a latent; a picture has about 4/3 latents a pixel."""
        return self.hidden**2 + (INPUTS + 2) * self.hidden + 2 * INPUTS

    @property
    def synthesis_macs(self) -> int:
        """Multiplications of a pixel, upsampling included (about 60)."""
        return (LEVELS + 3) * self.features + 54 * self.residual + 60


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


@dataclass(frozen=True)
class Start:
    """What fits start from: int32 networks; `levels`: tables of the differences in 2^-10, which may
    lie beyond the last.
    """

    networks: Networks
    levels: Networks


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


def layers_of(sizes: Architecture) -> list[tuple[str, Positions]]:
    """All layers in the order of files: name of the vector, positions in it."""
    context = [("context", layer) for layer in context_layers(sizes)]
    return context + [("synthesis", layer) for layer in synthesis_layers(sizes)]


@cache
def coding_tables() -> CodingTables:
    return CodingTables(*load_tables())


class StartLayer:
    """One layer of a start: how its weights are described as numbers of steps."""

    def __init__(self, start: Start, vector: str, layer: Positions):
        self.weights, self.levels = (
            getattr(part, vector)[layer].astype(np.int64) for part in (start.networks, start.levels)
        )

    def restored(self, counts: Int32, shift: int) -> npt.NDArray[np.int64]:
        """The integer weights."""
        return self.weights + (counts.astype(np.int64) << shift)

    def weights_of(self, coded: CodedLayer) -> npt.NDArray[np.int64]:
        """The integer weights of a coded layer."""
        return (
            self.weights if coded.shift == UNCHANGED else self.restored(coded.counts, coded.shift)
        )

    def tables(self, shift: int, offset: int) -> npt.NDArray[np.uint16]:
        """Number of the table of each weight, flat. 221 / 16 tables lie in an octave of scales."""
        moved = self.levels - (shift * 221 >> 4) + offset
        return np.clip(moved, 0, SCALE_LEVELS - 1).astype(np.uint16).ravel()

    def best_offset(self, counts: Int32, shift: int) -> tuple[int, float]:
        """The offset of the tables with the fewest bits, and the bits."""
        flat = counts.ravel()
        tables = coding_tables()
        costs = {o: tables.ideal_bits(flat, self.tables(shift, o)) for o in OFFSETS}
        best = min(costs, key=lambda offset: costs[offset])
        return best, costs[best]


def start_layers(start: Start, sizes: Architecture) -> list[StartLayer]:
    """All layers in the order of files."""
    return [StartLayer(start, vector, layer) for vector, layer in layers_of(sizes)]


def is_codable(layer: npt.NDArray[np.integer]) -> bool:
    """Whether the integer networks take a layer (inputs and, in its last rows, biases, by outputs).

    Stricter than FORMAT.md's bound, in that it does not look which rows are biases.
    """
    return int(np.abs(layer.astype(np.int64)).sum(axis=0).max()) <= SUM_LIMIT


@dataclass(frozen=True)
class CodedLayer:
    """How a file describes one layer: differences in steps. `shift` may be UNCHANGED."""

    shift: int
    offset: int
    counts: Int32


def pack_networks(layers: list[CodedLayer], start: Start, sizes: Architecture) -> bytes:
    """Bytes of all layers in turn."""
    head, symbols, indexes = bytearray(), [], []
    for layer, source in zip(layers, start_layers(start, sizes), strict=True):
        head += bytes([layer.shift, layer.offset + NO_OFFSET])
        if layer.shift != UNCHANGED:
            symbols.append(layer.counts.ravel())
            indexes.append(source.tables(layer.shift, layer.offset))
    stream = b""
    if symbols:
        stream = encode(np.concatenate(symbols), np.concatenate(indexes), coding_tables())
    return bytes(head) + len(stream).to_bytes(4, "little") + stream


def unpack_networks(data: bytes, start: Start, sizes: Architecture) -> tuple[Networks, int]:
    """Networks of a file and the bytes they took; StreamError for what no encoder writes."""
    places = layers_of(sizes)
    head = 2 * len(places)
    if len(data) < head + 4:
        raise StreamError("overfit: the networks are cut off")
    end = head + 4 + int.from_bytes(data[head : head + 4], "little")
    if end > len(data):
        raise StreamError("overfit: the networks are cut off")
    out = start.networks.copy()
    decoder = Decoder(data[head + 4 : end], coding_tables())
    for k, (vector, layer) in enumerate(places):
        shift, offset = data[2 * k], data[2 * k + 1] - NO_OFFSET
        if shift == UNCHANGED:
            continue
        if shift > MAX_SHIFT:
            raise StreamError("overfit: a layer has an unknown step")
        source = StartLayer(start, vector, layer)
        counts = decoder.decode(source.tables(shift, offset)).reshape(layer.shape)
        weights = source.restored(counts, shift)
        if np.abs(weights).max() > MAX_WEIGHT:
            raise StreamError("overfit: a weight is out of range")
        getattr(out, vector)[layer] = weights
    decoder.finish()
    return out, end
