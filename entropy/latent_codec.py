"""Integer coding of latents: what the files hold. Bytes <-> y_hat, without floating point.

`HyperLatentCodec` runs the chain of `rhodec.entropy.hyper_latent` with exported integer networks;
`FactorizedLatentCodec` codes every channel with its own table. Only integers choose a table, so a
file decodes to the same latents everywhere. Latents are fixed-point numbers in 1/64 of a
quantisation step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from rhodec.bitstream._crc32c import crc32c
from rhodec.bitstream.rans import CodingTables, Decoder, encode
from rhodec.bitstream.stream_error import StreamError
from rhodec.entropy import _latent_steps
from rhodec.entropy.coding_schedule import SCHEDULES
from rhodec.entropy.context_bands import ContextBands, Member
from rhodec.entropy.gaussian_tables import SCALE_LEVELS, SCALE_MAX, SCALE_MIN, load_tables
from rhodec.entropy.integer_network import Backend, IntegerNetwork, PartialSums
from rhodec.entropy.latent_format import (
    CONTEXT_FRACTION_BITS,
    CONTEXT_LIMIT,
    HYPER_LIMIT,
    HYPER_STRIDE,
    QUALITY_CLASSES,
    QUALITY_STEPS,
    quality_class,
)

FRACTION_BITS = 6  # latents and means are in 1/64 of a quantisation step
SYMBOL_LIMIT = 1 << 20  # |k| of a latent; 64 k + mean then fits in 32 bits with room
SKIP_LEVEL = 0  # elements of the finest scale (0.11 steps) are not coded: they are their mean

# Squared error, in steps, that the encoder gives for a bit. High-rate theory says 2 ln2 / 12 =
# 0.116 for a codec tuned to it; a model trained with plain rounding wants less. On held-out
# training pictures 0.012 gained 1.6 % of rate, 0.03 gained 0.7 %, 0.06 lost 2.5 %.
RATE_WEIGHT = 0.012
_SCALES = SCALE_MIN * (SCALE_MAX / SCALE_MIN) ** (np.arange(SCALE_LEVELS) / (SCALE_LEVELS - 1))
_BITS_OF_ONE = 1 / (2 * np.log(2) * _SCALES**2)  # bits that 1 costs more than 0, by table level

Int32 = npt.NDArray[np.int32]
Int16 = npt.NDArray[np.int16]


@dataclass(frozen=True)
class CodedLatents:
    """Symbols in stream order, their tables, and the latents that a decoder gets."""

    symbols: Int32
    indexes: npt.NDArray[np.uint16]
    y_hat64: Int32  # (H, W, C), in 1/64 of a step

    @property
    def digest(self) -> int:
        return latent_digest(self.y_hat64)


def latent_digest(y_hat64: Int32) -> int:
    """CRC32C of the latents as little-endian int32 in (H, W, C) order."""
    return crc32c(np.ascontiguousarray(y_hat64, "<i4").data)


class FactorizedLatentCodec:
    """Latents without a hyperprior: y_hat = k; quality class g codes channel c with g * C + c."""

    def __init__(self, tables: CodingTables) -> None:
        if len(tables) % QUALITY_CLASSES:
            raise ValueError("the number of tables is no multiple of the number of quality classes")
        self.tables = tables
        self.channels = len(tables) // QUALITY_CLASSES

    def quantise(self, y: npt.NDArray[np.float32], z: Int32, quality_step: int) -> CodedLatents:
        """Float latents y (H, W, C) in steps -> symbols. There is no `z`."""
        k = _rounded(y)
        indexes = self._indexes(len(y) * y.shape[1], quality_step)
        return CodedLatents(k.ravel(), indexes, k << FRACTION_BITS)

    def payload(self, coded: CodedLatents) -> bytes:
        return encode(coded.symbols, coded.indexes, self.tables)

    def decode(self, payload: bytes, height: int, width: int, quality_step: int) -> Int32:
        """y_hat (H, W, C) in 1/64 of a step; StreamError for a damaged stream."""
        decoder = Decoder(payload, self.tables)
        k = _checked(decoder.decode(self._indexes(height * width, quality_step)))
        decoder.finish()
        return k.reshape(height, width, self.channels) << FRACTION_BITS

    def _indexes(self, positions: int, quality_step: int) -> npt.NDArray[np.uint16]:
        first = quality_class(quality_step) * self.channels
        return np.tile(np.arange(first, first + self.channels, dtype=np.uint16), positions)


class HyperLatentCodec:
    """Hyperprior, mean and scale, parallel context: the chain of `HyperLatent` in integers.

    Tables: SCALE_LEVELS Gaussians, then one for each channel of z. Stream: z in (h, w, C) order,
    then the steps of the schedule; in a step its (group, position) members in order, each in
    (rows, columns, channels) order without the elements at or below SKIP_LEVEL. `quality_plane`
    is the hyper-decoder's input for each quality step of a file.
    """

    def __init__(
        self,
        schedule: str,
        means: bool,
        networks: Mapping[str, IntegerNetwork],
        context_shift: npt.NDArray[np.int64],
        quality_plane: npt.NDArray[np.int64],
        hyper_tables: CodingTables,
    ) -> None:
        self.schedule = SCHEDULES[schedule]
        self.means = means
        self.hyper_synthesis = networks["hyper_synthesis"]
        self.context = networks.get("context")
        self.heads = [networks[f"heads.{i}"] for i in range(self.schedule.steps)]
        self.context_shift = context_shift.astype(np.int32)
        self.quality_plane = quality_plane.astype(np.int16)
        self.channels = len(context_shift)
        self.group_size = self.channels // self.schedule.groups
        self.hyper_channels = len(hyper_tables)
        frequencies, offsets = load_tables()
        self.tables = CodingTables(
            [*frequencies, *hyper_tables.frequencies], [*offsets, *hyper_tables.offsets.tolist()]
        )
        if self.hyper_synthesis.inputs != self.hyper_channels + 1:
            raise ValueError("the hyper-decoder does not fit the number of hyper-latent channels")
        if any(head.channels != 2 * self.channels for head in self.heads):
            raise ValueError("a head does not give a mean and a scale for every latent channel")
        if len(self.quality_plane) != QUALITY_STEPS + 1:
            raise ValueError("the quality plane does not have a value for every quality")
        self._context_sums: PartialSums | None = None
        self._context_rest: IntegerNetwork | None = None
        if self.context is not None:
            first, m = self.hyper_synthesis.channels, self.group_size
            starts = [0, *range(first, self.context.inputs + 1, m)]
            first_layer = self.context[0]
            if first_layer.kernel == 1 and not first_layer.shuffle and not first_layer.depthwise:
                parts = [slice(a, b) for a, b in pairwise(starts)]
                self._context_sums = PartialSums(first_layer, parts)
                self._context_rest = self.context[1:]
        if not ((self.context_shift >= 0) & (self.context_shift <= 16)).all():
            raise ValueError("a context shift is not in 0..16")

    def quantise(
        self,
        y: npt.NDArray[np.float32],
        z: Int32,
        quality_step: int,
        backend: Backend = "c",
        rate_weight: float = RATE_WEIGHT,
    ) -> CodedLatents:
        """Float latents y (H, W, C) in steps and integers z (h, w, Z) -> symbols.

        `rate_weight` is the squared error, in steps, that a saved bit may cost; 0: plain rounding.
        """
        # Going from |k| to |k| - 1 adds 2 (|k| - |r|) - 1 to the squared error and saves about
        # (2 |k| - 1) / (2 ln2 sigma^2) bits of the Gaussian's code length; with `price`, what the
        # bits of |k| = 1 are worth, that gains where |r| < (|k| - 1/2) (1 + price).
        price = np.float32(1) + (rate_weight * _BITS_OF_ONE).astype(np.float32)
        height, width, _ = y.shape
        size = height, width, self.channels
        y = np.ascontiguousarray(_bounded(y), np.float32)
        z = np.clip(z, -HYPER_LIMIT, HYPER_LIMIT)
        symbols, indexes = [z.ravel()], [self._hyper_indexes(height, width)]

        def choose(outputs: list[Int16], members: list[Member]) -> Int32:
            k, levels, at = *_room(outputs), 0
            for out, member in zip(outputs, members, strict=True):
                layout = self._layout(size, member)
                at += _latent_steps.choose(*layout, out, y, price, k[at:], levels[at:])
            symbols.append(k[:at])
            indexes.append(levels[:at])
            return symbols[-1]

        y_hat64 = self._walk(z, quality_step, height, width, choose, backend)
        return CodedLatents(_joined(symbols), _joined(indexes), y_hat64)

    def payload(self, coded: CodedLatents) -> bytes:
        return encode(coded.symbols, coded.indexes, self.tables)

    def decode(
        self, payload: bytes, height: int, width: int, quality_step: int, backend: Backend = "c"
    ) -> Int32:
        """y_hat (H, W, C) in 1/64 of a step; StreamError for a damaged stream."""
        decoder = Decoder(payload, self.tables)
        z = decoder.decode(self._hyper_indexes(height, width))
        if (np.abs(z.astype(np.int64)) > HYPER_LIMIT).any():
            raise StreamError("a hyper-latent is out of range: the stream is damaged")

        size = height, width, self.channels

        def choose(outputs: list[Int16], members: list[Member]) -> Int32:
            (_, levels), at = _room(outputs), 0
            for out, member in zip(outputs, members, strict=True):
                at += _latent_steps.coded_levels(*self._layout(size, member), out, levels[at:])
            return _checked(decoder.decode(levels[:at]))

        shape = (*_hyper_size(height, width), self.hyper_channels)
        y_hat64 = self._walk(z.reshape(shape), quality_step, height, width, choose, backend)
        decoder.finish()
        return y_hat64

    def _walk(
        self,
        z: Int32,
        quality_step: int,
        height: int,
        width: int,
        choose: Callable[[list[Int16], list[Member]], Int32],
        backend: Backend,
    ) -> Int32:
        """The one chain of encoder and decoder; `choose` gives each step's coded symbols."""
        plane = np.full((*z.shape[:2], 1), self.quality_plane[quality_step], np.int16)
        features = self.hyper_synthesis([z.astype(np.int16), plane], backend)[:height, :width]
        features = np.ascontiguousarray(features)
        y_hat64 = np.zeros((height, width, self.channels), np.int32)
        first, rest = self._context_sums, self._context_rest
        bands = ContextBands(features, self.context, first, rest, self.channels, backend)
        m, news = self.group_size, None
        for step, head in enumerate(self.heads):
            members = self.schedule.members(step)
            outputs = bands.outputs(head, members, 2 * m, news)
            symbols, at, news = choose(outputs, members), 0, []
            for out, member in zip(outputs, members, strict=True):
                known = np.empty((*out.shape[:2], m), np.int16)
                at += _latent_steps.place(
                    *self._layout(y_hat64.shape, member),
                    out,
                    symbols[at:],
                    self.context_shift[member[0] * m : (member[0] + 1) * m],
                    CONTEXT_LIMIT << CONTEXT_FRACTION_BITS,
                    y_hat64,
                    known,
                )
                news.append((member, known))
        return y_hat64

    def _layout(
        self, size: tuple[int, ...], member: Member
    ) -> tuple[tuple[int, int, int], tuple[int, int, int, int], int, bool]:
        """How `_latent_steps` finds a member of a step in (H, W, C)."""
        group, position = member
        height, width, channels = size
        place = (*divmod(position, 2), group * self.group_size, self.group_size)
        return (height, width, channels), place, SKIP_LEVEL, self.means

    def _hyper_indexes(self, height: int, width: int) -> npt.NDArray[np.uint16]:
        tables = np.arange(SCALE_LEVELS, SCALE_LEVELS + self.hyper_channels, dtype=np.uint16)
        h, w = _hyper_size(height, width)
        return np.tile(tables, h * w)


LatentCodec = FactorizedLatentCodec | HyperLatentCodec


def _hyper_size(height: int, width: int) -> tuple[int, int]:
    return -(-height // HYPER_STRIDE), -(-width // HYPER_STRIDE)


def _room(outputs: list[Int16]) -> tuple[Int32, npt.NDArray[np.uint16]]:
    """Room for the symbols of a step and for their table levels."""
    count = sum(out.size for out in outputs) // 2
    return np.empty(count, np.int32), np.empty(count, np.uint16)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The parts in one array; each is let go as soon as it is copied, to bound the memory."""
    out, at = np.empty(sum(map(len, parts)), parts[0].dtype), 0
    while parts:
        part = parts.pop(0)
        out[at : at + len(part)] = part
        at += len(part)
    return out


def _rounded(y: npt.NDArray[np.floating]) -> Int32:
    """Nearest integers within the symbols' range; not-a-number becomes 0."""
    k = np.nan_to_num(np.rint(y), nan=0.0, posinf=SYMBOL_LIMIT, neginf=-SYMBOL_LIMIT)
    return np.clip(k, -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32)


def _bounded(y: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """y without not-a-numbers (0 instead), so that every symbol is within SYMBOL_LIMIT."""
    limit = SYMBOL_LIMIT // 2
    if max(y.max(), -y.min()) <= limit:
        return y
    return np.clip(np.nan_to_num(y, nan=0.0), -limit, limit)


def _checked(symbols: Int32) -> Int32:
    if symbols.size and max(int(symbols.max()), -int(symbols.min())) > SYMBOL_LIMIT:
        raise StreamError("a latent is out of range: the stream is damaged")
    return symbols
