"""What can be measured: the interface of a codec or an anchor, and our codecs behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rhodec.bitstream import container
from rhodec.bitstream.stream_error import StreamError
from rhodec.evaluate.run_environment import coding_environment, version_of

if TYPE_CHECKING:
    from rhodec.codecs.codec_interface import Codec


@dataclass(frozen=True)
class Encoded:
    """A file's bytes, and how to learn the bits that the model expected (outside the clock)."""

    data: bytes
    estimate_bits: Callable[[], float] | None = None


class PictureCoder(Protocol):
    """What can be measured: a codec of ours or an anchor.

    `fingerprint` changes with everything that may change a file: weights, versions, settings.
    `conditions` is what someone else needs to repeat the measurement. `prepare` does once per
    picture what all qualities share; its time counts for each of them.
    """

    name: str
    fingerprint: str
    extension: str
    default_qualities: tuple[float, ...]

    @property
    def conditions(self) -> dict[str, str]: ...
    def prepare(self, image: np.ndarray) -> Any: ...
    def encode(self, prepared: Any, quality: float) -> Encoded: ...
    def decode(self, data: bytes) -> np.ndarray: ...


class RhodecCoder:
    """A codec of this package behind the container: whole `.rho` files in and out."""

    extension = ".rho"
    default_qualities = tuple(10.0 * i for i in range(11))

    def __init__(self, codec: Codec, effort: int = 0) -> None:
        if not 0 <= effort <= codec.max_effort:
            raise ValueError(f"codec {codec.name} has efforts 0 to {codec.max_effort}")
        self.codec = codec
        self.options: dict[str, Any] = {"effort": effort} if effort else {}
        self.name = codec.name + (f"-effort{effort}" if effort else "")
        self.fingerprint = f"{codec.weights_hash.hex()}-{coding_environment()}"

    @property
    def conditions(self) -> dict[str, str]:
        return {
            "software": f"rhodec {version_of('rhodec')}, torch {version_of('torch')}",
            "command": f"rhodec encode --codec {self.codec.name} --quality Q"
            + "".join(f" --{name} {value}" for name, value in self.options.items()),
            "colour": "RGB, 8 bit",
            "bits": "whole file",
            "weights": self.codec.weights_hash.hex(),
        }

    def prepare(self, image: np.ndarray) -> Any:
        """uint8 (H, W, 3) -> latents and the size."""
        return self.codec.analyse(image), image.shape[1], image.shape[0]

    def encode(self, prepared: Any, quality: float) -> Encoded:
        """The bytes of a `.rho` file; `quality` is 0 to 100 in half steps."""
        latents, width, height = prepared
        index = round(2 * quality)
        if index != 2 * quality or not 0 <= index <= container.MAX_QUALITY:
            raise ValueError(f"quality {quality:g} is not a half step from 0 to 100")
        coded = self.codec.quantise(latents, quality, **self.options)
        picture = container.Picture(
            codec_id=self.codec.codec_id,
            weights_hash=self.codec.weights_hash,
            width=width,
            height=height,
            channels=3,
            quality=index,
            digest=coded.digest,
            payload=coded.payload,
        )
        return Encoded(container.pack(picture), lambda: coded.estimated_bits)

    def decode(self, data: bytes) -> np.ndarray:
        """The bytes of a `.rho` file -> uint8 (H, W, 3); `StreamError` for any other bytes."""
        stored = container.parse(data)
        asked, own = ((c.codec_id, c.weights_hash.hex()) for c in (stored, self.codec))
        if asked != own:
            raise StreamError(f"the file was made with codec and weights {asked}, not {own}")
        return self.codec.decode(
            stored.payload, stored.width, stored.height, stored.quality / 2, stored.digest
        )


def load_rhodec_coder(name_or_path: str, effort: int = 0) -> RhodecCoder:
    """A codec of ours by name or by its weights file; `ValueError` for what does not exist."""
    from rhodec.codecs import registry

    if name_or_path not in registry.CODECS and not Path(name_or_path).is_file():
        known = ", ".join(registry.CODECS)
        raise ValueError(f"no codec or weights file is called {name_or_path!r}; there is {known}")
    return RhodecCoder(registry.load_codec(name_or_path), effort)
