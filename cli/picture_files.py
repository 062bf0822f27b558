"""Picture files in and out through Pillow, and the one picture type that the commands pass around.

Reading reduces everything to 8-bit grey or RGB plus an optional alpha plane, turned upright, and
says in `notes` what was lost on the way. There is no colour management: samples keep their values
and the ICC profile travels along. Metadata blocks are kept as bytes; EXIF without the "Exif\\0\\0"
prefix that only JPEG needs.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from rhodec.bitstream.container import MAX_PIXELS
from rhodec.bitstream.stream_error import StreamError

FORMAT_BY_EXTENSION = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pnm": "PPM",
}
FORMATS_WITH_ALPHA = ("PNG", "WEBP", "TIFF")
FORMATS_WITH_METADATA = ("PNG", "JPEG", "WEBP", "TIFF")

EXIF_PREFIX = b"Exif\0\0"
JPEG_SEGMENT_BYTES = 65533 - len(EXIF_PREFIX)
EXIF_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
XMP_TIFF_TAG = 700
# ImageDescription, Make, Model, Software, DateTime, Artist, Copyright
DESCRIPTIVE_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)


class PictureError(ValueError):
    """A picture file that cannot be read, or a picture that a format cannot hold."""


@dataclass(frozen=True)
class RasterPicture:
    """8-bit samples with what belongs to them.

    `pixels` is uint8 (H, W, 1) grey or (H, W, 3) RGB; `alpha` uint8 (H, W) with 0 transparent, or
    None when everything is opaque; `icc`, `exif`, `xmp` are metadata blocks; `notes` are sentences
    about what reading had to change.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    def to_array(self) -> np.ndarray:
        """Samples and alpha in one uint8 array (H, W, C), C = 1, 2, 3 or 4."""
        if self.alpha is None:
            return self.pixels
        return np.concatenate([self.pixels, self.alpha[:, :, None]], axis=2)

    def to_image(self) -> Image.Image:
        """A Pillow image of mode L, LA, RGB or RGBA, without the metadata."""
        samples = self.to_array()
        return Image.fromarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)


# ---- reading ------------------------------------------------------------------------------------


def read_picture(source: str | PathLike[str] | bytes) -> RasterPicture:
    """Read a picture file, given by its path or by its bytes.

    Raises `OSError` for a file that cannot be opened and `PictureError` for one that is not a
    picture, is damaged, or has samples that 8 bits cannot stand for.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    with own_pixel_limit(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PictureError(
                        f"{image.width} x {image.height} pixels are over the limit of {MAX_PIXELS}"
                    )
                picture = picture_from_image(image)
        except (PictureError, StreamError):
            raise
        except UnidentifiedImageError:
            raise PictureError("not a picture in a format that Pillow knows") from None
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the system's complaint about the file, not Pillow's about its content
            raise PictureError(f"damaged or unsupported picture: {error}") from error
    # What Pillow only warned about, such as damaged tags, is for the caller to show.
    warned = dict.fromkeys(" ".join(str(w.message).split()) for w in caught)
    return replace(picture, notes=picture.notes + tuple(warned))


def picture_from_image(image: Image.Image) -> RasterPicture:
    """The picture in a Pillow image, first frame, upright. Raises `PictureError`."""
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"only the first of {frames} frames is kept")
    if _stored_depth(image) > 8 and image.mode in ("RGB", "RGBA", "LA"):
        notes.append("16 bits per sample were reduced to 8")

    image.load()
    try:
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        upright = ImageOps.exif_transpose(image) if is_turned else image
        exif = _exif_of(image)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):
        notes.append("the EXIF block is damaged and was dropped")
        upright, exif = image, None
    xmp = upright.info.get("xmp") or None
    if isinstance(xmp, str):
        xmp = xmp.encode()
    icc = upright.info.get("icc_profile") or None
    if icc and image.mode in ("CMYK", "HSV", "LAB"):
        notes.append(f"the {image.mode} colour profile was dropped")
        icc = None

    pixels, alpha = _split_samples(upright, notes)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    return RasterPicture(pixels, alpha, icc, exif, xmp, tuple(notes))


def picture_from_array(array: np.ndarray) -> RasterPicture:
    """The picture in a uint8 array (H, W) or (H, W, C) with C = 1, 2, 3, 4.

    Raises `TypeError` for another dtype and `ValueError` for another shape.
    """
    samples = np.asarray(array)
    if samples.dtype != np.uint8:
        raise TypeError(f"the image has dtype {samples.dtype}; only uint8 can be coded")
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if samples.ndim != 3 or not 1 <= samples.shape[2] <= 4 or samples.size == 0:
        raise ValueError(
            f"the image has shape {np.shape(array)}; it must be (H, W) or (H, W, C) with "
            "H, W >= 1 and C = 1, 2, 3 or 4"
        )
    if samples.shape[2] in (1, 3):
        return RasterPicture(samples)
    alpha = samples[:, :, -1]
    return RasterPicture(samples[:, :, :-1], None if alpha.min() == 255 else alpha)


def _split_samples(image: Image.Image, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey (H, W, 1) or RGB (H, W, 3) samples and the alpha plane (H, W) of any Pillow mode."""
    mode = image.mode
    if mode == "F":
        raise PictureError("floating-point samples cannot be coded; convert to 8 or 16 bits first")
    if mode == "LAB":
        raise PictureError("Lab samples cannot be coded; convert the picture to RGB first")
    if mode == "I" or mode.startswith("I;16"):
        return _round_to_8_bits(np.asarray(image), notes)[:, :, None], None

    has_alpha = image.has_transparency_data
    is_grey = mode in ("1", "L", "LA", "La")
    if mode in ("CMYK", "YCbCr", "HSV"):
        notes.append(f"{mode} samples were converted to RGB without colour management")
    wanted = {(True, False): "L", (True, True): "LA", (False, False): "RGB", (False, True): "RGBA"}
    wanted_mode = wanted[is_grey, has_alpha]
    samples = np.array(image if mode == wanted_mode else image.convert(wanted_mode))
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if not has_alpha:
        return samples, None
    return samples[:, :, :-1], samples[:, :, -1]


def _round_to_8_bits(samples: np.ndarray, notes: list[str]) -> np.ndarray:
    """round(v / 257), which takes 0 to 0 and 65535 to 255."""
    wide = samples.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise PictureError("samples of more than 16 bits cannot be coded; convert to 8 bits first")
    notes.append("16 bits per sample were reduced to 8")
    return ((wide + 128) // 257).astype(np.uint8)


def _stored_depth(image: Image.Image) -> int:
    """Bits per sample in the file; Pillow itself drops the low byte of 16-bit colour."""
    for tile in getattr(image, "tile", []):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(a, str) and ";16" in a for a in arguments):
            return 16
    return 8


def _exif_of(image: Image.Image) -> bytes | None:
    """The EXIF block of a picture, for the same picture turned upright.

    A block is kept byte for byte except for the orientation, because rewriting one can break maker
    notes. TIFF files have no block of their own: theirs is made of their descriptive tags.
    """
    block = image.info.get("exif")
    if block:
        return _with_upright_orientation(block.removeprefix(EXIF_PREFIX))
    if image.format != "TIFF":
        return None
    kept = _descriptive_tags(image.getexif())
    return kept.tobytes().removeprefix(EXIF_PREFIX) if len(kept) else None


def _descriptive_tags(source: Image.Exif) -> Image.Exif:
    """The tags that describe the picture, without those that describe the file it is stored in."""
    kept = Image.Exif()
    for tag in DESCRIPTIVE_TAGS:
        if tag in source:
            kept[tag] = source[tag]
    for tag in EXIF_DIRECTORIES:
        if directory := source.get_ifd(tag):
            kept[tag] = directory
    return kept


def _with_upright_orientation(block: bytes) -> bytes:
    """An EXIF block with orientation 1 in its first directory, if it has an orientation at all.

    The block is a small TIFF file (TIFF 6.0, section 2): byte order, 42, offset of the directory;
    there a count and entries of tag (2), type (2), count (4) and value (4 bytes).
    Raises `ValueError` or `struct.error` for a damaged block.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        raise ValueError("the EXIF block has no TIFF header")
    (directory,) = struct.unpack_from(order + "I", block, 4)
    (entries,) = struct.unpack_from(order + "H", block, directory)
    out = bytearray(block)
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        (tag,) = struct.unpack_from(order + "H", block, at)
        if tag == ExifTags.Base.Orientation:
            short, single, upright = 3, 1, 1
            struct.pack_into(order + "HIHH", out, at + 2, short, single, upright, 0)
    return bytes(out)


@contextmanager
def own_pixel_limit() -> Iterator[None]:
    """Our limit in place of Pillow's, which warns from 89 megapixels on."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


# ---- writing ------------------------------------------------------------------------------------


def format_of(path: str | PathLike[str]) -> str:
    """Pillow's name of the format that a file name asks for. Raises `PictureError`."""
    extension = Path(path).suffix.lower()
    if extension not in FORMAT_BY_EXTENSION:
        known = " ".join(FORMAT_BY_EXTENSION)
        raise PictureError(f"unknown picture extension {extension!r}; known are {known}")
    return FORMAT_BY_EXTENSION[extension]


def picture_to_bytes(picture: RasterPicture, file_format: str) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of a picture file, and notes about what the format could not hold.

    `file_format` is a value of `FORMAT_BY_EXTENSION`. PNG, TIFF, BMP, PPM and WebP are written
    without loss, JPEG with quality 95 and full chroma. Raises `PictureError` where the format has
    no place for the alpha plane or for the size.
    """
    if picture.alpha is not None and file_format not in FORMATS_WITH_ALPHA:
        raise PictureError(
            f"{file_format} cannot hold the alpha channel of this picture; write PNG, WebP or TIFF"
        )
    blocks = {"icc": picture.icc, "exif": picture.exif, "xmp": picture.xmp}
    present = {name: block for name, block in blocks.items() if block}
    kept = {name: block for name, block in present.items() if _fits(name, block, file_format)}
    notes = tuple(
        f"{file_format} cannot hold the {name.upper()} block; it was left out"
        for name in present
        if name not in kept
    )
    out = BytesIO()
    try:
        picture.to_image().save(out, file_format, **_save_options(file_format, kept))
    except (OSError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error) as error:
        raise PictureError(f"cannot write this picture as {file_format}: {error}") from error
    return out.getvalue(), notes


def _save_options(file_format: str, blocks: dict[str, bytes]) -> dict[str, Any]:
    """What Pillow's `save` has to be told, metadata included, which each format wants its way."""
    options: dict[str, Any] = {
        "JPEG": {"quality": 95, "subsampling": 0, "optimize": True},
        "WEBP": {"lossless": True, "exact": True},
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }.get(file_format, {})
    if "icc" in blocks:
        options["icc_profile"] = blocks["icc"]
    if file_format == "TIFF":
        source = Image.Exif()
        source.load(blocks.get("exif", b""))
        tags = _descriptive_tags(source)
        if "xmp" in blocks:
            tags[XMP_TIFF_TAG] = blocks["xmp"]
        options["exif"] = tags.tobytes()
        if any(tag in tags for tag in EXIF_DIRECTORIES):
            options["compression"] = "raw"  # libtiff, which compresses, cannot write directories
        return options
    if "exif" in blocks:
        options["exif"] = EXIF_PREFIX + blocks["exif"]
    if "xmp" in blocks and file_format == "PNG":
        options["pnginfo"] = text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", blocks["xmp"].decode("utf-8", "replace"))
    elif "xmp" in blocks:
        options["xmp"] = blocks["xmp"]
    return options


def _fits(name: str, block: bytes, file_format: str) -> bool:
    if file_format not in FORMATS_WITH_METADATA:
        return False
    return file_format != "JPEG" or name == "icc" or len(block) <= JPEG_SEGMENT_BYTES
