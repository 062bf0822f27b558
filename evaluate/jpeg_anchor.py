"""JPEG as an anchor, through the libjpeg-turbo inside Pillow.

The strongest files that this encoder writes without another algorithm: Huffman tables optimised for
the picture and progressive scans. The published CompressAI curve has neither, and needs about 14 %
more bits at the same PSNR. 4:2:0 is the customary anchor, and needs about 11 % fewer bits than
4:4:4.
"""

from __future__ import annotations

from PIL import features

from rhodec.evaluate.pillow_anchors import PillowAnchor

SUBSAMPLINGS = {"4:2:0": 2, "4:4:4": 0}  # Pillow's numbers
# About 0.1 to 2.5 bpp on photographs, closer together at low rates.
JPEG_QUALITIES = (3.0, 6.0, 12.0, 22.0, 38.0, 58.0, 78.0)


class JpegAnchor(PillowAnchor):
    """A coder for `rhodec.evaluate.rate_distortion`; qualities are libjpeg's 1 to 100."""

    extension = ".jpg"
    format = "JPEG"
    lowest_quality = 1

    def __init__(self, subsampling: str = "4:2:0") -> None:
        if subsampling not in SUBSAMPLINGS:
            raise ValueError(f"subsampling {subsampling!r} is not one of {', '.join(SUBSAMPLINGS)}")
        self.name = "jpeg-" + subsampling.replace(":", "")
        self.default_qualities = (*JPEG_QUALITIES, 90.0 if subsampling == "4:2:0" else 88.0)
        turbo = features.version("libjpeg_turbo")
        super().__init__(
            library=f"libjpeg-turbo {turbo}" if turbo else "libjpeg",
            colour=f"JFIF full-range BT.601 YCbCr {subsampling}, 8 bit, inside libjpeg",
            subsampling=SUBSAMPLINGS[subsampling],
            optimize=True,
            progressive=True,
        )
