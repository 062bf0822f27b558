"""Coding tables of zero-mean Gaussians, made by integer arithmetic and pinned by their SHA-256.

Level i of 128 is a Gaussian with standard deviation

    sigma_i = 0.11 * (64 / 0.11)^(i / 127)

in quantisation steps. Its table has the integers -R .. R and the escape bin, where R is the least
that leaves P(|k| > R) <= 2^-14, and the frequencies (out of 65536)

    f(k) = max(1, round(65536 * P(k))),   P(k) = Phi((k + 1/2) / sigma) - Phi((k - 1/2) / sigma),

for k != 0, the same with P(|k| > R) for the escape, and for k = 0 what is then left. All of it runs
on Python integers as fixed-point numbers (no float, no libm), so every machine makes the same
tables; they are made once all the same and stored, and loading only checks them. The numbers do not
hang on the rounding inside: more fraction bits give the same file (tested).

`python -m rhodec.entropy.gaussian_tables` makes the file again. Spacing, range and cut-off follow
the measurements in FORMAT.md, section 3; the idea of a fixed grid of scales is that of Balle et
al., "Variational image compression with a scale hyperprior" (ICLR 2018).
"""

import hashlib
import math
import struct
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SCALE_LEVELS = 128
SCALE_MIN = 0.11
SCALE_MAX = 64.0

FREQUENCY_SUM = 1 << 16
TAIL_BITS = 14
FRACTION_BITS = 128

TABLE_FILE = Path(__file__).with_name("gaussian_tables.bin")
TABLE_SHA256 = "50192ca66f59834f499a1c18cd49a46380c00f7e1a93cc085264ca19ccd5c6b7"


def load_tables() -> tuple[list[NDArray[np.uint32]], list[int]]:
    """Frequencies of every level, and the value of bin 0 of each, as `CodingTables` takes them.

    Table i has 2R + 2 bins: the values -R .. R, then the escape bin. Raises `ValueError` when the
    packaged file is not the one this version was made with.
    """
    data = TABLE_FILE.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != TABLE_SHA256:
        raise ValueError(
            f"{TABLE_FILE.name} has SHA-256 {sha256}, but this version of rhodec codes with "
            f"{TABLE_SHA256}: the installation is damaged"
        )
    tables: list[NDArray[np.uint32]] = []
    at = 0
    while at < len(data):
        (bins,) = struct.unpack_from("<H", data, at)
        tables.append(np.frombuffer(data, "<u2", bins, at + 2).astype(np.uint32))
        at += 2 + 2 * bins
    return tables, [1 - len(table) // 2 for table in tables]


def generate_tables(fraction_bits: int = FRACTION_BITS) -> list[list[int]]:
    """Frequencies of every level, computed with integers of so many fraction bits."""
    return [_frequencies(scale, fraction_bits) for scale in _scales(fraction_bits)]


def serialise(tables: list[list[int]]) -> bytes:
    """The table file: for every level the number of bins, then the bins, as little-endian u16."""
    return b"".join(struct.pack(f"<{len(table) + 1}H", len(table), *table) for table in tables)


# ---- fixed-point arithmetic: the integer x stands for x / 2^bits ---------------------------------


def _frequencies(scale: int, bits: int) -> list[int]:
    """Frequencies of -R .. R and the escape for one standard deviation in fixed point."""
    one = 1 << bits
    beyond: list[int] = []  # beyond[k] = P(|symbol| > k) = 2 Q((k + 1/2) / sigma)
    while not beyond or beyond[-1] > one >> TAIL_BITS:
        beyond.append(2 * _upper_tail(((2 * len(beyond) + 1) << 2 * bits) // (2 * scale), bits))

    def frequency(probability: int) -> int:
        return max(1, (probability * FREQUENCY_SUM + one // 2) >> bits)

    side = [frequency((a - b) // 2) for a, b in pairwise(beyond)]
    escape = frequency(beyond[-1])
    centre = FREQUENCY_SUM - 2 * sum(side) - escape
    return [*reversed(side), centre, *side, escape]


def _scales(bits: int) -> list[int]:
    """sigma_i for every level, the geometric sequence from 11/100 to 64."""
    target = (6400 << bits) // 11  # 64 / 0.11
    low, high = 1 << bits, 2 << bits  # the 127th root lies between 1 and 2
    while high - low > 1:
        middle = (low + high) // 2
        if _power(middle, SCALE_LEVELS - 1, bits) <= target:
            low = middle
        else:
            high = middle
    return [11 * _power(low, level, bits) // 100 for level in range(SCALE_LEVELS)]


def _power(x: int, exponent: int, bits: int) -> int:
    result = 1 << bits
    while exponent:
        if exponent & 1:
            result = result * x >> bits
        x = x * x >> bits
        exponent >>= 1
    return result


def _upper_tail(x: int, bits: int) -> int:
    """Q(x) = 1 - Phi(x) = 1/2 - phi(x) (x + x^3/3 + x^5/(3*5) + ...) for x >= 0.

    No term is negative, so nothing cancels but the last difference: the absolute error is a few
    units of the last place. (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.11.)
    """
    square = x * x >> bits
    term = total = x
    n = 1
    while term:
        n += 2
        term = (term * square >> bits) // n
        total += term
    root_two_pi = math.isqrt(2 * _pi(bits) << bits)
    return (1 << bits - 1) - (total << 2 * bits) // (_exp(square // 2, bits) * root_two_pi)


def _exp(x: int, bits: int) -> int:
    """e^x for x >= 0: Taylor's series of x / 2^h < 1/2, squared h times."""
    halvings = max(0, x.bit_length() - (bits - 1))
    guard = 2 * halvings + 8  # every squaring doubles the relative error
    bits += guard
    x = x << guard >> halvings
    term = total = 1 << bits
    n = 0
    while term:
        n += 1
        term = (term * x >> bits) // n
        total += term
    for _ in range(halvings):
        total = total * total >> bits
    return total >> guard


def _pi(bits: int) -> int:
    """Machin's formula: pi = 16 arctan(1/5) - 4 arctan(1/239)."""

    def arctan_of_inverse(q: int) -> int:
        power = total = (1 << bits) // q
        n = 1
        while power:
            power //= -q * q
            n += 2
            total += power // n
        return total

    return 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


def main() -> int:
    data = serialise(generate_tables())
    sha256 = hashlib.sha256(data).hexdigest()
    TABLE_FILE.write_bytes(data)
    print(f"{TABLE_FILE.name}: {len(data)} bytes, SHA-256 {sha256}")
    if sha256 != TABLE_SHA256:
        print(f"this is not the pinned SHA-256 {TABLE_SHA256}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
