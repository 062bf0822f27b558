"""Watches the latents that a codec decodes, which no public function shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rhodec.codecs.codec_interface import Codec
from rhodec.codecs.overfit import OverfitCodec
from rhodec.codecs.transform_codec import TransformCodec


def note_latents(codec: Codec, keep: Callable[[np.ndarray], None], **options: str) -> None:
    """Call `keep` with the latents of every file from now on; `options` go to their decoder."""

    def noting(decode, latents_of):
        def decode_and_note(*arguments):
            found = decode(*arguments, **options)
            keep(latents_of(found))
            return found

        return decode_and_note

    if isinstance(codec, OverfitCodec):
        noted = noting(codec.decode_parts, lambda parts: parts[1])
        codec.decode_parts = noted  # type: ignore[method-assign]
    else:
        assert isinstance(codec, TransformCodec)
        decode = codec.latent_codec.decode
        codec.latent_codec.decode = noting(decode, lambda latents: latents)  # type: ignore[method-assign]
