"""The golden files of the container: `python tests/golden_container.py` rewrites them.

It prints one line for every file that is new or changed, and nothing when all is as committed.
The files are built here from FORMAT.md section 1, by a builder of their own with a bitwise CRC,
so they do not share a mistake with `rhodec.bitstream.container`:

- `encode/container_*.rho`: what `pack` must write for the pictures in `ENCODE`;
- `decode/container_*.rho`: what no writer of ours makes, but `parse` must read, see `DECODE`;
- `refuse/container_*.rho`: what `parse` must refuse with exactly the sentence in
  `refuse/container_sentences.txt`. All CRCs are right except where the name says otherwise.
"""

from collections.abc import Sequence
from pathlib import Path

from rhodec.bitstream.container import Picture, parse
from rhodec.bitstream.stream_error import StreamError

GOLDEN = Path(__file__).parent / "golden"
SENTENCES = GOLDEN / "refuse" / "container_sentences.txt"
MAGIC = b"\x8fRH\n"
HASH = bytes(range(8))


def crc32c_bitwise(data: bytes) -> int:
    """CRC-32C one bit at a time, from its definition."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def header(
    version: int = 1,
    codec: int = 4,
    width: bytes = varint(7),
    height: bytes = varint(5),
    pixels: int = 3,
    quality: int = 100,
    digest: int = 0x89ABCDEF,
) -> bytes:
    """A header; sizes are given as bytes so that bad varints can be written."""
    start = MAGIC + bytes([version, codec]) + HASH + width + height
    return start + bytes([pixels, quality]) + digest.to_bytes(4, "little")


def assemble(head: bytes, chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A file with correct lengths and CRCs, whatever the header and the tags are."""
    file = covered = head
    for tag, payload in chunks:
        frame = tag + varint(len(payload)) + payload
        covered += frame
        file += frame + crc32c_bitwise(covered).to_bytes(4, "little")
    return file


LATENTS = (b"L", b"range coder's bytes")
PLAIN = Picture(4, HASH, 7, 5, 3, 100, 0x89ABCDEF, LATENTS[1])
ALL_CHUNKS = [
    (b"A", b"a png"),
    (b"i", b"an icc profile"),
    (b"e", b"exif"),
    (b"x", b"<x/>"),
    LATENTS,
]
FULL = Picture(
    1, HASH, 1, 16384, 1, 200, 0, LATENTS[1], b"a png", b"an icc profile", b"exif", b"<x/>"
)

ENCODE = {
    "plain": (PLAIN, assemble(header(), [LATENTS])),
    "full": (
        FULL,
        assemble(header(1, 1, varint(1), varint(16384), 1, 200, 0), ALL_CHUNKS),
    ),
    "empty_payload": (
        Picture(5, HASH, 1 << 24, 1, 1, 0, 0xFFFFFFFF, b"", icc=b""),
        assemble(
            header(1, 5, varint(1 << 24), varint(1), 1, 0, 0xFFFFFFFF), [(b"i", b""), (b"L", b"")]
        ),
    ),
}
DECODE = {
    "unknown_optional_chunk": (PLAIN, assemble(header(), [(b"q", b"from the future"), LATENTS])),
    "another_chunk_order": (
        FULL,
        assemble(
            header(1, 1, varint(1), varint(16384), 1, 200, 0), [*ALL_CHUNKS[3::-1], ALL_CHUNKS[4]]
        ),
    ),
}

_good = assemble(header(), [LATENTS])
_huge = varint(1 << 16), varint(1 << 15)
REFUSE = {
    "empty": b"",
    "png": b"\x89PNG\r\n\x1a\n" + _good,
    "cut_in_magic": _good[:3],
    "cut_in_header": _good[:20],
    "cut_before_chunk": header(),
    "cut_before_latents": assemble(header(), [(b"i", b"an icc profile")]),
    "cut_in_payload": _good[:-10],
    "cut_in_crc": _good[:-1],
    "line_ends_converted": _good.replace(b"\n", b"\r\n"),
    "eighth_bit_stripped": bytes(byte & 0x7F for byte in _good),
    "recoded_as_utf8": _good.decode("latin-1").encode(),
    "version_0": assemble(header(version=0), [LATENTS]),
    "version_2": assemble(header(version=2), [LATENTS]),
    "codec_0": assemble(header(codec=0), [LATENTS]),
    "codec_200": assemble(header(codec=200), [LATENTS]),
    "zero_width": assemble(header(width=varint(0)), [LATENTS]),
    "zero_height": assemble(header(height=varint(0)), [LATENTS]),
    "side_over_limit": assemble(header(width=varint((1 << 24) + 1)), [LATENTS]),
    "side_63_bits": assemble(header(height=varint((1 << 63) - 1)), [LATENTS]),
    "pixels_2_to_31": assemble(header(1, 4, *_huge), [LATENTS]),
    "pixel_format_2": assemble(header(pixels=2), [LATENTS]),
    "pixel_format_reserved_bit": assemble(header(pixels=3 | 0x80), [LATENTS]),
    "quality_201": assemble(header(quality=201), [LATENTS]),
    "overlong_width": assemble(header(width=b"\x87\x00"), [LATENTS]),
    "endless_height": assemble(header(height=b"\x80" * 9 + b"\x01"), [LATENTS]),
    "overlong_length": header() + b"L\x80\x00" + bytes(4),
    "length_beyond_end": header() + b"L" + varint(1 << 40) + bytes(100),
    "tag_not_a_letter": assemble(header(), [(b"1", b""), LATENTS]),
    "unknown_critical_chunk": assemble(header(), [(b"Q", b"from the future"), LATENTS]),
    "alpha_twice": assemble(header(), [(b"A", b"1"), (b"A", b"2"), LATENTS]),
    "unknown_optional_twice": assemble(header(), [(b"q", b""), (b"q", b""), LATENTS]),
    "latents_twice": assemble(header(), [LATENTS, LATENTS]),
    "chunk_after_latents": assemble(header(), [LATENTS, (b"i", b"an icc profile")]),
    "trailing_byte": _good + b"\n",
    "wrong_crc_header": _good.replace(HASH, HASH[::-1]),
    "wrong_crc_payload": _good.replace(b"coder", b"c0der"),
    "wrong_crc_chunk_removed": assemble(header(), [(b"i", b"an icc profile"), LATENTS]).replace(
        assemble(header(), [(b"i", b"an icc profile")])[len(header()) :], b""
    ),
}


def refusal(data: bytes) -> str:
    """The sentence `parse` refuses `data` with."""
    try:
        parse(data)
    except StreamError as error:
        return str(error)
    raise AssertionError("a file of the kind refuse was accepted")


def golden_files() -> dict[Path, bytes]:
    """Every golden file of the container and its content."""
    files = {GOLDEN / "encode" / f"container_{n}.rho": d for n, (_, d) in ENCODE.items()}
    files |= {GOLDEN / "decode" / f"container_{n}.rho": d for n, (_, d) in DECODE.items()}
    files |= {GOLDEN / "refuse" / f"container_{n}.rho": d for n, d in REFUSE.items()}
    lines = [f"{name}: {refusal(data)}\n" for name, data in REFUSE.items()]
    return files | {SENTENCES: "".join(lines).encode()}


def main() -> None:
    wanted = golden_files()
    for path, data in wanted.items():
        old = path.read_bytes() if path.exists() else None
        if old == data:
            continue
        if old is None:
            print(f"new      {path.relative_to(GOLDEN)} ({len(data)} bytes)")
        else:
            same = next((i for i, (a, b) in enumerate(zip(old, data, strict=False)) if a != b), -1)
            at = same if same >= 0 else min(len(old), len(data))
            print(f"changed  {path.relative_to(GOLDEN)}: {len(old)} -> {len(data)} bytes, at {at}")
            if path == SENTENCES:
                before, after = old.decode().splitlines(), data.decode().splitlines()
                print(*(f"  - {line}" for line in before if line not in after), sep="\n")
                print(*(f"  + {line}" for line in after if line not in before), sep="\n")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in set(GOLDEN.glob("*/container_*")) - set(wanted):
        print(f"removed  {path.relative_to(GOLDEN)}")
        path.unlink()


if __name__ == "__main__":
    main()
