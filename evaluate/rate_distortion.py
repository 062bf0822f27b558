"""Rate and distortion of a coder over a folder of pictures, measured on real files.

For every picture and quality the coder writes a file; its size on disk over the true number of
pixels is the rate; what is read back from it and decoded is compared with the original, sample by
8-bit sample. One measurement is one `Row`. Rows are kept in a journal per coder and version, so a
second run computes only what is missing and a killed run loses nothing; `report_table` averages
them.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from rhodec.bitstream import container
from rhodec.bitstream.stream_error import StreamError
from rhodec.evaluate import quality_metrics as metrics

if TYPE_CHECKING:
    from rhodec.codecs.registry import Codec

PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif")
# Data sets by the SHA-256 of the fingerprints of their pictures: the only proof that a published
# curve was made with the same ones.
KNOWN_DATASETS = {"ff7c6bf9e3ba7d3299e95f55510583f475474ebac2f31a7209ec0a9864ee97dd": "kodak"}


# ---- coders -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """A file's bytes, and how to learn the bits that the model expected (outside the clock)."""

    data: bytes
    estimate_bits: Callable[[], float] | None = None


class PictureCoder(Protocol):
    """What can be measured: a codec of ours or an anchor.

    `fingerprint` changes with everything that may change a file: weights, versions, settings.
    `conditions` is what someone else needs to repeat the measurement. `prepare` does once per
    picture what all qualities share; its time counts for each of them.
    """

    name: str
    fingerprint: str
    extension: str
    default_qualities: tuple[float, ...]

    @property
    def conditions(self) -> dict[str, str]: ...
    def prepare(self, image: np.ndarray) -> Any: ...
    def encode(self, prepared: Any, quality: float) -> Encoded: ...
    def decode(self, data: bytes) -> np.ndarray: ...


class RhodecCoder:
    """A codec of this package behind the container: whole `.rho` files in and out."""

    extension = ".rho"
    default_qualities = tuple(10.0 * i for i in range(11))

    def __init__(self, codec: Codec, effort: int = 0) -> None:
        if not 0 <= effort <= codec.max_effort:
            raise ValueError(f"codec {codec.name} has efforts 0 to {codec.max_effort}")
        self.codec = codec
        self.options = {"effort": effort} if effort else {}
        self.name = codec.name + (f"-effort{effort}" if effort else "")
        self.fingerprint = f"{codec.weights_hash.hex()}-rhodec-{version_of('rhodec')}"

    @property
    def conditions(self) -> dict[str, str]:
        return {
            "software": f"rhodec {version_of('rhodec')}, torch {version_of('torch')}",
            "command": f"rhodec encode --codec {self.codec.name} --quality Q"
            + "".join(f" --{name} {value}" for name, value in self.options.items()),
            "colour": "RGB, 8 bit",
            "bits": "whole file",
            "weights": self.codec.weights_hash.hex(),
        }

    def prepare(self, image: np.ndarray) -> Any:
        """uint8 (H, W, 3) -> latents and the size."""
        return self.codec.analyse(image), image.shape[1], image.shape[0]

    def encode(self, prepared: Any, quality: float) -> Encoded:
        """The bytes of a `.rho` file; `quality` is 0 to 100 in half steps."""
        latents, width, height = prepared
        index = round(2 * quality)
        if index != 2 * quality or not 0 <= index <= container.MAX_QUALITY:
            raise ValueError(f"quality {quality:g} is not a half step from 0 to 100")
        coded = self.codec.quantise(latents, quality, **self.options)
        picture = container.Picture(
            codec_id=self.codec.codec_id,
            weights_hash=self.codec.weights_hash,
            width=width,
            height=height,
            channels=3,
            quality=index,
            digest=coded.digest,
            payload=coded.payload,
        )
        return Encoded(container.pack(picture), lambda: coded.estimated_bits)

    def decode(self, data: bytes) -> np.ndarray:
        """The bytes of a `.rho` file -> uint8 (H, W, 3); `StreamError` for any other bytes."""
        stored = container.parse(data)
        asked, own = ((c.codec_id, c.weights_hash.hex()) for c in (stored, self.codec))
        if asked != own:
            raise StreamError(f"the file was made with codec and weights {asked}, not {own}")
        return self.codec.decode(
            stored.payload, stored.width, stored.height, stored.quality / 2, stored.digest
        )


# ---- pictures -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TestPicture:
    """A picture of a data set; `pixels_sha256` is of its size and its RGB samples."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    path: Path
    width: int
    height: int
    pixels_sha256: str

    @property
    def name(self) -> str:
        return self.path.name


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 (H, W, 3), upright; alpha is ignored, grey becomes RGB.

    Raises `ValueError` for what is not a picture and for more than 8 bits per sample.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{path}: only pictures with 8 bits per sample are measured")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path}: {error}") from error


def find_pictures(folder: Path) -> list[TestPicture]:
    """The pictures in a folder, not in its subfolders, by name; a file stands for itself.

    Raises `ValueError` for no folder, no pictures, or one that cannot be read.
    """
    if folder.is_dir():
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_EXTENSIONS)
    elif folder.is_file():
        paths = [folder]
    else:
        raise ValueError(f"{folder}: no such folder")
    if not paths:
        raise ValueError(f"{folder}: no pictures ({', '.join(PICTURE_EXTENSIONS)})")
    pictures = []
    for path in paths:
        image = read_picture(path)
        height, width = image.shape[:2]
        digest = hashlib.sha256(f"{width}x{height}\n".encode() + image.tobytes()).hexdigest()
        pictures.append(TestPicture(path, width, height, digest))
    return pictures


def dataset_digest(pictures: Iterable[TestPicture]) -> str:
    """SHA-256 over the sorted fingerprints of the pictures; names and file formats do not count."""
    lines = sorted(picture.pixels_sha256 for picture in pictures)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def dataset_name(pictures: Sequence[TestPicture]) -> str | None:
    """`kodak` if these are exactly the 24 Kodak pictures; None for a set that is not known."""
    return KNOWN_DATASETS.get(dataset_digest(pictures))


# ---- rows and their journal ---------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One picture at one quality. PSNR in dB, times in seconds, `nan` for what does not exist.

    `encode_s` and `decode_s` are wall time, `*_cpu_s` the processor time of this process.
    """

    codec: str
    fingerprint: str
    quality: float
    picture: str
    pixels_sha256: str
    width: int
    height: int
    file_bytes: int
    bpp: float
    estimated_bpp: float
    mse: float
    psnr_rgb: float
    psnr_y: float
    psnr_yuv_611: float
    psnr_yuv_411: float
    psnr_yuv_mse_411: float
    ms_ssim: float
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

    Every line ends with the CRC-32 of the rest of it and is written by one call, so a line that a
    killed run left unfinished is recognised and skipped, and several runs may share the file.
    """

    def __init__(self, folder: Path, coder: PictureCoder) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Rows with other columns are in another file.
        schema = f"{zlib.crc32(HEADER.encode()):08x}"
        self.path = folder / f"{coder.name}-{coder.fingerprint}-{schema}.tsv"
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


# ---- measuring ----------------------------------------------------------------------------------


def missing_points(
    coder: PictureCoder,
    pictures: Sequence[TestPicture],
    qualities: Sequence[float],
    journal_folder: Path,
) -> int:
    """How many measurements `measure` would make."""
    known = Journal(journal_folder, coder).rows
    return sum((p.pixels_sha256, float(q)) not in known for p in pictures for q in qualities)


def measure(
    coder: PictureCoder,
    pictures: Sequence[TestPicture],
    qualities: Sequence[float],
    journal_folder: Path,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """The rows of all pictures and qualities, in this order; only missing ones are computed.

    `on_row` is called after each new row. Errors of the coder pass through, with a note that says
    which picture and quality; finished rows are kept.
    """
    journal = Journal(journal_folder, coder)
    points = [float(quality) for quality in qualities]
    is_warm = False
    for picture in pictures:
        missing = [q for q in points if (picture.pixels_sha256, q) not in journal.rows]
        if not missing:
            continue
        image = read_picture(picture.path)
        if not is_warm:  # libraries load with the first picture: not part of its time
            small = np.ascontiguousarray(image[:64, :64])
            coder.decode(coder.encode(coder.prepare(small), missing[0]).data)
            is_warm = True
        clock = _Clock()
        prepared = coder.prepare(image)
        preparation = clock.seconds()
        for quality in missing:
            try:
                row = _measure_point(coder, picture, image, prepared, preparation, quality)
            except Exception as error:
                error.add_note(f"{coder.name}, {picture.name}, quality {quality:g}")
                raise
            journal.append(row)
            on_row(row)
    return [
        replace(journal.rows[picture.pixels_sha256, quality], picture=picture.name)
        for picture in pictures
        for quality in points
    ]


def _measure_point(
    coder: PictureCoder,
    picture: TestPicture,
    image: np.ndarray,
    prepared: Any,
    preparation: tuple[float, float],
    quality: float,
) -> Row:
    with tempfile.TemporaryDirectory(prefix="rhodec-") as folder:
        path = Path(folder) / f"picture{coder.extension}"
        clock = _Clock()
        encoded = coder.encode(prepared, quality)
        path.write_bytes(encoded.data)
        encoding = clock.seconds()
        file_bytes = path.stat().st_size

        clock = _Clock()
        decoded = coder.decode(path.read_bytes())
        decoding = clock.seconds()

    pixels = picture.width * picture.height
    bits = math.nan if encoded.estimate_bits is None else encoded.estimate_bits()
    planes = metrics.plane_errors(image, decoded)
    error = metrics.mse(image, decoded)
    is_large = min(picture.width, picture.height) >= metrics.MS_SSIM_MIN_SIDE
    return Row(
        codec=coder.name,
        fingerprint=coder.fingerprint,
        quality=quality,
        picture=picture.name,
        pixels_sha256=picture.pixels_sha256,
        width=picture.width,
        height=picture.height,
        file_bytes=file_bytes,
        bpp=8 * file_bytes / pixels,
        estimated_bpp=bits / pixels,
        mse=error,
        psnr_rgb=metrics.psnr_of_mse(error),
        psnr_y=metrics.psnr_of_mse(planes[0]),
        psnr_yuv_611=metrics.combine_planes(planes, "6:1:1"),
        psnr_yuv_411=metrics.combine_planes(planes, "4:1:1"),
        psnr_yuv_mse_411=metrics.combine_planes(planes, "mse 4:1:1"),
        ms_ssim=metrics.ms_ssim(image, decoded) if is_large else math.nan,
        encode_s=preparation[0] + encoding[0],
        encode_cpu_s=preparation[1] + encoding[1],
        decode_s=decoding[0],
        decode_cpu_s=decoding[1],
        machine=machine(),
    )


class _Clock:
    """Wall and processor time since its creation."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self.start[0], time.process_time() - self.start[1]


# ---- where it ran -------------------------------------------------------------------------------


def version_of(package: str) -> str:
    """The installed version of a package, or `unknown`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def machine() -> str:
    """Processor and threads, as far as they matter for times."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    torch = sys.modules.get("torch")
    threads = f", {torch.get_num_threads()} torch threads" if torch else ""
    return f"{model}, {os.cpu_count()} logical CPUs{threads}"


def environment() -> dict[str, str]:
    """Versions of this machine's software, for a results file."""
    packages = ("rhodec", "torch", "numpy", "scipy", "pillow")
    return {
        "machine": machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version_of(package) for package in packages},
    }
