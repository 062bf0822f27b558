"""`.rho` files as a Pillow format: `Image.open("x.rho")` and `image.save("x.rho", quality=60)`.

Opening reads the header and the checksums; the networks run when the samples are first used.
`save` takes the targets and options of `rhodec.encode` (quality, bpp, size, psnr, codec, effort)
and keeps the image's ICC, EXIF and XMP blocks unless `icc_profile`, `exif` or `xmp` replace them
(an empty value drops one). An EXIF orientation is applied when saving, as everywhere in rhodec.
"""

from __future__ import annotations

from typing import IO, Any

from PIL import Image, ImageFile

from rhodec.bitstream import container

FORMAT = "RHO"
METADATA_KEYS = ("icc_profile", "exif", "xmp")
TARGET_KEYS = ("quality", "bpp", "size", "psnr")


class RhoImageFile(ImageFile.ImageFile):
    """A `.rho` file behind Pillow's interface; mode L, LA, RGB or RGBA."""

    format = FORMAT
    format_description = "rhodec learned image"

    def _open(self) -> None:
        assert self.fp is not None
        data = self.fp.read()
        stored = container.parse(data)
        self._undecoded: bytes | None = data
        self._size = (stored.width, stored.height)
        self._mode = ("L" if stored.channels == 1 else "RGB") + ("A" if stored.alpha else "")
        self.info["quality"] = stored.quality / 2
        self.info["codec"] = container.CODEC_NAMES[stored.codec_id]
        if stored.icc:
            self.info["icc_profile"] = stored.icc
        if stored.exif:
            self.info["exif"] = b"Exif\0\0" + stored.exif
        if stored.xmp:
            self.info["xmp"] = stored.xmp

    def load(self) -> Image.core.PixelAccess | None:
        """Decode on the first call; raises `rhodec.StreamError` where decoding does."""
        if self._undecoded is not None:
            from rhodec.codec_calls import decode_picture

            self.im = decode_picture(self._undecoded).to_image().im
            self._undecoded = None
            if self.fp and self._exclusive_fp:
                self.fp.close()
            self.fp = None
        return Image.Image.load(self)


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.MAGIC)


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    from rhodec.codec_calls import encode_picture
    from rhodec.picture_files import picture_from_image
    from rhodec.rate_control import Target

    options: dict[str, Any] = getattr(image, "encoderinfo", {})
    source = image.copy()
    source.info.update({key: options[key] for key in METADATA_KEYS if key in options})
    target = Target.from_options(**{key: options.get(key) for key in TARGET_KEYS})
    coded = encode_picture(
        picture_from_image(source),
        target,
        codec=options.get("codec", "rho"),
        effort=options.get("effort", 0),
    )
    file.write(coded.data)


def register() -> None:
    """Teach Pillow the format; doing it again changes nothing."""
    if FORMAT in Image.OPEN:
        return
    Image.register_open(FORMAT, RhoImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, ".rho")
    Image.register_mime(FORMAT, "image/x-rho")
