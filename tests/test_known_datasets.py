"""Manifests of data sets, and folders that are verified against them."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rhodec.evaluate import datasets_command as command
from rhodec.evaluate import known_datasets
from rhodec.evaluate.known_datasets import (
    Dataset,
    DatasetFile,
    dataset_by_pixels,
    guess_dataset,
    known_dataset,
    verify_folder,
)
from rhodec.evaluate.picture_sets import find_pictures, pixels_digest, read_picture
from rhodec.evaluate.published_curves import load_per_picture

DATA = Path(__file__).parent / "data"
RAW_BYTES = {"uvg": 1920 * 1080 * 3 // 2 * 600}


def run_command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    """The three pictures of `folder`: one with all hashes, one with its pixels', one with sides."""
    a, b, c = (folder / f"{name}.png" for name in "abc")
    files = [
        DatasetFile(
            "a.png",
            width=96,
            height=80,
            sha256=hashlib.sha256(a.read_bytes()).hexdigest(),
            pixels_sha256=pixels_digest(read_picture(a)),
        ),
        DatasetFile("b.png", pixels_sha256=pixels_digest(read_picture(b))),
        DatasetFile("c.png", pixels=168 * 176),
    ]
    assert c.exists()
    return Dataset("abc", "three", "pictures", 3, "none", [], [], files)


def test_every_manifest_is_whole() -> None:
    sets = known_datasets.known_datasets()
    counts = {"kodak": 24, "clic2020-professional-valid": 41, "tecnick": 100, "uvg": 7}
    counts |= {"mcl-jcv": 30, "hevc-b": 5, "hevc-c": 4, "hevc-d": 4, "hevc-e": 3}
    assert {name: dataset.count for name, dataset in sets.items()} == counts
    for dataset in sets.values():
        names = [file.name for file in dataset.files]
        assert len(set(names)) == len(names) == dataset.count
        assert dataset.obtain and dataset.licence and dataset.kind in ("pictures", "videos")
        for file in dataset.files:
            for digest in (file.sha256, file.pixels_sha256):
                assert digest is None or (len(digest) == 64 and int(digest, 16))
            if dataset.kind == "videos":
                assert file.width and file.height and file.frames
                assert file.bytes == file.width * file.height * 3 // 2 * file.frames
        if not all(file.is_proven for file in dataset.files):
            assert any("ashes" in note and "not known" in note for note in dataset.notes)
    assert sum(file.bytes or 0 for file in sets["uvg"].files) == 6.5 * RAW_BYTES["uvg"]


def test_the_kodak_manifest_knows_a_picture_of_kodak() -> None:
    (picture,) = find_pictures(DATA / "kodim23.png")
    file = next(f for f in known_dataset("kodak").files if f.name == "kodim23.png")
    assert file.pixels_sha256 == picture.pixels_sha256
    assert (file.width, file.height) == (768, 512)


def test_the_names_of_clic_are_those_of_published_results() -> None:
    names = {Path(file.name).stem for file in known_dataset("clic2020-professional-valid").files}
    assert names == set(load_per_picture("cool-chic-5.0", "clic2020-professional-valid"))


def test_a_set_is_known_by_exactly_its_pixels() -> None:
    digests = [file.pixels_sha256 or "" for file in known_dataset("kodak").files]
    assert dataset_by_pixels(reversed(digests)) == "kodak"
    assert dataset_by_pixels(digests[1:]) is None
    assert dataset_by_pixels([*digests, digests[0]]) is None
    assert dataset_by_pixels([""] * 100) is None  # sets without hashes prove nothing


def test_a_good_folder_is_proven_as_far_as_hashes_are_known(folder: Path, dataset: Dataset) -> None:
    verdict = verify_folder(folder, dataset)
    assert verdict.is_good
    assert verdict.proven == ["a.png", "b.png"] and verdict.plausible == ["c.png"]


def test_a_picture_that_was_written_anew_is_the_same(folder: Path, dataset: Dataset) -> None:
    before = (folder / "a.png").read_bytes()
    Image.open(folder / "a.png").save(folder / "a.png", compress_level=1)
    assert (folder / "a.png").read_bytes() != before
    assert verify_folder(folder, dataset).is_good


def test_every_fault_of_a_folder_is_named(folder: Path, dataset: Dataset) -> None:
    image = read_picture(folder / "a.png")
    image[0, 0] ^= 1
    Image.fromarray(image).save(folder / "a.png")
    (folder / "b.png").unlink()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "c.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "d.png")
    verdict = verify_folder(folder, dataset)
    assert not verdict.is_good
    assert verdict.missing == ["b.png"] and verdict.others == ["d.png"]
    assert verdict.wrong == {"a.png": "other pixels", "c.png": "64 pixels instead of 29568"}
    (folder / "c.png").write_bytes(b"no picture")
    assert verify_folder(folder, dataset).wrong["c.png"].startswith("not a picture")


def test_a_raw_video_is_verified_by_its_size(tmp_path: Path) -> None:
    file = DatasetFile("v.yuv", width=4, height=2, frames=3, bytes=36)
    dataset = Dataset("v", "v", "videos", 1, "none", [], [], [file])
    (tmp_path / "v.yuv").write_bytes(bytes(36))
    assert verify_folder(tmp_path, dataset).plausible == ["v.yuv"]
    (tmp_path / "v.yuv").write_bytes(bytes(24))
    assert verify_folder(tmp_path, dataset).wrong == {"v.yuv": "24 bytes instead of 36"}


def test_the_command_lists_shows_and_verifies(
    folder: Path, dataset: Dataset, monkeypatch, capsys
) -> None:
    assert run_command("list") == 0
    assert "mcl-jcv" in capsys.readouterr().out
    assert run_command("show", "clic2020-professional-valid") == 0
    shown = capsys.readouterr().out
    assert "obtain:" in shown and "zugr-108.png  pixels=" in shown

    monkeypatch.setattr(known_datasets, "_manifests", lambda: {"abc": dataset})
    assert guess_dataset(folder) is dataset
    assert run_command("verify", folder) == 0
    assert "is abc: 3 of 3 pictures agree" in capsys.readouterr().out
    (folder / "a.png").unlink()
    assert run_command("verify", folder, "--name", "abc") == 1
    assert "missing: a.png" in capsys.readouterr().out


def test_mistakes_end_with_exit_code_2(tmp_path: Path, capsys) -> None:
    for words, reason in (
        (["show", "imagenet"], "no data set is called 'imagenet'; there is clic2020"),
        (["verify", tmp_path / "absent"], "no such folder"),
        (["verify", tmp_path], "no file of a known data set"),
    ):
        assert run_command(*words) == 2
        assert reason in capsys.readouterr().err
