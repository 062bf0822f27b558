"""What callers may expect of any codec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (H, W, 3)

# Called now and then by a search: share done in 0..1, bits per pixel, PSNR in dB.
Report = Callable[[float, float, float], None]


class Codec(Protocol):
    """What TransformCodec and OverfitCodec have in common.

    Pictures are uint8 (H, W, 3). What `analyse` returns serves every `quality`, 0..100 in half
    steps; it and the result of `quantise` are of each codec's own kind: callers pass them on, and
    use the latter's `payload`, `digest` and `estimated_bits`.
    `decode` raises StreamError for a payload that is not of this codec, size and digest.
    """

    name: str
    codec_id: int
    weights_hash: bytes
    weights_path: Path | None
    provenance: dict[str, Any]
    max_effort: int
    is_fitted: bool  # to each picture, in iterations

    @property
    def pixels_are_exact(self) -> bool: ...

    def analyse(self, image: Pixels) -> Any: ...

    def quantise(
        self, picture: Any, /, quality: float, effort: int = 0, report: Report | None = None
    ) -> Any: ...

    def reconstruct(self, coded: Any) -> Pixels: ...

    def decode(
        self, payload: bytes, width: int, height: int, quality: float, digest: int
    ) -> Pixels: ...
