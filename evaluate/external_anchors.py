"""VTM, HM and vvencapp as anchors, when the user has built them: `vtm:PATH`, `hm:PATH`, ...

PATH is the encoder, or the folder that it is in. The decoder is expected beside it, and the
configuration file of the reference software in a folder `cfg` beside or above it; where they are
elsewhere, PATH is `ENCODER,DECODER` or `ENCODER,DECODER,CONFIG`.

VTM and HM code 4:4:4 at 10 bits with the intra configuration that comes with them; the published
curves were made with 8 bits. VVenC codes only 4:2:0, here with the settings of the anchor `vvc`:
this form is for another version of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from rhodec.evaluate.anchor_base import DECODE_TIMEOUT_S, AnchorError, PlaneAnchor, run_program
from rhodec.evaluate.colour_planes import BIT_DEPTH, Planes, bytes_of, planes_from
from rhodec.evaluate.ffmpeg_anchors import (
    VVENC_QUALITIES,
    VVENC_SETTINGS,
    decode_command,
    decode_stream,
    planes_from_y4m,
)

CONFIG_LEVELS = 4  # folders above the encoder in which the configuration is looked for
REFERENCE_QPS = (47.0, 42.0, 37.0, 32.0, 27.0, 22.0, 17.0, 12.0)
VERSION_PATTERN = re.compile(r"\bver(?:sion|\.):? *\[?([\w.+-]*\d[\w.+-]*)", re.IGNORECASE)


class ProgramAnchor(PlaneAnchor):
    """Programs of the user's that read planes from a file and write a stream, and back."""

    encoder_names: tuple[str, ...]
    frame_suffix: str  # of what the decoder writes
    encode_s_per_pixel = 0.02

    def __init__(self, encoder: Path, decoder: Path | None, files: Sequence[Path] = ()) -> None:
        self.encoder, self.decoder = encoder, decoder
        programs = [encoder, *([decoder] if decoder else []), *files]
        encode = self.encode_command("QP", "IN.yuv", f"OUT{self.extension}", "WIDTH", "HEIGHT")
        decode = self.decode_command(f"OUT{self.extension}", f"OUT{self.frame_suffix}")
        words = [Path(word).name if Path(word) in programs else word for word in encode]
        words += [";", *(Path(word).name if Path(word) in programs else word for word in decode)]
        digests = ", ".join(f"{path.name} SHA-256 {_digest(path)}" for path in programs)
        super().__init__(
            software=f"{encoder.name} {_version(encoder)}; {digests}", command=" ".join(words)
        )

    @abstractmethod
    def encode_command(
        self, qp: str, frame: str, stream: str, width: str, height: str
    ) -> list[str]:
        """One frame of a file of planes -> a stream."""

    @abstractmethod
    def decode_command(self, stream: str, frame: str) -> list[str]:
        """A stream -> a file of one frame."""

    @abstractmethod
    def read_frame(self, data: bytes, size: tuple[int, int] | None) -> Planes:
        """The content of the file that the decoder wrote."""

    def encode_planes(self, planes: Planes, qp: int) -> bytes:
        height, width = planes.y.shape
        with tempfile.TemporaryDirectory(prefix="rhodec-") as folder:
            frame, stream = Path(folder, "in.yuv"), Path(folder, f"out{self.extension}")
            frame.write_bytes(bytes_of(planes))
            names = str(qp), str(frame), str(stream), str(width), str(height)
            run_program(self.encode_command(*names), timeout_s=self.encode_timeout_s(planes))
            return _read_output(stream, self.encoder)

    def decode_planes(self, stream: bytes, size: tuple[int, int] | None) -> Planes:
        if self.decoder is None:
            return decode_stream(stream, "vvc")
        with tempfile.TemporaryDirectory(prefix="rhodec-") as folder:
            source = Path(folder, f"in{self.extension}")
            frame = Path(folder, f"out{self.frame_suffix}")
            source.write_bytes(stream)
            run_program(self.decode_command(str(source), str(frame)), timeout_s=DECODE_TIMEOUT_S)
            return self.read_frame(_read_output(frame, self.decoder), size)


class ReferenceAnchor(ProgramAnchor):
    """The reference software of a standard, with the intra configuration that comes with it."""

    extension = ".bin"
    frame_suffix = ".yuv"
    default_qualities = REFERENCE_QPS
    chroma = "4:4:4"
    smallest_side = 8
    has_size = True  # the decoders write nothing but samples
    config_name: str

    def __init__(self, path: str) -> None:
        encoder, decoder, config = _split(path)
        encoder = _find_encoder(encoder, self.encoder_names)
        beside = encoder.with_name(encoder.name.replace("Encoder", "Decoder"))
        self.config = config or _find_config(encoder, self.config_name, self.name)
        if not self.config.is_file():
            raise ValueError(f"{self.config}: no such configuration file")
        super().__init__(encoder, _program(decoder or beside), [self.config])

    def encode_command(
        self, qp: str, frame: str, stream: str, width: str, height: str
    ) -> list[str]:
        return [
            *(str(self.encoder), "-c", str(self.config), "-q", qp),
            *("-i", frame, "-b", stream, "-o", os.devnull),
            *("-wdt", width, "-hgt", height, "-fr", "1", "-f", "1"),
            *("--InputChromaFormat=444", f"--InputBitDepth={BIT_DEPTH}"),
            *(f"--InternalBitDepth={BIT_DEPTH}", "--ConformanceWindowMode=1"),
            "--SEIDecodedPictureHash=0",
        ]

    def decode_command(self, stream: str, frame: str) -> list[str]:
        return [str(self.decoder), "-b", stream, "-o", frame, "-d", str(BIT_DEPTH)]

    def read_frame(self, data: bytes, size: tuple[int, int] | None) -> Planes:
        if size is None:
            raise AnchorError(f"{self.name}: the file does not start with the size of its picture")
        try:
            return planes_from(data, *size, self.chroma)
        except ValueError as error:
            raise AnchorError(f"{self.name}: the decoder wrote a damaged frame: {error}") from error


class VtmAnchor(ReferenceAnchor):
    """VTM, the reference software of VVC."""

    name = "vtm"
    highest_qp = 63
    encoder_names = ("EncoderAppStatic", "EncoderApp")
    config_name = "encoder_intra_vtm.cfg"


class HmAnchor(ReferenceAnchor):
    """HM, the reference software of HEVC, with the range extensions that 4:4:4 needs."""

    name = "hm"
    highest_qp = 51
    encoder_names = ("TAppEncoderStatic", "TAppEncoder")
    config_name = "encoder_intra_main_rext.cfg"


class VvencappAnchor(ProgramAnchor):
    """VVenC's own program; decoded by the vvdecapp beside it, or else by ffmpeg."""

    name = "vvencapp"
    extension = ".266"
    frame_suffix = ".y4m"
    default_qualities = VVENC_QUALITIES["medium"]
    chroma = "4:2:0"
    highest_qp = 63
    smallest_side = 16
    encoder_names = ("vvencapp",)

    def __init__(self, path: str) -> None:
        encoder, decoder, config = _split(path)
        if config is not None:
            raise ValueError("vvencapp takes no configuration file: vvencapp:ENCODER,DECODER")
        encoder = _find_encoder(encoder, self.encoder_names)
        beside = encoder.with_name("vvdecapp")
        is_there = decoder is not None or beside.is_file()
        super().__init__(encoder, _program(decoder or beside) if is_there else None)

    def encode_command(
        self, qp: str, frame: str, stream: str, width: str, height: str
    ) -> list[str]:
        return [
            *(str(self.encoder), "-i", frame, "-s", f"{width}x{height}", "-c", "yuv420_10"),
            *("-r", "1", "-f", "1", "--preset", "medium", "-q", qp, "--qpa", "0", "-t", "1"),
            *("--additional", VVENC_SETTINGS, "-o", stream),
        ]

    def decode_command(self, stream: str, frame: str) -> list[str]:
        if self.decoder is None:
            return decode_command("ffmpeg", "vvc")
        return [str(self.decoder), "-b", stream, "-o", frame, "-t", "1"]

    def read_frame(self, data: bytes, size: tuple[int, int] | None) -> Planes:
        return planes_from_y4m(data)


# ---- the programs -------------------------------------------------------------------------------


def _split(path: str) -> tuple[Path, Path | None, Path | None]:
    """`ENCODER[,DECODER[,CONFIG]]` as paths."""
    paths = [Path(part).expanduser() for part in path.split(",") if part]
    if not 1 <= len(paths) <= 3 or len(paths) != path.count(",") + 1:
        raise ValueError(f"{path!r} is not of the form ENCODER[,DECODER[,CONFIG]]")
    encoder, decoder, config = [*paths, None, None][:3]
    assert encoder is not None
    return encoder, decoder, config


def _find_encoder(path: Path, names: Sequence[str]) -> Path:
    """The path itself, or the first of the names in a folder."""
    if not path.is_dir():
        return _program(path)
    for name in names:
        if (path / name).is_file():
            return _program(path / name)
    raise ValueError(f"{path}: no {' or '.join(names)} in this folder")


def _program(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: no such program")
    if not os.access(path, os.X_OK):
        raise ValueError(f"{path} is not executable")
    return path.absolute()


def _find_config(encoder: Path, config: str, anchor: str) -> Path:
    for folder in encoder.resolve().parents[:CONFIG_LEVELS]:
        for path in (folder / config, folder / "cfg" / config):
            if path.is_file():
                return path
    raise ValueError(f"no {config} near {encoder}; name it: {anchor}:ENCODER,DECODER,CONFIG")


def _read_output(path: Path, program: Path) -> bytes:
    if not path.is_file():
        raise AnchorError(f"{program} ended without an error, but wrote no {path.name}")
    return path.read_bytes()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _version(program: Path) -> str:
    """The version in what a program says when asked for help, which may end with any exit code."""
    try:
        said = run_program([str(program), "--help"]).stdout.decode("utf-8", "replace")
    except AnchorError as error:
        said = str(error)
    found = VERSION_PATTERN.search(said)
    return found[1] if found else "of unknown version"
