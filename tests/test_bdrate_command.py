"""`rhodec bdrate`: files of several forms, answers, warnings, refusals and exit codes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from rhodec.evaluate import bdrate_command as command
from rhodec.evaluate.bjontegaard import bd_quality, bd_rate
from rhodec.evaluate.curve_tables import read_curve_table
from rhodec.evaluate.published_curves import load_curve

RATES = [0.1, 0.2, 0.4, 0.8, 1.6]
PSNR = [28.0, 30.5, 33.2, 36.4, 40.0]


def run_command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def write_json(path: Path, bpp: list[float], psnr: list, **record: object) -> Path:
    results = {"bpp": bpp, "psnr-rgb": psnr}
    path.write_text(json.dumps({"name": path.stem, "results": results, **record}))
    return path


@pytest.fixture
def anchor(tmp_path: Path) -> Path:
    return write_json(tmp_path / "anchor.json", RATES, PSNR)


def test_published_curves_are_compared_by_name(capsys) -> None:
    assert run_command("vtm-9.1", "hm", "--method", "cubic") == 0
    vtm, hm = load_curve("vtm-9.1"), load_curve("hm")
    expected = f"{bd_rate(vtm, hm, 'cubic'):+.2f} %, BD-quality {bd_quality(vtm, hm, 'cubic'):+.3f}"
    assert f"hm against vtm-9.1: BD-rate {expected} dB (cubic, 26.14 to" in capsys.readouterr().out


def test_every_form_of_file_holds_the_same_curve(anchor: Path, tmp_path: Path, capsys) -> None:
    better = [0.9 * rate for rate in RATES]
    points = list(zip(better, PSNR, strict=True))
    files = [
        write_json(tmp_path / "ours.json", better, PSNR),
        tmp_path / "old.json",
        tmp_path / "plain.csv",
        tmp_path / "pictures.tsv",
    ]
    files[1].write_text(
        json.dumps({"name": "old", "results": {"bpp": better, "psnr": PSNR, "ms-ssim": [0.9] * 5}})
    )
    files[2].write_text("Rate-BPP,PSNR\n" + "".join(f"{b},{p}\n" for b, p in points[::-1]))
    lines = ["# two pictures, points in different orders", "seq_name\tlmbda\tpsnr_db\trate_bpp"]
    lines += [f"a\t{i}\t{p - 1}\t{b * 1.5}" for i, (b, p) in enumerate(points)]
    lines += [f"b\t{i}\t{p + 1}\t{b * 0.5}" for i, (b, p) in reversed(list(enumerate(points)))]
    files[3].write_text("\n".join(lines))
    assert run_command(anchor, *files) == 0
    shown = capsys.readouterr().out
    for file in files:
        assert f"{file.stem} against anchor: BD-rate -10.00 %, BD-quality" in shown


def test_json_holds_numbers_doubts_and_reasons(anchor: Path, tmp_path: Path, capsys) -> None:
    doubled = write_json(tmp_path / "doubled.json", [*RATES, 0.4], [*PSNR, 33.2])
    far = write_json(tmp_path / "far.json", RATES, [psnr - 25 for psnr in PSNR])
    assert run_command(anchor, doubled, far, "--json") == 1
    first, second = json.loads(capsys.readouterr().out)
    assert first["bd_rate_percent"] == pytest.approx(0, abs=1e-9) and first["refused"] is None
    assert first["quality_range"] == [28.0, 40.0]
    assert first["warnings"] == ["the test curve holds 1 point twice, used once"]
    assert second["bd_rate_percent"] is None and "no quality in common" in second["refused"]


# The five pathological pairs: what each does, and what it says.
PATHOLOGICAL = {
    "no overlap": (RATES, [psnr - 25 for psnr in PSNR], "refused: the curves have no quality in"),
    "not monotone": (RATES, [28.0, 30.5, 33.2, 33.1, 40.0], "refused: the test curve is not mono"),
    "two points": (RATES[:2], PSNR[:2], "refused: the test curve has 2 points"),
    "twice": ([*RATES, 0.4], [*PSNR, 33.2], "the test curve holds 1 point twice"),
    "crossing": ([0.08, 0.18, 0.4, 0.95, 2.1], PSNR, "the curves cross"),
}


@pytest.mark.parametrize("case", PATHOLOGICAL)
def test_pathological_pairs_warn_or_are_refused_with_a_reason(
    anchor: Path, tmp_path: Path, capsys, case: str
) -> None:
    rates, psnr, reason = PATHOLOGICAL[case]
    code = run_command(anchor, write_json(tmp_path / "bad.json", rates, psnr))
    said = capsys.readouterr()
    assert reason in said.err
    assert code == (1 if reason.startswith("refused") else 0)
    assert ("BD-rate" in said.out) == (code == 0)


def test_a_window_is_used_and_shown(anchor: Path, tmp_path: Path, capsys) -> None:
    test = write_json(tmp_path / "test.json", [0.08, 0.17, 0.36, 0.75, 1.59], PSNR)
    assert run_command(anchor, test, "--window", "29,31") == 0
    expected = bd_rate((RATES, PSNR), ([0.08, 0.17, 0.36, 0.75, 1.59], PSNR), window=(29, 31))
    assert f"BD-rate {expected:+.2f} % (pchip, 29.00 to 31.00 dB)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_command(anchor, test, "--window", "31,29")


def test_pictures_by_themselves_have_a_mean_and_an_interval(tmp_path: Path, capsys) -> None:
    def record(factors: dict[str, float]) -> dict:
        return {
            "per_image": {
                name: {"bpp": [factor * rate for rate in RATES], "psnr-rgb": PSNR}
                for name, factor in factors.items()
            }
        }

    one = write_json(tmp_path / "one.json", RATES, PSNR, **record({"a.png": 1, "b.png": 1}))
    two = write_json(tmp_path / "two.json", RATES, PSNR, **record({"a.png": 0.8, "b.png": 0.9}))
    assert run_command(one, two, "--per-image") == 0
    shown = capsys.readouterr().out
    assert "  a: -20.00 %\n  b: -10.00 %\n" in shown
    assert "mean of 2: -15.00 % +- 63.53 (95 % interval)" in shown  # t(0.975, 1) = 12.706
    plain = write_json(tmp_path / "plain.json", RATES, PSNR)
    assert run_command(plain, two, "--per-image") == 1
    assert "plain has no values of single pictures" in capsys.readouterr().err


def test_a_published_curve_of_single_pictures_is_compared_with_its_own_table(capsys) -> None:
    table = Path(command.__file__).parent / "published" / "cool-chic-5.0-kodak.tsv"
    assert run_command("cool-chic-5.0", table, "--per-image", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert len(found["per_image"]["pictures"]) == 24
    assert found["per_image"]["mean_percent"] == pytest.approx(0, abs=1e-9)
    assert found["bd_rate_percent"] == pytest.approx(0, abs=0.03)


def test_points_without_a_value_are_left_out_and_counted(
    anchor: Path, tmp_path: Path, capsys
) -> None:
    test = write_json(tmp_path / "test.json", [*RATES, 9.0], [*PSNR, None])
    assert run_command(anchor, test) == 0
    assert "test: 1 points without a finite psnr-rgb left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rate,psnr\n1,2\n", "no columns of rate and quality"),
        ("bpp,time\n1,2\n", "no columns of rate and quality"),
        ("bpp,psnr\n", "no rows"),
        ("bpp,psnr\n0.1,good\n", "'good' in column psnr is not a number"),
        ("bpp,psnr,image,qp\n1,2,a,1\n2,3,a,2\n1,2,b,1\n", "b has not the same points"),
    ],
)
def test_tables_that_hold_no_curve_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_curve_table(path)


def test_mistakes_end_with_exit_code_2(anchor: Path, tmp_path: Path, capsys) -> None:
    other = write_json(tmp_path / "other.json", RATES, PSNR, dataset={"sha256": "1", "name": None})
    again = write_json(tmp_path / "again.json", RATES, PSNR, dataset={"sha256": "2", "name": None})
    for words, reason in (
        (["vtm-99", anchor], "no published curve"),
        ([anchor, anchor, "--metric", "beauty"], "'beauty' is not one of"),
        ([other, again], "of different pictures: 1 and 2"),
        (["vtm-9.1", other], "of different pictures: kodak and a folder"),
    ):
        assert run_command(*words) == 2
        assert reason in capsys.readouterr().err
    assert run_command(anchor, tmp_path / "absent.json") == 1
