"""JPEG 2000, WebP, AVIF and JPEG XL as anchors, through the libraries inside Pillow and its plugin.

All are set for PSNR where they can be: encoders' defaults are often perceptual, and cost AVIF some
20 % of rate at equal PSNR. One thread each, no metadata. JPEG is in `jpeg_anchor`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib import metadata
from io import BytesIO
from typing import Any

import numpy as np
from PIL import AvifImagePlugin, Image, features
from PIL import __version__ as pillow_version

from rhodec.evaluate.anchor_base import fingerprint_of, whole_quality
from rhodec.evaluate.picture_coders import Encoded


class PillowAnchor:
    """A coder for `rhodec.evaluate.rate_distortion` around one of the formats that Pillow writes.

    A subclass names the format and its fixed options; `quality_options` makes those of a quality.
    """

    name: str
    extension: str
    default_qualities: tuple[float, ...]
    format: str
    lowest_quality = 0
    quality_text = "quality=Q"
    bits = "whole file"

    def __init__(self, library: str, colour: str, **options: Any) -> None:
        self.options = options
        shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
        self.conditions = {
            "software": f"Pillow {pillow_version}, {library}",
            "command": f'Image.save(file, "{self.format}", {self.quality_text}, {shown})',
            "colour": colour,
            "bits": self.bits,
            "threads": "1",
        }
        self.fingerprint = fingerprint_of(self.conditions)

    def quality_options(self, quality: float) -> dict[str, Any]:
        """The options of a quality; `ValueError` for one that the format does not have."""
        scale = f"{self.format} quality"
        return {"quality": whole_quality(quality, self.lowest_quality, 100, scale)}

    def prepare(self, image: np.ndarray) -> Image.Image:
        """uint8 (H, W, 3) -> what `encode` takes."""
        return Image.fromarray(image)

    def encode(self, prepared: Image.Image, quality: float) -> Encoded:
        """The bytes of a file; there is no estimate of its size."""
        file = BytesIO()
        prepared.save(file, self.format, **self.quality_options(quality), **self.options)
        return Encoded(file.getvalue())

    def decode(self, data: bytes) -> np.ndarray:
        """The bytes of a file -> uint8 (H, W, 3)."""
        with Image.open(BytesIO(data), formats=[self.format]) as image:
            return np.array(image.convert("RGB"))


class Jpeg2000Anchor(PillowAnchor):
    """JPEG 2000 with the 9/7 wavelet, as a codestream; qualities are bits per pixel.

    A constant rate for all pictures, as the published curve has it. At a constant PSNR the same
    encoder needs some 20 % more bits on the mean of Kodak, because the curve of means then spreads
    the rate otherwise over the pictures.
    """

    name = "jpeg2000"
    extension = ".j2k"
    default_qualities = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)
    format = "JPEG2000"
    quality_text = "quality_layers=[24 / Q]"
    bits = "whole codestream, with OpenJPEG's comment"

    def __init__(self) -> None:
        super().__init__(
            library=f"OpenJPEG {features.version('jpg_2000')}",
            colour="irreversible colour transform of JPEG 2000 (BT.601), inside OpenJPEG",
            quality_mode="rates",
            irreversible=True,
            mct=1,
            no_jp2=True,
        )

    def quality_options(self, quality: float) -> dict[str, Any]:
        if not 0 < quality <= 24:
            raise ValueError(f"JPEG 2000 rate {quality:g} is not above 0 and at most 24 bpp")
        return {"quality_layers": [24 / quality]}


class WebpAnchor(PillowAnchor):
    """Lossy WebP, which is always 4:2:0, at the slowest of its methods."""

    name = "webp"
    extension = ".webp"
    default_qualities = (0.0, 10.0, 25.0, 45.0, 65.0, 80.0, 90.0, 96.0)
    format = "WEBP"

    def __init__(self) -> None:
        super().__init__(
            library=f"libwebp {features.version('webp')}",
            colour="narrow-range BT.601 YCbCr 4:2:0, 8 bit, inside libwebp",
            method=6,
        )


class AvifAnchor(PillowAnchor):
    """AVIF by libaom, tuned for PSNR; its container takes about 275 bytes of every file."""

    extension = ".avif"
    format = "AVIF"

    def __init__(self, subsampling: str = "4:4:4") -> None:
        if not features.check("avif"):
            raise ValueError("this Pillow has no AVIF; the wheels of 11.3 and newer have")
        self.name, self.default_qualities = {
            "4:4:4": ("avif", (8.0, 20.0, 35.0, 50.0, 68.0)),
            "4:2:0": ("avif-420", (8.0, 24.0, 44.0, 70.0)),
        }[subsampling]
        super().__init__(
            library=f"libavif {features.version('avif')}, {_av1_codecs()}",
            colour=f"full-range BT.601 YCbCr {subsampling}, 8 bit, inside libavif",
            subsampling=subsampling,
            codec="aom",
            speed=4,
            advanced={"tune": "psnr"},
            autotiling=False,
            max_threads=1,
        )

    def decode(self, data: bytes) -> np.ndarray:
        with _replaced(AvifImagePlugin, "DEFAULT_MAX_THREADS", 1):
            return super().decode(data)


class JpegXlAnchor(PillowAnchor):
    """JPEG XL in its own colour space XYB, which serves the eye and neither PSNR nor MS-SSIM.

    Below quality 20 the encoder halves the picture, which bends the curve: it starts there.
    """

    name = "jxl"
    extension = ".jxl"
    default_qualities = (20.0, 25.0, 45.0, 65.0, 80.0, 90.0, 94.0)
    format = "JXL"
    bits = "naked codestream"

    def __init__(self) -> None:
        _jxl_plugin()
        super().__init__(
            library=f"pillow-jxl-plugin {metadata.version('pillow-jxl-plugin')}, {_libjxl()}",
            colour="XYB, inside libjxl",
            effort=7,
            use_container=False,
            num_threads=0,
        )

    def encode(self, prepared: Image.Image, quality: float) -> Encoded:
        _jxl_plugin()
        return super().encode(prepared, quality)

    def decode(self, data: bytes) -> np.ndarray:
        with _replaced(_jxl_plugin(), "DECODE_THREADS", 0):
            return super().decode(data)


def _jxl_plugin() -> Any:
    """The plugin, which Pillow knows once it is imported, in every process of its own."""
    try:
        return importlib.import_module("pillow_jxl.JpegXLImagePlugin")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the anchor jxl needs pillow-jxl-plugin: pip install 'rhodec[evaluate]'",
            name="pillow-jxl-plugin",
        ) from error


def _libjxl() -> str:
    """The version of libjxl, which only the plugin's list of materials says."""
    for file in metadata.files("pillow-jxl-plugin") or []:
        if file.name.endswith(".cyclonedx.json"):
            found = re.search(r"\+libjxl-([\d.]+)", file.read_text(encoding="utf-8"))
            if found:
                return f"libjxl {found[1]}"
    return "libjxl of that plugin"


def _av1_codecs() -> str:
    """`libaom 3.14.1, dav1d 1.5.3`: what encodes and decodes inside libavif, if Pillow says it."""
    try:
        from PIL import _avif  # type: ignore[attr-defined]  # no public name for this

        found = re.findall(r"(\w+) \[(?:enc|dec|enc/dec)\]:v?([\w.-]+)", _avif.codec_versions())
    except (ImportError, AttributeError):
        found = []
    return ", ".join(f"{name} {version}" for name, version in found) or "unknown AV1 codecs"


@contextmanager
def _replaced(module: Any, variable: str, value: int) -> Generator[None]:
    """A module's variable with another value for a while: how plugins take their thread number."""
    before = getattr(module, variable)
    setattr(module, variable, value)
    try:
        yield
    finally:
        setattr(module, variable, before)
