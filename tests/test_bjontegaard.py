"""Bjontegaard deltas: known answers, agreement with other software, and curves that are judged."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import get_args

import numpy as np
import pytest

from rhodec.evaluate.bjontegaard import (
    CurveWarning,
    Method,
    bd_quality,
    bd_rate,
    bd_rate_per_picture,
    common_quality,
)
from rhodec.evaluate.published_curves import list_curves, list_datasets, load_curve

METHODS: tuple[Method, ...] = get_args(Method)
RATES = [0.1, 0.2, 0.4, 0.8, 1.6]
PSNR = [28.0, 30.5, 33.2, 36.4, 40.0]


def scaled(factor: float) -> tuple[list[float], list[float]]:
    return [rate * factor for rate in RATES], PSNR


# ---- known answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_codec_that_needs_a_tenth_less_everywhere_has_minus_ten_per_cent(method: Method) -> None:
    assert bd_rate(scaled(1), scaled(0.9), method) == pytest.approx(-10, abs=1e-9)
    assert bd_rate(scaled(0.9), scaled(1), method) == pytest.approx(100 / 9, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_codec_that_is_one_decibel_better_everywhere_has_plus_one(method: Method) -> None:
    better = RATES, [psnr + 1 for psnr in PSNR]
    assert bd_quality((RATES, PSNR), better, method) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_straight_lines_give_the_integral_worked_out_by_hand(method: Method) -> None:
    # log10 rate of the test is 0.1 lower at 30 dB and 0.3 lower at 36 dB: 0.2 in the mean.
    quality = np.array([30.0, 32.0, 34.0, 36.0])
    anchor = 10 ** (quality / 10 - 4), quality
    test = 10 ** (quality / 10 - 4 - 0.1 - (quality - 30) / 30), quality
    assert bd_rate(anchor, test, method) == pytest.approx((10**-0.2 - 1) * 100, abs=1e-9)


def test_only_the_common_range_of_quality_counts() -> None:
    anchor = scaled(1)
    # Ten per cent better from 30.5 dB on; the anchor does not reach 50 dB, nor this codec 28.
    test = [0.9 * rate for rate in RATES[1:]] + [99.0], [*PSNR[1:], 50.0]
    value = bd_rate(anchor, test, "akima", min_overlap=0)
    assert common_quality(anchor, test) == (30.5, 40.0)
    assert value == pytest.approx(-10, abs=0.5)


def test_a_window_limits_the_integral() -> None:
    quality = np.array([28.0, 31.0, 34.0, 37.0, 40.0])
    anchor = 10 ** (quality / 10), quality
    test = 10 ** (quality / 10 - (quality - 28) / 100), quality  # better with quality
    low, high = (bd_rate(anchor, test, window=w) for w in ((28, 30), (38, 40)))
    assert low == pytest.approx((10**-0.01 - 1) * 100, abs=1e-9)
    assert high == pytest.approx((10**-0.11 - 1) * 100, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_points_does_not_matter(method: Method) -> None:
    anchor, test = load_curve("vtm-9.1"), load_curve("hm")
    shuffled = test[0][3:] + test[0][:3], test[1][3:] + test[1][:3]
    assert bd_rate(anchor, shuffled, method) == bd_rate(anchor, test, method)
    assert bd_rate(anchor, (test[0][::-1], test[1][::-1]), method) == bd_rate(anchor, test, method)


# ---- agreement with other software --------------------------------------------------------------

# Anchor, test, method, BD-rate in per cent and BD-PSNR in dB, written by `bjontegaard` 1.3.0 from
# the published Kodak curves.
BY_PACKAGE = [
    ("vtm-9.1", "hm", "pchip", 23.30618559, -1.00852574),
    ("vtm-9.1", "hm", "cubic", 23.39007687, -1.01696371),
    ("vtm-9.1", "hm", "akima", 23.30262718, -1.00854858),
    ("vtm-9.1", "paper-elic2022_mse", "pchip", -7.02541477, 0.32327694),
    ("vtm-9.1", "paper-elic2022_mse", "cubic", -7.16738898, 0.29151659),
    ("vtm-9.1", "paper-elic2022_mse", "akima", -7.06158324, 0.32714306),
    ("jpeg", "webp", "pchip", -36.17626279, 2.67581791),
    ("jpeg", "webp", "cubic", -36.61627442, 2.69450183),
    ("jpeg", "webp", "akima", -36.17513041, 2.67556294),
    ("vtm-18.0", "cool-chic-5.0", "pchip", -6.11288244, 0.27447227),
    ("vtm-18.0", "cool-chic-5.0", "cubic", -6.03421848, 0.25875393),
    ("vtm-18.0", "cool-chic-5.0", "akima", -6.10906592, 0.27529937),
    ("bpg_444_x265_ycbcr", "jpeg2000", "pchip", 55.83469458, -2.13081606),
    ("bpg_444_x265_ycbcr", "jpeg2000", "cubic", 55.18993048, -2.13483369),
    ("bpg_444_x265_ycbcr", "jpeg2000", "akima", 55.75416777, -2.12821327),
]


@pytest.mark.filterwarnings("ignore::rhodec.evaluate.bjontegaard.CurveWarning")
@pytest.mark.parametrize(("anchor", "test", "method", "rate", "psnr"), BY_PACKAGE)
def test_published_curves_give_the_values_of_the_bjontegaard_package(
    anchor: str, test: str, method: Method, rate: float, psnr: float
) -> None:
    curves = load_curve(anchor), load_curve(test)
    assert bd_rate(*curves, method) == pytest.approx(rate, abs=1e-6)
    assert bd_quality(*curves, method) == pytest.approx(psnr, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_every_pair_of_published_curves_agrees_with_the_installed_bjontegaard_package() -> None:
    package = pytest.importorskip("bjontegaard")
    compared = dict.fromkeys(METHODS, 0)
    pairs = [
        (dataset, *pair)
        for dataset in list_datasets()
        for pair in itertools.combinations(list_curves(dataset), 2)
    ]
    for number, (dataset, *names) in enumerate(pairs):  # the methods take turns, for the time
        method = METHODS[number % 3]
        anchor, test = (load_curve(name, dataset) for name in names)
        try:
            value = bd_rate(anchor, test, method)
        except ValueError:
            continue
        options = {"method": method, "require_matching_points": False, "min_overlap": 0}
        expected = package.bd_rate(*anchor, *test, **options)
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-6), (names, method)
        if names[1] == "vtm-9.1":
            gain = bd_quality(anchor, test, method)
            expected = package.bd_psnr(*anchor, *test, **options)
            assert gain == pytest.approx(expected, abs=1e-6), (names, method)
        compared[method] += 1
    assert sum(compared.values()) > 0.8 * len(pairs) and min(compared.values()) > 500


# ---- curves that are refused --------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_curves_without_a_common_quality_are_refused(method: Method) -> None:
    low = RATES, [psnr - 20 for psnr in PSNR]
    with pytest.raises(ValueError, match=r"no quality in common: 28.00 to 40.00 and 8.00 to 20.00"):
        bd_rate((RATES, PSNR), low, method)


def test_curves_without_a_common_rate_have_no_bd_quality() -> None:
    with pytest.raises(ValueError, match=r"no rate in common: 0.100 to 1.600 bpp and 10.000"):
        bd_quality(scaled(1), scaled(100))


@pytest.mark.parametrize("method", METHODS)
def test_a_curve_whose_quality_falls_is_refused_with_the_place(method: Method) -> None:
    falling = RATES, [28.0, 30.5, 33.2, 33.1, 40.0]
    with pytest.raises(ValueError, match=r"test curve is not monotone: from 0.4000 to 0.8000 bpp"):
        bd_rate(scaled(1), falling, method)
    with pytest.raises(ValueError, match="anchor curve is not monotone"):
        bd_quality(falling, scaled(1), method)


@pytest.mark.parametrize("method", METHODS)
def test_two_qualities_at_one_rate_are_refused(method: Method) -> None:
    with pytest.raises(ValueError, match="not monotone"):
        bd_rate(scaled(1), ([0.1, 0.2, 0.2, 0.8, 1.6], PSNR), method)


@pytest.mark.parametrize("method", METHODS)
def test_two_points_are_refused(method: Method) -> None:
    with pytest.raises(ValueError, match=r"test curve has 2 points; method \w+ needs"):
        bd_rate(scaled(1), (RATES[:2], PSNR[:2]), method)


def test_three_points_are_refused_by_the_cubic_and_warned_of_by_the_splines() -> None:
    three = RATES[1:4], PSNR[1:4]
    with pytest.raises(ValueError, match="3 points; method cubic needs 4"):
        bd_rate(scaled(1), three, "cubic")
    for method in ("pchip", "akima"):
        with pytest.warns(CurveWarning, match="only 3 points"):
            assert math.isfinite(bd_rate(scaled(1), three, method))


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (([0.1, 0.2, 0.4, 0.8], PSNR), "two lists of one length"),
        (([0.0, 0.2, 0.4, 0.8, 1.6], PSNR), "not positive"),
        (([-0.1, 0.2, 0.4, 0.8, 1.6], PSNR), "not positive"),
        ((RATES, [28.0, 30.5, 33.2, 36.4, math.inf]), "not finite"),
        ((RATES, [28.0, math.nan, 33.2, 36.4, 40.0]), "not finite"),
        (([], []), "0 points"),
    ],
)
def test_lists_that_are_no_curve_are_refused(curve, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bd_rate(scaled(1), curve)


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'spline' is not one of 'pchip', 'cubic', 'akima'"):
        bd_rate(scaled(1), scaled(1), "spline")  # type: ignore[arg-type]


def test_a_window_outside_the_curves_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window 45.00 to 50.00"):
        bd_rate(scaled(1), scaled(0.9), window=(45, 50))


# ---- curves that are warned of ------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_point_given_twice_is_used_once_with_a_warning(method: Method) -> None:
    doubled = [*RATES, RATES[2]], [*PSNR, PSNR[2]]
    with pytest.warns(CurveWarning, match="1 point twice"):
        value = bd_rate(doubled, scaled(0.9), method)
    assert value == pytest.approx(-10, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_crossing_curves_warn_with_both_extremes(method: Method) -> None:
    steeper = [0.08, 0.18, 0.4, 0.95, 2.1], PSNR
    for function in (bd_rate, bd_quality):
        with pytest.warns(CurveWarning, match=r"cross: the rate differs by -\d+.\d % to \+\d+"):
            function(scaled(1), steeper, method)


def test_curves_that_differ_by_less_than_a_per_cent_are_not_called_crossing() -> None:
    nearly = [0.1001, 0.1999, 0.4003, 0.7995, 1.601], PSNR
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert abs(bd_rate(scaled(1), nearly)) < 0.1


def test_a_small_overlap_warns_with_its_size() -> None:
    higher = RATES, [psnr + 9 for psnr in PSNR]  # 37 to 49 dB against 28 to 40 dB
    with pytest.warns(CurveWarning, match=r"share only 25% .* 37.00 to 40.00"):
        bd_rate(scaled(1), higher)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bd_rate(scaled(1), higher, min_overlap=0.2)


def test_a_window_that_the_curves_do_not_fill_warns() -> None:
    with pytest.warns(CurveWarning, match=r"fill only 30.00 to 40.00 of the window 30.00 to 45.00"):
        assert bd_rate(scaled(1), scaled(0.9), window=(30, 45)) == pytest.approx(-10)


def test_good_curves_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in METHODS:
            bd_rate(load_curve("vtm-9.1"), load_curve("hm"), method)
            bd_quality(load_curve("vtm-9.1"), load_curve("hm"), method)


# ---- pictures by themselves ---------------------------------------------------------------------


def test_the_mean_over_pictures_has_a_student_interval() -> None:
    anchors = {name: scaled(1) for name in "abc"}
    tests = {"a": scaled(0.8), "b": scaled(0.9), "c": scaled(1.0)}
    deltas = bd_rate_per_picture(anchors, tests)
    assert deltas.per_picture == pytest.approx({"a": -20, "b": -10, "c": 0}, abs=1e-9)
    assert deltas.mean == pytest.approx(-10)
    # Standard deviation 10, three pictures, t(0.975, 2) = 4.302653.
    assert deltas.half_width == pytest.approx(4.302653 * 10 / math.sqrt(3), abs=1e-4)
    assert deltas.refused == {}


def test_pictures_without_a_value_are_named_and_left_out() -> None:
    anchors = {"a": scaled(1), "b": scaled(1)}
    tests = {"a": scaled(0.8), "b": (RATES, [psnr - 50 for psnr in PSNR])}
    deltas = bd_rate_per_picture(anchors, tests)
    assert deltas.mean == pytest.approx(-20)
    assert math.isnan(deltas.half_width)
    assert list(deltas.refused) == ["b"] and "no quality in common" in deltas.refused["b"]


def test_curves_of_different_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="not of the same pictures: b"):
        bd_rate_per_picture({"a": scaled(1)}, {"a": scaled(1), "b": scaled(1)})
    with pytest.raises(ValueError, match="no picture has a BD-rate"):
        bd_rate_per_picture({}, {})
