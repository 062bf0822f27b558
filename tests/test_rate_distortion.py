"""Measurements on real files, their journal, the results files, the page and the command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rhodec.bitstream import container
from rhodec.bitstream.stream_error import StreamError
from rhodec.evaluate import evaluation_command as command
from rhodec.evaluate import rate_distortion, report_table
from rhodec.evaluate.bjontegaard import bd_rate
from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.published_curves import published_curve
from rhodec.evaluate.quality_metrics import ms_ssim, psnr_rgb
from rhodec.evaluate.rate_distortion import (
    Encoded,
    Journal,
    RhodecCoder,
    find_pictures,
    from_line,
    measure,
    read_picture,
    to_line,
)


class CountingJpeg(JpegAnchor):
    """The JPEG anchor, which also says how many files it made and at which call it fails."""

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__()
        self.files = 0
        self.fails_at = fails_at

    def encode(self, prepared: Image.Image, quality: float) -> Encoded:
        if prepared.size != (64, 64):  # the warm-up of `measure`
            self.files += 1
            if self.files == self.fails_at:
                raise RuntimeError("out of paper")
        return super().encode(prepared, quality)


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


# ---- one measurement ----------------------------------------------------------------------------


def test_a_row_says_what_the_file_on_disk_and_its_decoded_picture_say(
    folder: Path, tmp_path: Path
) -> None:
    pictures = find_pictures(folder)
    rows = measure(JpegAnchor(), pictures, [30, 80], tmp_path / "cache")
    assert [(row.picture, row.quality) for row in rows] == [
        (name, quality) for name in ("a.png", "b.png", "c.png") for quality in (30, 80)
    ]
    for row in rows:
        original = np.array(Image.open(folder / row.picture))
        path = tmp_path / "own.jpg"
        Image.open(folder / row.picture).save(
            path, quality=int(row.quality), subsampling=2, optimize=True, progressive=True
        )
        decoded = np.array(Image.open(path))
        assert row.file_bytes == path.stat().st_size
        assert row.bpp == 8 * path.stat().st_size / (row.width * row.height)
        assert row.psnr_rgb == psnr_rgb(original, decoded)
        assert (row.height, row.width) == original.shape[:2]
        assert math.isnan(row.estimated_bpp)
        assert row.encode_s > 0 and row.decode_s > 0 and row.machine
        if row.picture == "c.png":
            assert row.ms_ssim == ms_ssim(original, decoded)
        else:
            assert math.isnan(row.ms_ssim)


def test_a_codec_of_ours_is_measured_through_whole_files(
    plain_codec, folder: Path, tmp_path: Path
) -> None:
    coder = RhodecCoder(plain_codec)
    rows = measure(coder, find_pictures(folder), [20, 60.5], tmp_path / "cache")
    image = read_picture(folder / "a.png")
    for row in rows[:2]:
        coded = plain_codec.quantise(image, row.quality)
        overhead = row.file_bytes - len(coded.payload)
        assert 20 <= overhead <= 32
        assert row.estimated_bpp == coded.estimated_bits / image[..., 0].size
        assert row.psnr_rgb == psnr_rgb(image, plain_codec.reconstruct(coded))
        assert row.fingerprint.startswith(plain_codec.weights_hash.hex())


def test_the_analysis_runs_once_for_all_qualities(
    plain_codec, folder: Path, tmp_path: Path
) -> None:
    measure(RhodecCoder(plain_codec), find_pictures(folder), [10, 50, 90], tmp_path / "cache")
    assert plain_codec.analyses == 3 + 1  # and once to warm up


def test_a_file_of_ours_is_a_container_and_a_foreign_one_is_refused(plain_codec, photo) -> None:
    coder = RhodecCoder(plain_codec)
    data = coder.encode(coder.prepare(photo), 50.5).data
    stored = container.parse(data)
    assert (stored.width, stored.height, stored.quality) == (64, 48, 101)
    np.testing.assert_array_equal(
        coder.decode(data), plain_codec.reconstruct(plain_codec.quantise(photo, 50.5))
    )
    foreign = container.pack(dataclasses.replace(stored, weights_hash=b"another!"))
    with pytest.raises(StreamError, match="made with codec and weights"):
        coder.decode(foreign)
    for quality in (50.25, -1, 100.5):
        with pytest.raises(ValueError, match="not a half step"):
            coder.encode(coder.prepare(photo), quality)


def test_an_effort_that_the_codec_does_not_have_is_refused(plain_codec) -> None:
    with pytest.raises(ValueError, match="efforts 0 to 0"):
        RhodecCoder(plain_codec, effort=1)


@pytest.mark.parametrize(("subsampling", "factor"), [("4:2:0", 2), ("4:4:4", 1)])
def test_the_jpeg_anchor_writes_what_it_says(photo, subsampling: str, factor: int) -> None:
    anchor = JpegAnchor(subsampling)
    data = anchor.encode(anchor.prepare(photo), 75).data
    with Image.open(BytesIO(data)) as image:
        assert image.info.get("progressive")
        assert image.layer[0][1:3] == (factor, factor)  # type: ignore[attr-defined]
    fixed_tables = BytesIO()
    Image.fromarray(photo).save(fixed_tables, "JPEG", quality=75, subsampling=subsampling)
    assert len(data) < len(fixed_tables.getvalue())
    for quality in (0, 101, 50.5):
        with pytest.raises(ValueError, match="whole number from 1 to 100"):
            anchor.encode(anchor.prepare(photo), quality)
    with pytest.raises(ValueError, match="'4:1:1' is not one of"):
        JpegAnchor("4:1:1")


# ---- data sets ----------------------------------------------------------------------------------


def test_a_folder_is_known_by_its_pixels_not_by_names_or_formats(
    folder: Path, tmp_path: Path
) -> None:
    pictures = find_pictures(folder)
    assert [picture.name for picture in pictures] == ["a.png", "b.png", "c.png"]
    digest = rate_distortion.dataset_digest(pictures)
    (folder / "a.png").rename(folder / "z.png")
    Image.open(folder / "b.png").save(folder / "b.bmp")
    (folder / "b.png").unlink()
    assert rate_distortion.dataset_digest(find_pictures(folder)) == digest
    assert rate_distortion.dataset_name(pictures) is None
    assert len(find_pictures(folder / "b.bmp")) == 1


def test_pictures_that_cannot_be_measured_are_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        find_pictures(tmp_path / "absent")
    with pytest.raises(ValueError, match="no pictures"):
        find_pictures(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits per sample"):
        find_pictures(tmp_path)
    (tmp_path / "deep.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"deep\.png"):
        find_pictures(tmp_path)


def test_grey_and_transparent_pictures_are_measured_as_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((5, 4), 77, np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((5, 4, 4), 99, np.uint8)).save(tmp_path / "rgba.png")
    for name, value in (("grey", 77), ("rgba", 99)):
        image = read_picture(tmp_path / f"{name}.png")
        assert image.shape == (5, 4, 3) and (image == value).all()


# ---- the journal --------------------------------------------------------------------------------


def test_a_second_run_computes_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    pictures, cache = find_pictures(folder), tmp_path / "cache"
    first = CountingJpeg()
    rows = measure(first, pictures, [30, 60], cache)
    assert first.files == 6
    again = CountingJpeg()
    assert rate_distortion.missing_points(again, pictures, [30, 60, 90], cache) == 3
    seen = []
    more = measure(again, pictures, [30, 60, 90], cache, seen.append)
    assert again.files == 3 and [row.quality for row in seen] == [90] * 3
    assert [to_line(r) for r in more if r.quality != 90] == [to_line(r) for r in rows]


def test_a_changed_picture_is_measured_again_and_a_renamed_one_is_not(
    folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    measure(CountingJpeg(), find_pictures(folder), [50], cache)
    (folder / "a.png").rename(folder / "d.png")
    image = read_picture(folder / "b.png")
    image[0, 0] ^= 1
    Image.fromarray(image).save(folder / "b.png")
    coder = CountingJpeg()
    rows = measure(coder, find_pictures(folder), [50], cache)
    assert coder.files == 1
    assert [row.picture for row in rows] == ["b.png", "c.png", "d.png"]


def test_new_weights_or_versions_share_no_rows(plain_codec, folder: Path, tmp_path: Path) -> None:
    pictures, cache = find_pictures(folder), tmp_path / "cache"
    measure(RhodecCoder(plain_codec), pictures, [50], cache)
    done = plain_codec.quantisations
    measure(RhodecCoder(plain_codec), pictures, [50], cache)
    assert plain_codec.quantisations == done
    plain_codec.weights_hash = b"trained!"
    measure(RhodecCoder(plain_codec), pictures, [50], cache)
    assert plain_codec.quantisations == done + 3 + 1


def test_rows_survive_the_way_through_text_exactly(folder: Path, tmp_path: Path) -> None:
    for row in measure(JpegAnchor(), find_pictures(folder), [40], tmp_path / "cache"):
        again = from_line(to_line(row))
        assert to_line(again) == to_line(row)
        assert (again.bpp, again.psnr_rgb, again.quality) == (row.bpp, row.psnr_rgb, row.quality)


@pytest.mark.filterwarnings("error")
def test_a_line_cut_anywhere_is_measured_again_and_never_reported(
    folder: Path, tmp_path: Path
) -> None:
    pictures, cache = find_pictures(folder)[:1], tmp_path / "cache"
    rows = measure(CountingJpeg(), pictures, [30, 60], cache)
    path = Journal(cache, CountingJpeg()).path
    whole = path.read_bytes()
    last_line = whole.splitlines(keepends=True)[-1]
    for kept in range(len(last_line) - 1):  # without its newline a line is whole
        path.write_bytes(whole[: len(whole) - len(last_line) + kept])
        found = Journal(cache, CountingJpeg()).rows
        assert [to_line(row) for row in found.values()] == [to_line(rows[0])]
        assert path.read_bytes().endswith(b"\n")
    resumed = CountingJpeg()
    measure(resumed, pictures, [30, 60], cache)
    assert resumed.files == 1
    assert len(Journal(cache, resumed).rows) == 2


def test_a_damaged_line_is_measured_again(folder: Path, tmp_path: Path) -> None:
    pictures, cache = find_pictures(folder), tmp_path / "cache"
    measure(CountingJpeg(), pictures, [30], cache)
    path = Journal(cache, CountingJpeg()).path
    damaged = bytearray(path.read_bytes())
    at = damaged.index(b"b.png") + 100
    damaged[at] ^= 1
    path.write_bytes(damaged)
    coder = CountingJpeg()
    measure(coder, pictures, [30], cache)
    assert coder.files == 1


def test_an_error_names_the_point_and_keeps_the_rows_before_it(
    folder: Path, tmp_path: Path
) -> None:
    pictures, cache = find_pictures(folder), tmp_path / "cache"
    with pytest.raises(RuntimeError, match="out of paper") as caught:
        measure(CountingJpeg(fails_at=4), pictures, [30, 60], cache)
    assert caught.value.__notes__ == ["jpeg-420, b.png, quality 60"]
    coder = CountingJpeg()
    measure(coder, pictures, [30, 60], cache)
    assert coder.files == 3


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.rate_distortion import find_pictures, measure

class Dying(JpegAnchor):
    files = 0
    def decode(self, data):
        Dying.files += 1
        if Dying.files == 1 + 4:  # after the warm-up, in the middle of the fourth point
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(data)

measure(Dying(), find_pictures(Path(sys.argv[1])), [30, 60], Path(sys.argv[2]))
"""


def test_a_killed_run_resumes_without_the_finished_points(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(folder), str(cache)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    coder = CountingJpeg()
    rows = measure(coder, find_pictures(folder), [30, 60], cache)
    assert coder.files == 3 and len(rows) == 6


# ---- results and tables -------------------------------------------------------------------------


def summary_of(folder: Path, tmp_path: Path, coder=None, qualities=(10, 30, 60, 90)):
    pictures = find_pictures(folder)
    coder = coder or JpegAnchor()
    rows = measure(coder, pictures, qualities, tmp_path / "cache")
    return report_table.summarise(coder, rows, pictures), rows, pictures


def test_the_results_file_has_the_shape_that_compressai_plots(folder: Path, tmp_path: Path) -> None:
    summary, rows, _ = summary_of(folder, tmp_path, qualities=(90, 10, 60, 30))
    path = report_table.write_results(tmp_path / "out", summary, rows)
    found = json.loads(path.read_text())
    assert path.name == "jpeg-420.json" and found["name"] == "jpeg-420"
    assert found["quality"] == [10, 30, 60, 90]
    for key in ("bpp", "psnr-rgb", "encoding_time", "decoding_time"):
        assert len(found["results"][key]) == 4
        assert all(isinstance(value, float) for value in found["results"][key])
    assert found["results"]["bpp"] == sorted(found["results"]["bpp"])
    assert found["results"]["ms-ssim-rgb"] == [None] * 4  # two pictures are too small
    assert None not in found["per_image"]["c.png"]["ms-ssim-rgb"]
    assert set(found["per_image"]) == {"a.png", "b.png", "c.png"}
    assert found["dataset"]["pictures"] == 3 and found["averaging"] and found["environment"]
    assert "optimize=True" in found["conditions"]["command"]
    lines = path.with_suffix(".tsv").read_text().splitlines()
    assert lines == [rate_distortion.HEADER, *map(to_line, rows)]
    assert report_table.read_results(path) == found
    assert sorted(p.name for p in path.parent.iterdir()) == ["jpeg-420.json", "jpeg-420.tsv"]


def test_means_are_over_pictures_and_the_two_averages_of_psnr_are_apart(
    folder: Path, tmp_path: Path
) -> None:
    summary, rows, _ = summary_of(folder, tmp_path)
    point = [row for row in rows if row.quality == 30]
    results = summary["results"]
    assert results["psnr-rgb"][1] == pytest.approx(sum(row.psnr_rgb for row in point) / 3)
    assert results["bpp"][1] == pytest.approx(sum(row.bpp for row in point) / 3)
    mean_mse = sum(row.mse for row in point) / 3
    of_mean = results["psnr-rgb-of-mean-mse"][1]
    assert of_mean == pytest.approx(10 * math.log10(65025 / mean_mse))
    assert of_mean < results["psnr-rgb"][1]


def test_an_unfinished_quality_is_never_averaged(folder: Path, tmp_path: Path) -> None:
    _, rows, pictures = summary_of(folder, tmp_path)
    with pytest.raises(ValueError, match="quality 90 has not all pictures"):
        report_table.summarise(JpegAnchor(), rows[:-1], pictures)


def test_exact_copies_are_written_as_valid_json_and_refused_as_a_curve(
    plain_codec, folder: Path, tmp_path: Path
) -> None:
    coder = RhodecCoder(plain_codec)
    summary, rows, _ = summary_of(folder, tmp_path, coder, (40, 60, 80, 100))  # step 1: lossless
    path = report_table.write_results(tmp_path, summary, rows)
    assert "Infinity" not in path.read_text() and "NaN" not in path.read_text()
    assert summary["results"]["psnr-rgb"][-1] is None
    with pytest.raises(ValueError, match="infinite or was not measured"):
        report_table.curve_of(summary["results"])
    jpeg, _, _ = summary_of(folder, tmp_path)
    assert "infinite or was not measured" in report_table.bd_table([summary, jpeg])


def test_a_file_that_is_no_results_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, reason in (
        ("{", "not a results file"),
        ("3", "not a results file"),
        ('{"name": 1}', "lacks dataset"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            report_table.read_results(path)


@pytest.mark.filterwarnings("ignore::rhodec.evaluate.bjontegaard.CurveWarning")
def test_the_tables_hold_the_numbers_of_the_results(folder: Path, tmp_path: Path) -> None:
    coarse, _, _ = summary_of(folder, tmp_path)
    fine, _, _ = summary_of(folder, tmp_path, JpegAnchor("4:4:4"))
    anchor, test = (report_table.curve_of(summary["results"]) for summary in (coarse, fine))
    expected = bd_rate(anchor, test)
    table = report_table.bd_table([coarse, fine])
    assert f"{expected:+.1f} [" in table
    heads, rule, first, second = (line.split("|")[1:-1] for line in table.splitlines()[:4])
    assert [h.strip() for h in heads] == ["codec", "against jpeg-420", "against jpeg-444"]
    assert all(cell.strip("-") == ":" for cell in rule)
    assert first[0].strip() == "jpeg-420" and first[1].strip() == "0"
    assert second[1].strip().startswith(f"{expected:+.1f} [")

    rates = report_table.rate_table(coarse).splitlines()
    assert len(rates) == 2 + 4
    assert f"{coarse['results']['bpp'][0]:.4f}" in rates[2]
    assert "estimated" not in rates[0]  # JPEG has no estimate: no empty column
    single = report_table.per_picture_table([coarse, fine])
    assert "+-" in single


def test_the_page_names_conditions_machines_and_sources(folder: Path, tmp_path: Path) -> None:
    summary, _, _ = summary_of(folder, tmp_path)
    curve = published_curve("vtm-9.1")
    page = report_table.results_page([summary], [curve])
    assert page.startswith("# Results\n") and page.endswith("\n")
    for text in (
        curve.source,
        "against vtm-9.1 (published)",
        summary["machines"][0],
        summary["conditions"]["command"],
        "3 pictures",
    ):
        assert text in page, text
    with pytest.raises(ValueError, match="no results"):
        report_table.results_page([])


def test_results_of_different_pictures_are_not_put_on_one_page(
    folder: Path, tmp_path: Path
) -> None:
    all_three, _, _ = summary_of(folder, tmp_path)
    (folder / "a.png").unlink()
    two, _, _ = summary_of(folder, tmp_path)
    with pytest.raises(ValueError, match="different pictures"):
        report_table.results_page([all_three, two])


# ---- the command --------------------------------------------------------------------------------


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
    assert "33.3 is not a half step from 0 to 100 (rho, a.png" in capsys.readouterr().err


def test_a_published_curve_is_compared_on_its_own_pictures_only(
    plain_codec, folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    digest = rate_distortion.dataset_digest(find_pictures(folder))
    monkeypatch.setitem(rate_distortion.KNOWN_DATASETS, digest, "kodak")
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
    assert command.parse_qualities(text) == expected


@pytest.mark.parametrize("text", ["", "a", "0,...,100", "0,10,...", "10,0,...,50", "0,10,...,95"])
def test_lists_of_qualities_that_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        command.parse_qualities(text)
