"""Bjontegaard deltas: the mean distance between two rate-distortion curves.

A curve is `(bpp list, quality list)`, in any order of its points; quality is PSNR in dB, MS-SSIM
in dB, or any measure that grows with the rate. With r(d) = log10 of the rate as a function of
quality, fitted to each curve, over the qualities [a, b] that both reach,

    BD-rate = 10^((integral of r_test - r_anchor over [a, b]) / (b - a)) - 1

in per cent: negative where the test codec needs fewer bits. BD-quality is the same with the axes
exchanged. Three fits are in use:

- `"cubic"`: one least-squares cubic polynomial (Bjontegaard, VCEG-M33, 2001);
- `"pchip"`: piecewise cubic Hermite, monotone (the spreadsheets of JVET, JVET-T2010);
- `"akima"`: Akima's spline (Herglotz et al., "The Bjontegaard Bible", IEEE TIP 2024).

They differ by a few tenths of a per cent on good curves and arbitrarily on bad ones, so curves are
judged first: what has no meaning raises `ValueError`, what is doubtful warns with `CurveWarning`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator
from scipy.special import stdtrit

Method = Literal["pchip", "cubic", "akima"]
Values = Sequence[float] | NDArray[np.floating]
Curve = tuple[Values, Values]

MIN_POINTS = 3
CUBIC_POINTS = 4  # four coefficients
USUAL_POINTS = 4  # what the common test conditions ask for
MIN_OVERLAP = 0.5
# Curves that change sides by less than this share of the rate are equal, not crossing.
CROSSING_SHARE = 0.01
CROSSING_SAMPLES = 512


class CurveWarning(UserWarning):
    """A Bjontegaard delta exists, but the curves make it doubtful; the message says why."""


@dataclass(frozen=True)
class PictureDeltas:
    """Mean of per-picture BD-rates, in per cent.

    `half_width` is half of the 95 % confidence interval of the mean (Student's t; the pictures
    taken as a sample), `refused` maps pictures without a value to the reason.
    """

    mean: float
    half_width: float
    per_picture: dict[str, float]
    refused: dict[str, str]


@dataclass(frozen=True)
class _Points:
    """A judged curve: log10 of the rate and quality, both strictly increasing."""

    log_rate: NDArray[np.float64]
    quality: NDArray[np.float64]


# ---- the deltas ---------------------------------------------------------------------------------


def bd_rate(
    anchor: Curve,
    test: Curve,
    method: Method = "pchip",
    *,
    window: tuple[float, float] | None = None,
    min_overlap: float = MIN_OVERLAP,
) -> float:
    """Mean rate difference of `test` against `anchor` at equal quality, in per cent.

    `window` limits the integral to these qualities, so that several codecs are compared over one
    range. Raises `ValueError` for curves that are too short, not finite, not monotone, or without
    a common range. Warns with `CurveWarning` when they share less than `min_overlap` of the
    shorter curve's range, do not fill the window, cross, have three points, or hold a point twice.
    """
    anchor_points, test_points = _judge(anchor, "anchor", method), _judge(test, "test", method)
    low, high = _common_range(
        anchor_points.quality, test_points.quality, "quality", min_overlap, window
    )
    fits = [_fit(p.quality, p.log_rate, method) for p in (anchor_points, test_points)]
    _warn_if_crossing(fits, low, high)
    return _percent(_mean_distance(fits, low, high))


def bd_quality(
    anchor: Curve, test: Curve, method: Method = "pchip", *, min_overlap: float = MIN_OVERLAP
) -> float:
    """Mean quality difference of `test` against `anchor` at equal rate, in the quality's unit.

    The mean is over the logarithm of the rate. With PSNR this is BD-PSNR in dB. Judges curves as
    `bd_rate` does.
    """
    anchor_points, test_points = _judge(anchor, "anchor", method), _judge(test, "test", method)
    low, high = _common_range(anchor_points.log_rate, test_points.log_rate, "rate", min_overlap)
    span = _overlap(anchor_points.quality, test_points.quality)
    if span[0] < span[1]:  # crossing is judged in rate, where its size has a meaning for any unit
        by_quality = [_fit(p.quality, p.log_rate, method) for p in (anchor_points, test_points)]
        _warn_if_crossing(by_quality, *span)
    fits = [_fit(p.log_rate, p.quality, method) for p in (anchor_points, test_points)]
    return _mean_distance(fits, low, high)


def bd_rate_per_picture(
    anchors: Mapping[str, Curve],
    tests: Mapping[str, Curve],
    method: Method = "pchip",
    *,
    window: tuple[float, float] | None = None,
) -> PictureDeltas:
    """BD-rate for every picture by itself, then the mean: each picture counts the same.

    The BD-rate between curves of means weights pictures by their rate instead, and the two numbers
    can be several per cent apart. Both mappings need the same keys. A picture without a value is
    listed in `refused`; `ValueError` when there is none left. Doubts about the curve of one
    picture are not warned of.
    """
    if anchors.keys() != tests.keys():
        odd = ", ".join(sorted(anchors.keys() ^ tests.keys()))
        raise ValueError(f"the curves are not of the same pictures: {odd}")
    values: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name in anchors:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CurveWarning)
                values[name] = bd_rate(anchors[name], tests[name], method, window=window)
        except ValueError as error:
            refused[name] = str(error)
    if not values:
        raise ValueError(f"no picture has a BD-rate: {next(iter(refused.values()), 'none given')}")
    numbers = np.array(list(values.values()))
    half_width = math.nan
    if len(numbers) > 1:
        error_of_mean = numbers.std(ddof=1) / math.sqrt(len(numbers))
        half_width = float(stdtrit(len(numbers) - 1, 0.975) * error_of_mean)
    return PictureDeltas(float(numbers.mean()), half_width, values, refused)


def common_quality(anchor: Curve, test: Curve) -> tuple[float, float]:
    """The range of quality that both curves reach; `ValueError` if there is none."""
    ranges = (np.asarray(anchor[1], np.float64), np.asarray(test[1], np.float64))
    return _common_range(*ranges, "quality", 0.0)


# ---- judging curves -----------------------------------------------------------------------------


def _judge(curve: Curve, name: str, method: Method = "pchip") -> _Points:
    """Sort a curve by rate, and refuse it with a reason or warn; `name` is for messages."""
    if method not in ("pchip", "cubic", "akima"):
        raise ValueError(f"method {method!r} is not one of 'pchip', 'cubic', 'akima'")
    rate, quality = (np.asarray(values, np.float64) for values in curve)
    if rate.ndim != 1 or rate.shape != quality.shape:
        raise ValueError(
            f"the {name} curve needs two lists of one length, rates and qualities; "
            f"their shapes are {rate.shape} and {quality.shape}"
        )
    if not (np.isfinite(rate).all() and np.isfinite(quality).all()):
        raise ValueError(f"the {name} curve holds values that are not finite")
    if not (rate > 0).all():
        raise ValueError(f"the {name} curve holds rates that are not positive")

    points = np.unique(np.stack([rate, quality], axis=1), axis=0)  # by rate, then quality
    doubled = len(rate) - len(points)
    if doubled:
        _warn(f"the {name} curve holds {_count(doubled, 'point')} twice, used once")
    rate, quality = points.T
    needed = CUBIC_POINTS if method == "cubic" else MIN_POINTS
    if len(rate) < needed:
        raise ValueError(
            f"the {name} curve has {_count(len(rate), 'point')}; method {method} needs {needed}"
        )
    if len(rate) < USUAL_POINTS:
        _warn(f"the {name} curve has only {_count(len(rate), 'point')}; {USUAL_POINTS} are usual")
    for i in range(1, len(rate)):
        if rate[i] == rate[i - 1] or quality[i] <= quality[i - 1]:
            raise ValueError(
                f"the {name} curve is not monotone: from {rate[i - 1]:.4f} to {rate[i]:.4f} bpp "
                f"its quality goes from {quality[i - 1]:.4f} to {quality[i]:.4f}"
            )
    return _Points(np.log10(rate), quality)


def _overlap(anchor: NDArray, test: NDArray) -> tuple[float, float]:
    return float(max(anchor.min(), test.min())), float(min(anchor.max(), test.max()))


def _common_range(
    anchor: NDArray,
    test: NDArray,
    axis: str,
    min_overlap: float,
    window: tuple[float, float] | None = None,
) -> tuple[float, float]:
    low, high = _overlap(anchor, test)
    if low >= high:
        raise ValueError(
            f"the curves have no {axis} in common: "
            f"{_range_text(anchor.min(), anchor.max(), axis)} and "
            f"{_range_text(test.min(), test.max(), axis)}"
        )
    shorter = float(min(np.ptp(anchor), np.ptp(test)))
    if high - low < min_overlap * shorter:
        _warn(
            f"the curves share only {(high - low) / shorter:.0%} of the shorter one's range, "
            f"{_range_text(low, high, axis)}"
        )
    if window is None:
        return low, high
    inside = max(low, window[0]), min(high, window[1])
    if inside[0] >= inside[1]:
        raise ValueError(
            f"the curves have nothing in common inside the window {_range_text(*window, axis)}"
        )
    if inside != tuple(window):
        _warn(
            f"the curves fill only {_range_text(*inside, axis)} of the window "
            f"{_range_text(*window, axis)}"
        )
    return inside


def _warn_if_crossing(fits: Sequence[_Fit], low: float, high: float) -> None:
    """Warn where each curve needs fewer bits than the other somewhere in the range."""
    at = np.linspace(low, high, CROSSING_SAMPLES)
    distance = fits[1](at) - fits[0](at)
    tolerance = math.log10(1 + CROSSING_SHARE)
    if distance.min() < -tolerance and distance.max() > tolerance:
        _warn(
            f"the curves cross: the rate differs by {_percent(distance.min()):+.1f} % to "
            f"{_percent(distance.max()):+.1f} %, so that the mean hides which is better where"
        )


def _warn(message: str) -> None:
    warnings.warn(message, CurveWarning, stacklevel=4)


# ---- fits ---------------------------------------------------------------------------------------


class _Polynomial:
    """A least-squares cubic with the two methods that the splines of scipy have."""

    def __init__(self, x: NDArray, y: NDArray) -> None:
        self.series = np.polynomial.Polynomial.fit(x, y, 3)  # maps x to [-1, 1]: well conditioned

    def __call__(self, x: NDArray) -> NDArray:
        return self.series(x)

    def integrate(self, low: float, high: float) -> float:
        integral = self.series.integ()
        return float(integral(high) - integral(low))


_Fit = _Polynomial | PchipInterpolator | Akima1DInterpolator


def _fit(x: NDArray, y: NDArray, method: Method) -> _Fit:
    if method == "cubic":
        return _Polynomial(x, y)
    return PchipInterpolator(x, y) if method == "pchip" else Akima1DInterpolator(x, y)


def _mean_distance(fits: Sequence[_Fit], low: float, high: float) -> float:
    anchor, test = (float(fit.integrate(low, high)) for fit in fits)
    return (test - anchor) / (high - low)


def _percent(log10_ratio: float) -> float:
    return (10**log10_ratio - 1) * 100


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _range_text(low: float, high: float, axis: str) -> str:
    """A range for messages; rates are kept as logarithms."""
    if axis == "rate":
        return f"{10**low:.3f} to {10**high:.3f} bpp"
    return f"{low:.2f} to {high:.2f}"
