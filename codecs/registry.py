"""All codecs by name: families that can be trained, and those with shipped weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rhodec.bitstream.stream_error import StreamError
from rhodec.codecs import overfit
from rhodec.codecs.codec_interface import Codec
from rhodec.codecs.integer_transforms import IntegerTransforms
from rhodec.codecs.overfit import OverfitCodec
from rhodec.codecs.transform_codec import TransformCodec, Transforms
from rhodec.codecs.weights_file import WeightsFile, read_weights
from rhodec.codecs.weights_file import weights_hash as hash_of

if TYPE_CHECKING:
    from rhodec.codecs.transform_model import TransformModel

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Family:
    """A model family: its number in streams (bitstream/FORMAT.md), configuration and model.

    The classes are imported when they are asked for, because models need torch.
    """

    codec_id: int
    module: str
    config_name: str
    model_name: str

    @property
    def config(self) -> type:
        return getattr(import_module(self.module), self.config_name)

    @property
    def model(self) -> Callable[[Any], TransformModel]:
        return getattr(import_module(self.module), self.model_name)


_HYPERPRIOR = "rhodec.codecs.hyperprior"
FAMILIES = {
    "factorized": Family(1, _HYPERPRIOR, "FactorizedConfig", "FactorizedModel"),
    "scale-hyperprior": Family(2, _HYPERPRIOR, "ScaleHyperpriorConfig", "ScaleHyperpriorModel"),
    "mean-scale-hyperprior": Family(3, _HYPERPRIOR, "HyperpriorConfig", "MeanScaleHyperpriorModel"),
    "rho": Family(4, "rhodec.codecs.rho", "RhoConfig", "RhoModel"),
}

# Codecs with shipped weights, `weights/NAME.safetensors`, and the sentence that introduces them.
CODECS = {
    "rho": "the flagship: one variable-rate model for photographs, few multiplications per pixel",
    "rho-msssim": "the same, trained further for MS-SSIM: more structure, less PSNR",
    "hyperprior": "a baseline: mean-scale hyperprior (Minnen et al., 2018), trained briefly",
    "overfit": "networks and latents fitted to each picture: a slow encoder, exact pixels",
    "overfit-1000": "the same with half the multiplications: encoded and decoded in less time",
    "overfit-500": "with a quarter of them",
}


@cache
def load_codec(name_or_path: str) -> Codec:
    """The codec of a shipped name or of a weights file; ValueError for what cannot be used."""
    if name_or_path in CODECS:
        return _load(WEIGHTS / f"{name_or_path}.safetensors", name_or_path)
    path = Path(name_or_path)
    return _load(path, path.stem)


def load_transform_codec(name_or_path: str) -> TransformCodec:
    """`load_codec` for who works on latents; ValueError for a codec that has no transforms."""
    codec = load_codec(name_or_path)
    if not isinstance(codec, TransformCodec):
        raise ValueError(f"codec {name_or_path} has no analysis and synthesis of its own")
    return codec


def codec_by_hash(codec_id: int, weights_hash: bytes) -> Codec:
    """The codec that a stream asks for; StreamError names what is missing."""
    for name in CODECS:
        if _shipped_hash(name) == weights_hash:  # no other needs to be loaded
            load_codec(name)
    for codec in _opened.values():
        if (codec.codec_id, codec.weights_hash) == (codec_id, weights_hash):
            return codec
    known = {family.codec_id: name for name, family in FAMILIES.items()}
    family = (known | {overfit.CODEC_ID: "overfit"}).get(codec_id, f"id {codec_id}")
    raise StreamError(
        f"the file needs weights {weights_hash.hex()} of codec {family}, which are not installed; "
        "give their file (--weights) or install the version of rhodec that made it"
    )


_opened: dict[bytes, Codec] = {}  # weights files loaded by path, so that their streams decode


@cache
def _shipped_hash(name: str) -> bytes | None:
    path = WEIGHTS / f"{name}.safetensors"
    return hash_of(path.read_bytes()) if path.is_file() else None


def _load(path: Path, name: str) -> Codec:
    weights = read_weights(path)
    codec: Codec
    if weights.family == "overfit":
        codec = OverfitCodec(name, weights, path)
    elif weights.family in FAMILIES:
        transforms, float_model = _transforms(weights)
        codec_id = FAMILIES[weights.family].codec_id
        codec = TransformCodec(name, codec_id, weights, transforms, float_model, path)
    else:
        raise ValueError(f"{path}: this version has no codec family {weights.family!r}")
    _opened[codec.weights_hash] = codec
    return codec


def _transforms(weights: WeightsFile) -> tuple[Transforms, Callable[[], TransformModel]]:
    """The transforms of a weights file, and what makes their float model."""
    if any(name.startswith("int.synthesis.") for name in weights.arrays):
        integers = IntegerTransforms(weights)

        def float_twin() -> TransformModel:
            from rhodec.codecs.dequantised import float_parameters

            return _float_model(weights, float_parameters(weights, integers))

        return integers, float_twin
    from rhodec.codecs.float_transforms import FloatTransforms

    model = _float_model(weights, weights.part("float"))
    return FloatTransforms(model), lambda: model


def _float_model(weights: WeightsFile, parameters: dict[str, np.ndarray]) -> TransformModel:
    import torch

    from rhodec.codecs.config_table import from_table
    from rhodec.codecs.float_transforms import load_float_model

    family = FAMILIES[weights.family]
    with torch.device("meta"):
        model = family.model(from_table(family.config, weights.config))
    return load_float_model(model, parameters)
