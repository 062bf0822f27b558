"""The shipped `rho`: what it encodes decodes, at every size and quality, or is refused by name."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rhodec
from rhodec.bitstream import container
from rhodec.bitstream.stream_error import StreamError
from rhodec.codecs import transform_codec
from rhodec.codecs.registry import load_transform_codec
from rhodec.codecs.transform_codec import STRIDE, Coded, TransformCodec
from rhodec.entropy import integer_network
from rhodec.entropy.latent_codec import HyperLatentCodec
from rhodec.transforms import integer_transform

MAX_WEIGHTS_BYTES = 12_000_000
OVERHEAD_BYTES = 32 + 8  # the container's and the range coder's, which small files cannot hide


@pytest.fixture(scope="module")
def codec() -> TransformCodec:
    return load_transform_codec("rho")


@pytest.fixture(scope="module")
def parrots() -> np.ndarray:
    """The packaged photograph, uint8 (512, 768, 3)."""
    with Image.open(Path(__file__).parent / "data" / "kodim23.png") as image:
        return np.array(image.convert("RGB"))


@pytest.fixture(scope="module")
def coded(codec: TransformCodec, parrots: np.ndarray) -> Coded:
    """The photograph at quality 50."""
    return codec.quantise(codec.analyse(parrots), 50)


def psnr_db(reference: np.ndarray, shown: np.ndarray) -> float:
    mse = np.mean((reference.astype(np.float64) - shown) ** 2)
    return 10 * math.log10(255**2 / mse)


def assert_file_is_as_promised(codec: TransformCodec, picture: np.ndarray, quality: float) -> None:
    """The file decodes to what the encoder shows and has the size that the model estimates."""
    data = rhodec.encode(picture, quality=quality)
    coded = codec.quantise(codec.analyse(picture), quality)
    decoded = rhodec.decode(data)
    assert decoded.dtype == np.uint8 and decoded.shape == picture.shape
    np.testing.assert_array_equal(decoded, codec.reconstruct(coded))
    estimate_bytes = coded.estimated_bits / 8
    assert abs(len(data) - estimate_bytes) <= 0.005 * estimate_bytes + OVERHEAD_BYTES


@pytest.mark.parametrize("quality", [0, 50, 100])
@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (7, 1), (1, 7), (33, 17), (3, 257), (257, 3), (64, 64), (130, 66)]
)
def test_pictures_of_any_size_decode_to_what_the_encoder_shows(
    codec: TransformCodec, parrots: np.ndarray, width: int, height: int, quality: float
) -> None:
    picture = np.ascontiguousarray(parrots[200 : 200 + height, 300 : 300 + width])
    assert_file_is_as_promised(codec, picture, quality)


def kept_features(latents: transform_codec.Latents) -> np.ndarray:
    assert latents.features is not None
    return latents.features


def test_a_very_long_picture_round_trips(codec: TransformCodec, parrots: np.ndarray) -> None:
    strip = parrots.reshape(-1, 3)[: 3 * 4001].reshape(3, 4001, 3).copy()
    assert_file_is_as_promised(codec, strip, 50)
    assert_file_is_as_promised(codec, np.ascontiguousarray(strip.transpose(1, 0, 2)), 50)


@pytest.mark.parametrize("quality", [5, 95])
def test_the_packaged_photograph_round_trips(
    codec: TransformCodec, parrots: np.ndarray, quality: float
) -> None:
    assert_file_is_as_promised(codec, parrots, quality)


def test_noise_and_flat_pictures_round_trip(codec: TransformCodec) -> None:
    random = np.random.default_rng(11)
    for picture in (
        random.integers(0, 256, (45, 50, 3), np.uint8),
        random.integers(0, 2, (45, 50, 3), np.uint8) * np.uint8(255),
        np.full((45, 50, 3), 255, np.uint8),
        np.zeros((45, 50, 3), np.uint8),
    ):
        for quality in (0, 100):
            data = rhodec.encode(picture, quality=quality)
            coded = codec.quantise(codec.analyse(picture), quality)
            np.testing.assert_array_equal(rhodec.decode(data), codec.reconstruct(coded))


def test_a_higher_quality_takes_more_bytes_and_gives_a_higher_psnr(
    codec: TransformCodec, parrots: np.ndarray
) -> None:
    latents = codec.analyse(parrots)
    files = [codec.quantise(latents, quality) for quality in range(0, 101, 20)]
    sizes = [len(file.payload) for file in files]
    psnrs = [psnr_db(parrots, codec.reconstruct(file)) for file in files]
    assert sizes == sorted(set(sizes))
    assert psnrs == sorted(set(psnrs))
    assert psnrs[-1] - psnrs[0] > 6


@pytest.mark.parametrize("quality", [-1, 100.5, math.nan])
def test_a_quality_outside_0_to_100_is_a_value_error(codec: TransformCodec, quality: float) -> None:
    latents = codec.analyse(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError):
        codec.quantise(latents, quality)


def test_latents_with_another_digest_are_refused(codec: TransformCodec, coded: Coded) -> None:
    arguments = (coded.payload, coded.width, coded.height, 50)
    np.testing.assert_array_equal(codec.decode(*arguments, coded.digest), codec.reconstruct(coded))
    with pytest.raises(StreamError, match="decoded latents differ") as error:
        codec.decode(*arguments, coded.digest ^ 1)
    assert codec.weights_hash.hex() in str(error.value)


def test_a_file_for_other_weights_is_refused_by_their_hash(parrots: np.ndarray) -> None:
    picture = container.parse(rhodec.encode(parrots[:40, :40], quality=10))
    foreign = container.pack(replace(picture, weights_hash=bytes.fromhex("0123456789abcdef")))
    with pytest.raises(StreamError, match="0123456789abcdef of codec rho"):
        rhodec.decode(foreign)


def test_both_evaluators_of_the_integer_networks_decode_a_photograph_alike(
    codec: TransformCodec, coded: Coded
) -> None:
    latent_codec = codec.latent_codec
    assert isinstance(latent_codec, HyperLatentCodec)
    size = -(-coded.height // STRIDE), -(-coded.width // STRIDE)
    for backend in ("c", "torch"):
        y_hat64 = latent_codec.decode(coded.payload, *size, coded.quality_step, backend)
        np.testing.assert_array_equal(y_hat64, coded.latents.y_hat64)


@pytest.mark.parametrize("narrowest", [1, 5])
def test_bands_and_the_whole_picture_give_exactly_the_same(
    codec: TransformCodec,
    parrots: np.ndarray,
    coded: Coded,
    monkeypatch: pytest.MonkeyPatch,
    narrowest: int,
) -> None:
    """So every band's halo is as wide as what the transforms see."""
    whole = kept_features(codec.analyse(parrots))
    shown = codec.reconstruct(coded)
    monkeypatch.setattr(transform_codec, "BAND_POSITIONS", 1)
    monkeypatch.setattr(transform_codec, "NARROWEST_BAND", narrowest)
    assert len(list(transform_codec._bands(*whole.shape[:2]))) == -(-32 // narrowest)
    latents = codec.analyse(parrots)
    np.testing.assert_array_equal(kept_features(latents), whole)
    again = codec.quantise(latents, 50)
    np.testing.assert_array_equal(again.latents.symbols, coded.latents.symbols)
    np.testing.assert_array_equal(codec.reconstruct(again), shown)
    # A picture too large to keep its features makes them anew for each band.
    again = codec.quantise(transform_codec.Latents(parrots, None), 50)
    np.testing.assert_array_equal(again.latents.symbols, coded.latents.symbols)


def test_the_encoder_makes_the_same_file_with_every_kernel_and_number_of_threads(
    parrots: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = np.ascontiguousarray(parrots[100:210, 300:457])
    expected = rhodec.encode(part, quality=70)
    for engine in (integer_network, integer_transform):
        monkeypatch.setattr(engine.KERNELS, "parallel_macs", 0)
        threads = engine.KERNELS.threads
        engine.set_kernel_path("portable")
        engine.set_threads(3)
        try:
            assert rhodec.encode(part, quality=70) == expected
        finally:
            engine.set_kernel_path(None)
            engine.set_threads(threads)


def test_the_float_twin_does_what_the_integers_do(
    codec: TransformCodec, parrots: np.ndarray
) -> None:
    part = np.ascontiguousarray(parrots[100:292, 300:556])  # whole latent positions
    low, high = codec.model.rates.span
    for quality in (0, 100):
        latents = codec.analyse(part)
        y = codec.latents_of(latents, quality)
        coded = codec.quantise(latents, quality)
        trained = torch.tensor([low + (high - low) * quality / 100])
        with torch.inference_mode():
            x = torch.from_numpy(part)[None].float() / 255
            y_float = codec.model.latents_of(codec.model.features(x), trained)
            y_hat = torch.from_numpy(coded.latents.y_hat64)[None].float() / 64
            shown = codec.model.synthesise(y_hat, trained)[0].numpy() * 255
            hyper_analysis = codec.model.latent.get_submodule("hyper_analysis")
            z = hyper_analysis(torch.asinh(y_float.permute(0, 3, 1, 2)))
        expected = y_float[0].numpy()
        assert (np.abs(y - expected) < 0.1 + 0.002 * np.abs(expected)).all()
        assert np.abs(codec.reconstruct(coded) - shown.clip(0, 255)).max() < 1
        z = z[0].permute(1, 2, 0).numpy()
        assert np.abs(codec.hyper_latents(y) - z.clip(-127, 127)).max() < 0.6


def test_the_weights_file_is_named_by_its_hash_and_small_enough_to_ship(
    codec: TransformCodec,
) -> None:
    assert codec.weights_path is not None
    data = codec.weights_path.read_bytes()
    assert codec.weights_hash == hashlib.sha256(data).digest()[:8]
    assert len(data) <= MAX_WEIGHTS_BYTES


def test_a_damaged_weights_file_is_a_value_error_with_its_path(
    codec: TransformCodec, tmp_path: Path
) -> None:
    assert codec.weights_path is not None
    data = codec.weights_path.read_bytes()
    for name, content in (("cut", data[: len(data) // 2]), ("empty", b""), ("text", b"x" * 1000)):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.safetensors is not a usable weights file"):
            load_transform_codec(str(path))


def test_a_copy_of_the_weights_decodes_the_same_files(
    codec: TransformCodec, parrots: np.ndarray, tmp_path: Path
) -> None:
    assert codec.weights_path is not None
    path = tmp_path / "copy.safetensors"
    path.write_bytes(codec.weights_path.read_bytes())
    copy = load_transform_codec(str(path))
    assert isinstance(copy, TransformCodec) and copy.weights_hash == codec.weights_hash
    part = np.ascontiguousarray(parrots[:70, :90])
    coded = copy.quantise(copy.analyse(part), 30)
    decoded = codec.decode(coded.payload, 90, 70, 30, coded.digest)
    np.testing.assert_array_equal(decoded, copy.reconstruct(coded))
