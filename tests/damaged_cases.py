"""Damaged `.rho` files, for damage_files.py and test_damage.py: sources and what is done to them.

Damages are what happens to files: cut, bits flipped, bytes inserted, removed and overwritten, two
files spliced. Nearly all of that ends at a CRC, so forgeries have every CRC made right again and
bring the garbage to the decoders behind: headers that ask for 2^31 pixels, lengths beyond the end,
damaged alpha planes, and above all damaged range coder bytes.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from rhodec.bitstream import container
from rhodec.bitstream._crc32c import crc32c

DATA = Path(__file__).parent / "data"
SIZES = {"tiny": (1, 1), "row": (40, 3), "small": (64, 48), "odd": (83, 61), "large": (400, 300)}
SMALL = ("tiny", "row", "small", "odd", "alpha", "grey")

DAMAGES = ("cut", "flip", "insert", "remove", "overwrite", "splice")
FORGERIES = (
    "payload cut", "payload flip", "payload garbage", "payload constant", "payload of another",
    "payload longer", "header size", "header quality", "header digest", "header codec",
    "chunk length", "alpha garbage", "unknown chunk",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A damaged file: what was done, to which source, and whether its CRCs are right."""

    kind: str
    source: str
    data: bytes
    is_forged: bool


# ---- sources ------------------------------------------------------------------------------------


def encode_sources(codec: str) -> dict[str, bytes]:
    """One file of each kind of picture: sizes, grey, with alpha."""
    import rhodec

    photo = np.array(Image.open(DATA / "kodim23.png").convert("RGB"))
    files = {}
    for i, (name, (width, height)) in enumerate(SIZES.items()):
        part = photo[60 : 60 + height, 90 : 90 + width]
        files[name] = rhodec.encode(part, quality=(90, 60, 75, 40, 70)[i], codec=codec)
    part = photo[200:233, 300:337]
    alpha = np.add.outer(np.arange(33), np.arange(37))[..., None].astype(np.uint8)
    files["alpha"] = rhodec.encode(np.concatenate([part, alpha], 2), quality=50, codec=codec)
    files["grey"] = rhodec.encode(part[..., :1], quality=50, codec=codec)
    return files


# ---- damage -------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def forge(
    picture: container.Picture,
    extra: Sequence[tuple[bytes, bytes]] = (),
    length_of: Callable[[bytes, int], int] = lambda tag, length: length,
) -> bytes:
    """A file with right CRCs, whatever nonsense the picture's fields are."""
    out = bytearray(container.MAGIC) + bytes([container.FORMAT_VERSION, picture.codec_id])
    out += picture.weights_hash + varint(picture.width) + varint(picture.height)
    out += bytes([picture.channels, picture.quality]) + picture.digest.to_bytes(4, "little")
    crc = crc32c(out)
    chunks = [*extra, (b"A", picture.alpha), (b"L", picture.payload)]
    for tag, payload in chunks:
        if payload is not None:
            framed = tag + varint(length_of(tag, len(payload))) + payload
            crc = crc32c(framed, crc)
            out += framed + crc.to_bytes(4, "little")
    return bytes(out)


def damage(kind: str, data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A file as a bad disk, cable or program leaves it; other: the one it is spliced with."""
    out = bytearray(data)
    at = rng.randrange(len(out))
    if kind == "cut":
        return data[:at]
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 2, 8))):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == "insert":
        out[at:at] = rng.randbytes(rng.choice((1, 1, 2, 100)))
    elif kind == "remove":
        del out[at : at + rng.choice((1, 1, 2, 100))]
    elif kind == "overwrite":
        count = min(rng.choice((2, 16, 512)), len(out) - at)
        out[at : at + count] = rng.choice((rng.randbytes(count), bytes(count)))
    elif kind == "splice":
        return data[:at] + other[rng.randrange(len(other)) :]
    return bytes(out)


def forgery(kind: str, data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A file whose CRCs hold and whose contents do not."""
    picture = container.parse(data)
    payload = bytearray(picture.payload)
    at = rng.randrange(len(payload))
    if kind == "payload cut":
        return forge(replace(picture, payload=bytes(payload[:at])))
    if kind == "payload flip":
        for _ in range(rng.choice((1, 1, 2, 8))):
            payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
    elif kind == "payload garbage":
        payload[at:] = rng.randbytes(len(payload) - at)
    elif kind == "payload constant":
        payload[at:] = bytes([rng.choice((0, 255, 128))]) * (len(payload) - at)
    elif kind == "payload of another":
        payload = bytearray(container.parse(other).payload)
    elif kind == "payload longer":
        payload += rng.randbytes(rng.choice((1, 2, 4, 1000)))
    elif kind == "header size":
        return forge(replace(picture, **_hostile_size(picture, rng)))
    elif kind == "header quality":
        return forge(replace(picture, quality=rng.randrange(256), channels=rng.choice((1, 3, 4))))
    elif kind == "header digest":
        return forge(replace(picture, digest=picture.digest ^ 1 << rng.randrange(32)))
    elif kind == "header codec":
        if rng.random() < 0.5:
            return forge(replace(picture, codec_id=rng.randrange(256)))
        return forge(replace(picture, weights_hash=rng.randbytes(8)))
    elif kind == "chunk length":
        wrong = rng.choice((0, 1, len(payload) + 1, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1))
        return forge(picture, length_of=lambda tag, length: wrong)
    elif kind == "alpha garbage":
        return forge(replace(picture, alpha=_hostile_alpha(picture, rng)))
    elif kind == "unknown chunk":
        tag = rng.choice((b"Q", b"q", b"L", b"A", b"\0"))
        return forge(picture, [(tag, rng.randbytes(rng.randrange(200)))])
    return forge(replace(picture, payload=bytes(payload)))


def _hostile_size(picture: container.Picture, rng: random.Random) -> dict[str, int]:
    """Sizes up to 2^31 pixels and beyond; also slightly wrong ones, and those just allowed."""
    choices = [
        (1 << 16, 1 << 15), (1 << 24, 1 << 7), (1 << 24, 1 << 24), (1 << 31, 1), (1, 1 << 31),
        (0, picture.height), (1 << 62, 1), (1 << 14, 1 << 14), (1 << 24, 16), (16, 1 << 24),
        (20_000, 10_000), (3_000, 3_000), (picture.height, picture.width),
        (picture.width + 1, picture.height), (picture.width, picture.height + 16),
        (2 * picture.width, picture.height), (picture.width, 64 * picture.height),
    ]  # fmt: skip
    width, height = rng.choice(choices)
    return {"width": width, "height": height}


def _hostile_alpha(picture: container.Picture, rng: random.Random) -> bytes:
    """An alpha plane that is no PNG, a damaged one, or one that claims another size or mode."""
    if picture.alpha is not None and rng.random() < 0.6:
        return damage(rng.choice(DAMAGES[:5]), picture.alpha, b"", rng)
    if rng.random() < 0.4:
        return rng.randbytes(rng.randrange(300))
    out = BytesIO()
    Image.new(rng.choice(("L", "RGB", "1", "P", "I;16")), (1, 1)).save(out, "PNG")
    sides = rng.choice(((picture.width, picture.height), (9000, 9000), (2**31 - 1, 1), (1, 1)))
    png = bytearray(out.getvalue())
    png[16:24] = struct.pack(">II", *sides)  # of the IHDR chunk, whose CRC follows at 29
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)


def make_case(files: dict[str, bytes], index: int, seed: int) -> Case:
    """Case `index` of a run; the first ones cut the file "small" and its payload at every byte."""
    small = files["small"]
    if index < len(small):
        return Case("cut", "small", small[:index], False)
    index -= len(small)
    picture = container.parse(small)
    if index < len(picture.payload):
        cut = forge(replace(picture, payload=picture.payload[:index]))
        return Case("payload cut", "small", cut, True)
    rng = random.Random(seed << 32 | index)
    name = "large" if rng.random() < 0.02 else rng.choice(SMALL)
    other = files[rng.choice(SMALL)]
    kind = rng.choice(DAMAGES + FORGERIES)
    is_forged = kind in FORGERIES
    data = (forgery if is_forged else damage)(kind, files[name], other, rng)
    return Case(kind, name, data, is_forged)
