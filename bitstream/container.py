"""The `.rho` container: a short header, then chunks, each under a running CRC-32C.

The authority is FORMAT.md, section 1; the constants here carry the names used there. Layout:

    magic(4) version(1) codec(1) weights(8) width(v) height(v) pixels(1) quality(1) digest(4)
    chunk*   tag(1) length(v) payload(length) crc(4)

where (v) is a canonical LEB128 integer. Three choices do the work of several checks:

- The chunk CRC runs over the header and over the tag, length and payload of every chunk so far,
  so a damaged header, and a chunk removed, doubled, moved or taken from another file, all show up
  at the next CRC, before a picture of the size the header claims is allocated.
- The latents are the last chunk, so the file is its own end marker: a file cut anywhere is
  incomplete, and nothing may follow.
- Bit 5 of the tag (lower case, as in PNG) says that a reader may skip the chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rhodec.bitstream._crc32c import crc32c
from rhodec.bitstream.stream_error import StreamError

MAGIC = b"\x8fRH\n"  # not ASCII, not UTF-8, and changed by every conversion of line endings
FORMAT_VERSION = 1

CODEC_NAMES = {
    1: "factorized",
    2: "scale-hyperprior",
    3: "mean-scale-hyperprior",
    4: "rho",
    5: "overfit",
}

LATENTS, ALPHA, ICC, EXIF, XMP = b"L", b"A", b"i", b"e", b"x"
CHUNK_NAMES = {LATENTS: "latents", ALPHA: "alpha", ICC: "icc", EXIF: "exif", XMP: "xmp"}

MAX_SIDE = 1 << 24
MAX_PIXELS = 1 << 28
MAX_QUALITY = 200  # half steps of the quality q in [0, 100]
VARINT_BYTES = 9  # 63 bits: more than any length that fits in memory


@dataclass(frozen=True)
class Picture:
    """Everything a `.rho` file says about one picture.

    `codec_id` is a key of `CODEC_NAMES`; `weights_hash` the first 8 bytes of the SHA-256 of the
    weights file; `width` and `height` the true size in pixels, 1 to `MAX_SIDE`; `channels` 1
    (grey) or 3 (RGB); `quality` twice the quality q, 0 to 200; `digest` the CRC-32C of the decoded
    latents; `payload` the range coder's bytes. The optional parts are stored as they are: `alpha`
    a lossless grey PNG of the alpha plane, `icc`, `exif` and `xmp` the usual metadata blocks.
    """

    codec_id: int
    weights_hash: bytes
    width: int
    height: int
    channels: int
    quality: int
    digest: int
    payload: bytes
    alpha: bytes | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None


@dataclass(frozen=True)
class Chunk:
    """One chunk as it stands in a file; sizes in bytes, `total_bytes` with tag, length and CRC."""

    tag: bytes
    payload_bytes: int
    total_bytes: int
    is_intact: bool  # its CRC holds

    @property
    def name(self) -> str:
        return CHUNK_NAMES.get(self.tag, "unknown")

    @property
    def is_critical(self) -> bool:
        return is_critical(self.tag)


@dataclass(frozen=True)
class Description:
    """What `describe` found; `problem` is what `parse` would say against the file, or None."""

    file_bytes: int
    version: int
    codec_id: int
    codec_name: str
    weights_hash: bytes
    width: int
    height: int
    channels: int
    quality: int
    digest: int
    chunks: tuple[Chunk, ...]
    problem: str | None

    @property
    def overhead_bytes(self) -> int:
        """Bytes that are not the range coder's: header, framing and every other chunk."""
        latents = sum(c.payload_bytes for c in self.chunks if c.tag == LATENTS)
        return self.file_bytes - latents


def is_critical(tag: bytes) -> bool:
    """Whether a reader that does not know this chunk has to refuse the file (upper case)."""
    return not tag[0] & 0x20


# ---- writing ------------------------------------------------------------------------------------


def pack(picture: Picture) -> bytes:
    """The bytes of a `.rho` file; raises `ValueError` for a field outside its range."""
    if len(picture.weights_hash) != 8:
        raise ValueError(f"weights_hash has {len(picture.weights_hash)} bytes instead of 8")
    if not 0 <= picture.digest < 1 << 32:
        raise ValueError(f"digest {picture.digest} is not a 32-bit number")
    problem = _problem_with_values(picture)
    if problem:
        raise ValueError(problem)

    header = bytearray(MAGIC)
    header += bytes([FORMAT_VERSION, picture.codec_id])
    header += picture.weights_hash
    header += _varint(picture.width) + _varint(picture.height)
    header += bytes([picture.channels, picture.quality])
    header += picture.digest.to_bytes(4, "little")

    parts = [bytes(header)]
    crc = crc32c(header)
    for tag, payload in (
        (ALPHA, picture.alpha),
        (ICC, picture.icc),
        (EXIF, picture.exif),
        (XMP, picture.xmp),
        (LATENTS, picture.payload),
    ):
        if payload is not None:
            frame = tag + _varint(len(payload))
            crc = crc32c(payload, crc32c(frame, crc))
            parts += [frame, payload, crc.to_bytes(4, "little")]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the top bit set on every byte but the last."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# ---- reading ------------------------------------------------------------------------------------


def parse(data: bytes | bytearray | memoryview, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in a `.rho` file; takes no more memory than `data` itself.

    Raises `StreamError`, saying what is wrong, for everything that is not a whole, intact file of
    this version with at most `max_pixels` pixels.
    """
    view = memoryview(data).cast("B")
    header = _Header(view)
    parts: dict[bytes, bytes] = {}
    for chunk, payload in _walk(view, header):
        if not chunk.is_intact:
            raise StreamError(
                f"CRC mismatch at the end of the {chunk.name} chunk {_show(chunk.tag)}: "
                "the file is damaged there or before"
            )
        if chunk.tag in CHUNK_NAMES:
            parts[chunk.tag] = bytes(payload)
        elif chunk.is_critical:
            raise StreamError(
                f"the file needs chunk {_show(chunk.tag)}, which this version of rhodec "
                "does not know"
            )

    picture = Picture(
        header.codec_id,
        header.weights_hash,
        header.width,
        header.height,
        header.channels,
        header.quality,
        header.digest,
        parts[LATENTS],
        parts.get(ALPHA),
        parts.get(ICC),
        parts.get(EXIF),
        parts.get(XMP),
    )
    problem = _problem_with_values(picture)
    if problem:
        raise StreamError(problem)
    pixels = picture.width * picture.height
    if pixels > max_pixels:
        raise StreamError(
            f"the picture is {picture.width} x {picture.height} = {pixels} pixels, over the limit "
            f"of {max_pixels}; if you trust the file, pass max_pixels={pixels}"
        )
    return picture


def describe(data: bytes | bytearray | memoryview) -> Description:
    """Header fields and chunks of a file, unknown ones too, without decoding anything.

    A file that `parse` would refuse is described as far as it can be read, with the refusal in
    `problem`; the limit on pixels is not applied. Raises `StreamError` only where there is nothing
    to describe: not a `.rho` file, another format version, or a header that is cut short.
    """
    view = memoryview(data).cast("B")
    header = _Header(view)
    chunks: list[Chunk] = []
    problem = None
    try:
        # One by one, so that the chunks before a broken one are kept.
        for chunk, _ in _walk(view, header):
            chunks.append(chunk)
        parse(view, max_pixels=MAX_SIDE * MAX_SIDE)
    except StreamError as error:
        problem = str(error)
    return Description(
        file_bytes=len(view),
        version=FORMAT_VERSION,
        codec_id=header.codec_id,
        codec_name=CODEC_NAMES.get(header.codec_id, "unknown"),
        weights_hash=header.weights_hash,
        width=header.width,
        height=header.height,
        channels=header.channels,
        quality=header.quality,
        digest=header.digest,
        chunks=tuple(chunks),
        problem=problem,
    )


class _Header:
    """The fixed fields, in the order of the file; values are judged later, under the first CRC."""

    def __init__(self, view: memoryview) -> None:
        _check_magic_and_version(view)
        start = len(MAGIC) + 1
        fixed = _take(view, start, 9, "the header")
        self.codec_id = fixed[0]
        self.weights_hash = bytes(fixed[1:])
        self.width, at = _read_varint(view, start + 9, "the width")
        self.height, at = _read_varint(view, at, "the height")
        rest = _take(view, at, 6, "the header")
        self.channels, self.quality = rest[0], rest[1]
        self.digest = int.from_bytes(rest[2:], "little")
        self.end = at + 6


def _check_magic_and_version(view: memoryview) -> None:
    start = bytes(view[:4])
    if start != MAGIC:
        if not start:
            raise StreamError("the file is empty")
        if MAGIC.startswith(start):
            raise StreamError(f"the file ends inside the header, at byte {len(start)}")
        # What is left of the magic after line ends, the eighth bit, or the encoding were converted.
        damaged = (MAGIC[:3], b"\x0fRH", b"\xc2\x8fR", b"\xef\xbf\xbd")
        if start.startswith(damaged):
            raise StreamError("the file was damaged by a copy in text mode; copy it as binary")
        raise StreamError(f"not a .rho file: it starts with the bytes {start.hex(' ')}")
    version = _take(view, len(MAGIC), 1, "the header")[0]
    if version != FORMAT_VERSION:
        raise StreamError(
            f"the file has format version {version}; this version of rhodec reads "
            f"format version {FORMAT_VERSION}"
        )


def _walk(view: memoryview, header: _Header) -> Iterator[tuple[Chunk, memoryview]]:
    """The chunks up to and including the latents, which must end the file."""
    at = header.end
    crc = crc32c(view[:at])
    seen: set[bytes] = set()
    while True:
        start = at
        tag = bytes(_take(view, at, 1, "the next chunk (the latents have not come yet)"))
        if not tag.isalpha():
            raise StreamError(f"byte {at} should be a chunk's tag, a letter, but is 0x{tag.hex()}")
        label = f"the {CHUNK_NAMES.get(tag, 'unknown')} chunk {_show(tag)}"
        if tag in seen:  # for unknown chunks too: it bounds the number of chunks
            raise StreamError(f"{label} comes a second time")
        seen.add(tag)
        length, body = _read_varint(view, at + 1, f"the length of {label}")
        payload = _take(view, body, length, label)
        stored = _take(view, body + length, 4, f"the CRC of {label}")
        at = body + length + 4
        crc = crc32c(view[start : body + length], crc)
        is_intact = crc == int.from_bytes(stored, "little")
        yield Chunk(tag, length, at - start, is_intact), payload
        if tag == LATENTS:
            break
    if at != len(view):
        raise StreamError(f"bytes after the latents, which must end the file: {len(view) - at}")


def _take(view: memoryview, at: int, count: int, what: str) -> memoryview:
    """`count` bytes from `at` on, none of them copied."""
    if count > len(view) - at:
        raise StreamError(
            f"the file ends inside {what}: bytes wanted at byte {at}: {count}, there: "
            f"{len(view) - at}"
        )
    return view[at : at + count]


def _read_varint(view: memoryview, at: int, what: str) -> tuple[int, int]:
    """A canonical varint and the position after it."""
    value = 0
    for i in range(VARINT_BYTES):
        byte = _take(view, at + i, 1, what)[0]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if byte == 0 and i > 0:
                raise StreamError(f"{what} is not written in its shortest form")
            return value, at + i + 1
    raise StreamError(f"{what} has more than {VARINT_BYTES} bytes")


def _problem_with_values(picture: Picture) -> str | None:
    """What is wrong with the numbers of a header, if anything; the same for writer and reader."""
    if picture.codec_id not in CODEC_NAMES:
        return f"codec id {picture.codec_id} is not one that this version of rhodec knows"
    for side, name in ((picture.width, "width"), (picture.height, "height")):
        if not 1 <= side <= MAX_SIDE:
            return f"the {name} is {side}; it must be between 1 and {MAX_SIDE}"
    if picture.channels not in (1, 3):
        return f"pixel format {picture.channels} is not 1 (grey) or 3 (RGB)"
    if not 0 <= picture.quality <= MAX_QUALITY:
        return f"quality index {picture.quality} is not between 0 and {MAX_QUALITY}"
    return None


def _show(tag: bytes) -> str:
    return f"'{tag.decode('ascii')}'"
