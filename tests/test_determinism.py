"""Files made once decode alike in other configurations: a small determinism_matrix.py."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

import determinism_matrix
from determinism_matrix import Configuration, Decoded, Spread, compare, is_correct

CONFIGURATIONS = [
    Configuration("two threads, narrowest bands", threads=2, bands=1),
    Configuration("nothing fast", {"RHODEC_INTNET": "portable", "RHODEC_INTTRANSFORM": "portable"}),
    Configuration("other evaluators", evaluator="torch", transforms="numpy", threads=3),
]


def test_fresh_processes_decode_to_identical_symbols_and_pixels(tmp_path: Path) -> None:
    pictures, files = tmp_path / "pictures", tmp_path / "files"
    pictures.mkdir()
    files.mkdir()
    with Image.open(Path(__file__).parent / "data" / "kodim23.png") as photo:
        photo.convert("RGB").crop((90, 60, 90 + 299, 60 + 273)).save(pictures / "parrots.png")
    reference = determinism_matrix.encode_once("rho", pictures, files, (20.0, 80.0))
    assert len(reference.symbols) == len(list(files.iterdir())) == 2
    assert reference.is_exact
    results = list(determinism_matrix.matrix(files, "rho", reference, CONFIGURATIONS))
    for row, _ in results:
        assert is_correct(row), row
    assert results[-1][1].largest == 0


def decoded(level: int, sha: str = "a") -> Decoded:
    return Decoded({"x": sha}, {"x": np.full((2, 2, 3), level, np.uint8)})


def test_another_symbol_or_a_pixel_two_levels_off_is_wrong() -> None:
    reference = decoded(100)
    assert is_correct(compare("same", reference, decoded(100)))
    assert is_correct(compare("one level", reference, decoded(99)))
    assert not is_correct(compare("two levels", reference, decoded(102)))
    assert not is_correct(compare("other symbols", reference, decoded(100, "b")))
    exact = replace(reference, is_exact=True)
    assert is_correct(compare("same", exact, decoded(100)))
    assert not is_correct(compare("one level", exact, decoded(99)))
    assert not is_correct(compare("refused", reference, Decoded({}, {}, errors=("x: damaged",))))


def test_pixels_are_compared_between_any_two_configurations() -> None:
    spread = Spread(decoded(100))
    spread.add(decoded(101))
    assert spread.largest == 1
    spread.add(decoded(99))  # one from the encoder's, two from the other one's
    assert spread.largest == 2


def test_a_process_that_dies_is_an_error_of_its_row(tmp_path: Path) -> None:
    died = determinism_matrix.run_child(
        {"action": "decode", "codec": "no such codec", "folder": str(tmp_path)},
        Configuration("broken"),
    )
    assert died.errors and "the process ended with 1" in died.errors[0]


@pytest.mark.parametrize("full", [False, True])
def test_only_what_the_machine_can_run_is_in_the_matrix(full: bool) -> None:
    kernels = ("portable", "avx2")
    rows = determinism_matrix.configurations("avx2", kernels, kernels[:1], full)
    capabilities = {row.environment.get("ATEN_CPU_CAPABILITY") for row in rows}
    assert capabilities == {None, "default", "avx2"}
    found = {row.environment.get("RHODEC_INTNET") for row in rows}
    assert found == {None, *kernels}
    found = {row.environment.get("RHODEC_INTTRANSFORM") for row in rows}
    assert found == {None, "portable"}
    assert len({row.name for row in rows}) == len(rows)
