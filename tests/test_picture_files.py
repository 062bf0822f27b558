"""Reading and writing of picture files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from rhodec.picture_files import (
    FORMAT_BY_EXTENSION,
    FORMATS_WITH_METADATA,
    PictureError,
    RasterPicture,
    format_of,
    picture_from_array,
    picture_to_bytes,
    read_picture,
)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><note/></x:xmpmeta>'


def saved(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    out = BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def exif_with(orientation: int, byte_order: str = "<") -> Image.Exif:
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x0110] = "Camera"
    exif[0x0112] = orientation
    return exif


def test_grey_and_colour_keep_their_samples_and_channels(photo: np.ndarray) -> None:
    colour = read_picture(saved(Image.fromarray(photo)))
    grey = read_picture(saved(Image.fromarray(photo[:, :, 0])))
    assert np.array_equal(colour.pixels, photo) and colour.alpha is None and not colour.notes
    assert np.array_equal(grey.pixels, photo[:, :, :1]) and grey.alpha is None and not grey.notes


def test_one_bit_pictures_become_black_and_white() -> None:
    bits = np.random.default_rng(1).random((9, 13)) < 0.5
    picture = read_picture(saved(Image.fromarray(bits)))
    assert np.array_equal(picture.pixels[:, :, 0], np.where(bits, 255, 0))


def test_alpha_is_kept_and_a_fully_opaque_one_is_dropped(photo: np.ndarray) -> None:
    alpha = np.arange(48 * 64).reshape(48, 64).astype(np.uint8)
    for pixels in (photo, photo[:, :, :1]):
        both = np.concatenate([pixels, alpha[:, :, None]], axis=2)
        picture = read_picture(saved(Image.fromarray(both)))
        assert np.array_equal(picture.to_array(), both)
        both[:, :, -1] = 255
        assert read_picture(saved(Image.fromarray(both))).alpha is None


def test_palettes_become_rgb_or_rgba(photo: np.ndarray) -> None:
    palette = Image.fromarray(photo).quantize(32)
    opaque = read_picture(saved(palette))
    assert np.array_equal(opaque.pixels, np.asarray(palette.convert("RGB")))
    assert opaque.alpha is None
    clear = read_picture(saved(palette, transparency=3))
    assert clear.alpha is not None
    assert np.array_equal(clear.alpha == 0, np.asarray(palette) == 3)


def test_a_transparent_colour_becomes_alpha() -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[1, 2] = (9, 8, 7)
    picture = read_picture(saved(Image.fromarray(pixels), transparency=(9, 8, 7)))
    assert picture.alpha is not None and np.flatnonzero(picture.alpha == 0).tolist() == [7]


def test_sixteen_bit_grey_is_rounded_with_a_note() -> None:
    values = np.array([[0, 128, 129, 385, 386, 32896, 65406, 65407, 65535]], np.uint16)
    picture = read_picture(saved(Image.fromarray(values)))
    assert picture.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 2, 128, 254, 255, 255]
    assert picture.notes == ("16 bits per sample were reduced to 8",)


def test_sixteen_bit_colour_is_noted() -> None:
    # Pillow reads but does not write it: a PPM of 2 x 1 with maximum 65535, and a PNG by hand.
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"\0" + struct.pack(">6H", 0, 256, 512, 65535, 65280, 257)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    picture = read_picture(png)
    assert picture.pixels.tolist() == [[[0, 1, 2], [255, 255, 1]]]
    assert picture.notes == ("16 bits per sample were reduced to 8",)


def test_samples_that_eight_bits_cannot_stand_for_are_refused() -> None:
    for samples in (np.ones((3, 3), np.float32), np.full((3, 3), 70000, np.int32)):
        with pytest.raises(PictureError, match="convert"):
            read_picture(saved(Image.fromarray(samples), "TIFF"))


def test_cmyk_jpeg_becomes_rgb_with_a_note_and_loses_its_profile(photo: np.ndarray) -> None:
    cmyk = Image.fromarray(photo).convert("CMYK")
    picture = read_picture(saved(cmyk, "JPEG", quality=100, icc_profile=SRGB))
    assert picture.pixels.shape == photo.shape
    assert np.abs(picture.pixels.astype(int) - photo).mean() < 3
    assert picture.icc is None
    assert len(picture.notes) == 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_orientation_is_applied_and_reset(
    photo: np.ndarray, file_format: str, orientation: int
) -> None:
    options = {"PNG": {}, "TIFF": {}, "JPEG": {"quality": 100}, "WEBP": {"lossless": True}}[
        file_format
    ]
    data = saved(Image.fromarray(photo), file_format, exif=exif_with(orientation), **options)
    picture = read_picture(data)
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(picture.pixels, expected)
    assert picture.exif is not None
    kept = Image.Exif()
    kept.load(picture.exif)
    assert kept.get(0x0112, 1) == 1
    assert kept[0x0110].rstrip("\0") == "Camera"


def test_exif_is_kept_byte_for_byte_but_for_the_orientation(photo: np.ndarray) -> None:
    for byte_order in "<>":
        upright, turned = (exif_with(o, byte_order).tobytes()[6:] for o in (1, 6))
        data = saved(Image.fromarray(photo), "JPEG", exif=b"Exif\0\0" + turned)
        assert upright != turned
        assert read_picture(data).exif == upright


def test_damaged_exif_is_dropped_with_a_note(photo: np.ndarray) -> None:
    data = saved(Image.fromarray(photo), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    picture = read_picture(data)
    assert picture.exif is None
    assert "the EXIF block is damaged and was dropped" in picture.notes


def test_animations_give_their_first_frame_with_a_note(photo: np.ndarray) -> None:
    frames = [Image.fromarray(photo), Image.fromarray(255 - photo)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    picture = read_picture(data)
    assert np.array_equal(picture.pixels, photo)
    assert picture.notes == ("only the first of 2 frames is kept",)


def test_files_that_are_no_pictures_or_damaged_are_refused(photo: np.ndarray, tmp_path) -> None:
    png = saved(Image.fromarray(photo))
    for data in (b"", b"hello", png[:40], png[: len(png) // 2]):
        with pytest.raises(PictureError):
            read_picture(data)
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "missing.png")


def test_pictures_over_the_limit_are_refused_before_they_are_decoded(monkeypatch) -> None:
    monkeypatch.setattr("rhodec.picture_files.MAX_PIXELS", 99)
    data = saved(Image.new("L", (10, 10)))
    with pytest.raises(PictureError, match="10 x 10 pixels are over the limit"):
        read_picture(data)
    assert Image.MAX_IMAGE_PIXELS is not None


@pytest.mark.parametrize("extension", FORMAT_BY_EXTENSION)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 17)])
def test_every_format_holds_grey_and_colour(
    photo: np.ndarray, extension: str, size: tuple[int, int]
) -> None:
    file_format = format_of(f"Some.Name{extension.upper()}")
    for channels in (1, 3):
        pixels = np.ascontiguousarray(photo[: size[1], : size[0], :channels])
        data, notes = picture_to_bytes(RasterPicture(pixels), file_format)
        read = read_picture(data).pixels.astype(int)
        assert read.shape[:2] == pixels.shape[:2] and not notes
        assert np.abs(read - pixels).max() <= (16 if file_format == "JPEG" else 0)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM"])
def test_metadata_is_written_where_the_format_has_a_place(
    photo: np.ndarray, file_format: str
) -> None:
    exif = exif_with(1).tobytes()[6:]
    data, notes = picture_to_bytes(RasterPicture(photo, None, SRGB, exif, XMP), file_format)
    picture = read_picture(data)
    if file_format in FORMATS_WITH_METADATA:
        assert (picture.icc, picture.xmp, notes) == (SRGB, XMP, ())
        assert picture.exif is not None and b"Camera" in picture.exif
        assert file_format == "TIFF" or picture.exif == exif
    else:
        assert len(notes) == 3
        assert (picture.icc, picture.exif, picture.xmp) == (None, None, None)


def test_tags_about_another_file_do_not_reach_a_tiff(photo: np.ndarray) -> None:
    exif = exif_with(1)
    exif[0x0100] = 999  # ImageWidth
    exif.get_ifd(0x8769)[0x829A] = 0.01  # ExposureTime
    picture = RasterPicture(photo, exif=exif.tobytes()[6:])
    read = read_picture(picture_to_bytes(picture, "TIFF")[0])
    assert np.array_equal(read.pixels, photo)
    kept = Image.Exif()
    kept.load(read.exif or b"")
    assert 0x0100 not in kept and kept.get_ifd(0x8769)[0x829A] == pytest.approx(0.01)


def test_metadata_too_long_for_jpeg_is_left_out_with_a_note(photo: np.ndarray) -> None:
    data, notes = picture_to_bytes(RasterPicture(photo, None, SRGB, None, XMP * 2000), "JPEG")
    assert notes == ("JPEG cannot hold the XMP block; it was left out",)
    assert read_picture(data).icc == SRGB


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "JPEG", "BMP", "PPM"])
def test_alpha_is_written_without_loss_or_refused(photo: np.ndarray, file_format: str) -> None:
    alpha = np.zeros((48, 64), np.uint8)
    alpha[5:20, 5:] = 100
    picture = RasterPicture(photo, alpha)
    if file_format in ("PNG", "WEBP", "TIFF"):
        read = read_picture(picture_to_bytes(picture, file_format)[0])
        assert np.array_equal(read.to_array(), picture.to_array())
    else:
        with pytest.raises(PictureError, match="cannot hold the alpha channel"):
            picture_to_bytes(picture, file_format)


def test_sizes_beyond_a_format_are_refused() -> None:
    with pytest.raises(PictureError, match="cannot write this picture as WEBP"):
        picture_to_bytes(RasterPicture(np.zeros((1, 16384, 3), np.uint8)), "WEBP")


def test_unknown_extensions_are_refused_with_the_known_ones() -> None:
    with pytest.raises(PictureError, match=r"'\.jxl'; known are \.png"):
        format_of(Path("x.jxl"))


def test_arrays_of_other_types_and_shapes_are_refused(photo: np.ndarray) -> None:
    with pytest.raises(TypeError, match="float64"):
        picture_from_array(photo / 255)
    for shape in ((5,), (0, 5), (5, 5, 5), (2, 5, 5, 3), (5, 5, 0)):
        with pytest.raises(ValueError, match="shape"):
            picture_from_array(np.zeros(shape, np.uint8))
