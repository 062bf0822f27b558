"""CompressAI's models as codecs of the evaluator, with a stand-in for CompressAI's interface."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from rhodec.bitstream.stream_error import StreamError
from rhodec.evaluate.compressai_coder import Header, load_compressai_coder
from rhodec.evaluate.picture_sets import find_pictures
from rhodec.evaluate.rate_distortion import measure


class StandIn:
    """The interface of CompressAI's models: uniform quantisation of the samples, two strings."""

    levels = 3

    def __init__(self, step: float) -> None:
        self.step = step
        self.is_updated = self.is_evaluating = False

    @classmethod
    def from_state_dict(cls, state: dict[str, torch.Tensor]) -> StandIn:
        return cls(float(state["step"]))

    def update(self, force: bool) -> None:
        self.is_updated = force

    def eval(self) -> StandIn:
        self.is_evaluating = True
        return self

    def _step(self, stage: int = 0, s: int = 0) -> float:
        return self.step / 2**s

    def compress(self, x: torch.Tensor, **options: int) -> dict:
        assert self.is_updated and self.is_evaluating
        assert x.dtype == torch.float32 and x.shape[:2] == (1, 3)
        assert x.shape[2] % 64 == 0 and x.shape[3] % 64 == 0
        symbols = (x / self._step(**options)).round().to(torch.int16).numpy()
        halves = symbols[..., ::2, :], symbols[..., 1::2, :]
        strings = [[zlib.compress(half.tobytes(), 9)] for half in halves]
        return {"strings": strings, "shape": torch.Size([x.shape[2] // 64, x.shape[3] // 64])}

    def decompress(self, strings: list[list[bytes]], shape: torch.Size, **options: int) -> dict:
        rows, columns = shape
        symbols = np.empty((1, 3, rows * 64, columns * 64), np.int16)
        for offset, (string,) in enumerate(strings):
            half = np.frombuffer(zlib.decompress(string), np.int16)
            symbols[..., offset::2, :] = half.reshape(1, 3, rows * 32, columns * 64)
        return {"x_hat": torch.from_numpy(symbols).float() * self._step(**options)}

    def __call__(self, x: torch.Tensor, **options: int) -> dict:
        return {"likelihoods": {"y": torch.full((100,), 0.25), "z": torch.full((4,), 0.5)}}


def compute_padding(height: int, width: int, *, min_div: int):
    over = -width % min_div, -height % min_div
    left, top = over[0] // 2, over[1] // 2
    pad = left, over[0] - left, top, over[1] - top
    return pad, tuple(-side for side in pad)


@pytest.fixture(autouse=True)
def compressai(monkeypatch) -> None:
    """The modules of CompressAI that the coder asks for."""
    models = {"mbt2018-mean": StandIn, "mbt2018-vbr": StandIn}
    parts = {
        "zoo": {"image_models": models, "load_state_dict": lambda state: state},
        "registry": {"MODELS": models},
        "ops": {"compute_padding": compute_padding},
    }
    monkeypatch.setitem(sys.modules, "compressai", ModuleType("compressai"))
    for name, content in parts.items():
        module = ModuleType(f"compressai.{name}")
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, f"compressai.{name}", module)


def checkpoint(path: Path, step: float, key: str | None = "state_dict") -> Path:
    state = {"step": torch.tensor(step)}
    torch.save({key: state, "epoch": 3} if key else state, path)
    return path


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[Path, ...]:
    coarse = checkpoint(tmp_path / "coarse.pth", 0.25)
    return coarse, checkpoint(tmp_path / "fine.pth", 0.05, None)


def test_the_rate_is_that_of_the_strings_and_of_a_small_header(
    checkpoints, photo: np.ndarray
) -> None:
    coder = load_compressai_coder("mbt2018-mean", checkpoints)
    assert coder.name == "compressai-mbt2018-mean" and coder.default_qualities == (1, 2)
    sizes = []
    for quality in (1, 2):
        prepared = coder.prepare(photo)
        encoded = coder.encode(prepared, quality)
        strings = coder.networks[quality - 1].compress(prepared[0])["strings"]
        assert len(encoded.data) == 10 + 4 + sum(len(string) for (string,) in strings)
        assert Header.FORMAT.size == 10
        assert encoded.estimate_bits is not None and encoded.estimate_bits() == 204
        sizes.append(len(encoded.data))
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (1, 1), (65, 130)])
def test_pictures_of_any_size_are_padded_and_cropped_again(checkpoints, size) -> None:
    image = np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)
    coder = load_compressai_coder("mbt2018-mean", checkpoints)
    decoded = coder.decode(coder.encode(coder.prepare(image), 2).data)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    # Half a step of 0.05, and half a level for rounding.
    assert np.abs(decoded.astype(int) - image).max() <= 0.025 * 255 + 0.5


def test_a_curve_is_measured_like_that_of_any_codec(
    checkpoints, folder: Path, tmp_path: Path
) -> None:
    coder = load_compressai_coder("mbt2018-mean", checkpoints)
    rows = measure(coder, find_pictures(folder)[:2], coder.default_qualities, tmp_path / "cache")
    assert [row.quality for row in rows] == [1, 2, 1, 2]
    assert rows[0].bpp < rows[1].bpp and rows[0].psnr_rgb < rows[1].psnr_rgb
    assert rows[0].estimated_bpp == 204 / (rows[0].width * rows[0].height)


def test_a_variable_rate_model_has_a_point_for_each_gain(checkpoints, photo) -> None:
    coder = load_compressai_coder("mbt2018-vbr", checkpoints[:1])
    assert coder.default_qualities == (1, 2, 3)
    errors = []
    for quality in coder.default_qualities:
        decoded = coder.decode(coder.encode(coder.prepare(photo), quality).data)
        errors.append(np.abs(decoded.astype(int) - photo).mean())
    assert errors == sorted(errors, reverse=True) and errors[0] > 1.5 * errors[1]
    with pytest.raises(ValueError, match="all rates in one checkpoint"):
        load_compressai_coder("mbt2018-vbr", checkpoints)


def test_the_fingerprint_follows_the_content_and_the_order_of_the_checkpoints(
    checkpoints, tmp_path: Path
) -> None:
    def fingerprint(*paths: Path) -> str:
        return load_compressai_coder("mbt2018-mean", paths).fingerprint

    first = fingerprint(*checkpoints)
    copy = tmp_path / "copy.pth"
    copy.write_bytes(checkpoints[0].read_bytes())
    assert fingerprint(copy, checkpoints[1]) == first
    others = {fingerprint(*checkpoints[::-1]), fingerprint(checkpoints[0])}
    checkpoint(checkpoints[0], 0.3)
    assert len({first, fingerprint(*checkpoints), *others}) == 4


def test_what_cannot_be_used_is_refused_with_a_reason(
    checkpoints, tmp_path: Path, photo, monkeypatch
) -> None:
    with pytest.raises(ValueError, match="no 'mbt2019'; there is mbt2018-mean"):
        load_compressai_coder("mbt2019", checkpoints)
    with pytest.raises(ValueError, match="needs --checkpoint"):
        load_compressai_coder("mbt2018-mean", ())
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match=r"other\.pth: not a checkpoint of mbt2018-mean: 'step'"):
        load_compressai_coder("mbt2018-mean", [other])
    other.write_text("no checkpoint")
    with pytest.raises(ValueError, match="not a checkpoint"):
        load_compressai_coder("mbt2018-mean", [other])
    with pytest.raises(OSError):
        load_compressai_coder("mbt2018-mean", [tmp_path / "absent.pth"])
    coder = load_compressai_coder("mbt2018-mean", checkpoints)
    for quality in (0, 3, 1.5):
        with pytest.raises(ValueError, match="not one of 1 to 2"):
            coder.encode(coder.prepare(photo), quality)
    wide = SimpleNamespace(shape=(1, 70000, 3))
    with pytest.raises(ValueError, match="does not fit into the header"):
        coder.prepare(wide)  # type: ignore[arg-type]
    for cut in (0, 9, 12):
        with pytest.raises(StreamError, match="too short"):
            coder.decode(coder.encode(coder.prepare(photo), 1).data[:cut])
    monkeypatch.setitem(sys.modules, "compressai.zoo", None)
    with pytest.raises(ValueError, match=r"pip install 'rhodec\[compressai\]'"):
        load_compressai_coder("mbt2018-mean", checkpoints)


def test_lengths_that_lead_beyond_the_data_are_refused(checkpoints, photo) -> None:
    coder = load_compressai_coder("mbt2018-mean", checkpoints)
    data = bytearray(coder.encode(coder.prepare(photo), 1).data)
    struct.pack_into("<I", data, Header.FORMAT.size, 1 << 30)
    with pytest.raises(StreamError, match="too short"):
        coder.decode(bytes(data))
