"""Runs exported weights: pictures <-> payloads, in bounded memory, on the CPU.

Analysis and synthesis are float networks in torch; they work in bands of rows with a halo as wide
as their receptive field, always the same bands for a picture's size. Between them everything is
integer (`rhodec.entropy.latent_codec`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rhodec.bitstream.rans import CodingTables
from rhodec.bitstream.stream_error import StreamError
from rhodec.codecs.transform_model import TransformModel
from rhodec.codecs.weights_file import WeightsFile
from rhodec.entropy.gaussian_tables import SCALE_LEVELS
from rhodec.entropy.hyper_latent import HYPER_STRIDE, QUALITY_STEPS
from rhodec.entropy.integer_network import IntegerNetwork
from rhodec.entropy.latent_codec import (
    FRACTION_BITS,
    CodedLatents,
    FactorizedLatentCodec,
    HyperLatentCodec,
    LatentCodec,
    latent_digest,
)
from rhodec.entropy.likelihoods import gaussian_bits, scale_from_level

STRIDE = 16  # pixels per latent position
HALO = 2 * HYPER_STRIDE  # latent rows; no transform sees further (tested)
BAND_POSITIONS = 1 << 13  # latent positions per band, about two megapixels
KEPT_POSITIONS = 1 << 17  # latent positions up to which features are kept, 33 megapixels

Float32 = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Latents:
    """A picture and its features (H/16, W/16, C), which serve every quality.

    A large picture has None: its features would take more memory than they save time.
    """

    image: Pixels
    features: Float32 | None


@dataclass(frozen=True)
class Coded:
    """A picture at one quality, before the range coder."""

    codec: TransformCodec
    latents: CodedLatents
    height: int
    width: int
    quality_step: int

    @cached_property
    def payload(self) -> bytes:
        return self.codec.latent_codec.payload(self.latents)

    @cached_property
    def digest(self) -> int:
        return self.latents.digest

    @cached_property
    def estimated_bits(self) -> float:
        """The model's code length: exact Gaussians for y, the tables' probabilities for z."""
        coded, tables = self.latents, self.codec.latent_codec.tables
        gaussian = coded.indexes < SCALE_LEVELS
        if isinstance(self.codec.latent_codec, FactorizedLatentCodec):
            gaussian[:] = False
        scales = scale_from_level(torch.from_numpy(coded.indexes[gaussian].astype(np.float32)))
        bits = gaussian_bits(torch.from_numpy(coded.symbols[gaussian]).float(), scales)
        rest = tables.ideal_bits(coded.symbols[~gaussian], coded.indexes[~gaussian])
        return float(bits.double().sum()) + rest


class TransformCodec:
    """A codec ready for use. `quality` is 0..100 in half steps."""

    def __init__(
        self,
        name: str,
        codec_id: int,
        model: TransformModel,
        weights: WeightsFile,
        path: Path | None = None,
    ) -> None:
        """`model` may be on the meta device: its parameters are taken from the file."""
        self.name, self.codec_id = name, codec_id
        self.weights_hash, self.provenance = weights.hash, weights.provenance
        self.weights_path = path
        floats = {k: torch.from_numpy(v).float() for k, v in weights.part("float").items()}
        model.load_state_dict(floats, strict=False, assign=True)
        self.hyper_analysis = getattr(model.latent, "hyper_analysis", None)
        del model.latent  # its other parts are the integer networks
        self.model = model.eval()
        missing = [k for k, p in model.named_parameters() if p.is_meta]
        if missing:
            raise ValueError(f"the weights file lacks {missing[0]} and {len(missing) - 1} more")
        self.latent_codec = _latent_codec(weights)
        self.max_effort = 9 if isinstance(self.latent_codec, HyperLatentCodec) else 0

    def analyse(self, image: Pixels) -> Latents:
        """uint8 (H, W, 3) -> features. Edges are repeated to whole latent positions."""
        rows, columns = _latent_size(*image.shape[:2])
        if rows * columns > KEPT_POSITIONS:
            return Latents(image, None)
        return Latents(image, _by_bands(lambda i, j: self._features(image, i, j), rows, columns))

    def _features(self, image: Pixels, begin: int, end: int) -> Tensor:
        """Features of some latent rows, as far as pixels beyond these do not matter."""
        height, width = image.shape[:2]
        _, columns = _latent_size(height, width)
        y_of = np.minimum(np.arange(begin * STRIDE, end * STRIDE), height - 1)
        x_of = np.minimum(np.arange(columns * STRIDE), width - 1)
        band = torch.from_numpy(np.ascontiguousarray(image[y_of][:, x_of]))
        return self.model.features(band[None].float() / 255)[0]

    def quantise(
        self,
        latents: Latents,
        quality: float,
        effort: int = 0,
        report: Callable[[float, float, float], None] | None = None,
    ) -> Coded:
        """Latents of `analyse` at a quality -> symbols.

        `effort` 1..9 searches for better ones (`rhodec.codecs.latent_refinement`), and tells
        `report` now and then: share done in 0..1, bits per pixel, PSNR in dB.
        """
        if not 0 <= effort <= self.max_effort:
            raise ValueError(f"effort {effort} is not in 0..{self.max_effort}")
        quality_step = _quality_step(quality)
        y = self.latents_of(latents, quality)
        z = self.hyper_latents(y)
        height, width = latents.image.shape[:2]
        coded = Coded(
            self, self.latent_codec.quantise(y, z, quality_step), height, width, quality_step
        )
        if effort == 0:
            return coded
        from rhodec.codecs.latent_refinement import refined  # brings torch

        return refined(coded, latents.image, y, z, effort, report)

    def latents_of(self, latents: Latents, quality: float) -> Float32:
        """Features of `analyse` -> latents y (h, w, C) at a quality, in steps, not rounded."""
        q = self._trained_quality(_quality_step(quality))
        height, width = latents.image.shape[:2]

        def y_band(begin: int, end: int) -> Tensor:
            if latents.features is None:
                features = self._features(latents.image, begin, end)
            else:
                features = torch.from_numpy(latents.features[begin:end])
            return self.model.latents_of(features[None], q)[0]

        return _by_bands(y_band, *_latent_size(height, width))

    def hyper_latents(self, y: Float32) -> npt.NDArray[np.int32]:
        """z (ceil(h/4), ceil(w/4), Z) of latents y (h, w, C); empty without a hyperprior."""
        hyper_analysis = self.hyper_analysis
        if hyper_analysis is None:
            return np.zeros((0, 0, 0), np.int32)
        rows, columns, _ = y.shape
        h, w = -(-rows // HYPER_STRIDE), -(-columns // HYPER_STRIDE)
        x_of = np.minimum(np.arange(w * HYPER_STRIDE), columns - 1)

        def z(begin: int, end: int) -> Tensor:
            y_of = np.minimum(np.arange(begin * HYPER_STRIDE, end * HYPER_STRIDE), rows - 1)
            band = torch.from_numpy(y[y_of][:, x_of]).permute(2, 0, 1)[None]
            return hyper_analysis(torch.asinh(band))[0].permute(1, 2, 0)

        return np.rint(_by_bands(z, h, w)).astype(np.int32)

    def reconstruct(self, coded: Coded) -> Pixels:
        """The picture that a decoder shows, uint8 (H, W, 3)."""
        return self._synthesise(
            coded.latents.y_hat64, coded.height, coded.width, coded.quality_step
        )

    def decode(
        self, payload: bytes, width: int, height: int, quality: float, digest: int
    ) -> Pixels:
        """Payload -> uint8 (H, W, 3); StreamError unless the latents are the encoder's."""
        quality_step = _quality_step(quality)
        rows, columns = _latent_size(height, width)
        y_hat64 = self.latent_codec.decode(payload, rows, columns, quality_step)
        if latent_digest(y_hat64) != digest:
            raise StreamError(
                f"the decoded latents differ from the encoder's: the file is damaged, or this "
                f"machine does not run {self.name} {self.weights_hash.hex()} correctly (selftest)"
            )
        return self._synthesise(y_hat64, height, width, quality_step)

    def _trained_quality(self, quality_step: int) -> Tensor:
        """The quality (1,) that the model's gains know, for a file's quality in half steps."""
        low, high = self.model.rates.span
        return torch.full((1,), low + (high - low) * quality_step / QUALITY_STEPS)

    def _synthesise(
        self, y_hat64: npt.NDArray[np.int32], height: int, width: int, quality_step: int
    ) -> Pixels:
        rows, columns, _ = y_hat64.shape
        q = self._trained_quality(quality_step)
        out = np.empty((height, width, 3), np.uint8)
        for begin, end, first, last in _bands(rows, columns):
            y_hat = torch.from_numpy(y_hat64[first:last]).float() / (1 << FRACTION_BITS)
            with torch.inference_mode():
                x = self.model.synthesise(y_hat[None], q)[0]
            x = x[(begin - first) * STRIDE : (end - first) * STRIDE, :width]
            pixels = x.mul(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
            top = begin * STRIDE
            out[top : top + len(pixels)] = pixels[: height - top]
        return out


def _latent_size(height: int, width: int) -> tuple[int, int]:
    return -(-height // STRIDE), -(-width // STRIDE)


def _quality_step(quality: float) -> int:
    step = round(2 * quality)
    if not 0 <= step <= QUALITY_STEPS:
        raise ValueError(f"quality {quality} is not in 0..100")
    return step


def _bands(rows: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """(begin, end) of each band and (first, last) with its halo."""
    band = max(HALO, BAND_POSITIONS // columns)
    for begin in range(0, rows, band):
        end = min(begin + band, rows)
        yield begin, end, max(0, begin - HALO), min(rows, end + HALO)


def _by_bands(function, rows: int, columns: int) -> Float32:
    """function(first, last) -> Tensor (last - first, columns, C), evaluated in bands."""
    out: Float32 | None = None
    for begin, end, first, last in _bands(rows, columns):
        with torch.inference_mode():
            band = function(first, last).numpy()
        if out is None:
            out = np.empty((rows, columns, band.shape[2]), np.float32)
        out[begin:end] = band[begin - first : end - first]
    assert out is not None  # rows >= 1
    return out


def _latent_codec(weights: WeightsFile) -> LatentCodec:
    """Latent coder of a weights file; every integer in it is checked, none is derived."""
    tables = CodingTables.from_arrays(weights.part("int.tables"))
    latent = weights.config.get("latent", {})
    if "schedule" not in latent:
        return FactorizedLatentCodec(tables)
    arrays = weights.part("int")
    names = sorted({k.rsplit(".forms", 1)[0] for k in arrays if k.endswith(".forms")})
    networks = {name: IntegerNetwork.from_arrays(name, arrays) for name in names}
    return HyperLatentCodec(
        latent["schedule"],
        latent["means"],
        networks,
        arrays["context_shift"],
        arrays["quality_plane"],
        tables,
    )
