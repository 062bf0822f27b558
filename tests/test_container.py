"""The .rho container and CRC-32C, against golden files and every kind of damage."""

import importlib.util
import random
import re
import threading
import time
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from rhodec.bitstream import container
from rhodec.bitstream._crc32c import crc32c, crc32c_by_tables
from rhodec.bitstream.container import Picture, describe, pack, parse
from rhodec.bitstream.stream_error import StreamError

_path = Path(__file__).with_name("golden_container.py")
_spec = importlib.util.spec_from_file_location("golden_container", _path)
assert _spec and _spec.loader
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

PLAIN, PLAIN_FILE = golden.ENCODE["plain"]
FULL, FULL_FILE = golden.ENCODE["full"]
KERNELS = pytest.mark.parametrize("crc", [crc32c, crc32c_by_tables])


# ---- CRC-32C ------------------------------------------------------------------------------------


@KERNELS
def test_crc_gives_the_published_values(crc):
    """The check value, and the examples of RFC 3720, appendix B.4."""
    assert crc(b"123456789") == 0xE3069283
    assert crc(bytes(32)) == 0x8A9136AA
    assert crc(b"\xff" * 32) == 0x62A8AB43
    assert crc(bytes(range(32))) == 0x46DD794E
    assert crc(bytes(range(31, -1, -1))) == 0x113FDB5C
    assert crc(b"") == 0
    assert crc(b"", 12345) == 12345


@KERNELS
def test_crc_agrees_with_its_definition_at_every_length_alignment_and_split(crc):
    data = random.Random(1).randbytes(100)
    for length in range(60):
        for start in range(9):
            piece = memoryview(data)[start : start + length]
            expected = golden.crc32c_bitwise(bytes(piece))
            assert crc(piece) == expected
            cut = length // 3
            assert crc(piece[cut:], crc(piece[:cut])) == expected


def test_crc_kernels_agree_on_large_buffers_from_several_threads():
    """Large buffers are summed without the interpreter's lock."""
    data = random.Random(2).randbytes(1_000_003)
    expected = crc32c_by_tables(data[500_000:], crc32c_by_tables(data[:500_000]))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(crc32c(data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_crc_takes_any_contiguous_buffer_and_refuses_the_rest():
    values = np.arange(100, dtype=np.int32)
    assert crc32c(values) == crc32c(values.tobytes()) == crc32c(bytearray(values.tobytes()))
    with pytest.raises((BufferError, ValueError)):
        crc32c(values[::2])
    with pytest.raises(TypeError):
        crc32c("text")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError):
        crc32c(b"", 0, 0)  # pyright: ignore[reportCallIssue]
    for value in (-1, 1 << 32, 1 << 80):
        with pytest.raises(OverflowError):
            crc32c(b"", value)


# ---- golden files -------------------------------------------------------------------------------


def test_golden_files_are_those_the_generator_makes():
    for path, data in golden.golden_files().items():
        assert path.read_bytes() == data, f"{path.name}: run tests/golden_container.py and compare"
    assert set(golden.GOLDEN.glob("*/container_*")) == set(golden.golden_files())


@pytest.mark.parametrize("name", golden.ENCODE)
def test_pack_writes_the_golden_file_and_parse_reads_it_back(name):
    picture, _ = golden.ENCODE[name]
    data = (golden.GOLDEN / "encode" / f"container_{name}.rho").read_bytes()
    assert pack(picture) == data
    assert parse(data) == picture


@pytest.mark.parametrize("name", golden.DECODE)
def test_parse_reads_files_that_only_other_writers_make(name):
    picture, _ = golden.DECODE[name]
    data = (golden.GOLDEN / "decode" / f"container_{name}.rho").read_bytes()
    assert parse(data) == picture
    assert describe(data).problem is None


@pytest.mark.parametrize("name", golden.REFUSE)
def test_parse_refuses_the_golden_file_with_its_sentence(name):
    sentences = dict(
        line.split(": ", 1) for line in golden.SENTENCES.read_text("utf-8").splitlines()
    )
    data = (golden.GOLDEN / "refuse" / f"container_{name}.rho").read_bytes()
    with pytest.raises(StreamError) as refusal:
        parse(data)
    assert str(refusal.value) == sentences[name]


# ---- round trips and limits ---------------------------------------------------------------------


def test_a_plain_picture_has_at_most_32_bytes_of_overhead():
    picture = Picture(4, bytes(8), 768, 512, 3, 100, 0xDEADBEEF, bytes(200_000))
    data = pack(picture)
    assert len(data) - 200_000 <= 32
    assert describe(data).overhead_bytes == len(data) - 200_000


def test_any_picture_survives_pack_and_parse():
    rng = random.Random(3)

    def part() -> bytes | None:
        return rng.choice([None, b"", rng.randbytes(rng.randrange(400))])

    for _ in range(300):
        picture = Picture(
            codec_id=rng.choice(list(container.CODEC_NAMES)),
            weights_hash=rng.randbytes(8),
            width=1 << rng.randrange(15),
            height=rng.randrange(1, 1 << rng.randrange(1, 15)),
            channels=rng.choice([1, 3]),
            quality=rng.randrange(201),
            digest=rng.getrandbits(32),
            payload=rng.randbytes(rng.randrange(40_000)),
            alpha=part(),
            icc=part(),
            exif=part(),
            xmp=part(),
        )
        data = pack(picture)
        assert parse(data) == parse(bytearray(data)) == parse(memoryview(data)) == picture


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("codec_id", 0, "codec id 0 is not one"),
        ("codec_id", 256, "codec id 256 is not one"),
        ("weights_hash", bytes(7), "weights_hash has 7 bytes"),
        ("width", 0, "the width is 0"),
        ("height", container.MAX_SIDE + 1, "the height is 16777217"),
        ("channels", 2, "pixel format 2"),
        ("channels", 4, "pixel format 4"),
        ("quality", -1, "quality index -1"),
        ("quality", 201, "quality index 201"),
        ("digest", -1, "digest -1"),
        ("digest", 1 << 32, "digest 4294967296"),
    ],
)
def test_pack_refuses_fields_outside_their_range(field, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        pack(replace(PLAIN, **{field: value}))


def test_the_limit_on_pixels_can_be_moved_both_ways():
    big = pack(replace(PLAIN, width=1 << 16, height=1 << 15))
    with pytest.raises(StreamError, match=f"pass max_pixels={1 << 31}"):
        parse(big)
    assert parse(big, max_pixels=1 << 31).width == 1 << 16
    assert parse(PLAIN_FILE, max_pixels=35) == PLAIN
    with pytest.raises(StreamError, match="over the limit of 34"):
        parse(PLAIN_FILE, max_pixels=34)


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [PLAIN_FILE, FULL_FILE], ids=["plain", "full"])
def test_every_truncation_is_refused(data):
    for length in range(len(data)):
        with pytest.raises(StreamError):
            parse(data[:length])


@pytest.mark.parametrize("data", [PLAIN_FILE, FULL_FILE], ids=["plain", "full"])
def test_every_single_bit_flip_and_every_changed_byte_is_refused(data):
    for position in range(len(data)):
        for change in range(1, 256):
            damaged = bytearray(data)
            damaged[position] ^= change
            with pytest.raises(StreamError):
                parse(damaged)


def test_splices_of_two_good_files_are_refused():
    """Pieces cut, doubled, moved, or taken from another file, at random places and at chunks."""
    rng = random.Random(4)
    other = pack(replace(FULL, digest=1, payload=b"another range coder's bytes", exif=None))
    good = (FULL_FILE, other, PLAIN_FILE)
    refused = 0
    for _ in range(20_000):
        one, two = rng.choice(good), rng.choice(good)
        a, b = sorted(rng.randrange(len(one) + 1) for _ in range(2))
        c, d = sorted(rng.randrange(len(two) + 1) for _ in range(2))
        spliced = rng.choice(
            [one[:a] + two[c:], one[:a] + two[c:d] + one[b:], one[:a] + one[b:] + two[c:d]]
        )
        if spliced not in good:
            with pytest.raises(StreamError):
                parse(spliced)
            refused += 1
    assert refused > 19_000


def test_a_chunk_from_another_file_is_refused_although_it_is_whole():
    first = golden.assemble(golden.header(), [(b"i", b"profile"), golden.LATENTS])
    second = golden.assemble(golden.header(digest=1), [(b"i", b"profile"), golden.LATENTS])
    start = len(golden.header())
    assert first[start:] != second[start:]  # the CRC chain runs on from the header
    with pytest.raises(StreamError, match="CRC mismatch"):
        parse(first[:start] + second[start:])


def test_parse_takes_no_more_memory_than_the_data():
    good = pack(replace(PLAIN, width=16384, height=16384, payload=bytes(1_000_000)))
    tiny_but_huge = golden.assemble(
        golden.header(width=golden.varint(1 << 24), height=golden.varint(1 << 24)), [golden.LATENTS]
    )
    endless = golden.header() + b"L" + golden.varint((1 << 62) + 1)
    many = golden.assemble(golden.header(), [(b"q", b"")]) + b"q\x00\x00\x00\x00\x00" * 100_000
    for data in (good, tiny_but_huge, endless, many):
        for read in (parse, describe):
            tracemalloc.start()
            try:
                read(data)
            except StreamError:
                assert data is not good
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < len(data) + 20_000


def test_a_megabyte_is_parsed_in_a_few_milliseconds():
    data = pack(replace(PLAIN, payload=random.Random(5).randbytes(1_000_000)))
    times = []
    for _ in range(5):
        start = time.thread_time()
        parse(data)
        times.append(time.thread_time() - start)
    assert min(times) < 0.01


# ---- description --------------------------------------------------------------------------------


def test_describe_gives_every_field_of_a_good_file():
    found = describe(FULL_FILE)
    fields = asdict(found)
    for name, value in asdict(FULL).items():
        if name not in ("payload", "alpha", "icc", "exif", "xmp"):
            assert fields[name] == value
    assert found.file_bytes == len(FULL_FILE)
    assert (found.version, found.codec_name, found.problem) == (1, "factorized", None)
    assert [chunk.name for chunk in found.chunks] == ["alpha", "icc", "exif", "xmp", "latents"]
    assert [chunk.is_critical for chunk in found.chunks] == [True, False, False, False, True]
    header_bytes = 20 + 1 + 3  # fixed fields, width 1, height 16384
    assert header_bytes + sum(chunk.total_bytes for chunk in found.chunks) == len(FULL_FILE)


def test_describe_names_what_parse_refuses_and_shows_what_can_be_read():
    unknown = describe(golden.REFUSE["unknown_critical_chunk"])
    assert [(c.tag, c.name, c.is_critical) for c in unknown.chunks] == [
        (b"Q", "unknown", True),
        (b"L", "latents", True),
    ]
    assert unknown.problem and "chunk 'Q'" in unknown.problem

    damaged = describe(golden.REFUSE["wrong_crc_payload"])
    assert [c.is_intact for c in damaged.chunks] == [False]
    assert damaged.problem and "CRC mismatch" in damaged.problem

    cut = describe(FULL_FILE[:-1])
    assert [c.name for c in cut.chunks] == ["alpha", "icc", "exif", "xmp"]
    assert cut.problem and "the file ends inside the CRC of the latents" in cut.problem

    assert describe(golden.REFUSE["codec_200"]).codec_name == "unknown"
    assert describe(golden.REFUSE["pixels_2_to_31"]).problem is None  # a limit, not a fault


@pytest.mark.parametrize("name", ["empty", "png", "version_2", "cut_in_header"])
def test_describe_refuses_what_has_no_header_of_this_version(name):
    with pytest.raises(StreamError):
        describe(golden.REFUSE[name])


# ---- the specification --------------------------------------------------------------------------


def test_the_tables_of_format_md_are_those_of_the_code():
    text = (Path(__file__).parents[1] / "bitstream" / "FORMAT.md").read_text("utf-8")
    codecs = re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", text, re.MULTILINE)
    assert {int(number): name for number, name in codecs} == container.CODEC_NAMES
    chunks = re.findall(r"^\| `([A-Za-z])` \| (\w+) \| (critical|optional) \|", text, re.MULTILINE)
    assert {tag.encode(): name for tag, name, _ in chunks} == container.CHUNK_NAMES
    for tag, _, kind in chunks:
        assert container.is_critical(tag.encode()) == (kind == "critical")
    assert f"`{container.MAGIC.hex(' ').upper()}`" in text
    assert f"Format version {container.FORMAT_VERSION}" in text
