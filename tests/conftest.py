"""Fixtures shared by the tests of the command line and of the evaluator."""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import rhodec.codecs
from rhodec.bitstream._crc32c import crc32c
from rhodec.bitstream.stream_error import StreamError


@dataclass(frozen=True)
class PlainCoded:
    """What `PlainCodec.quantise` returns."""

    symbols: np.ndarray
    step: float
    payload: bytes
    digest: int
    estimated_bits: float


class PlainCodec:
    """Uniform quantisation of the samples and zlib: the interface of a codec, without a network."""

    name = "rho"
    codec_id = 4
    weights_hash = b"no-nets!"
    max_effort = 0
    is_fitted = False
    pixels_are_exact = False

    def __init__(self) -> None:
        self.analyses = 0
        self.quantisations = 0

    @staticmethod
    def step(quality: float) -> float:
        return 64.0 ** (1 - quality / 100)

    def analyse(self, image: np.ndarray) -> np.ndarray:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        assert image.flags.writeable and image.flags.c_contiguous
        self.analyses += 1
        return image

    def quantise(self, latents: np.ndarray, quality: float) -> PlainCoded:
        self.quantisations += 1
        step = self.step(quality)
        symbols = np.round(latents / step).astype("<i2")
        payload = zlib.compress(symbols.tobytes(), 9)
        return PlainCoded(symbols, step, payload, crc32c(symbols.tobytes()), 8.0 * len(payload))

    def reconstruct(self, coded: PlainCoded) -> np.ndarray:
        return np.clip(np.round(coded.symbols * coded.step), 0, 255).astype(np.uint8)

    def decode(
        self, payload: bytes, width: int, height: int, quality: float, digest: int
    ) -> np.ndarray:
        try:
            raw = zlib.decompress(payload)
        except zlib.error as error:
            raise StreamError(str(error)) from error
        if len(raw) != 6 * width * height or crc32c(raw) != digest:
            raise StreamError("symbols differ from those of the encoder")
        symbols = np.frombuffer(raw, "<i2").reshape(height, width, 3)
        return self.reconstruct(PlainCoded(symbols, self.step(quality), payload, digest, 0.0))


@pytest.fixture
def plain_codec(monkeypatch: pytest.MonkeyPatch, tmp_path) -> PlainCodec:
    """`PlainCodec` in place of every codec of the registry, so that no network is loaded."""
    codec = PlainCodec()
    weights = tmp_path / "plain.safetensors"
    weights.write_bytes(bytes(1000))
    codec.weights_path = weights  # type: ignore[attr-defined]

    def codec_by_hash(codec_id: int, weights_hash: bytes) -> PlainCodec:
        if (codec_id, weights_hash) != (codec.codec_id, codec.weights_hash):
            raise StreamError(f"no weights {weights_hash.hex()} are installed")
        return codec

    registry = ModuleType("rhodec.codecs.registry")
    registry.CODECS = {"rho": "a codec without a network"}  # type: ignore[attr-defined]
    registry.load_codec = lambda name_or_path: codec  # type: ignore[attr-defined]
    registry.codec_by_hash = codec_by_hash  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rhodec.codecs.registry", registry)
    monkeypatch.setattr(rhodec.codecs, "registry", registry, raising=False)
    return codec


@pytest.fixture
def photo() -> np.ndarray:
    """A smooth picture with texture, uint8 (48, 64, 3)."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[0:48, 0:64]
    waves = [np.sin(x / (5 + c)) + np.cos(y / (7 + c)) for c in range(3)]
    smooth = 128 + 45 * np.stack(waves, axis=2)
    return np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of different sizes, one of them large enough for MS-SSIM."""
    random = np.random.default_rng(3)
    place = tmp_path / "pictures"
    place.mkdir()
    for name, height, width in (("a", 80, 96), ("b", 70, 91), ("c", 168, 176)):
        y, x = np.mgrid[0:height, 0:width]
        waves = [110 * np.sin(x / (7 + c)) * np.cos(y / (5 + 2 * c)) for c in range(3)]
        samples = 128 + np.stack(waves, axis=2) + random.normal(0, 9, (height, width, 3))
        Image.fromarray(np.clip(samples, 0, 255).astype(np.uint8)).save(place / f"{name}.png")
    (place / "notes.txt").write_text("no picture")
    return place
