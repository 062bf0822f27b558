"""rhodec, a learned image codec: files that decode to the same picture on every machine.

    import numpy as np
    import rhodec

    data = rhodec.encode(pixels, quality=60)      # uint8 array or Pillow image -> bytes
    pixels = rhodec.decode(data)                  # bytes -> uint8 array (H, W, C)

Importing the package also teaches Pillow the format: `Image.open("x.rho")` and
`image.save("x.rho", quality=60)`. The networks are loaded with the first picture, not before.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from rhodec import pillow_plugin
from rhodec.bitstream.stream_error import StreamError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["StreamError", "__version__", "decode", "encode"]

try:
    __version__ = metadata.version("rhodec")
except metadata.PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

pillow_plugin.register()


def encode(
    image: np.ndarray | Image,
    *,
    quality: float | None = None,
    bpp: float | None = None,
    size: int | None = None,
    psnr: float | None = None,
    codec: str = "rho",
    effort: int = 0,
) -> bytes:
    """Code a picture as the bytes of a `.rho` file.

    `image` is a uint8 array of shape (H, W) or (H, W, C), C = 1 grey, 2 grey + alpha, 3 RGB,
    4 RGBA, or a Pillow image, whose ICC, EXIF and XMP blocks are carried along. At most one target:

    - `quality`: 0 to 100 in steps of 0.5 (50 without any target);
    - `bpp`: bits per pixel of the whole file, the nearest that half steps of quality reach;
    - `size`: bytes of the whole file, never exceeded;
    - `psnr`: dB over all samples but alpha, the smallest quality that reaches it.

    `codec` is a name from `rhodec codecs` or the path of a weights file; `effort` (0 to 9)
    searches longer for a smaller file that decodes as fast. Alpha is kept without loss.

    Raises `TypeError` or `ValueError` for an image or argument that cannot be used, and
    `rhodec.rate_control.TargetError` (a `ValueError`) for a target out of the codec's reach.
    """
    from rhodec.codec_calls import encode_picture
    from rhodec.picture_files import picture_from_array, picture_from_image
    from rhodec.rate_control import Target

    if hasattr(image, "__array_interface__") and not hasattr(image, "getbands"):
        picture = picture_from_array(image)  # type: ignore[arg-type]
    else:
        picture = picture_from_image(image)  # type: ignore[arg-type]
    target = Target.from_options(quality=quality, bpp=bpp, size=size, psnr=psnr)
    return encode_picture(picture, target, codec=codec, effort=effort).data


def decode(
    data: bytes | bytearray | memoryview,
    *,
    max_pixels: int | None = None,
    weights: str | None = None,
) -> np.ndarray:
    """Decode the bytes of a `.rho` file to a uint8 array (H, W, C).

    C is 1 for grey, 2 for grey + alpha, 3 for RGB, 4 for RGBA. `max_pixels` (2^28 unless told)
    guards against headers that ask for more memory than you want to give. `weights` is the path of
    a weights file, for pictures coded with one that does not come with the package.

    Raises `rhodec.StreamError`, naming what is wrong, for damaged or foreign bytes and for a file
    that needs a codec or weights that are not installed.
    """
    from rhodec.codec_calls import decode_picture

    return decode_picture(data, max_pixels=max_pixels, weights=weights).to_array()
