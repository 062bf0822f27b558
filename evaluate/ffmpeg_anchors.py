"""HEVC and VVC intra as anchors, by x265 and VVenC inside the ffmpeg of the package imageio-ffmpeg.

Planes go in and elementary streams come out through pipes. The colour conversion is ours
(`colour_planes`): that of ffmpeg's scaler would cap the PSNR. VVenC takes only 4:2:0; with chroma
QPs lowered by 6 that costs little in RGB up to about 42 dB.
"""

from __future__ import annotations

import re
from functools import cache

from rhodec.evaluate.anchor_base import (
    DECODE_TIMEOUT_S,
    AnchorError,
    PlaneAnchor,
    run_program,
)
from rhodec.evaluate.colour_planes import Chroma, Planes, bytes_of, planes_from

PIXEL_FORMATS: dict[Chroma, str] = {"4:4:4": "yuv444p10le", "4:2:0": "yuv420p10le"}
Y4M_CHROMA: dict[str, Chroma] = {"444p10": "4:4:4", "420p10": "4:2:0"}
VVENC_SETTINGS = "intraperiod=1:gopsize=1:cbqpoffset=-6:crqpoffset=-6"
VVENC_QUALITIES = {
    "medium": (44.0, 39.0, 33.0, 27.0, 21.0),
    "faster": (44.0, 38.0, 32.0, 26.0, 21.0),
}
QUIET = ("-hide_banner", "-nostdin", "-loglevel", "error")
VERSION_PATTERNS = {  # in what the encoders say while they work
    "libx265": ("x265", r"HEVC encoder version (\S+)"),
    "libvvenc": ("VVenC", r"libvvenc version: (\S+)"),
}


class FfmpegAnchor(PlaneAnchor):
    """An encoder of ffmpeg; `encoder_options` with `{qp}` for the QP, then the stream's format."""

    encoder: str
    encoder_options: tuple[str, ...]
    stream_format: str

    def __init__(self) -> None:
        encode = self._encode_command("ffmpeg", "WIDTH", "HEIGHT", "QP")
        decode = decode_command("ffmpeg", self.stream_format)
        library = _encoder_version(self.encoder, PIXEL_FORMATS[self.chroma])
        super().__init__(
            software=f"ffmpeg {ffmpeg_version()}, {library}",
            command=f"{' '.join(encode)}; {' '.join(decode)}",
        )

    def encode_planes(self, planes: Planes, qp: int) -> bytes:
        height, width = planes.y.shape
        command = self._encode_command(ffmpeg_path(), str(width), str(height), str(qp))
        return run_program(command, bytes_of(planes), self.encode_timeout_s(planes)).stdout

    def decode_planes(self, stream: bytes, size: tuple[int, int] | None) -> Planes:
        return decode_stream(stream, self.stream_format)

    def _encode_command(self, ffmpeg: str, width: str, height: str, qp: str) -> list[str]:
        return [
            *(ffmpeg, *QUIET),
            *("-f", "rawvideo", "-pix_fmt", PIXEL_FORMATS[self.chroma], "-s", f"{width}x{height}"),
            *("-i", "pipe:0", "-frames:v", "1", "-c:v", self.encoder, "-threads", "1"),
            *(option.format(qp=qp) for option in self.encoder_options),
            *("-f", self.stream_format, "pipe:1"),
        ]


class HevcAnchor(FfmpegAnchor):
    """HEVC intra 4:4:4 by x265, tuned for PSNR, without the message that describes the encoder.

    x265 lowers the QP of intra frames by 3 from the one that is given.
    """

    name = "hevc"
    extension = ".hevc"
    default_qualities = (45.0, 40.0, 35.0, 30.0, 25.0, 21.0)
    chroma = "4:4:4"
    highest_qp = 51
    smallest_side = 16
    encoder = "libx265"
    # No pool of threads, hence no wavefront; with one, Kodak at QP 35 is the same within 0.1 %.
    encoder_options = (
        *("-preset", "slow", "-tune", "psnr"),
        *("-x265-params", "qp={qp}:info=0:keyint=1:pools=none:frame-threads=1"),
    )
    stream_format = "hevc"


class VvcAnchor(FfmpegAnchor):
    """VVC intra 4:2:0 by VVenC, without its perceptual optimisation."""

    extension = ".266"
    chroma = "4:2:0"
    highest_qp = 63
    smallest_side = 16
    encoder = "libvvenc"
    stream_format = "vvc"

    def __init__(self, preset: str = "medium") -> None:
        self.name = "vvc" if preset == "medium" else f"vvc-{preset}"
        self.default_qualities = VVENC_QUALITIES[preset]
        self.encoder_options = (
            *("-preset", preset, "-qp", "{qp}", "-qpa", "0"),
            *("-vvenc-params", VVENC_SETTINGS),
        )
        super().__init__()


def decode_command(ffmpeg: str, stream_format: str) -> list[str]:
    """A stream from standard input -> one frame in YUV4MPEG2, which tells its size."""
    return [
        *(ffmpeg, *QUIET, "-threads", "1", "-f", stream_format, "-i", "pipe:0"),
        *("-frames:v", "1", "-strict", "-1", "-f", "yuv4mpegpipe", "pipe:1"),
    ]


def decode_stream(stream: bytes, stream_format: str) -> Planes:
    """The first frame of an `hevc` or `vvc` byte stream, by ffmpeg's own decoders."""
    command = decode_command(ffmpeg_path(), stream_format)
    return planes_from_y4m(run_program(command, stream, DECODE_TIMEOUT_S).stdout)


def planes_from_y4m(data: bytes) -> Planes:
    """The planes of a YUV4MPEG2 file of one 10-bit frame; `AnchorError` for anything else.

    The file is a line of `YUV4MPEG2` and parameters (`W`idth, `H`eight, `C`hroma and depth), a line
    that starts with `FRAME`, and the samples.
    """
    head, _, rest = data.partition(b"\n")
    frame, _, samples = rest.partition(b"\n")
    words = head.decode("ascii", "replace").split(" ")
    values = {word[0]: word[1:] for word in words[1:] if word}
    chroma = Y4M_CHROMA.get(values.get("C", ""))
    if words[0] != "YUV4MPEG2" or not frame.startswith(b"FRAME") or chroma is None:
        raise AnchorError(f"the decoder wrote no 10-bit frame; its output starts {data[:80]!r}")
    try:
        return planes_from(samples, int(values["W"]), int(values["H"]), chroma)
    except (KeyError, ValueError) as error:
        raise AnchorError(f"the decoder wrote a damaged frame: {error}") from error


# ---- the program --------------------------------------------------------------------------------


@cache
def ffmpeg_path() -> str:
    """The ffmpeg of imageio-ffmpeg, or the one that the variable IMAGEIO_FFMPEG_EXE names."""
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "anchors by ffmpeg need imageio-ffmpeg: pip install 'rhodec[evaluate]'",
            name="imageio-ffmpeg",
        ) from error
    return imageio_ffmpeg.get_ffmpeg_exe()


@cache
def ffmpeg_version() -> str:
    """As `ffmpeg -version` says it."""
    said = run_program([ffmpeg_path(), "-version"]).stdout.decode("utf-8", "replace")
    found = re.search(r"ffmpeg version (\S+)", said)
    return found[1] if found else "of unknown version"


@cache
def _encoder_version(encoder: str, pixel_format: str) -> str:
    """Name and version of an encoder library; `AnchorError` if ffmpeg lacks it."""
    command = [ffmpeg_path(), "-hide_banner", "-nostdin", "-f", "lavfi", "-i", "color=gray:s=64x64"]
    command += ["-frames:v", "1", "-pix_fmt", pixel_format, "-c:v", encoder, "-threads", "1"]
    said = run_program([*command, "-f", "null", "-"]).stderr.decode("utf-8", "replace")
    name, pattern = VERSION_PATTERNS[encoder]
    found = re.search(pattern, said)
    return f"{name} {found[1] if found else 'of unknown version'}"
