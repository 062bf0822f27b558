"""Figures for papers: what they show, that nothing overlaps, and that their bytes repeat."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.transforms import Bbox
from PIL import Image

from rhodec.__main__ import main
from rhodec.evaluate import bd_rate, load_curve
from rhodec.evaluate.named_curves import (
    NamedCurve,
    load_named_curves,
    metric_name,
    points_of,
    read_curve_file,
)
from rhodec.evaluate.plot_command import known_kmac, trade_offs
from rhodec.evaluate.rd_plot import TradeOff, rd_figure, save_figure, trade_off_figure

RATES = [0.1, 0.25, 0.5, 1.0, 1.6]


def record(name: str, shift: float = 0.0, **extra) -> dict:
    """A results file with a curve `shift` dB over another one."""
    return {
        "name": name,
        "results": {
            "bpp": RATES,
            "psnr-rgb": [30 + shift + 6 * math.log2(rate / 0.1) / 2 for rate in RATES],
            "ms-ssim-rgb": [1 - 0.1 * (0.1 / rate) for rate in RATES],
            "decoding_time": [0.5, 0.5, 0.6, 0.6, 0.8],
        },
        "dataset": {"name": "kodak", "pictures": 24, "pixels": 24_000_000, "sha256": "k"},
        **extra,
    }


def curve(name: str, shift: float = 0.0, **extra) -> NamedCurve:
    content = record(name, shift, **extra)
    return NamedCurve(name, content["results"], content)


@pytest.fixture
def results(tmp_path: Path) -> list[str]:
    """Two results files, `good` and `worse`."""
    paths = []
    for name, shift in (("good", 2.0), ("worse", 0.0)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(record(name, shift)))
        paths.append(str(path))
    return paths


# ---- curves by name -----------------------------------------------------------------------------


def test_words_name_results_files_and_published_curves_in_their_order(results) -> None:
    curves = load_named_curves([results[0], "vtm", results[1]])
    assert [c.name for c in curves] == ["good", "vtm-9.1", "worse"]
    assert [c.is_published for c in curves] == [False, True, False]
    assert points_of(curves[1].values, "psnr-rgb") == load_curve("vtm-9.1")


def test_ms_ssim_is_in_decibels_and_points_without_a_value_are_left_out() -> None:
    values = {"bpp": [0.5, 0.2, 0.3], "ms-ssim-rgb": [1.0, 0.9, None], "psnr-rgb": [40.0, 30.0, 35]}
    rates, qualities = points_of(values, "ms-ssim-rgb")
    assert rates == [0.2] and qualities == pytest.approx([10.0])
    assert points_of(values, "psnr-rgb") == ([0.2, 0.3, 0.5], [30.0, 35, 40.0])
    assert points_of(values, "psnr-y") == ([], [])


def test_comparisons_without_meaning_are_refused(results, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    changed = record("other")
    changed["dataset"] = {"name": None, "sha256": "another"}
    other.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="different pictures"):
        load_named_curves([*results, str(other)])
    with pytest.raises(ValueError, match="published mean over a whole data set"):
        load_named_curves([str(other), "vtm-9.1"])
    with pytest.raises(ValueError, match="two curves are called good"):
        load_named_curves([results[0], str(_copy(results[0], tmp_path))])
    with pytest.raises(ValueError, match="psnr-rgb"):
        metric_name("psrn")


def _copy(path: str, folder: Path) -> Path:
    copy = folder / "copy.json"
    copy.write_text(Path(path).read_text())
    return copy


def test_files_of_other_tools_need_only_a_name_and_curves(tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({"name": "theirs", "results": {"bpp": [1], "psnr-rgb": [30]}}))
    assert points_of(read_curve_file(path).values, "psnr-rgb") == ([1], [30])
    for text in ("no json", "[]", "{}", '{"name": "x", "results": {"bpp": [1], "psnr-rgb": []}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a results file"):
            read_curve_file(path)


# ---- rate-distortion figures --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_a_plot_has_the_same_bytes_every_time(results, tmp_path: Path, kind: str) -> None:
    made = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{kind}"
        assert main(["plot", *results, "vtm-9.1", "-o", str(path), "--title", "Kodak"]) == 0
        made.append(path.read_bytes())
    assert made[0] == made[1]
    assert b"Date" not in made[0]
    if kind == "pdf":
        assert b"/Type3" not in made[0] and b"/FontFile2" in made[0]


def test_the_width_is_that_of_the_column(results, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert main(["plot", *results, "-o", str(path), "--width", "10"]) == 0
    with Image.open(path) as picture:
        assert picture.width == pytest.approx(10 / 2.54 * 300, abs=2)


def test_every_metric_has_a_panel_with_the_curves_that_have_it() -> None:
    published = load_named_curves(["bpg444", "vtm-9.1"])  # the first has no MS-SSIM
    fig = rd_figure([curve("mine"), *published], ["psnr-rgb", "ms-ssim-rgb"])
    names = [[line.get_label() for line in panel.get_lines()] for panel in fig.axes]
    assert names == [["mine", "bpg444", "vtm-9.1"], ["mine", "vtm-9.1"]]
    assert [panel.get_ylabel() for panel in fig.axes] == ["PSNR-RGB (dB)", "MS-SSIM (dB)"]
    line = fig.axes[1].get_lines()[0]
    assert np.asarray(line.get_xdata()).tolist() == RATES
    assert np.asarray(line.get_ydata())[0] == pytest.approx(10.0)


def test_measured_curves_are_solid_published_ones_dashed_and_all_look_different() -> None:
    fig = rd_figure([curve(f"codec {i}", i) for i in range(9)] + load_named_curves(["vtm-9.1"]))
    lines = fig.axes[0].get_lines()
    assert [line.is_dashed() for line in lines] == [False] * 9 + [True]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 10


def test_the_rates_shown_are_those_asked_for_or_the_measured_ones() -> None:
    curves = [curve("mine"), *load_named_curves(["vtm-9.1"])]  # published up to 3.6 bpp
    assert rd_figure(curves).axes[0].get_xlim() == pytest.approx((0, 1.03 * 1.6))
    panel = rd_figure([curve("mine")], bpp_range=(0.2, 0.6)).axes[0]
    assert panel.get_xlim() == (0.2, 0.6)
    cut = [30 + 6 * math.log2(10 * rate) / 2 for rate in (0.25, 0.5)]
    low, high = panel.get_ylim()
    assert 32 < low < cut[0] < cut[1] < high < 39


@pytest.mark.parametrize("curves", [[curve("a"), curve("b", 3)], [curve("a"), curve("b", -9)]])
def test_the_legend_covers_no_curve(curves) -> None:
    # A falling line through both corners leaves only the place below.
    values = {"bpp": RATES, "psnr-rgb": [46, 42, 38, 34, 25]}
    for extra in ([], [NamedCurve("falling", values, {"name": "falling"})]):
        fig = rd_figure([*curves, *extra])
        fig.draw_without_rendering()
        panel = fig.axes[0]
        legend = panel.get_legend() or fig.legends[0]
        box = legend.get_window_extent()
        assert bool(extra) == bool(fig.legends)
        for line in panel.get_lines():
            outline = line.get_transform().transform_path(line.get_path())
            assert not outline.intersects_bbox(box, filled=False)
        if extra:
            assert box.y1 < panel.xaxis.label.get_window_extent().y0


def test_mistakes_in_the_command_are_explained(results, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "a.png")
    for words, message in (
        ([results[0], "-o", str(tmp_path / "a.gif")], ".pdf, .svg, .png"),
        (["no-such-curve", "-o", out], "no published curve"),
        ([*results, "-o", out, "--label", "x=y"], "--label names 'x'"),
        ([*results, "-o", out, "--kind", "bd-mac", "--kmac", "x=1"], "--kmac names 'x'"),
        ([*results, "-o", out, "--metric", "psnr-yuv"], "no curve has points"),
    ):
        assert main(["plot", *words]) == 2
        assert message in capsys.readouterr().err
    for words in (["--metric", "x"], ["--bpp", "1"], ["--width", "1"], ["--kmac", "good=-1"]):
        with pytest.raises(SystemExit, match="2"):
            main(["plot", *results, "-o", out, *words])
    assert main(["plot", str(tmp_path / "none.json"), "-o", out]) == 1
    with pytest.raises(ValueError, match=r"\.pdf"):
        save_figure(rd_figure([curve("a")]), tmp_path / "a.txt")


# ---- BD-rate against a cost ---------------------------------------------------------------------


def test_a_trade_off_is_the_bd_rate_over_the_mean_cost(capsys) -> None:
    mine, anchor, unknown = curve("mine", 2.0), curve("anchor"), curve("unknown")
    costs = {"mine": mine.seconds_per_megapixel(), "anchor": [1.0], "unknown": []}
    points = trade_offs([mine, anchor, unknown], anchor, "psnr-rgb", costs)
    expected = bd_rate(points_of(anchor.values, "psnr-rgb"), points_of(mine.values, "psnr-rgb"))
    assert [(p.name, p.bd_rate) for p in points] == [("mine", expected), ("anchor", 0)]
    assert points[0].cost == pytest.approx(0.6)  # 1 megapixel per picture
    assert points[0].cost_range == pytest.approx((0.5, 0.8))
    assert "unknown is left out: its cost is not known" in capsys.readouterr().err


def test_labels_of_a_scatter_plot_stay_apart_and_inside() -> None:
    costs = [100.0 + 9 * i for i in range(7)]
    points = [TradeOff(f"codec {i}", x, (x, x), -12 + 2.5 * i) for i, x in enumerate(costs)]
    fig = trade_off_figure(points, "kMAC", "vtm", "psnr-rgb", labels={"codec 3": "Ours"})
    fig.draw_without_rendering()
    panel = fig.axes[0]
    assert [text.get_text() for text in panel.texts][3] == "Ours"
    boxes = [text.get_window_extent() for text in panel.texts]
    for i, box in enumerate(boxes):
        assert Bbox.count_overlaps(box, boxes[:i]) == 0
        assert panel.bbox.x0 <= box.x0 and box.x1 <= panel.bbox.x1
        for point in points:
            x, y = panel.transData.transform((point.cost, point.bd_rate))
            assert not box.contains(x, y)


def test_the_command_draws_costs_and_says_what_is_left_out(results, tmp_path: Path, capsys) -> None:
    out = tmp_path / "a.svg"
    words = [*results, "elic", "--anchor", "vtm-9.1", "-o", str(out)]
    assert main(["plot", *words, "--kind", "bd-time"]) == 0
    assert "elic is left out" in capsys.readouterr().err
    given = ["--kmac", "good=12.5", "--kmac", "elic=332"]
    assert main(["plot", *words, "--kind", "bd-mac", *given]) == 0
    assert "worse is left out" in capsys.readouterr().err
    assert main(["plot", *words, "--kind", "bd-mac"]) == 2
    assert "no codec has both" in capsys.readouterr().err
    assert (
        main(["plot", *words, "--kind", "bd-time", "--metric", "psnr", "--metric", "psnr-y"]) == 2
    )


def test_multiplications_stated_in_a_results_file_are_used() -> None:
    assert known_kmac(curve("a", complexity={"decoder-kmac-per-pixel": 11.5})) == [11.5]
    assert known_kmac(curve("a")) == []
