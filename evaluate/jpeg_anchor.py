"""JPEG as an anchor, through the libjpeg-turbo inside Pillow.

The strongest files that this encoder writes without another algorithm: Huffman tables optimised for
the picture and progressive scans. The published CompressAI curve has neither, and needs about 14 %
more bits at the same PSNR. 4:2:0 is the customary anchor, and needs about
11 % fewer bits than 4:4:4.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, features
from PIL import __version__ as pillow_version

from rhodec.evaluate.rate_distortion import Encoded

SUBSAMPLINGS = {"4:2:0": 2, "4:4:4": 0}  # Pillow's numbers
# About 0.1 to 3 bpp on photographs, closer together at low rates.
JPEG_QUALITIES = (3.0, 6.0, 12.0, 22.0, 38.0, 58.0, 78.0, 90.0, 95.0)


class JpegAnchor:
    """A coder for `rhodec.evaluate.rate_distortion`; qualities are libjpeg's 1 to 100."""

    extension = ".jpg"
    default_qualities = JPEG_QUALITIES

    def __init__(self, subsampling: str = "4:2:0") -> None:
        if subsampling not in SUBSAMPLINGS:
            raise ValueError(f"subsampling {subsampling!r} is not one of {', '.join(SUBSAMPLINGS)}")
        self.subsampling = subsampling
        library = features.version("libjpeg_turbo")
        self.library = f"libjpeg-turbo {library}" if library else "libjpeg"
        self.name = "jpeg-" + subsampling.replace(":", "")
        self.fingerprint = f"pillow-{pillow_version}-{self.library.replace(' ', '-')}"

    @property
    def conditions(self) -> dict[str, str]:
        """What someone else needs to make the same files."""
        return {
            "software": f"Pillow {pillow_version}, {self.library}",
            "command": (
                'Image.save(file, "JPEG", quality=Q, '
                f"subsampling={SUBSAMPLINGS[self.subsampling]}, optimize=True, progressive=True)"
            ),
            "colour": f"JFIF full-range BT.601 YCbCr {self.subsampling}, 8 bit, inside libjpeg",
            "bits": "whole file",
        }

    def prepare(self, image: np.ndarray) -> Image.Image:
        """uint8 (H, W, 3) -> what `encode` takes."""
        return Image.fromarray(image)

    def encode(self, prepared: Image.Image, quality: float) -> Encoded:
        """The bytes of a JPEG file; there is no estimate of its size."""
        if quality != int(quality) or not 1 <= quality <= 100:
            raise ValueError(f"JPEG quality {quality:g} is not a whole number from 1 to 100")
        file = BytesIO()
        prepared.save(
            file,
            "JPEG",
            quality=int(quality),
            subsampling=SUBSAMPLINGS[self.subsampling],
            optimize=True,
            progressive=True,
        )
        return Encoded(file.getvalue())

    def decode(self, data: bytes) -> np.ndarray:
        """The bytes of a JPEG file -> uint8 (H, W, 3)."""
        with Image.open(BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
