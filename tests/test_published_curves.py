"""The packaged curves: complete, consistent with each other, and found by the names users know."""

from __future__ import annotations

import statistics

import pytest

from rhodec.evaluate import CurveWarning, bd_rate
from rhodec.evaluate.published_curves import (
    list_curves,
    list_datasets,
    load_curve,
    load_per_picture,
    published_curve,
)


def test_every_curve_of_every_data_set_has_points_in_order_and_a_source() -> None:
    for dataset in list_datasets():
        for name in list_curves(dataset):
            curve = published_curve(name, dataset)
            assert curve.name == name and curve.dataset == dataset
            assert len(curve.bpp) == len(curve.psnr_db) >= 4, name
            assert curve.bpp == tuple(sorted(curve.bpp)) and curve.bpp[0] > 0, name
            assert all(15 < psnr < 60 for psnr in curve.psnr_db), name
            assert curve.source.strip(), name
            if curve.ms_ssim is not None:
                assert len(curve.ms_ssim) == len(curve.bpp), name
                assert all(0.3 < value < 1 for value in curve.ms_ssim), name


def test_the_data_sets_and_the_anchors_of_the_field_are_there() -> None:
    assert list_datasets() == [
        "clic2020-professional-test",
        "clic2020-professional-valid",
        "kodak",
        "tecnick",
    ]
    expected = {"vtm-9.1", "vtm-18.0", "hm", "bpg_444_x265_ycbcr", "jpeg", "webp", "elic", "c3"}
    assert expected <= set(list_curves())
    assert all("vtm-9.1" in list_curves(dataset) for dataset in list_datasets())


def test_a_curve_is_found_whatever_its_capitals_and_by_its_alias() -> None:
    assert load_curve("VTM-9.1") == load_curve("vtm-9.1") == load_curve("vtm")
    assert load_curve("C3 (Adaptive)") == load_curve("c3-adaptive")
    assert load_curve("jpeg") != load_curve("jpeg-c3")


def test_two_independent_vtm_curves_agree_within_one_per_cent_of_rate() -> None:
    # Not by the same factor everywhere: the curves change sides, and the warning says so.
    with pytest.warns(CurveWarning, match="cross"):
        assert abs(bd_rate(load_curve("vtm-9.1"), load_curve("vtm-18.0"))) < 1


def test_the_known_distances_to_vtm_come_out() -> None:
    # Per cent by PCHIP over the common range, computed before with other software.
    vtm = load_curve("vtm-9.1")
    for name, expected in {
        "hm": 23.3,
        "bpg_444_x265_ycbcr": 22.0,
        "av1": 16.2,
        "paper-elic2022_mse": -7.0,
        "compressai-mbt2018_mse_cuda": 11.0,
        "webp": 78.7,
        "jpeg2000": 98.0,
        "jpeg": 208.5,
    }.items():
        assert bd_rate(vtm, load_curve(name)) == pytest.approx(expected, abs=0.06), name


def test_the_curves_of_single_pictures_average_to_the_published_mean() -> None:
    pictures = load_per_picture("cool-chic-5.0")
    assert len(pictures) == 24 and "kodim01" in pictures
    mean = load_curve("cool-chic-5.0")
    for axis in (0, 1):
        points = zip(*(curve[axis] for curve in pictures.values()), strict=True)
        assert [statistics.fmean(point) for point in points] == pytest.approx(mean[axis], rel=2e-4)
    assert len(load_per_picture("cool-chic-5.0", "clic2020-professional-valid")) == 41


def test_an_unknown_curve_is_refused_with_near_names() -> None:
    with pytest.raises(ValueError, match=r"'vtm-99'; there is vtm-18\.0, vtm-9\.1, vtm-c3$"):
        load_curve("vtm-99")
    with pytest.raises(ValueError, match="no published curves of 'imagenet'; there is clic"):
        load_curve("vtm", "imagenet")
    with pytest.raises(ValueError, match=r"no curves per picture of 'hm'.*cool-chic-5\.0"):
        load_per_picture("hm")


def test_a_caller_cannot_change_the_curves_of_the_next_one() -> None:
    load_curve("hm")[0].clear()
    assert len(load_curve("hm")[0]) == 8
