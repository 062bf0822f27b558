"""Decoded pictures at comparable rates, and their embedding in a page without a further loss.

For each picture three rates are chosen that all codecs reach, and each codec is asked for a file as
near to them as its quality scale allows. What it decodes to goes into the page as lossless WebP,
cropped where the page would otherwise become too large, never scaled: what one sees is what the
codec made.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from rhodec.evaluate import quality_metrics as metrics
from rhodec.evaluate.picture_coders import PictureCoder

RATES = ("low", "medium", "high")
TRIALS = 3  # files made in search of one rate
NEAR_ENOUGH = 0.02  # of the rate; nobody sees the difference
MIN_CROP_SIDE = 96
BASE64_GROWTH = 4 / 3


@dataclass(frozen=True)
class Version:
    """A picture as one codec made it; `ms_ssim_db` is None for a picture too small for it."""

    quality: float
    file_bytes: int
    bpp: float
    psnr_rgb: float
    ms_ssim_db: float | None
    pixels: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """A picture and its versions: codec name -> one for each of `target_bpp`."""

    name: str
    original: np.ndarray
    target_bpp: tuple[float, ...]
    versions: dict[str, list[Version]]

    def all_pixels(self) -> list[np.ndarray]:
        return [self.original, *(v.pixels for made in self.versions.values() for v in made)]


@dataclass(frozen=True)
class Crop:
    """A part of a picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


# ---- rates --------------------------------------------------------------------------------------


def common_rates(rates: Sequence[Sequence[float]], count: int = len(RATES)) -> tuple[float, ...]:
    """`count` rates spread (geometrically) over what all codecs reach, given the rates of each.

    Without a common range: over what lies between the codecs.
    """
    low, high = sorted([max(map(min, rates)), min(map(max, rates))])
    steps = [(2 * i + 1) / (2 * count) for i in range(count)]
    return tuple(low * (high / low) ** step for step in steps)


def code_near_rate(
    encode: Callable[[float], bytes],
    known_bpp: Mapping[float, float],
    target_bpp: float,
    pixels: int,
    is_whole: bool,
) -> tuple[float, bytes]:
    """(quality, file) of a rate near the target, by interpolation between known qualities.

    `known_bpp`: quality -> rate, at least one; `is_whole`: only whole qualities exist. A codec may
    refuse a quality between those known (`ValueError`); the nearest other one is then taken.
    """
    known, files = dict(known_bpp), {}

    def miss(quality: float) -> float:
        return abs(math.log(known[quality] / target_bpp))

    for _ in range(TRIALS):
        quality = _interpolated(known, target_bpp)
        quality = float(round(quality)) if is_whole else float(f"{quality:.4g}")
        if quality in files:
            break
        try:
            files[quality] = encode(quality)
        except ValueError:
            break
        known[quality] = 8 * len(files[quality]) / pixels
        if miss(quality) < NEAR_ENOUGH:
            break
    best = min(known, key=miss)
    return best, files.get(best) or encode(best)


def _interpolated(known_bpp: Mapping[float, float], target_bpp: float) -> float:
    """Quality at a rate, linear in the logarithm of the rate, and no further than is known."""
    points = sorted((bpp, quality) for quality, bpp in known_bpp.items())
    rates, qualities = zip(*points, strict=True)
    return float(np.interp(math.log(target_bpp), np.log(rates), qualities))


def compare(
    name: str,
    image: np.ndarray,
    coders: Sequence[PictureCoder],
    known_bpp: Mapping[str, Mapping[float, float]],
    advance: Callable[[], None] = lambda: None,
) -> Comparison:
    """All versions of a picture; `known_bpp`: codec -> quality -> rate of this picture.

    `advance` is called after every version.
    """
    targets = common_rates([list(known_bpp[coder.name].values()) for coder in coders])
    pixels = image.shape[0] * image.shape[1]
    versions: dict[str, list[Version]] = {}
    for coder in coders:
        prepared = coder.prepare(image)
        is_whole = all(float(quality).is_integer() for quality in coder.default_qualities)
        versions[coder.name] = []
        for target in targets:

            def encode(quality: float, coder=coder, prepared=prepared) -> bytes:
                return coder.encode(prepared, quality).data

            quality, data = code_near_rate(encode, known_bpp[coder.name], target, pixels, is_whole)
            versions[coder.name].append(_version(image, quality, data, coder.decode(data)))
            advance()
    return Comparison(name, image, targets, versions)


def _version(image: np.ndarray, quality: float, data: bytes, decoded: np.ndarray) -> Version:
    is_large = min(image.shape[:2]) >= metrics.MS_SSIM_MIN_SIDE
    ms_ssim_db = metrics.ms_ssim_db(metrics.ms_ssim(image, decoded)) if is_large else math.nan
    return Version(
        quality=quality,
        file_bytes=len(data),
        bpp=8 * len(data) / (image.shape[0] * image.shape[1]),
        psnr_rgb=metrics.psnr_rgb(image, decoded),
        ms_ssim_db=ms_ssim_db if math.isfinite(ms_ssim_db) else None,
        pixels=decoded,
    )


# ---- embedding ----------------------------------------------------------------------------------


def lossless_webp(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3) -> a WebP file that gives exactly these samples back."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, method=2, quality=50)
    return file.getvalue()


def data_address(webp: bytes) -> str:
    """A `data:` address, which a page needs no network for."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")


def embed(
    comparisons: Sequence[Comparison], max_bytes: float
) -> tuple[list[list[bytes]], list[Crop | None]]:
    """WebP files of `all_pixels` of each comparison, and its crop, None for a whole picture.

    The middle of every picture is kept, of all in the same proportion, so that the files take at
    most `max_bytes` in base64. Raises `ValueError` if that would leave too little to see.
    """
    share = 1.0  # of each side
    while True:
        crops = [_middle(comparison.original, share) for comparison in comparisons]
        files = [
            [lossless_webp(_cut(pixels, crop)) for pixels in comparison.all_pixels()]
            for comparison, crop in zip(comparisons, crops, strict=True)
        ]
        total = BASE64_GROWTH * sum(len(file) for made in files for file in made)
        if total <= max_bytes:
            return files, crops
        share *= min(0.97 * math.sqrt(max_bytes / total), 0.97)
        smallest = min(min(c.original.shape[:2]) for c in comparisons)
        if share * smallest < min(MIN_CROP_SIDE, smallest):
            raise ValueError(
                f"{len(comparisons)} pictures do not fit into {max_bytes / 1e6:g} megabytes: "
                "allow more (--max-megabytes) or show fewer (--pictures)"
            )


def _middle(image: np.ndarray, share: float) -> Crop | None:
    if share >= 1:
        return None
    height, width = image.shape[:2]
    rows, columns = (max(1, round(share * side)) for side in (height, width))
    return Crop((width - columns) // 2, (height - rows) // 2, columns, rows)


def _cut(pixels: np.ndarray, crop: Crop | None) -> np.ndarray:
    if crop is None:
        return pixels
    part = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return np.ascontiguousarray(part)
