"""The one place where pictures become `.rho` files and files become pictures.

Analysis runs once per picture; every trial of a target search only quantises, codes and packs.
Grey pictures go through the RGB codecs as three equal channels, of which the decoder shows the
rounded mean. The alpha plane is a PNG in the container's alpha chunk.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from rhodec.bitstream import container
from rhodec.bitstream.stream_error import StreamError
from rhodec.picture_files import RasterPicture, own_pixel_limit
from rhodec.rate_control import Target, Trial, correct, search

if TYPE_CHECKING:
    from rhodec.codecs.codec_interface import Codec, Report


class UsageError(ValueError):
    """A request that no picture could satisfy: an unknown codec, an effort it does not have."""


@dataclass(frozen=True)
class Encoding:
    """A finished file: its bytes, the quality index (0 to 200) and the trials spent to find it."""

    data: bytes
    quality_index: int
    trials: int
    width: int
    height: int
    psnr_db: float | None = None

    @cached_property
    def rate_bpp(self) -> float:
        """Bits per pixel of the whole file over the true size."""
        return 8 * len(self.data) / (self.width * self.height)


def select_codec(name_or_path: str, effort: int = 0) -> Codec:
    """The codec of a name or of a weights file; raises `UsageError` for what does not exist."""
    from rhodec.codecs import registry

    if name_or_path not in registry.CODECS and not Path(name_or_path).is_file():
        known = ", ".join(registry.CODECS)
        raise UsageError(f"no codec or weights file is called {name_or_path!r}; there is {known}")
    codec = registry.load_codec(name_or_path)
    max_effort = codec.max_effort
    if not 0 <= effort <= max_effort:
        raise UsageError(
            f"codec {codec.name} has no effort {effort}; "
            + (f"it has 0 to {max_effort}" if max_effort else "0 is the only one it has")
        )
    return codec


def encode_picture(
    picture: RasterPicture,
    target: Target,
    *,
    codec: str = "rho",
    effort: int = 0,
    wants_psnr: bool = False,
    report: Report | None = None,
    keep_best: bool = False,
) -> Encoding:
    """Code a picture so that the whole file meets the target.

    `wants_psnr` asks for the PSNR of the result, which costs one synthesis. With effort, `report`
    is called now and then: share done of a trial, bits per pixel, PSNR in dB. With `keep_best` an
    interrupt ends the fit of a fitted codec and keeps what there is by then. Raises `UsageError`,
    `rhodec.rate_control.TargetError`, or `ValueError` for a picture too large for the format.
    """
    coder = select_codec(codec, effort)
    with_effort: dict[str, object] = {"effort": effort}
    if report is not None:
        with_effort["report"] = report
    always: dict[str, object] = {}
    if coder.is_fitted:  # every trial takes long, and the next one can go on from it
        go_on = target.kind != "quality"
        always = {"report": report, "keep_best": keep_best, "go_on": go_on}
        with_effort |= always
    elif keep_best:
        raise UsageError(f"codec {coder.name} is not fitted: there is nothing to keep")
    height, width, channels = picture.pixels.shape
    if height * width > container.MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are over {container.MAX_PIXELS}")
    latents = coder.analyse(_as_rgb(picture.pixels))
    alpha = None if picture.alpha is None else _pack_alpha(picture.alpha)

    def try_index(index: int, **options) -> Trial:
        coded = coder.quantise(latents, index / 2, **options)
        data = container.pack(
            container.Picture(
                codec_id=coder.codec_id,
                weights_hash=coder.weights_hash,
                width=width,
                height=height,
                channels=channels,
                quality=index,
                digest=coded.digest,
                payload=coded.payload,
                alpha=alpha,
                icc=picture.icc,
                exif=picture.exif,
                xmp=picture.xmp,
            )
        )
        if target.kind != "psnr" and not (options and wants_psnr):
            return Trial(index, data)
        shown = _as_channels(coder.reconstruct(coded), channels)
        return Trial(index, data, psnr_of(picture.pixels, shown))

    pixels = width * height
    if effort and target.kind == "quality":
        trial, trials = try_index(round(2 * target.value), **with_effort), 1
    else:
        trial, trials = search(target, pixels, lambda index: try_index(index, **always))
        if effort:
            trial, more = correct(target, pixels, lambda i: try_index(i, **with_effort), trial)
            trials += more
    psnr_db = trial.psnr_db
    if wants_psnr and psnr_db is None:
        coded = coder.quantise(latents, trial.quality_index / 2)
        psnr_db = psnr_of(picture.pixels, _as_channels(coder.reconstruct(coded), channels))
    return Encoding(trial.data, trial.quality_index, trials, width, height, psnr_db)


def decode_picture(
    data: bytes | bytearray | memoryview,
    *,
    max_pixels: int | None = None,
    weights: str | None = None,
) -> RasterPicture:
    """The picture in the bytes of a `.rho` file; `weights` is a weights file it may need.

    Raises `StreamError` for damaged or foreign bytes, more than `max_pixels` pixels (2^28 unless
    told), a codec or weights that are not installed, or symbols that differ from the encoder's.
    """
    from rhodec.codecs import registry

    limit = container.MAX_PIXELS if max_pixels is None else max_pixels
    stored = container.parse(data, limit)
    if weights is not None:
        select_codec(weights)  # from then on the registry knows it by its hash
    codec = registry.codec_by_hash(stored.codec_id, stored.weights_hash)
    pixels = codec.decode(
        stored.payload, stored.width, stored.height, stored.quality / 2, stored.digest
    )
    pixels = _as_channels(pixels, stored.channels)
    # After the latents, whose digest has shown that the header's size is the encoder's.
    alpha = None if stored.alpha is None else _unpack_alpha(stored)
    return RasterPicture(pixels, alpha, stored.icc, stored.exif, stored.xmp)


def psnr_of(reference: np.ndarray, shown: np.ndarray) -> float:
    """10 log10(255^2 / MSE) in dB over all samples of two uint8 arrays; infinite for equal ones."""
    squares = 0
    for row in range(0, reference.shape[0], 256):  # in bands, to bound the memory
        rows = slice(row, row + 256)
        difference = reference[rows].astype(np.int32) - shown[rows]
        squares += int(np.sum(difference * difference, dtype=np.int64))
    return 10 * math.log10(255**2 * reference.size / squares) if squares else math.inf


def _as_rgb(pixels: np.ndarray) -> np.ndarray:
    """What the RGB codecs code: (H, W, 3), contiguous and writable as torch likes it."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.require(pixels, requirements=["C", "W"])


def _as_channels(rgb: np.ndarray, channels: int) -> np.ndarray:
    """A decoded (H, W, 3) picture with the channels of the source: RGB, or the mean as grey."""
    if channels == 3:
        return rgb
    total = rgb.sum(axis=2, dtype=np.uint16, keepdims=True)
    return ((total + 1) // 3).astype(np.uint8)


def _pack_alpha(alpha: np.ndarray) -> bytes:
    out = BytesIO()
    Image.fromarray(alpha).save(out, "PNG", optimize=True)
    return out.getvalue()


def _unpack_alpha(stored: container.Picture) -> np.ndarray:
    try:
        with own_pixel_limit():
            plane = Image.open(BytesIO(stored.alpha or b""), formats=["PNG"])
        # The size is compared before anything is decompressed.
        if plane.mode != "L" or plane.size != (stored.width, stored.height):
            raise StreamError(
                f"the alpha plane is {plane.width} x {plane.height} in mode {plane.mode} instead "
                f"of {stored.width} x {stored.height} in mode L"
            )
        return np.array(plane)
    except StreamError:
        raise
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise StreamError(f"the alpha plane is damaged: {error}") from error
