"""All codecs by name, and how to get one ready for use.

Importing this module does not import torch, nor does decoding a file of `overfit`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rhodec.bitstream.stream_error import StreamError
from rhodec.codecs import overfit
from rhodec.codecs.config_table import from_table
from rhodec.codecs.overfit import OverfitCodec
from rhodec.codecs.weights_file import read_weights

if TYPE_CHECKING:
    from rhodec.codecs.transform_codec import TransformCodec

    Codec = TransformCodec | OverfitCodec

WEIGHTS = Path(__file__).parent / "weights"

# Codecs with shipped weights, `weights/NAME.safetensors`, and the modules that describe them.
CODECS = {
    "rho": "rhodec.codecs.rho",
    "overfit": "rhodec.codecs.overfit",
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
    for codec in _opened.values():
        if (codec.codec_id, codec.weights_hash) == (codec_id, weights_hash):
            return codec
    for name in CODECS:
        if (codec_id == overfit.CODEC_ID) != (name == "overfit"):
            continue  # do not import torch in vain
        codec = load_codec(name)
        if (codec.codec_id, codec.weights_hash) == (codec_id, weights_hash):
            return codec
    raise StreamError(
        f"the file needs weights {weights_hash.hex()} of codec {_family_name(codec_id)}, which are "
        "not installed; give their file (--weights) or install the version of rhodec that made it"
    )


_opened: dict[bytes, Codec] = {}  # weights files loaded by path, so that their streams decode


def _family_name(codec_id: int) -> str:
    if codec_id == overfit.CODEC_ID:
        return "overfit"
    from rhodec.codecs.families import FAMILIES

    return next((k for k, v in FAMILIES.items() if v.codec_id == codec_id), f"id {codec_id}")


def _load(path: Path, name: str) -> Codec:
    weights = read_weights(path)
    if weights.family == "overfit":
        codec = OverfitCodec(name, weights, path)
    else:
        import torch

        from rhodec.codecs.families import FAMILIES
        from rhodec.codecs.transform_codec import TransformCodec

        if weights.family not in FAMILIES:
            raise ValueError(f"{path}: this version has no codec family {weights.family!r}")
        family = FAMILIES[weights.family]
        with torch.device("meta"):
            model = family.model(from_table(family.config, weights.config))
        codec = TransformCodec(name, family.codec_id, model, weights, path)
    _opened[codec.weights_hash] = codec
    return codec
