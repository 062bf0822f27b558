"""One measurement as a row of text, and the journal in which finished ones survive."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from rhodec.evaluate.picture_coders import PictureCoder

# Raised when a value of a row would come out differently from the same file (metrics, clocks), so
# that rows of before are not mixed with new ones.
MEASUREMENT_VERSION = 2


@dataclass(frozen=True)
class Row:
    """One picture at one quality. PSNR in dB, times in seconds, `nan` for what does not exist.

    `encode_s` and `decode_s` are wall time, `*_cpu_s` the processor time of this process and of
    the programs it ran. `file_sha256` is that of the coded file, `pixels_sha256` of the picture.
    """

    codec: str
    fingerprint: str
    quality: float
    picture: str
    pixels_sha256: str
    width: int
    height: int
    file_bytes: int
    file_sha256: str
    bpp: float
    estimated_bpp: float
    mse: float
    psnr_rgb: float
    psnr_y: float
    psnr_yuv_611: float
    psnr_yuv_411: float
    psnr_yuv_mse_411: float
    ms_ssim: float
    ssimulacra2: float
    encode_s: float
    encode_cpu_s: float
    decode_s: float
    decode_cpu_s: float
    machine: str


_CONVERTERS = {"str": str, "int": int, "float": float}
_COLUMNS = [(field.name, _CONVERTERS[str(field.type)]) for field in fields(Row)]
HEADER = "\t".join(name for name, _ in _COLUMNS)


def to_line(row: Row) -> str:
    """Values separated by tabs, floats such that reading gives the same number."""
    return "\t".join(
        " ".join(value.split()) if isinstance(value, str) else repr(value) for value in astuple(row)
    )


def from_line(line: str) -> Row:
    """The inverse of `to_line`; `ValueError` for anything else."""
    values = line.split("\t")
    if len(values) != len(_COLUMNS):
        raise ValueError(f"{len(values)} values instead of {len(_COLUMNS)}")
    return Row(*(convert(v) for (_, convert), v in zip(_COLUMNS, values, strict=True)))


class Journal:
    """The finished rows of one coder in one file, found again by picture and quality.

    The name of the file follows from the coder's name and fingerprint and from the form of the
    rows, so that nothing made under other conditions is ever found. Every line ends with the
    CRC-32 of the rest of it and is written by one call, so a line that a killed run left
    unfinished is recognised and skipped, and several runs may share the file. Of two lines for one
    point the later counts.
    """

    def __init__(self, folder: Path, coder: PictureCoder) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        identity = f"{coder.name}-{coder.fingerprint}"
        form = zlib.crc32(f"{identity}\t{MEASUREMENT_VERSION}\t{HEADER}".encode())
        readable = re.sub(r"[^\w.+-]", "_", identity)[:160]
        self.path = folder / f"{readable}-{form:08x}.tsv"
        self.rows: dict[tuple[str, float], Row] = {}
        content = self.path.read_bytes() if self.path.exists() else b""
        for raw in content.split(b"\n"):
            line, _, check = raw.decode("utf-8", "replace").rpartition("\t")
            if check == _check(line) and line != HEADER:
                self._keep(from_line(line))
        if not content:
            self._write(HEADER)
        elif not content.endswith(b"\n"):
            self._append(b"\n")  # after a line that was cut

    def append(self, row: Row) -> None:
        """Keep a row; when this returns, it survives the end of the process and of the machine."""
        self._write(to_line(row))
        self._keep(row)

    def _keep(self, row: Row) -> None:
        self.rows[row.pixels_sha256, row.quality] = row

    def _write(self, line: str) -> None:
        self._append(f"{line}\t{_check(line)}\n".encode())

    def _append(self, data: bytes) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.write(file, data) != len(data):
                raise OSError(f"{self.path}: the disk is full")
            os.fsync(file)
        finally:
            os.close(file)


def _check(line: str) -> str:
    return f"{zlib.crc32(line.encode()):08x}"
