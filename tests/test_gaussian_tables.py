"""The Gaussian coding tables: made again, compared with the exact distribution, and measured."""

import hashlib

import numpy as np
import pytest
from scipy.special import ndtr

from rhodec.bitstream.rans import CodingTables, Decoder, encode
from rhodec.entropy import gaussian_tables
from rhodec.entropy.gaussian_tables import SCALE_LEVELS, SCALE_MAX, SCALE_MIN

SCALES = SCALE_MIN * (SCALE_MAX / SCALE_MIN) ** (np.arange(SCALE_LEVELS) / (SCALE_LEVELS - 1))


@pytest.fixture(scope="module")
def loaded():
    return gaussian_tables.load_tables()


def probabilities(scale: float, values: np.ndarray) -> np.ndarray:
    """Mass of the unit bin around each integer, from the lower tail, where nothing cancels."""
    distance = np.abs(values)
    return np.where(
        distance == 0,
        1 - 2 * ndtr(-0.5 / scale),
        ndtr((0.5 - distance) / scale) - ndtr((-0.5 - distance) / scale),
    )


def test_the_committed_file_is_what_the_generator_makes(loaded):
    made = gaussian_tables.generate_tables()
    data = gaussian_tables.serialise(made)
    assert data == gaussian_tables.TABLE_FILE.read_bytes()
    assert hashlib.sha256(data).hexdigest() == gaussian_tables.TABLE_SHA256
    assert [table.tolist() for table in loaded[0]] == made


@pytest.mark.parametrize("fraction_bits", [64, 192])
def test_the_tables_do_not_hang_on_the_precision_of_the_arithmetic(fraction_bits, loaded):
    made = gaussian_tables.generate_tables(fraction_bits)
    assert made == [table.tolist() for table in loaded[0]]


def test_the_fixed_point_functions_agree_with_the_library_functions():
    bits = 128
    one = 1 << bits
    assert gaussian_tables._pi(bits) / one == pytest.approx(np.pi, rel=1e-15)
    for x in (0.0, 0.25, 1.0, 3.75, 20.0):
        fixed = int(x * 4) << bits - 2
        assert gaussian_tables._exp(fixed, bits) / one == pytest.approx(np.exp(x), rel=1e-14)
        if x < 5:
            upper = gaussian_tables._upper_tail(fixed, bits) / one
            assert upper == pytest.approx(ndtr(-x), rel=1e-13)
    fixed_scales = [scale / one for scale in gaussian_tables._scales(bits)]
    assert fixed_scales == pytest.approx(SCALES.tolist(), rel=1e-13)


def test_every_table_is_the_rounded_exact_gaussian_with_a_short_tail(loaded):
    tables, offsets = loaded
    assert len(tables) == len(offsets) == SCALE_LEVELS
    for scale, table, offset in zip(SCALES, tables, offsets, strict=True):
        reach = -offset
        assert table.dtype == np.uint32 and len(table) == 2 * reach + 2
        assert int(table.sum()) == 65536 and table.min() >= 1
        inside, escape = table[:-1].astype(int), int(table[-1])
        assert inside.tolist() == inside[::-1].tolist()
        values = np.arange(-reach, reach + 1)
        rounded = np.maximum(1, np.rint(65536 * probabilities(scale, values)))
        assert inside[reach] == pytest.approx(rounded[reach], rel=0.12)  # pays for the rounding
        assert np.delete(inside, reach).tolist() == np.delete(rounded, reach).tolist()
        tail, tail_before = (2 * ndtr(-(r + 0.5) / scale) for r in (reach, reach - 1))
        assert escape == max(1, round(65536 * tail))
        assert tail <= 2.0**-14 and (reach == 0 or tail_before > 2.0**-14)


def test_the_loss_against_the_exact_gaussian_is_below_two_in_ten_thousand(loaded):
    """Escape bits included; sigma on the grid, so log-uniform from 0.11 to 64."""
    tables = CodingTables(*loaded)
    ideal, coded = np.zeros(SCALE_LEVELS), np.zeros(SCALE_LEVELS)
    for level, scale in enumerate(SCALES):
        reach = int(12 * scale) + 3
        values = np.arange(-reach, reach + 1, dtype=np.int32)
        p = probabilities(scale, values)
        ideal[level] = -(p * np.log2(np.maximum(p, 1e-300))).sum()
        costs = tables.costs()[level]
        bins = np.clip(values - loaded[1][level], -1, len(costs) - 1)  # -1 is the escape, too
        indexes = np.full(len(values), level, np.uint16)
        escaped = (bins == -1) | (bins == len(costs) - 1)
        extra = np.where(escaped, tables.escape_bits(values, indexes), 0)
        coded[level] = (p * (costs[bins] + extra)).sum()
    loss = coded - ideal
    assert (loss > -1e-9).all() and loss.max() < 0.002  # bits a symbol
    assert loss.sum() / ideal.sum() < 0.0002
    small = SCALES < 1
    assert loss[small].sum() / ideal[small].sum() < 0.0002


def test_gaussian_samples_of_all_levels_survive_the_range_coder(loaded):
    rng = np.random.default_rng(0)
    tables = CodingTables(*loaded)
    indexes = rng.integers(0, SCALE_LEVELS, 200_000).astype(np.uint16)
    symbols = np.rint(rng.normal(0, SCALES[indexes])).astype(np.int32)
    symbols[:100] = rng.integers(-(2**31), 2**31, 100)  # escapes
    data = encode(symbols, indexes, tables)
    decoder = Decoder(data, tables)
    assert np.array_equal(decoder.decode(indexes), symbols)
    decoder.finish()


def test_a_damaged_table_file_is_refused(tmp_path, monkeypatch):
    data = bytearray(gaussian_tables.TABLE_FILE.read_bytes())
    data[1000] ^= 1
    damaged = tmp_path / "gaussian_tables.bin"
    damaged.write_bytes(data)
    monkeypatch.setattr(gaussian_tables, "TABLE_FILE", damaged)
    with pytest.raises(ValueError, match="the installation is damaged"):
        gaussian_tables.load_tables()


def test_the_command_writes_the_file_and_prints_its_sha256(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gaussian_tables, "TABLE_FILE", tmp_path / "gaussian_tables.bin")
    assert gaussian_tables.main() == 0
    assert gaussian_tables.TABLE_SHA256 in capsys.readouterr().out
    assert gaussian_tables.load_tables()[1][0] == 0
