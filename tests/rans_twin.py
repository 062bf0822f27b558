"""The range coder again, in plain Python, written from its section of FORMAT.md alone.

Slow and obvious on purpose: unlimited integers, one step a line. The C coder must agree with it
byte for byte when writing and symbol for symbol when reading, and must refuse what it refuses.
"""

from collections.abc import Sequence

import numpy as np

from rhodec.bitstream import StreamError

Integers = Sequence[int] | np.ndarray

LOW = 1 << 31
HIGH = 1 << 63
INT32 = range(-(1 << 31), 1 << 31)
LANES_OF_CODE = {0: 1, 1: 2, 2: 4}
CODE_OF_LANES = {1: 0, 2: 1, 4: 2}


class Table:
    """One coding table: frequencies that sum to 65536, and the value of bin 0."""

    def __init__(self, frequencies: Sequence[int], offset: int) -> None:
        self.frequencies = [int(frequency) for frequency in frequencies]
        self.starts = [sum(self.frequencies[:j]) for j in range(len(self.frequencies))]
        self.offset = int(offset)
        self.escape = len(self.frequencies) - 1


class Writer:
    """The lanes of an encoder; what is pushed last is read first."""

    def __init__(self, lanes: int) -> None:
        self.states = [LOW] * lanes
        self.words: list[int] = []

    def make_room(self, lane: int, limit: int) -> None:
        if self.states[lane] >= limit:
            self.words.append(self.states[lane] % 2**32)
            self.states[lane] //= 2**32

    def push_bin(self, lane: int, table: Table, j: int) -> None:
        frequency, start = table.frequencies[j], table.starts[j]
        self.make_room(lane, frequency * 2**47)
        x = self.states[lane]
        self.states[lane] = 65536 * (x // frequency) + start + x % frequency

    def push_raw(self, lane: int, value: int, bits: int) -> None:
        self.make_room(lane, 2 ** (63 - bits))
        self.states[lane] = self.states[lane] * 2**bits + value

    def push_distance(self, lane: int, d: int) -> None:
        k = (d + 1).bit_length() - 1
        suffix = d + 1 - 2**k
        if k > 16:
            self.push_raw(lane, suffix // 2**16, k - 16)
        if k > 0:
            self.push_raw(lane, suffix % 2**16, min(k, 16))
        self.push_raw(lane, 1, 1)
        for _ in range(k):
            self.push_raw(lane, 0, 1)

    def stream(self) -> bytes:
        lanes = len(self.states)
        sizes = [max(4, (x.bit_length() + 7) // 8) for x in self.states]
        header = CODE_OF_LANES[lanes]
        header += sum((size - 4) << (2 + 3 * lane) for lane, size in enumerate(sizes))
        stream = header.to_bytes(2 if lanes == 4 else 1, "little")
        for x, size in zip(self.states, sizes, strict=True):
            stream += x.to_bytes(size, "little")
        return stream + b"".join(word.to_bytes(4, "little") for word in reversed(self.words))


def encode(
    symbols: Integers,
    indexes: Integers,
    tables: Sequence[Table],
    offsets: Integers | None,
    lanes: int,
) -> bytes:
    """Code symbols - offsets with the given number of lanes."""
    if not len(symbols):
        return b""
    writer = Writer(lanes)
    for i in reversed(range(len(symbols))):
        lane, table = i % lanes, tables[int(indexes[i])]
        value = int(symbols[i]) - (int(offsets[i]) if offsets is not None else 0)
        j = value - table.offset
        if 0 <= j < table.escape:
            writer.push_bin(lane, table, j)
        else:
            beyond = j - table.escape
            writer.push_distance(lane, 2 * beyond if beyond >= 0 else 2 * (-1 - j) + 1)
            writer.push_bin(lane, table, table.escape)
    return writer.stream()


class Decoder:
    """Reads a stream from front to back."""

    def __init__(self, data: bytes, tables: Sequence[Table]) -> None:
        self.data = data
        self.tables = tables
        self.at = 0
        self.count = 0
        self.states = [LOW]
        if data:
            self.read_front()

    def take(self, count: int) -> int:
        if self.at + count > len(self.data):
            raise StreamError("the data end early")
        self.at += count
        return int.from_bytes(self.data[self.at - count : self.at], "little")

    def read_front(self) -> None:
        header = self.take(1)
        if header % 4 == 3:
            raise StreamError("bad number of lanes")
        lanes = LANES_OF_CODE[header % 4]
        if lanes == 4:
            header += self.take(1) * 256
        sizes = [(header >> (2 + 3 * k)) % 8 + 4 for k in range(lanes)]
        if header >> (2 + 3 * lanes) or max(sizes) > 8:
            raise StreamError("bad header")
        self.states = [self.take(size) for size in sizes]
        for x, size in zip(self.states, sizes, strict=True):
            if not LOW <= x < HIGH or (size > 4 and x < 256 ** (size - 1)):
                raise StreamError("bad first state")
        if (len(self.data) - self.at) % 4:
            raise StreamError("the words are not whole")

    def refill(self, lane: int) -> None:
        if self.states[lane] < LOW:
            self.states[lane] = self.states[lane] * 2**32 + self.take(4)

    def bin(self, lane: int, table: Table) -> int:
        x = self.states[lane]
        slot = x % 65536
        j = next(j for j in reversed(range(table.escape + 1)) if table.starts[j] <= slot)
        self.states[lane] = table.frequencies[j] * (x // 65536) + slot - table.starts[j]
        self.refill(lane)
        return j

    def raw(self, lane: int, bits: int) -> int:
        value = self.states[lane] % 2**bits
        self.states[lane] //= 2**bits
        self.refill(lane)
        return value

    def symbol(self, index: int, offset: int) -> int:
        lane, table = self.count % len(self.states), self.tables[index]
        self.count += 1
        j = self.bin(lane, table)
        value = table.offset + j
        if j == table.escape:
            k = 0
            while self.raw(lane, 1) == 0:
                k += 1
                if k == 33:
                    raise StreamError("the escape is too long")
            suffix = self.raw(lane, min(k, 16)) if k else 0
            if k > 16:
                suffix += self.raw(lane, k - 16) * 2**16
            d = 2**k + suffix - 1
            value = table.offset - 1 - d // 2 if d % 2 else table.offset + table.escape + d // 2
        if value not in INT32 or value + offset not in INT32:
            raise StreamError("a symbol is not in int32")
        return value + offset

    def decode(self, indexes: Integers, offsets: Integers | None) -> list[int]:
        """Return the next len(indexes) symbols."""
        if offsets is None:
            offsets = [0] * len(indexes)
        return [self.symbol(int(t), int(o)) for t, o in zip(indexes, offsets, strict=True)]

    def finish(self) -> None:
        """Raise StreamError unless everything ended where it should."""
        if self.at != len(self.data) or any(x != LOW for x in self.states):
            raise StreamError("not at the end")
