"""Regenerate the golden files of the range coder and print what changed.

    python tests/golden_rans.py [--check]

Three kinds, each a folder of tests/golden, one JSON file per case, byte strings in hexadecimal:
`encode/rans_*` tables, input and the exact stream; `decode/rans_*` a stream, perhaps not one that
today's encoder writes, and its symbols; `refuse/rans_*` a stream that must raise StreamError, and
why. A changed stream in `encode` is a changed encoder (allowed, to be noted in CHANGELOG); a change
in the other two is a changed format. With --check nothing is written, and the exit code is 1 if
anything differs.
"""

import argparse
import difflib
import json
import random
import sys
from pathlib import Path

import rans_twin

from rhodec.bitstream import StreamError
from rhodec.bitstream.rans import CodingTables, Decoder, encode

GOLDEN = Path(__file__).parent / "golden"
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
LOW = 1 << 31

Case = dict[str, object]


def random_frequencies(rng: random.Random, bins: int) -> list[int]:
    """Frequencies of `bins` bins that sum to 65536, of very different sizes."""
    weights = [rng.random() ** 8 + 1e-9 for _ in range(bins)]
    scale = (65536 - bins) / sum(weights)
    frequencies = [1 + int(weight * scale) for weight in weights]
    frequencies[rng.randrange(bins)] += 65536 - sum(frequencies)
    return frequencies


TABLES = {
    # Two values and an escape; nothing but an escape; both ends of int32; the rarest bins.
    "frequencies": [
        [40000, 25000, 536],
        [65536],
        [1, 65534, 1],
        [30000, 35535, 1],
        [1] * 20 + [65516],
    ],
    "offsets": [0, 5, INT32_MIN, INT32_MAX - 1, -10],
}


def coding_tables(case: Case) -> CodingTables:
    return CodingTables(case["frequencies"], case["offsets"])  # type: ignore[arg-type]


def encode_cases() -> dict[str, Case]:
    """Input and stream, as the C encoder writes it."""
    rng = random.Random(1)
    inputs: dict[str, Case] = {
        "empty": {"symbols": [], "indexes": [], "shifts": None, "lanes": 0},
        "one": {"symbols": [1], "indexes": [0], "shifts": None, "lanes": 0},
        "free": {"symbols": [-10, 9, 10], "indexes": [4, 4, 4], "shifts": None, "lanes": 0},
        "extremes": {
            "symbols": [INT32_MIN, INT32_MAX, 0, -1, INT32_MIN, INT32_MAX, INT32_MIN, INT32_MAX],
            "indexes": [0, 0, 1, 1, 2, 2, 3, 3],
            "shifts": None,
            "lanes": 0,
        },
        "shifted": {
            "symbols": [INT32_MIN, INT32_MAX, 7, 100, -100],
            "indexes": [0, 0, 0, 1, 4],
            "shifts": [INT32_MIN, INT32_MAX - 1, 7, 95, -91],
            "lanes": 0,
        },
    }
    for lanes in (1, 2, 4):
        count = 101
        indexes = [rng.randrange(5) for _ in range(count)]
        symbols = [rng.choice((0, 0, 0, 1, 2, -7, 1 << rng.randrange(31))) for _ in range(count)]
        shifts = [rng.randrange(-3, 4) for _ in range(count)]
        inputs[f"lanes{lanes}"] = {
            "symbols": symbols,
            "indexes": indexes,
            "shifts": shifts,
            "lanes": lanes,
        }
    cases = {}
    for name, case in inputs.items():
        case = {**TABLES, **case}
        stream = encode(
            case["symbols"],
            case["indexes"],
            coding_tables(case),
            case["shifts"],
            lanes=case["lanes"],
        )
        cases[name] = {**case, "stream": stream.hex()}
    return cases


def decode_cases() -> dict[str, Case]:
    """Streams, written by the twin, and their symbols, read by the C decoder."""
    rng = random.Random(2)
    cases = {}
    for lanes in (1, 2, 4):
        for count in (1, 3, 60):
            frequencies = [random_frequencies(rng, bins) for bins in (2, 7, 40)]
            offsets = [rng.randrange(-50, 50) for _ in frequencies]
            tables = [rans_twin.Table(*table) for table in zip(frequencies, offsets, strict=True)]
            indexes = [rng.randrange(3) for _ in range(count)]
            shifts = [rng.randrange(-9, 10) for _ in range(count)]
            symbols = [
                shift
                + tables[t].offset
                + rng.choices(range(tables[t].escape + 1), tables[t].frequencies)[0]
                for t, shift in zip(indexes, shifts, strict=True)
            ]
            stream = rans_twin.encode(symbols, indexes, tables, shifts, lanes)
            decoder = Decoder(stream, CodingTables(frequencies, offsets))
            decoded = decoder.decode(indexes, shifts).tolist()
            decoder.finish()
            cases[f"lanes{lanes}_count{count}"] = {
                "frequencies": frequencies,
                "offsets": offsets,
                "indexes": indexes,
                "shifts": shifts,
                "stream": stream.hex(),
                "symbols": decoded,
            }
    return cases


def refuse_cases() -> dict[str, Case]:
    """Streams that are wrong in one way each, with the message of the C decoder."""
    tables = [
        rans_twin.Table(*table)
        for table in zip(TABLES["frequencies"], TABLES["offsets"], strict=True)
    ]
    indexes = [0] * 40

    def good(symbols: list[int], lanes: int) -> bytes:
        return rans_twin.encode(symbols, [0] * len(symbols), tables, None, lanes)

    def escape(*pushes: tuple[int, int]) -> bytes:
        """The escape bin of table 0, then the raw bits (value, bits), the last of them first."""
        writer = rans_twin.Writer(1)
        for value, bits in pushes:
            writer.push_raw(0, value, bits)
        writer.push_bin(0, tables[0], tables[0].escape)
        return writer.stream()

    def distance(d: int) -> bytes:
        writer = rans_twin.Writer(1)
        writer.push_distance(0, d)
        writer.push_bin(0, tables[0], tables[0].escape)
        return writer.stream()

    stream = good([0, 1] * 20, 1)
    wide = good([0, 1] * 20, 4)
    state = LOW.to_bytes(4, "little")
    zeros = [(0, 1)] * 32
    shifts = {"shift_beyond_int32": INT32_MAX, "shift_back_into_int32": -1}
    streams: dict[str, tuple[bytes, int, int]] = {  # stream, table, number of symbols
        "shift_beyond_int32": (good([1], 1), 0, 1),
        "shift_back_into_int32": (distance(2 * (2**31 - 2)), 0, 1),
        "too_short": (stream[:-4], 0, 40),
        "no_data": (b"", 0, 1),
        "word_left": (stream + bytes(4), 0, 40),
        "symbols_left": (stream, 0, 39),
        "symbols_missing": (stream, 0, 41),
        "odd_length": (stream + b"\0", 0, 40),
        "lanes_reserved": (b"\x03" + stream[1:], 0, 40),
        "header_bits": (bytes([stream[0] | 0x20]) + stream[1:], 0, 40),
        "header_bits_wide": (wide[:1] + bytes([wide[1] | 0x40]) + wide[2:], 0, 40),
        "header_cut": (wide[:1], 0, 40),
        "state_cut": (wide[:9], 0, 40),
        "state_size": (bytes([5 << 2]) + bytes(8) + b"\1", 0, 40),
        "state_low": (b"\0" + (LOW - 1).to_bytes(4, "little"), 0, 0),
        "state_high": (bytes([4 << 2]) + (1 << 63).to_bytes(8, "little"), 0, 0),
        "state_not_shortest": (bytes([1 << 2]) + state + b"\0", 0, 0),
        "state_wrong_at_end": (b"\0" + (LOW + 1).to_bytes(4, "little"), 0, 0),
        "escape_of_33_zeros": (escape((1, 1), *zeros, (0, 1)), 0, 1),
        "escape_cut": (escape((0, 16), (0, 16), (1, 1), *zeros)[:-4], 0, 1),
        "escape_far_beyond": (escape((2**16 - 1, 16), (2**16 - 1, 16), (1, 1), *zeros), 0, 1),
        "escape_just_beyond": (distance(2 * (2**31 - 2)), 0, 1),
        "escape_just_below": (distance(2 * (2**31) + 1), 0, 1),
        "free_symbols_left": (stream, 1, 3),
    }
    cases = {}
    for name, (data, table, count) in streams.items():
        indexes = [table] * count
        offsets = [shifts.get(name, 0)] * count
        reason = refusal(Decoder, data, coding_tables(TABLES), indexes, offsets)
        if not refusal(rans_twin.Decoder, data, tables, indexes, offsets) or not reason:
            raise SystemExit(f"refuse/{name} is not refused")
        cases[name] = {
            **TABLES,
            "indexes": indexes,
            "shifts": offsets,
            "stream": data.hex(),
            "reason": reason,
        }
    return cases


def refusal(
    decoder_class: type, data: bytes, tables: object, indexes: list[int], offsets: list[int]
) -> str:
    """The message of the StreamError, or nothing if the stream is read without one."""
    try:
        decoder = decoder_class(data, tables)
        decoder.decode(indexes, offsets)
        decoder.finish()
    except StreamError as error:
        return str(error)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Regenerate the golden files of the range coder and print what changed."
    )
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    check = parser.parse_args().check
    wanted = {
        GOLDEN / kind / f"rans_{name}.json": json.dumps(case, separators=(",", ":")) + "\n"
        for kind, cases in (
            ("encode", encode_cases()),
            ("decode", decode_cases()),
            ("refuse", refuse_cases()),
        )
        for name, case in cases.items()
    }
    changed = 0
    for path in sorted(wanted.keys() | set(GOLDEN.glob("*/rans_*.json"))):
        old = path.read_text() if path.exists() else ""
        new = wanted.get(path, "")
        if old == new:
            continue
        changed += 1
        name = str(path.relative_to(GOLDEN))
        sys.stdout.writelines(
            difflib.unified_diff(old.splitlines(True), new.splitlines(True), name, name)
        )
        if check:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(new) if new else path.unlink()
    print(f"{len(wanted)} golden files, {changed} changed")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
