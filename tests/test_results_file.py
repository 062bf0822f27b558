"""Results files, tables and the page that are made of measurements."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rhodec.evaluate import report_table, results_file
from rhodec.evaluate.anchor_sanity import EXPECTATIONS, Finding, sanity_table
from rhodec.evaluate.bjontegaard import bd_rate
from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.latex_table import escape, latex_document, latex_table
from rhodec.evaluate.picture_coders import RhodecCoder
from rhodec.evaluate.picture_sets import find_pictures
from rhodec.evaluate.published_curves import published_curve
from rhodec.evaluate.rate_distortion import measure
from rhodec.evaluate.results_journal import HEADER, to_line
from rhodec.evaluate.results_page import PageOptions, results_page

# ---- results and tables -------------------------------------------------------------------------


def summary_of(folder: Path, tmp_path: Path, coder=None, qualities=(10, 30, 60, 90)):
    pictures = find_pictures(folder)
    coder = coder or JpegAnchor()
    rows = measure(coder, pictures, qualities, tmp_path / "cache")
    return results_file.summarise(coder, rows, pictures), rows, pictures


def test_the_results_file_has_the_shape_that_compressai_plots(folder: Path, tmp_path: Path) -> None:
    summary, rows, _ = summary_of(folder, tmp_path, qualities=(90, 10, 60, 30))
    path = results_file.write_results(tmp_path / "out", summary, rows)
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
    assert lines == [HEADER, *map(to_line, rows)]
    assert results_file.read_results(path) == found
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
        results_file.summarise(JpegAnchor(), rows[:-1], pictures)


def test_exact_copies_are_written_as_valid_json_and_refused_as_a_curve(
    plain_codec, folder: Path, tmp_path: Path
) -> None:
    coder = RhodecCoder(plain_codec)
    summary, rows, _ = summary_of(folder, tmp_path, coder, (40, 60, 80, 100))  # step 1: lossless
    path = results_file.write_results(tmp_path, summary, rows)
    assert "Infinity" not in path.read_text() and "NaN" not in path.read_text()
    assert summary["results"]["psnr-rgb"][-1] is None
    with pytest.raises(ValueError, match="infinite or was not measured"):
        results_file.curve_of(summary["results"])
    jpeg, _, _ = summary_of(folder, tmp_path)
    assert "infinite or was not measured" in report_table.bd_table([summary, jpeg]).notes[0]


def test_a_file_that_is_no_results_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, reason in (
        ("{", "not a results file"),
        ("3", "not a results file"),
        ('{"name": 1}', "lacks dataset"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            results_file.read_results(path)


@pytest.mark.filterwarnings("ignore::rhodec.evaluate.bjontegaard.CurveWarning")
def test_the_tables_hold_the_numbers_of_the_results(folder: Path, tmp_path: Path) -> None:
    coarse, _, _ = summary_of(folder, tmp_path)
    fine, _, _ = summary_of(folder, tmp_path, JpegAnchor("4:4:4"))
    anchor, test = (results_file.curve_of(summary["results"]) for summary in (coarse, fine))
    expected = bd_rate(anchor, test)
    table = report_table.bd_table([coarse, fine]).markdown()
    assert f"{expected:+.1f} [" in table
    heads, rule, first, second = (line.split("|")[1:-1] for line in table.splitlines()[:4])
    assert [h.strip() for h in heads] == ["codec", "against jpeg-420", "against jpeg-444"]
    assert all(cell.strip("-") == ":" for cell in rule)
    assert first[0].strip() == "jpeg-420" and first[1].strip() == "0"
    assert second[1].strip().startswith(f"{expected:+.1f} [")

    rates = report_table.rate_table(coarse).markdown().splitlines()
    assert len(rates) == 2 + 4
    assert f"{coarse['results']['bpp'][0]:.4f}" in rates[2]
    assert "estimated" not in rates[0]  # JPEG has no estimate: no empty column
    single = report_table.per_picture_table([coarse, fine]).markdown()
    assert "+-" in single


def test_the_page_names_conditions_machines_and_sources(folder: Path, tmp_path: Path) -> None:
    summary, _, _ = summary_of(folder, tmp_path)
    curve = published_curve("vtm-9.1")
    page = results_page([summary], [curve])
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
        results_page([])


def test_results_of_different_pictures_are_not_put_on_one_page(
    folder: Path, tmp_path: Path
) -> None:
    all_three, _, _ = summary_of(folder, tmp_path)
    (folder / "a.png").unlink()
    two, _, _ = summary_of(folder, tmp_path)
    with pytest.raises(ValueError, match="different pictures"):
        results_page([all_three, two])


def test_the_results_file_says_how_each_coded_picture_can_be_checked(
    folder: Path, tmp_path: Path
) -> None:
    summary, rows, pictures = summary_of(folder, tmp_path)
    found = summary["per_image"]["b.png"]
    own = [row for row in rows if row.picture == "b.png"]
    assert found["file_sha256"] == [row.file_sha256 for row in own]
    assert found["file_bytes"] == [row.file_bytes for row in own]
    assert found["pixels_sha256"] == pictures[1].pixels_sha256
    for key in ("encoding_cpu_time", "decoding_cpu_time", "ms-ssim-rgb-db", "psnr-yuv-611"):
        assert len(summary["results"][key]) == 4
    assert summary["results"]["ssimulacra2"] == [None] * 4
    assert {"machine", "python", "numpy", "pillow"} <= set(summary["environment"])


def test_ms_ssim_in_decibels_is_that_of_the_mean(folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):  # too small for MS-SSIM
        (folder / name).unlink()
    summary, rows, _ = summary_of(folder, tmp_path)
    results = summary["results"]
    for linear, db, row in zip(
        results["ms-ssim-rgb"], results["ms-ssim-rgb-db"], rows, strict=True
    ):
        assert linear == row.ms_ssim and db == pytest.approx(-10 * math.log10(1 - linear))


@pytest.mark.filterwarnings("ignore::rhodec.evaluate.bjontegaard.CurveWarning")
def test_the_columns_and_the_window_of_bd_rates_can_be_chosen(
    folder: Path, tmp_path: Path
) -> None:
    coarse, _, _ = summary_of(folder, tmp_path)
    fine, _, _ = summary_of(folder, tmp_path, JpegAnchor("4:4:4"))
    curves = [published_curve("vtm-9.1"), published_curve("hm")]
    table = report_table.bd_table([coarse, fine], curves, against=["jpeg-420", "hm"])
    assert table.heads == ["codec", "against jpeg-420", "against hm (published)"]
    window = (26.0, 29.0)
    table = report_table.bd_table([coarse, fine], against=["jpeg-420"], window=window)
    anchor, test = (results_file.curve_of(summary["results"]) for summary in (coarse, fine))
    expected = bd_rate(anchor, test, window=window)
    assert table.rows[1][1].startswith(f"{expected:+.1f} [26.0, 29.0]")
    pictures = report_table.per_picture_table([coarse, fine], against=["jpeg-420"])
    assert pictures.heads == ["codec", "against jpeg-420"]


def test_times_are_given_per_megapixel(folder: Path, tmp_path: Path) -> None:
    summary, rows, pictures = summary_of(folder, tmp_path)
    (cells,) = report_table.timing_table([summary]).rows
    megapixels = sum(picture.width * picture.height for picture in pictures) / 1e6
    expected = sum(row.decode_s for row in rows) / 4 / megapixels
    assert cells[3] == f"{expected:.3f}"


def test_the_page_shows_every_method_the_plot_and_the_sanity_of_anchors(
    folder: Path, tmp_path: Path
) -> None:
    summary, _, _ = summary_of(folder, tmp_path)
    options = PageOptions(methods=("pchip", "cubic"), window=(25, 30), plot="rd_psnr.svg")
    expectation = EXPECTATIONS["jpeg-420"][0]
    sanity = sanity_table([Finding("jpeg-420", expectation, expectation.bd_rate)])
    page = results_page([summary], [published_curve("jpeg")], options, sanity)
    for text in (
        "Method pchip:",
        "Method cubic:",
        "only 25 to 30 dB count",
        "](rd_psnr.svg)",
        expectation.reason,
        "## Environment",
        "encode CPU s/MP",
    ):
        assert text in page, text
    assert "Anchors against" not in results_page([summary])


# ---- LaTeX --------------------------------------------------------------------------------------


def test_text_is_escaped_and_numbers_get_the_minus_of_mathematics() -> None:
    assert escape("a_b & 50 % of #1") == r"a\_b \& 50 \% of \#1"
    assert escape("-46.9 [24.9, 37.9]") == "$-46.9$ [24.9, 37.9]"
    assert escape("+96.4 +- 8.9") == r"$+96.4$ $\pm$ 8.9"
    assert escape("vtm-9.1 jpeg-420") == "vtm-9.1 jpeg-420"  # hyphens, not minuses
    assert escape("~^{}\\") == r"\textasciitilde{}\textasciicircum{}\{\}\textbackslash{}"


def test_a_latex_table_has_the_cells_and_notes_of_the_markdown_one() -> None:
    table = report_table.Table(["codec", "against x_y"], [["rho", "-5.2 (1)"]], ["they cross"])
    text = latex_table(table, "BD-rate in %", "tab:x")
    lines = [line.strip() for line in text.splitlines()]
    assert r"\begin{tabular}{lr}" in lines and r"\caption{BD-rate in \%}" in lines
    rules = [lines.index(rf"\{name}rule") for name in ("top", "mid", "bottom")]
    assert lines[rules[0] + 1 : rules[1]] == [r"codec & against x\_y \\"]
    assert lines[rules[1] + 1 : rules[2]] == [r"rho & $-5.2$ (1) \\"]
    assert r"\par\footnotesize (1) they cross." in lines
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1


@pytest.mark.filterwarnings("ignore::rhodec.evaluate.bjontegaard.CurveWarning")
def test_the_latex_of_a_report_has_all_its_tables(folder: Path, tmp_path: Path) -> None:
    summaries = [
        summary_of(folder, tmp_path, JpegAnchor(subsampling))[0]
        for subsampling in ("4:2:0", "4:4:4")
    ]
    text = latex_document(summaries, [published_curve("hm")], PageOptions(("pchip", "cubic")))
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 5
    for label in ("bd-rate-pchip", "bd-rate-cubic", "bd-rate-pictures", "rate-jpeg-420"):
        assert rf"\label{{tab:{label}}}" in text
