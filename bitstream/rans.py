"""The range coder: int32 symbols to bytes and back, with a coding table chosen per symbol.

Interleaved rANS (Duda 2013, arXiv:1311.2540; Giesen 2014, arXiv:1402.3392) in C, `_rans.c`. Every
int32 symbol can be coded with every table: what lies outside a table costs its escape bin and an
exp-Golomb code. Nothing here is floating point except the functions that report lengths in bits.
"""

import hashlib
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rhodec.bitstream import _rans

FREQUENCY_SUM = 1 << 16


class CodingTables:
    """Frozen integer coding tables, checked and prepared once.

    Table t has `len(frequencies[t])` bins, 1 to 65536 of them, each with a frequency of at least 1,
    summing to 65536. Bin j codes the value `offsets[t] + j`, except the last bin: it is the escape,
    which codes every other value. Two objects with the same content are equal and hash the same.

    Args:
        frequencies: 1 to 4096 one-dimensional integer arrays.
        offsets: value of bin 0 of each table; all values of the bins must be in int32.
    Raises:
        ValueError: if anything of this does not hold.
    """

    __slots__ = ("_bin_counts", "_frequencies", "_offsets", "_prepared", "_sha256")

    _frequencies: NDArray[np.uint32]  # all tables, one after the other
    _bin_counts: NDArray[np.uint32]
    _offsets: NDArray[np.int32]
    _prepared: _rans.Tables
    _sha256: bytes

    def __init__(
        self, frequencies: Sequence[ArrayLike], offsets: Sequence[int] | ArrayLike
    ) -> None:
        tables = [_integers(table, np.uint32, "frequencies") for table in frequencies]
        starts = _integers(offsets, np.int32, "offsets")
        if len(tables) != len(starts):
            raise ValueError(f"{len(tables)} tables but {len(starts)} offsets")
        bin_counts = np.array([len(table) for table in tables], dtype=np.uint32)
        everything = np.concatenate(tables) if tables else np.zeros(0, np.uint32)
        self._freeze(everything, bin_counts, starts)

    def _freeze(
        self,
        frequencies: NDArray[np.uint32],
        bin_counts: NDArray[np.uint32],
        offsets: NDArray[np.int32],
    ) -> None:
        content = hashlib.sha256(b"rhodec coding tables 1\0")
        for name, array in (
            ("_bin_counts", bin_counts),
            ("_offsets", offsets),
            ("_frequencies", frequencies),
        ):
            array = array.copy()
            array.flags.writeable = False
            object.__setattr__(self, name, array)
            content.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
        prepared = _rans.Tables(self._frequencies, self._bin_counts, self._offsets)
        object.__setattr__(self, "_prepared", prepared)
        object.__setattr__(self, "_sha256", content.digest())

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("coding tables are frozen")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("coding tables are frozen")

    def __len__(self) -> int:
        return len(self._bin_counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CodingTables) and self._sha256 == other._sha256

    def __hash__(self) -> int:
        return hash(self._sha256)

    def __repr__(self) -> str:
        bins = len(self._frequencies)
        return f"<CodingTables: {len(self)} tables, {bins} bins, {self._sha256.hex()[:16]}>"

    def __reduce__(self) -> tuple[object, ...]:
        return CodingTables.from_arrays, (self.to_arrays(),)

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the content (32 bytes), the same on every machine."""
        return self._sha256

    @property
    def frequencies(self) -> list[NDArray[np.uint32]]:
        """The frequencies of each table (read-only views)."""
        return np.split(self._frequencies, np.cumsum(self._bin_counts[:-1], dtype=np.int64))

    @property
    def offsets(self) -> NDArray[np.int32]:
        """The value of bin 0 of each table (read-only)."""
        return self._offsets

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return `frequencies` (uint16, 65536 as 0), `bin_counts` (uint32), `offsets` (int32)."""
        return {
            "frequencies": (self._frequencies & (FREQUENCY_SUM - 1)).astype(np.uint16),
            "bin_counts": self._bin_counts.copy(),
            "offsets": self._offsets.copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.generic]]) -> "CodingTables":
        """Make the tables that `to_arrays` was called on; raise ValueError for anything else."""
        try:
            stored, bin_counts, offsets = (
                _integers(arrays[name], dtype, name)
                for name, dtype in (
                    ("frequencies", np.uint16),
                    ("bin_counts", np.uint32),
                    ("offsets", np.int32),
                )
            )
        except KeyError as error:
            raise ValueError(f"coding tables without {error}") from None
        # Only a table of a single bin can hold 65536, so a 0 anywhere else fails the sum.
        frequencies = stored.astype(np.uint32)
        frequencies[stored == 0] = FREQUENCY_SUM
        tables = cls.__new__(cls)
        tables._freeze(frequencies, bin_counts, offsets)
        return tables

    def costs(self) -> list[NDArray[np.float64]]:
        """Bits per bin of each table, -log2(frequency / 65536); the escape's own bits excluded."""
        return [-np.log2(table / FREQUENCY_SUM) for table in self.frequencies]

    def escape_bits(self, values: ArrayLike, indexes: ArrayLike) -> NDArray[np.float64]:
        """Bits that follow the escape bin; 0 where the table has a bin for the value.

        Exp-Golomb of order 0: a value at distance d beyond the last bin (or before the first) costs
        2 floor(log2(m)) + 1 bits with m = 2 d + 1 (or 2 d + 2), d from 0.

        Args:
            values: (n,) integers, already less their offsets.
            indexes: (n,) table numbers.
        """
        value = _integers(values, np.int32, "values").astype(np.int64)
        index = self._checked_indexes(indexes, len(value))
        first = self._offsets[index].astype(np.int64)
        above = value - first - (self._bin_counts[index].astype(np.int64) - 1)
        number = np.where(above >= 0, 2 * above + 1, 2 * (first - 1 - value) + 2)
        # frexp is exact here (below 2^53), log2 would not be near powers of two.
        bits = 2.0 * (np.frexp(np.maximum(number, 1).astype(np.float64))[1] - 1) + 1
        return np.where((above >= 0) | (value < first), bits, 0.0)

    def ideal_bits(
        self, symbols: ArrayLike, indexes: ArrayLike, offsets: ArrayLike | None = None
    ) -> float:
        """Ideal code length in bits of what `encode` would code: the sum of `symbol_bits`."""
        return float(self.symbol_bits(symbols, indexes, offsets).sum())

    def symbol_bits(
        self, symbols: ArrayLike, indexes: ArrayLike, offsets: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Ideal code length of every symbol in bits: -log2 of its probability, and escaped bits.

        Args and errors as for `encode`.
        """
        value = _integers(symbols, np.int32, "symbols").astype(np.int64)
        if offsets is not None:
            value = value - _same_length(_integers(offsets, np.int32, "offsets"), len(value))
            if len(value) and (value.min() < -(1 << 31) or value.max() >= 1 << 31):
                raise ValueError("a symbol less its offset does not fit in 32 bits")
        index = self._checked_indexes(indexes, len(value))
        escape = self._bin_counts[index].astype(np.int64) - 1
        bins = value - self._offsets[index]
        bins = np.where((bins < 0) | (bins > escape), escape, bins)
        firsts = np.cumsum(self._bin_counts, dtype=np.int64) - self._bin_counts
        frequencies = self._frequencies[firsts[index] + bins]
        return self.escape_bits(value, index) - np.log2(frequencies / FREQUENCY_SUM)

    def _checked_indexes(self, indexes: ArrayLike, count: int) -> NDArray[np.uint16]:
        index = _same_length(_integers(indexes, np.uint16, "indexes"), count)
        if count and index.max() >= len(self):
            raise ValueError("a table index is not below the number of tables")
        return index


def encode(
    symbols: ArrayLike,
    indexes: ArrayLike,
    tables: CodingTables,
    offsets: ArrayLike | None = None,
    *,
    lanes: int = 0,
) -> bytes:
    """Code `symbols - offsets` with the tables `indexes` and return the stream.

    The stream is at most 8 bytes + 0.02 % longer than `tables.ideal_bits(...) / 8`. It does not
    hold its own length or the number of symbols. No symbols give no bytes.

    Args:
        symbols: (n,) integers in int32.
        indexes: (n,) table numbers, below len(tables).
        offsets: (n,) integers in int32, 0 if None. The differences must be in int32 too.
        lanes: 1, 2 or 4 interleaved states; 0 chooses by the size. Any decoder reads all.
    Raises:
        TypeError: if an array is not of integers.
        ValueError: if a value, an index or a length is wrong.
    """
    return _rans.encode(
        _integers(symbols, np.int32, "symbols"),
        _integers(indexes, np.uint16, "indexes"),
        tables._prepared,
        None if offsets is None else _integers(offsets, np.int32, "offsets"),
        lanes,
    )


class Decoder:
    """Decodes one stream from front to back, in as many calls as the caller needs.

    Args:
        data: the bytes from `encode`; they are copied.
        tables: the tables of the encoder.
    Raises:
        StreamError: if the stream cannot be one of ours.
    """

    __slots__ = ("_decoder",)

    def __init__(self, data: bytes | bytearray | memoryview, tables: CodingTables) -> None:
        self._decoder = _rans.Decoder(data, tables._prepared)

    def decode(self, indexes: ArrayLike, offsets: ArrayLike | None = None) -> NDArray[np.int32]:
        """Return the next len(indexes) symbols, (n,).

        Args:
            indexes: (n,) table numbers, as given to `encode`.
            offsets: (n,) integers in int32, as given to `encode`; 0 if None.
        Raises:
            StreamError: if the stream is damaged or too short; every later call raises it again.
            ValueError: if an index is not below len(tables) or a length is wrong.
        """
        index = _integers(indexes, np.uint16, "indexes")
        offset = None if offsets is None else _integers(offsets, np.int32, "offsets")
        symbols = np.empty(len(index), np.int32)
        self._decoder.decode(index, offset, symbols)
        return symbols

    def finish(self) -> None:
        """Raise StreamError unless the last decoded symbol was exactly the last of the stream.

        Then the stream, if of any symbols, is byte for byte what `encode` makes of them with as
        many lanes.
        Damage is mostly noticed, but not always: a changed bit may be another symbol in a stream
        that is right otherwise. That is what the check sum of the container is for.
        """
        self._decoder.finish()


def _integers(values: ArrayLike, dtype: type[np.integer], name: str) -> NDArray:
    """Return a contiguous vector of `dtype` with the same values, without a copy where possible."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not {array.ndim}")
    if array.dtype != dtype:
        if array.size == 0:
            return np.zeros(0, dtype)
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must be integers, not {array.dtype}")
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise ValueError(f"{name} must be in {limits.min}..{limits.max}")
    return np.ascontiguousarray(array, dtype)


def _same_length(array: NDArray, count: int) -> NDArray:
    if len(array) != count:
        raise ValueError("symbols, indexes and offsets must have the same length")
    return array
