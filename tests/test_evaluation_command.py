"""`rhodec evaluate`: what it writes, prints and refuses."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pytest

from rhodec.evaluate import evaluation_command as command
from rhodec.evaluate.argument_values import parse_qualities, parse_window, positive_count
from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.rate_distortion import Order


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_command_writes_results_and_prints_tables(
    plain_codec, folder: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "results"
    words = [str(folder), "--quality", "20,40,60,80", "--out", str(out)]
    words += ["--anchor", "jpeg", "--anchor", "jpeg-444"]
    assert run_command(*words) == 0
    shown = capsys.readouterr().out
    assert "BD-rate" in shown and "against jpeg-444" in shown and "RESULTS.md" in shown
    names = {path.name for path in out.iterdir()}
    codecs = ("rho", "jpeg-420", "jpeg-444")
    assert names == {"RESULTS.md", "cache"} | {f"{c}{e}" for c in codecs for e in (".json", ".tsv")}
    page = (out / "RESULTS.md").read_text()
    assert "### rho" in page and "### jpeg-444" in page

    done = plain_codec.quantisations
    assert run_command(*words, "--quiet", "--report", str(tmp_path / "page.md")) == 0
    assert plain_codec.quantisations == done
    assert capsys.readouterr().out == ""
    assert (tmp_path / "page.md").read_text() == page


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--anchor", "vtm-9.1"], "not exactly that set"),
        (["--anchor", "vtm-77"], "there is vtm-18.0"),
        (["--codec", "rh0"], "no codec or weights file is called 'rh0'"),
        (["--effort", "3"], "efforts 0 to 0"),
        (["--codec", "rho", "--codec", "rho"], "two codecs are called rho"),
        (["--against", "webp"], "--against webp is neither measured nor an --anchor"),
        (["--anchor", "vtm:/nowhere"], "/nowhere"),
        (["--anchor", "svt:x"], "no anchor 'svt:x'"),
        (["--codec", "compressai:mbt2018"], "compressai"),
    ],
)
def test_mistakes_end_with_exit_code_2_before_anything_is_measured(
    plain_codec, folder: Path, tmp_path: Path, capsys, words: list[str], reason: str
) -> None:
    assert run_command(str(folder), "--out", str(tmp_path / "out"), *words) == 2
    assert reason in capsys.readouterr().err
    assert plain_codec.analyses == 0 and not (tmp_path / "out").exists()


def test_a_failed_measurement_ends_with_exit_code_1_and_names_the_point(
    plain_codec, folder: Path, tmp_path: Path, capsys
) -> None:
    words = [str(folder), "--out", str(tmp_path / "out"), "--quality", "20,33.3"]
    assert run_command(*words) == 1
    assert "rho, a.png, quality 33.3: quality 33.3 is not a half step" in capsys.readouterr().err


def test_a_published_curve_is_compared_on_its_own_pictures_only(
    plain_codec, folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(command, "dataset_name", lambda pictures: "kodak")
    words = [str(folder), "--out", str(tmp_path), "--quality", "0,20,40,60,80"]
    assert run_command(*words, "--anchor", "vtm-9.1", "--anchor", "published:jpeg") == 0
    assert "against vtm-9.1 (published) | against jpeg (published)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50", [50]),
        ("0,10,...,100", [10.0 * i for i in range(11)]),
        ("0, 2.5, ..., 10, 50, 60, ..., 80", [0, 2.5, 5, 7.5, 10, 50, 60, 70, 80]),
        ("30,10,10", [10, 30]),
    ],
)
def test_lists_of_qualities(text: str, expected: list[float]) -> None:
    assert parse_qualities(text) == expected


@pytest.mark.parametrize("text", ["", "a", "0,...,100", "0,10,...", "10,0,...,50", "0,10,...,95"])
def test_lists_of_qualities_that_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_qualities(text)


def test_several_processes_and_all_reports_from_one_command(
    folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    # A codec that a worker can make: JPEG under another name.
    def jpeg_codec(name: str, args: argparse.Namespace) -> Order:
        return Order(JpegAnchor("4:4:4"), [10, 40, 70, 90], partial(JpegAnchor, "4:4:4"))

    monkeypatch.setattr(command, "_codec", jpeg_codec)
    latex, plot = tmp_path / "tables.tex", tmp_path / "plots" / "curves.svg"
    words = [str(folder), "--out", str(tmp_path / "out"), "--jobs", "2", "--anchor", "jpeg"]
    words += ["--method", "pchip", "--method", "cubic", "--against", "jpeg", "--window", "24,30"]
    words += ["--latex", str(latex), "--plot", str(plot)]
    assert run_command(*words) == 0
    shown = capsys.readouterr().out
    assert "against jpeg-420 |" in shown and "against jpeg-444" not in shown
    page = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "Method cubic:" in page and "](../plots/curves.svg)" in page
    assert "2 processes at once" in page
    assert r"\toprule" in latex.read_text()


def test_ray_and_perceptual_metrics_are_asked_for_by_their_extras(
    plain_codec, folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for words, extra in ((["--engine", "ray"], "ray"), (["--perceptual"], "perceptual")):
        assert run_command(str(folder), "--out", str(tmp_path / "out"), *words) == 2
        assert f"pip install 'rhodec[{extra}]'" in capsys.readouterr().err
    assert plain_codec.analyses == 0


@pytest.mark.parametrize("text", ["29", "38,29", "29,29", "a,b", "1,2,3"])
def test_windows_that_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_window(text)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_counts_that_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        positive_count(text)
