"""Conventional codecs by name, as the command line spells them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rhodec.evaluate.external_anchors import HmAnchor, VtmAnchor, VvencappAnchor
from rhodec.evaluate.ffmpeg_anchors import HevcAnchor, VvcAnchor
from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.picture_coders import PictureCoder
from rhodec.evaluate.pillow_anchors import (
    AvifAnchor,
    Jpeg2000Anchor,
    JpegXlAnchor,
    WebpAnchor,
)


class Anchor(NamedTuple):
    """How to make a coder, and one line about it for `--help`."""

    make: Callable[[], PictureCoder]
    description: str


class ExternalAnchor(NamedTuple):
    """How to make a coder of programs at a path, and one line about it for `--help`."""

    make: Callable[[str], PictureCoder]
    description: str


ANCHORS: dict[str, Anchor] = {
    "jpeg": Anchor(JpegAnchor, "JPEG 4:2:0, libjpeg-turbo, optimised and progressive"),
    "jpeg-444": Anchor(lambda: JpegAnchor("4:4:4"), "the same with 4:4:4"),
    "jpeg2000": Anchor(Jpeg2000Anchor, "JPEG 2000, OpenJPEG, 9/7 wavelet, at constant rates"),
    "webp": Anchor(WebpAnchor, "WebP (4:2:0), libwebp, method 6"),
    "avif": Anchor(AvifAnchor, "AVIF 4:4:4, libaom, speed 4, tuned for PSNR"),
    "avif-420": Anchor(lambda: AvifAnchor("4:2:0"), "the same with 4:2:0"),
    "jxl": Anchor(JpegXlAnchor, "JPEG XL, libjxl, effort 7"),
    "hevc": Anchor(HevcAnchor, "HEVC intra 4:4:4 10 bit, x265, preset slow, tuned for PSNR"),
    "vvc": Anchor(VvcAnchor, "VVC intra 4:2:0 10 bit, VVenC, preset medium, without its QPA"),
    "vvc-faster": Anchor(lambda: VvcAnchor("faster"), "the same with preset faster"),
}
# `PREFIX:PATH`, with PATH as `external_anchors` says.
EXTERNAL_ANCHORS: dict[str, ExternalAnchor] = {
    "vtm": ExternalAnchor(VtmAnchor, "VVC intra 4:4:4 10 bit, the reference software VTM"),
    "hm": ExternalAnchor(HmAnchor, "HEVC intra 4:4:4 10 bit, the reference software HM"),
    "vvencapp": ExternalAnchor(VvencappAnchor, "VVC intra 4:2:0 10 bit, VVenC's own program"),
}


def anchor(name: str) -> PictureCoder:
    """The coder of a name such as `jpeg` or `vtm:PATH`.

    Raises `ValueError` for an unknown name or a path without the programs, `ModuleNotFoundError`
    for a package that is not installed, and `AnchorError` for an ffmpeg without the encoder.
    """
    kind, colon, path = name.partition(":")
    if colon and kind in EXTERNAL_ANCHORS:
        return EXTERNAL_ANCHORS[kind].make(path)
    if name in ANCHORS:
        return ANCHORS[name].make()
    known = [*ANCHORS, *(f"{prefix}:PATH" for prefix in EXTERNAL_ANCHORS)]
    raise ValueError(f"no anchor {name!r}; there is {', '.join(known)}")


def anchor_help() -> str:
    """A line for each anchor, for `--help`."""
    lines = {name: entry.description for name, entry in ANCHORS.items()}
    lines |= {f"{name}:PATH": entry.description for name, entry in EXTERNAL_ANCHORS.items()}
    return "\n".join(f"  {name:<14}{description}" for name, description in lines.items())
