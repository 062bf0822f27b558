"""The range coder: its twin, its golden files, its promises on size, and damaged streams."""

import contextlib
import copy
import hashlib
import json
import math
import pickle
import random
import shutil
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rhodec.bitstream import StreamError
from rhodec.bitstream.rans import CodingTables, Decoder, encode

sys.path.insert(0, str(Path(__file__).parent))

import golden_rans
import rans_twin
import sanitize_rans

GOLDEN = Path(__file__).parent / "golden"
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def random_tables(rng: random.Random, count: int, most_bins: int = 60) -> CodingTables:
    frequencies = [
        golden_rans.random_frequencies(rng, rng.randint(1, most_bins)) for _ in range(count)
    ]
    return CodingTables(frequencies, [rng.randint(-80, 80) for _ in range(count)])


def twins(tables: CodingTables) -> list[rans_twin.Table]:
    pairs = zip(tables.frequencies, tables.offsets, strict=True)
    return [rans_twin.Table(frequencies.tolist(), int(offset)) for frequencies, offset in pairs]


def random_input(
    rng: random.Random, tables: CodingTables, count: int, escapes: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Symbols, indexes, offsets: drawn from the tables, some of them anywhere in int32."""
    plain = twins(tables)
    symbols, indexes, offsets = [], [], []
    for _ in range(count):
        index = rng.randrange(len(plain))
        table = plain[index]
        offset = rng.randint(-1000, 1000)
        value = table.offset + rng.choices(range(table.escape + 1), table.frequencies)[0]
        if rng.random() < escapes:
            value = rng.choice((-1, 1)) * (1 << rng.randrange(31)) + rng.randint(-3, 3)
        symbols.append(min(max(value + offset, INT32_MIN), INT32_MAX))
        indexes.append(index)
        offsets.append(offset)
    return (
        np.array(symbols, np.int32),
        np.array(indexes, np.uint16),
        np.array(offsets, np.int32),
    )


def decode_all(data: bytes, tables: CodingTables, indexes, offsets=None) -> np.ndarray:
    decoder = Decoder(data, tables)
    symbols = decoder.decode(indexes, offsets)
    decoder.finish()
    return symbols


def two_sided(scale: float, radius: int) -> list[int]:
    """Frequencies of a Laplacian-like table of 2 radius + 1 values and an escape."""
    weights = [math.exp(-abs(j) / scale) for j in range(-radius, radius + 1)] + [1e-5]
    frequencies = [1 + int(w / sum(weights) * (65536 - len(weights))) for w in weights]
    frequencies[radius] += 65536 - sum(frequencies)
    return frequencies


# ---- Agreement with the twin and the golden files --------------------------------------------


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("seed", range(8))
def test_the_c_coder_and_its_twin_write_the_same_bytes_and_read_each_other(seed: int, lanes: int):
    rng = random.Random(100 * seed + lanes)
    tables = random_tables(rng, rng.randint(1, 9))
    plain = twins(tables)
    for count in (1, 2, 3, 4, 5, 31, 400):
        symbols, indexes, offsets = random_input(rng, tables, count)
        shifts = offsets if seed % 2 else None
        stream = encode(symbols, indexes, tables, shifts, lanes=lanes)
        assert stream == rans_twin.encode(symbols, indexes, plain, shifts, lanes)
        twin = rans_twin.Decoder(stream, plain)
        assert twin.decode(indexes, shifts) == symbols.tolist()
        twin.finish()
        assert decode_all(stream, tables, indexes, shifts).tolist() == symbols.tolist()


def test_the_golden_streams_are_written_byte_for_byte():
    paths = sorted(GOLDEN.glob("encode/rans_*.json"))
    assert len(paths) >= 8
    for path in paths:
        case = json.loads(path.read_text())
        tables = CodingTables(case["frequencies"], case["offsets"])
        symbols, indexes, shifts = case["symbols"], case["indexes"], case["shifts"]
        stream = encode(symbols, indexes, tables, shifts, lanes=case["lanes"])
        assert stream.hex() == case["stream"], path.name
        assert decode_all(stream, tables, indexes, shifts).tolist() == symbols


def test_the_golden_streams_are_read_symbol_for_symbol():
    paths = sorted(GOLDEN.glob("decode/rans_*.json"))
    assert len(paths) >= 9
    for path in paths:
        case = json.loads(path.read_text())
        tables = CodingTables(case["frequencies"], case["offsets"])
        stream = bytes.fromhex(case["stream"])
        decoded = decode_all(stream, tables, case["indexes"], case["shifts"])
        assert decoded.tolist() == case["symbols"], path.name


def test_the_golden_wrong_streams_are_refused_for_the_reason_given():
    paths = sorted(GOLDEN.glob("refuse/rans_*.json"))
    assert len(paths) >= 20
    for path in paths:
        case = json.loads(path.read_text())
        tables = CodingTables(case["frequencies"], case["offsets"])
        with pytest.raises(StreamError) as caught:
            decode_all(bytes.fromhex(case["stream"]), tables, case["indexes"], case["shifts"])
        assert str(caught.value) == case["reason"], path.name


def test_the_golden_files_are_what_the_command_would_write(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("sys.argv", ["golden_rans.py", "--check"])
    assert golden_rans.main() == 0
    assert "0 changed" in capsys.readouterr().out


# ---- Round trips -----------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [0, 1, 2, 4])
def test_streams_of_every_rate_come_back_over_many_uneven_calls(lanes: int):
    rng = np.random.default_rng(lanes)
    for scales in ([0.08, 0.1], [0.5, 3.0, 20.0], [300.0]):
        tables = CodingTables(
            [two_sided(s, int(6 * s) + 1) for s in scales], [-int(6 * s) - 1 for s in scales]
        )
        count = 30_000
        indexes = rng.integers(0, len(scales), count).astype(np.uint16)
        offsets = rng.integers(-1000, 1000, count).astype(np.int32)
        spread = np.array(scales)[indexes]
        symbols = (offsets + np.rint(rng.laplace(0, spread))).astype(np.int32)
        stream = encode(symbols, indexes, tables, offsets, lanes=lanes)
        decoder = Decoder(stream, tables)
        cuts = np.sort(rng.integers(0, count, 40))
        for i, (piece, shift) in enumerate(
            zip(np.split(indexes, cuts), np.split(offsets, cuts), strict=True)
        ):
            first = 0 if i == 0 else cuts[i - 1]
            # With and without offsets in the calls of one stream.
            decoded = decoder.decode(piece, shift) if i % 3 else decoder.decode(piece) + shift
            assert np.array_equal(decoded, symbols[first : first + len(piece)])
        decoder.finish()


def test_every_extreme_of_int32_is_codable_with_every_kind_of_table():
    tables = CodingTables(
        [[65536], [1, 65535], [65535, 1], [32768, 32767, 1], [1] * 65536],
        [0, INT32_MIN, INT32_MAX, -1, -(1 << 15)],
    )
    extremes = [INT32_MIN, INT32_MIN + 1, -(1 << 15), -1, 0, 1, 1 << 15, INT32_MAX - 1, INT32_MAX]
    symbols = np.array(extremes * len(tables), np.int32)
    indexes = np.repeat(np.arange(len(tables), dtype=np.uint16), len(extremes))
    for lanes in (1, 2, 4):
        stream = encode(symbols, indexes, tables, lanes=lanes)
        assert np.array_equal(decode_all(stream, tables, indexes), symbols)
    # The same symbols as offsets: the differences are 0.
    stream = encode(symbols, indexes, tables, symbols)
    assert np.array_equal(decode_all(stream, tables, indexes, symbols), symbols)


def test_streams_of_nothing_but_the_longest_escapes_fit_their_buffer():
    tables = CodingTables([[65535, 1]], [INT32_MAX])
    symbols = np.full(20_000, INT32_MIN, np.int32)
    indexes = np.zeros(len(symbols), np.uint16)
    for lanes in (1, 2, 4):
        stream = encode(symbols, indexes, tables, lanes=lanes)
        assert np.array_equal(decode_all(stream, tables, indexes), symbols)


def test_4096_tables_work_and_one_more_is_refused():
    rng = random.Random(3)
    frequencies = [golden_rans.random_frequencies(rng, 1 + t % 9) for t in range(4096)]
    tables = CodingTables(frequencies, [0] * 4096)
    indexes = np.arange(4096, dtype=np.uint16)[::-1]
    symbols = (indexes % 11).astype(np.int32)
    assert np.array_equal(decode_all(encode(symbols, indexes, tables), tables, indexes), symbols)
    with pytest.raises(ValueError, match="1 to 4096"):
        CodingTables([[65536]] * 4097, [0] * 4097)


def test_no_symbols_give_no_bytes_and_no_bytes_give_no_symbols():
    tables = CodingTables([[65536]], [0])
    assert encode([], [], tables) == b""
    assert decode_all(b"", tables, []).tolist() == []
    with pytest.raises(StreamError):
        Decoder(b"", tables).decode([0])


# ---- Size ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.12, 0.3, 1.0, 30.0])
def test_a_million_symbols_cost_at_most_8_bytes_and_0_02_per_cent_over_ideal(scale: float):
    rng = np.random.default_rng(5)
    radius = int(8 * scale) + 1
    tables = CodingTables([two_sided(scale, radius)], [-radius])
    indexes = np.zeros(1_000_000, np.uint16)
    symbols = np.rint(rng.laplace(0, scale, len(indexes))).astype(np.int32)
    stream = encode(symbols, indexes, tables)
    ideal_bytes = tables.ideal_bits(symbols, indexes) / 8
    assert ideal_bytes <= len(stream) <= 1.0002 * ideal_bytes + 8
    assert np.array_equal(decode_all(stream, tables, indexes), symbols)


def test_streams_of_all_sizes_cost_at_most_8_bytes_and_0_02_per_cent_over_ideal():
    rng = random.Random(6)
    for trial in range(60):
        tables = random_tables(rng, 3)
        symbols, indexes, offsets = random_input(rng, tables, 1 + trial * trial // 3, escapes=0.02)
        ideal_bytes = tables.ideal_bits(symbols, indexes, offsets) / 8
        excess = len(encode(symbols, indexes, tables, offsets)) - ideal_bytes
        assert excess <= 8 + 0.0002 * ideal_bytes
        if len(symbols) <= 10:
            assert excess <= 6.1


def test_the_number_of_lanes_follows_the_size():
    rng = np.random.default_rng(8)
    tables = CodingTables([two_sided(3.0, 20)], [-20])
    lanes = []
    for count in (1000, 100_000, 1_000_000):
        symbols = np.rint(rng.laplace(0, 3.0, count)).astype(np.int32)
        lanes.append(1 << (encode(symbols, np.zeros(count, np.uint16), tables)[0] & 3))
    assert lanes == [1, 2, 4]


def test_ideal_bits_are_the_sum_of_the_costs_and_the_escape_codes():
    tables = CodingTables([[32768, 16384, 16384], [65536]], [10, 0])
    assert [costs.tolist() for costs in tables.costs()] == [[1.0, 2.0, 2.0], [0.0]]
    values = [10, 11, 12, 13, 14, 9, 8, 0, -1, 1, INT32_MAX, INT32_MIN]
    indexes = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    # Distances 0, 2, 4, 1, 3 and 0, 1, 2, 2^32 - 2, 2^32 - 1 as exp-Golomb codes.
    raw = [0, 0, 1, 3, 5, 3, 5, 1, 3, 3, 63, 65]
    assert tables.escape_bits(values, indexes).tolist() == raw
    assert tables.ideal_bits(values, indexes) == 1 + 2 + 5 * 2 + sum(raw)
    shifted = np.array(values[:7]) + 5
    assert tables.ideal_bits(shifted, indexes[:7], [5] * 7) == 1 + 2 + 5 * 2 + sum(raw[:7])


# ---- Wrong input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frequencies", "offsets", "message"),
    [
        ([], [], "1 to 4096"),
        ([[]], [0], "escape bin"),
        ([[65535]], [0], "sum to 65536"),
        ([[65535, 2]], [0], "sum to 65536"),
        ([[65536, 0]], [0], "at least 1"),
        ([[0, 65536]], [0], "at least 1"),
        ([[1 << 31, 1 << 31, 65536]], [0], "sum to 65536"),
        ([[1] * 65537], [0], "sum to 65536"),
        ([[-1, 65537]], [0], "frequencies must be in"),
        ([[65536]], [0, 0], "1 tables but 2 offsets"),
        ([[65534, 1, 1]], [INT32_MAX], "fit in 32 bits"),
        ([[65536]], [INT32_MAX + 1], "offsets must be in"),
        ([[[65536]]], [0], "one dimension"),
    ],
)
def test_wrong_tables_are_refused(frequencies: list, offsets: list, message: str):
    with pytest.raises(ValueError, match=message):
        CodingTables(frequencies, offsets)


def test_wrong_arguments_are_refused_by_their_names():
    tables = CodingTables([[65535, 1]], [0])
    for symbols, indexes, offsets, message in (
        ([0], [1], None, "table index"),
        ([0], [-1], None, "indexes must be in"),
        ([0, 0], [0], None, "same length"),
        ([0], [0], [0, 0], "same length"),
        ([INT32_MAX + 1], [0], None, "symbols must be in"),
        ([INT32_MAX], [0], [-1], "less its offset"),
        ([INT32_MIN], [0], [1], "less its offset"),
        ([[0]], [[0]], None, "one dimension"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            encode(symbols, indexes, tables, offsets)
        assert not isinstance(caught.value, StreamError)
        with pytest.raises(ValueError, match=message):
            tables.ideal_bits(symbols, indexes, offsets)
    with pytest.raises(TypeError, match="symbols must be integers"):
        encode([0.5], [0], tables)
    with pytest.raises(ValueError, match="lanes"):
        encode([0], [0], tables, lanes=3)
    with pytest.raises(ValueError, match="table index"):
        Decoder(encode([0] * 9, [0] * 9, tables), tables).decode([1])
    with pytest.raises(ValueError, match="same length"):
        Decoder(encode([0], [0], tables), tables).decode([0], [0, 0])


def test_tables_are_frozen_and_known_by_their_content():
    frequencies = np.array([65000, 536])
    tables = CodingTables([frequencies, [65536]], [3, -4])
    frequencies[0] = 7
    assert [table.tolist() for table in tables.frequencies] == [[65000, 536], [65536]]
    content = struct.pack("<2I2i3I", 2, 1, 3, -4, 65000, 536, 65536)
    assert tables.sha256 == hashlib.sha256(b"rhodec coding tables 1\0" + content).digest()
    same = CodingTables.from_arrays(tables.to_arrays())
    assert same == tables and hash(same) == hash(tables) and len({same, tables}) == 1
    assert pickle.loads(pickle.dumps(tables)) == copy.deepcopy(tables) == tables
    for other in (
        CodingTables([[65000, 536], [65536]], [3, -5]),
        CodingTables([[65000, 536]], [3]),
        CodingTables([[65001, 535], [65536]], [3, -4]),
    ):
        assert other != tables and other.sha256 != tables.sha256
    with pytest.raises(AttributeError):
        tables._offsets = tables._offsets
    with pytest.raises(ValueError, match="read-only"):
        tables.offsets[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        tables.frequencies[0][0] = 1


def test_arrays_that_are_no_tables_are_refused():
    good = CodingTables([[65000, 536], [65536]], [3, -4]).to_arrays()
    for name, value in (
        ("frequencies", np.array([65000, 536, 1], np.uint16)),
        ("frequencies", np.array([65000, 0, 0], np.uint16)),
        ("bin_counts", np.array([2, 2], np.uint32)),
        ("bin_counts", np.array([2, 0], np.uint32)),
        ("bin_counts", np.array([2, (1 << 32) - 1], np.uint32)),
        ("offsets", np.array([3], np.int32)),
    ):
        with pytest.raises(ValueError):
            CodingTables.from_arrays({**good, name: value})
    del good["offsets"]
    with pytest.raises(ValueError, match="without 'offsets'"):
        CodingTables.from_arrays(good)


# ---- Damaged streams -------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_every_truncation_is_refused(lanes: int):
    rng = random.Random(lanes)
    tables = random_tables(rng, 4)
    symbols, indexes, offsets = random_input(rng, tables, 300)
    stream = encode(symbols, indexes, tables, offsets, lanes=lanes)
    for length in range(len(stream)):
        with pytest.raises(StreamError):
            decode_all(stream[:length], tables, indexes, offsets)
    for extra in range(1, 9):
        with pytest.raises(StreamError):
            decode_all(stream + bytes(extra), tables, indexes, offsets)


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_a_flipped_bit_is_refused_or_is_another_stream_and_both_coders_agree(lanes: int):
    """No check sum: a raw bit can change alone. But then the bytes code just what is decoded."""
    rng = random.Random(10 + lanes)
    tables = random_tables(rng, 4)
    plain = twins(tables)
    symbols, indexes, offsets = random_input(rng, tables, 40)
    stream = encode(symbols, indexes, tables, offsets, lanes=lanes)
    outcomes = {"refused": 0, "other symbols": 0}
    for bit in range(8 * len(stream)):
        flipped = bytearray(stream)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged = bytes(flipped)
        twin_symbols = decoded = None
        with contextlib.suppress(StreamError):
            twin = rans_twin.Decoder(damaged, plain)
            twin_symbols = twin.decode(indexes, offsets)
            twin.finish()
            outcomes["other symbols"] += 1
        try:
            decoded = decode_all(damaged, tables, indexes, offsets)
        except StreamError:
            outcomes["refused"] += 1
            continue
        assert decoded.tolist() == twin_symbols != symbols.tolist()
        assert encode(decoded, indexes, tables, offsets, lanes=lanes) == damaged
    assert sum(outcomes.values()) == 8 * len(stream)
    assert outcomes["refused"] > 4 * len(stream)


def test_random_bytes_end_in_one_error_and_soon():
    rng = np.random.default_rng(11)
    tables = random_tables(random.Random(11), 5)
    indexes = rng.integers(0, 5, 100_000).astype(np.uint16)
    refused = 0
    start = time.perf_counter()
    for _ in range(300):
        data = rng.integers(0, 256, int(rng.integers(0, 3000)), dtype=np.uint8)
        data[:1] &= 0x02
        try:
            decode_all(data.tobytes(), tables, indexes)
        except StreamError:
            refused += 1
    assert refused == 300
    assert time.perf_counter() - start < 20


def test_a_failed_decoder_stays_failed():
    tables = CodingTables([[40000, 25536]], [0])
    stream = encode([0, 1] * 100, [0] * 200, tables)
    decoder = Decoder(stream[:-4], tables)
    for _ in range(2):
        with pytest.raises(StreamError):
            decoder.decode([0] * 200)
    with pytest.raises(StreamError):
        decoder.finish()


def test_the_wrong_tables_are_noticed_at_the_end():
    rng = random.Random(12)
    tables = random_tables(rng, 4)
    symbols, indexes, _ = random_input(rng, tables, 200)
    stream = encode(symbols, indexes, tables)
    with pytest.raises(StreamError):
        decode_all(stream, random_tables(rng, 4), indexes)


def test_a_decoder_keeps_its_own_copy_of_the_data():
    tables = CodingTables([[40000, 25536]], [0])
    indexes, symbols = [0] * 500, [0, 1] * 250
    data = bytearray(encode(symbols, indexes, tables))
    decoder = Decoder(memoryview(data), tables)
    data[:] = b"\0" * len(data)
    data.clear()  # would fail while a buffer is held
    assert decoder.decode(indexes).tolist() == symbols
    decoder.finish()


def test_many_threads_decode_their_own_streams_at_once():
    rng = np.random.default_rng(13)
    tables = CodingTables([two_sided(2.0, 16)], [-16])
    symbols = np.rint(rng.laplace(0, 2.0, 200_000)).astype(np.int32)
    indexes = np.zeros(len(symbols), np.uint16)
    stream = encode(symbols, indexes, tables)
    right = []

    def work() -> None:
        right.append(np.array_equal(decode_all(stream, tables, indexes), symbols))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 4


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_damaged_streams_do_nothing_undefined_under_the_sanitizers(tmp_path: Path):
    if not sanitize_rans.has_sanitizers("cc", tmp_path):
        pytest.skip("the C compiler has no sanitizers")
    report = sanitize_rans.run("cc", rounds=40, seed=1, without_int128=True, folder=tmp_path)
    assert report == "40 rounds"
