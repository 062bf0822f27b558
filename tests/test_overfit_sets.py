"""The program that makes the starts of `overfit`: from pictures to weights that encode."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rhodec.codecs.overfit import OverfitCodec
from rhodec.codecs.overfit_analysis import first_latents
from rhodec.codecs.overfit_fitting import Fit
from rhodec.codecs.overfit_networks import Architecture
from rhodec.codecs.weights_file import WeightsFile, read_weights
from rhodec.train import overfit_sets

PHOTO = Path(__file__).parent / "data" / "kodim23.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of a photograph, enough for a small mosaic and one to hold out."""
    path = tmp_path_factory.mktemp("pictures")
    photo = Image.open(PHOTO)
    for i in range(5):
        photo.crop((100 * i, 60 * i, 100 * i + 80, 60 * i + 60)).save(path / f"{i}.png")
    return path


def make(monkeypatch: pytest.MonkeyPatch, folder: Path, out: Path, *options: str) -> WeightsFile:
    """The weights that the program writes, with steps and pictures too few to be of use."""
    sizes = {"CROP": 32, "HELD_OUT": 1, "MOSAIC": (1, 2), "NEXT_MOSAIC": (2, 2)}
    steps = dict.fromkeys(("FIRST_STEPS", "NEXT_STEPS", "ROUND_STEPS", "FIT_STEPS"), 4)
    stages = {"FIRST_STAGE": 1, "NEXT_STAGE": 1, "PICTURE": (40, 60)}
    for name, value in {**sizes, **steps, **stages}.items():
        monkeypatch.setattr(overfit_sets, name, value)
    monkeypatch.setattr(
        sys, "argv", ["overfit_sets", str(folder), str(out), "--rounds", "1", *options]
    )
    overfit_sets.main()
    return read_weights(out)


def test_starts_are_made_added_to_and_encode(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    sizes = ("--hidden", "4", "--features", "6", "--residual", "1")
    first = make(monkeypatch, folder, tmp_path / "first", "--starts", "2", *sizes)
    assert first.part("float")["lambda"].tolist() == pytest.approx([0.001, 0.0004])
    more = ("--finest", "1", "--from", str(tmp_path / "first"), "--add", str(tmp_path / "first"))
    both = make(monkeypatch, folder, tmp_path / "both", *more, *sizes)
    assert both.part("int")["finest"].tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(both.part("int")["context"][:2], first.part("int")["context"])
    assert not np.array_equal(both.part("int")["context"][2], first.part("int")["context"][0])

    codec = OverfitCodec("made", both)
    image = np.asarray(Image.open(folder / "0.png").convert("RGB"))
    coded = codec.quantise(codec.analyse(image), 50)
    np.testing.assert_array_equal(
        codec.decode(coded.payload, 80, 60, 50, coded.digest), coded.pixels
    )
    with pytest.raises(SystemExit):
        make(monkeypatch, folder, tmp_path / "other", "--add", str(tmp_path / "first"))


def test_starts_get_filters_that_change_nothing(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    sizes = ("--hidden", "4", "--features", "6", "--residual", "1")
    before = make(monkeypatch, folder, tmp_path / "before", "--starts", "1", *sizes)
    after = make(monkeypatch, folder, tmp_path / "after", "--plain", str(tmp_path / "before"))
    own = make(monkeypatch, folder, tmp_path / "own", "--starts", "1", "--own", *sizes)
    assert after.config == {**before.config, "own": True} == own.config
    assert not np.array_equal(own.part("int")["own"], after.part("int")["own"])
    codecs = [OverfitCodec("made", weights) for weights in (before, after)]
    image = np.asarray(Image.open(folder / "0.png").convert("RGB"))
    losses = []
    for codec in codecs:
        fit = Fit(image, codec.sizes, codec.starts[0], 0.001)
        fit.set_levels(first_latents(fit.target, codec._analysis[0].astype(np.float32)))
        losses.append((fit.bits(fit.networks.context), fit.squares(fit.networks.synthesis)))
    assert losses[0] == losses[1]


def test_wider_networks_do_the_same(folder: Path) -> None:
    random = np.random.default_rng(0)
    small, wide = Architecture(4, 6, 1), Architecture(6, 8, 3)
    image = np.asarray(Image.open(folder / "1.png").convert("RGB"))
    before = overfit_sets.random_networks(small, random)
    before.synthesis += random.integers(-100, 100, before.synthesis.shape, dtype=np.int32)
    after = overfit_sets._widen(before, small, wide, random)
    levels = [
        random.integers(-3, 4, (-(-60 >> i), -(-80 >> i))).astype(np.float32) for i in range(7)
    ]
    found = []
    for sizes, start in ((small, before), (wide, after)):
        fit = Fit(image, sizes, start, 0.001)
        fit.set_levels(levels)
        found.append((fit.bits(fit.networks.context), fit.squares(fit.networks.synthesis)))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_too_few_pictures_are_a_clear_error(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(overfit_sets, "CROP", 900)
    with pytest.raises(ValueError, match="a mosaic needs 4 pictures of 900 pixels"):
        overfit_sets.mosaic(sorted(folder.iterdir()), 2, 2, np.random.default_rng(0))
