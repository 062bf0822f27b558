"""What anchors share: fingerprints, checks, and coders that pipe planes through a program."""

from __future__ import annotations

import hashlib
import json
import shlex
import struct
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rhodec.evaluate.colour_planes import Chroma, Planes, image_of, planes_of
from rhodec.evaluate.picture_coders import Encoded

ERROR_CHARACTERS = 1500  # of what a failed program said
MAX_SIDE = 2**16 - 1
DECODE_TIMEOUT_S = 3600.0
ANNEX_B_START = b"\0\0"  # how every HEVC and VVC byte stream begins


class AnchorError(RuntimeError):
    """An encoder or decoder failed, with what it said."""


def fingerprint_of(conditions: dict[str, str]) -> str:
    """16 hexadecimal digits that change with any of the conditions of a measurement."""
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]


def whole_quality(quality: float, lowest: int, highest: int, scale: str) -> int:
    """The quality as an integer; `ValueError` unless it is one within the bounds."""
    if quality != int(quality) or not lowest <= quality <= highest:
        raise ValueError(f"{scale} {quality:g} is not a whole number from {lowest} to {highest}")
    return int(quality)


def run_program(
    command: Sequence[str], data: bytes = b"", timeout_s: float = 60.0
) -> subprocess.CompletedProcess[bytes]:
    """Run a program with `data` as its standard input.

    It is started without a shell and killed when the time is over or this process is interrupted.
    Raises `AnchorError` with the end of its messages if it fails, is missing or takes too long.
    """
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise AnchorError(f"took longer than {timeout_s:.0f} s: {shlex.join(command)}") from None
    except OSError as error:
        raise AnchorError(f"{command[0]} does not start: {error}") from error
    if done.returncode:
        # Reference software reports errors on its standard output, where others have their data.
        said = done.stderr if done.stderr.strip() else done.stdout
        tail = said.decode("utf-8", "replace")[-ERROR_CHARACTERS:].strip()
        raise AnchorError(f"exit code {done.returncode} of {shlex.join(command)}\n{tail}")
    return done


class Prepared(NamedTuple):
    """Planes of the padded picture, and the true size."""

    planes: Planes
    width: int
    height: int


class PlaneAnchor(ABC):
    """A coder for `rhodec.evaluate.rate_distortion` around a video encoder; the quality is its QP.

    The file is the encoder's elementary stream (Annex B). Where that does not tell the size of the
    picture, because it was padded or because the decoder never says it, width and height come
    first in two bytes each; a stream that starts with two zero bytes has no size before it.
    """

    name: str
    extension: str
    default_qualities: tuple[float, ...]
    chroma: Chroma
    highest_qp: int
    smallest_side: int
    has_size = False  # before every stream
    encode_s_per_pixel = 1e-3  # hangs, if it takes a minute more; some 25 times the slowest seen

    def __init__(self, software: str, command: str) -> None:
        colour = f"full-range BT.601 YCbCr {self.chroma}, 10 bit, from float64, rounded"
        if self.chroma == "4:2:0":
            colour += "; chroma halved and doubled by Lanczos filters"
        bits = "whole elementary stream"
        bits += " and 4 bytes of size" if self.has_size else ", 4 bytes more if it had to be padded"
        self.conditions = {
            "software": software,
            "command": command,
            "colour": colour,
            "bits": bits,
            "threads": "1; times include the start of the program and the colour conversion",
        }
        self.fingerprint = fingerprint_of(self.conditions)

    @abstractmethod
    def encode_planes(self, planes: Planes, qp: int) -> bytes:
        """The elementary stream of one frame."""

    @abstractmethod
    def decode_planes(self, stream: bytes, size: tuple[int, int] | None) -> Planes:
        """The frame of a stream; `size` is its width and height, None if the stream came alone."""

    def prepare(self, image: np.ndarray) -> Prepared:
        """uint8 (H, W, 3) -> planes, padded as the encoder needs it."""
        height, width = image.shape[:2]
        if max(height, width) > MAX_SIDE:
            raise ValueError(f"{self.name}: {width} x {height} is too large")
        columns, rows = self._coded_size(width, height)
        padded = np.pad(image, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")
        return Prepared(planes_of(padded, self.chroma), width, height)

    def encode(self, prepared: Prepared, quality: float) -> Encoded:
        """The bytes of a stream at a QP; there is no estimate of its size."""
        planes, width, height = prepared
        qp = whole_quality(quality, 0, self.highest_qp, f"{self.name} QP")
        stream = self.encode_planes(planes, qp)
        if not stream.startswith(ANNEX_B_START):
            raise AnchorError(f"{self.name}: the encoder wrote no Annex B byte stream")
        is_padded = planes.y.shape != (height, width)
        size = struct.pack(">2H", width, height) if self.has_size or is_padded else b""
        return Encoded(size + stream)

    def decode(self, data: bytes) -> np.ndarray:
        """The bytes of a stream -> uint8 (H, W, 3)."""
        if data.startswith(ANNEX_B_START):
            return image_of(self.decode_planes(data, None))
        if len(data) < 4:
            raise AnchorError(f"{self.name}: {len(data)} bytes are not a stream")
        width, height = struct.unpack_from(">2H", data)
        planes = self.decode_planes(data[4:], self._coded_size(width, height))
        return np.ascontiguousarray(image_of(planes)[:height, :width])

    def encode_timeout_s(self, planes: Planes) -> float:
        """After so many seconds an encoder hangs."""
        return 60 + self.encode_s_per_pixel * planes.y.size

    def _coded_size(self, width: int, height: int) -> tuple[int, int]:
        multiple = 2 if self.chroma == "4:2:0" else 1
        padded = [
            -(-max(side, self.smallest_side) // multiple) * multiple for side in (width, height)
        ]
        return padded[0], padded[1]
