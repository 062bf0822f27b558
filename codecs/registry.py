"""All codecs by name: families that can be trained, and those with shipped weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rhodec.bitstream.stream_error import StreamError
from rhodec.codecs.config_table import from_table
from rhodec.codecs.hyperprior import (
    FactorizedConfig,
    FactorizedModel,
    HyperpriorConfig,
    MeanScaleHyperpriorModel,
    ScaleHyperpriorConfig,
    ScaleHyperpriorModel,
)
from rhodec.codecs.rho import RhoConfig, RhoModel
from rhodec.codecs.transform_codec import TransformCodec
from rhodec.codecs.transform_model import TransformModel
from rhodec.codecs.weights_file import read_weights

Codec = TransformCodec
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Family:
    """A model family: its number in streams (bitstream/FORMAT.md), configuration and model."""

    codec_id: int
    config: type
    model: Callable[[Any], TransformModel]


FAMILIES = {
    "factorized": Family(1, FactorizedConfig, FactorizedModel),
    "scale-hyperprior": Family(2, ScaleHyperpriorConfig, ScaleHyperpriorModel),
    "mean-scale-hyperprior": Family(3, HyperpriorConfig, MeanScaleHyperpriorModel),
    "rho": Family(4, RhoConfig, RhoModel),
}

# Codecs with shipped weights, `weights/NAME.safetensors`.
CODECS = {
    "rho": RhoModel,
}


@cache
def load_codec(name_or_path: str) -> Codec:
    """The codec of a shipped name or of a weights file; ValueError for what cannot be used."""
    if name_or_path in CODECS:
        return _load(WEIGHTS / f"{name_or_path}.safetensors", name_or_path)
    path = Path(name_or_path)
    return _load(path, path.stem)


def codec_by_hash(codec_id: int, weights_hash: bytes) -> Codec:
    """The codec that a stream asks for; StreamError names what is missing."""
    for name in CODECS:
        codec = load_codec(name)
        if (codec.codec_id, codec.weights_hash) == (codec_id, weights_hash):
            return codec
    for codec in _opened.values():
        if (codec.codec_id, codec.weights_hash) == (codec_id, weights_hash):
            return codec
    family = next((k for k, v in FAMILIES.items() if v.codec_id == codec_id), f"id {codec_id}")
    raise StreamError(
        f"the file needs weights {weights_hash.hex()} of codec {family}, which are not installed; "
        "give their file (--weights) or install the version of rhodec that made it"
    )


_opened: dict[bytes, Codec] = {}  # weights files loaded by path, so that their streams decode


def _load(path: Path, name: str) -> Codec:
    weights = read_weights(path)
    if weights.family not in FAMILIES:
        raise ValueError(f"{path}: this version has no codec family {weights.family!r}")
    family = FAMILIES[weights.family]
    with torch.device("meta"):
        model = family.model(from_table(family.config, weights.config))
    codec = TransformCodec(name, family.codec_id, model, weights, path)
    _opened[codec.weights_hash] = codec
    return codec
