"""Runs exported weights: pictures <-> payloads, in bounded memory, on the CPU.

Analysis and synthesis are integer networks (`rhodec.codecs.integer_transforms`), or, for weights
without these, float networks in torch (`rhodec.codecs.float_transforms`); they work in bands of
rows, always the same for a picture's size. Between them everything is integer
(`rhodec.entropy.latent_codec`). Without float networks nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from rhodec.bitstream.rans import CodingTables
from rhodec.bitstream.stream_error import StreamError
from rhodec.codecs.codec_interface import Pixels, Report
from rhodec.codecs.weights_file import WeightsFile
from rhodec.entropy.gaussian_tables import SCALE_LEVELS
from rhodec.entropy.integer_network import IntegerNetwork
from rhodec.entropy.latent_codec import (
    CodedLatents,
    FactorizedLatentCodec,
    HyperLatentCodec,
    LatentCodec,
    latent_digest,
)
from rhodec.entropy.latent_format import HYPER_STRIDE, QUALITY_STEPS

if TYPE_CHECKING:
    from rhodec.codecs.transform_model import TransformModel

STRIDE = 16  # pixels per latent position
BAND_POSITIONS = 1 << 13  # latent positions per band, about two megapixels
NARROWEST_BAND = 16  # rows; the halo's share grows below
KEPT_POSITIONS = 1 << 17  # latent positions up to which features are kept, 33 megapixels

Features = npt.NDArray[Any]  # int16 or float32, as the transforms have them
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Latents:
    """A picture and its features (H/16, W/16, C), which serve every quality.

    A large picture has None: its features would take more memory than they save time.
    """

    image: Pixels
    features: Features | None


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
        import torch

        from rhodec.entropy.likelihoods import gaussian_bits, scale_from_level

        coded, tables = self.latents, self.codec.latent_codec.tables
        gaussian = coded.indexes < SCALE_LEVELS
        if isinstance(self.codec.latent_codec, FactorizedLatentCodec):
            gaussian[:] = False
        scales = scale_from_level(torch.from_numpy(coded.indexes[gaussian].astype(np.float32)))
        bits = gaussian_bits(torch.from_numpy(coded.symbols[gaussian]).float(), scales)
        rest = tables.ideal_bits(coded.symbols[~gaussian], coded.indexes[~gaussian])
        return float(bits.double().sum()) + rest


class Transforms(Protocol):
    """What a codec does with pixels, for any band of latent rows `begin` to `end`.

    Features are (h, w, C), latents float32 (h, w, C) in quantisation steps, hyper-latents
    (ceil(h / 4), ceil(w / 4), Z) or None without a hyperprior. `latent_halo` is how many rows of
    features on either side a row of latents depends on; `are_exact`: every machine gives the same.
    """

    @property
    def are_exact(self) -> bool: ...

    @property
    def latent_halo(self) -> int: ...

    def features(self, image: Pixels, begin: int, end: int) -> Features: ...

    def latents_of(
        self, features: Features, begin: int, end: int, quality_step: int
    ) -> Float32: ...

    def hyper_latents(self, y: Float32, begin: int, end: int) -> Int32 | None: ...

    def synthesise(
        self, y_hat64: Int32, begin: int, end: int, quality_step: int, out: Pixels
    ) -> None: ...


class TransformCodec:
    """A codec ready for use. `quality` is 0..100 in half steps."""

    is_fitted = False  # to each picture, in iterations

    def __init__(
        self,
        name: str,
        codec_id: int,
        weights: WeightsFile,
        transforms: Transforms,
        float_model: Callable[[], TransformModel],
        path: Path | None = None,
    ) -> None:
        """`float_model` makes the differentiable model when it is first asked for."""
        self.name, self.codec_id = name, codec_id
        self.weights_hash, self.provenance = weights.hash, weights.provenance
        self.weights_path = path
        self.transforms = transforms
        self.latent_codec = _latent_codec(weights)
        self.max_effort = 9 if isinstance(self.latent_codec, HyperLatentCodec) else 0
        self._float_model = float_model

    @property
    def pixels_are_exact(self) -> bool:
        """Whether pixels are defined by integers, and so the same on every machine."""
        return self.transforms.are_exact

    @cached_property
    def model(self) -> TransformModel:
        """The float model: of integer transforms the twin that differs by rounding only.

        Its latent model lacks what coding has in integers.
        """
        return self._float_model()

    def analyse(self, image: Pixels) -> Latents:
        """uint8 (H, W, 3) -> features. Edges are repeated to whole latent positions."""
        rows, columns = _latent_size(*image.shape[:2])
        if rows * columns > KEPT_POSITIONS:
            return Latents(image, None)
        bands = [self.transforms.features(image, *band) for band in _bands(rows, columns)]
        return Latents(image, _stacked(bands))

    def latents_of(self, latents: Latents, quality: float) -> Float32:
        """Features of `analyse` -> latents y (h, w, C) at a quality, in steps, not rounded."""
        quality_step = _quality_step(quality)
        rows, columns = _latent_size(*latents.image.shape[:2])
        transforms, bands = self.transforms, []
        for begin, end in _bands(rows, columns):
            if latents.features is not None:
                bands.append(transforms.latents_of(latents.features, begin, end, quality_step))
                continue
            halo = transforms.latent_halo
            first, last = max(0, begin - halo), min(rows, end + halo)
            features = transforms.features(latents.image, first, last)
            inner = (begin - first, end - first)
            bands.append(transforms.latents_of(features, *inner, quality_step))
        return _stacked(bands)

    def quantise(
        self,
        latents: Latents,
        quality: float,
        effort: int = 0,
        report: Report | None = None,
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
        # Brings torch, and imports this module for its types.
        refinement = import_module("rhodec.codecs.latent_refinement")
        return refinement.refined(coded, latents.image, y, z, effort, report)

    def hyper_latents(self, y: Float32) -> Int32:
        """z (ceil(h/4), ceil(w/4), Z) of latents y (h, w, C); empty without a hyperprior."""
        rows, columns = (-(-side // HYPER_STRIDE) for side in y.shape[:2])
        parts = _bands(rows, columns * HYPER_STRIDE**2)
        bands = [self.transforms.hyper_latents(y, *band) for band in parts]
        found = [band for band in bands if band is not None]
        return _stacked(found) if found else np.zeros((0, 0, 0), np.int32)

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

    def _synthesise(self, y_hat64: Int32, height: int, width: int, quality_step: int) -> Pixels:
        out = np.empty((height, width, 3), np.uint8)
        for band in _bands(*y_hat64.shape[:2]):
            self.transforms.synthesise(y_hat64, *band, quality_step, out)
        return out


def _latent_size(height: int, width: int) -> tuple[int, int]:
    return -(-height // STRIDE), -(-width // STRIDE)


def _quality_step(quality: float) -> int:
    step = round(2 * quality)
    if not 0 <= step <= QUALITY_STEPS:
        raise ValueError(f"quality {quality} is not in 0..100")
    return step


def _bands(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of each band of rows."""
    band = max(NARROWEST_BAND, BAND_POSITIONS // columns)
    for begin in range(0, rows, band):
        yield begin, min(begin + band, rows)


def _stacked(bands: list[np.ndarray]) -> np.ndarray:
    return bands[0] if len(bands) == 1 else np.concatenate(bands)


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
