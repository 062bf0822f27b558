"""Targets for the rate or the quality of a file, and the search for the quality that meets them.

Bytes and PSNR both grow with the quality index (0 to 200, half steps of the quality), so meeting a
target means finding the one place where the measure crosses it. The search keeps that place
bracketed and guesses inside the bracket along the logarithm of the bytes (or the dB), which is
nearly a straight line in the quality (Jia et al., arXiv 2402.17487, find the same of log bpp); a
guess is moved only as far as keeps the whole search within `MAX_TRIALS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MAX_INDEX = 200
DEFAULT_QUALITY = 50.0
# Bisection alone would need 8 trials for 201 candidates; two more leave interpolation enough room
# that ordinary curves take three to five.
MAX_TRIALS = 10
MAX_CORRECTIONS = 4  # trials with effort, each of which may take minutes
TOLERANCE = 0.02  # how far from a --bpp target the nearest file may be

Kind = Literal["quality", "bpp", "size", "psnr"]


class TargetError(ValueError):
    """A target that the codec cannot reach with this picture."""


@dataclass(frozen=True)
class Target:
    """What a file should have: a quality, bits per pixel, at most so many bytes, or dB of PSNR."""

    kind: Kind = "quality"
    value: float = DEFAULT_QUALITY

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"the {self.kind} target must be a finite number, not {self.value}")
        if self.kind == "quality" and not 0 <= self.value <= 100:
            raise ValueError(f"quality must be between 0 and 100, not {self.value:g}")
        if self.kind != "quality" and self.value <= 0:
            raise ValueError(f"the {self.kind} target must be positive, not {self.value:g}")

    @classmethod
    def from_options(
        cls,
        *,
        quality: float | None = None,
        bpp: float | None = None,
        size: float | None = None,
        psnr: float | None = None,
    ) -> Target:
        """The one target that was given, or the default; raises `ValueError` for more than one."""
        options: dict[Kind, float | None] = {
            "quality": quality,
            "bpp": bpp,
            "size": size,
            "psnr": psnr,
        }
        given: list[tuple[Kind, float]] = [
            (kind, value) for kind, value in options.items() if value is not None
        ]
        if len(given) > 1:
            names = " and ".join(kind for kind, _ in given)
            raise ValueError(f"{names} are conflicting targets; give one")
        return cls(*given[0]) if given else cls()


@dataclass(frozen=True)
class Trial:
    """One coding of the picture: the whole file, and the PSNR in dB if it was needed."""

    quality_index: int
    data: bytes
    psnr_db: float | None = None


# What an index adds to the logarithm of the bytes and to the PSNR in dB, typically.
_LOG_BYTES_PER_INDEX = math.log(20) / MAX_INDEX
_DB_PER_INDEX = 13 / MAX_INDEX


def search(target: Target, pixels: int, try_index: Callable[[int], Trial]) -> tuple[Trial, int]:
    """The file that meets the target, and the number of trials spent on it.

    `try_index` codes the picture, of `pixels` pixels, at a quality index; with a "psnr" target its
    trials need `psnr_db`. A size is a ceiling (the largest file under it), a PSNR a floor (the
    smallest quality that reaches it), bits per pixel the nearest file. Raises `TargetError` if
    the smallest file is over a size, the best one below a PSNR, or if the whole range of the codec
    lies more than `TOLERANCE` to one side of the bits per pixel.
    """
    if target.kind == "quality":
        return try_index(round(2 * target.value)), 1

    trials: dict[int, Trial] = {}

    def measure(index: int) -> float:
        trials[index] = try_index(index)
        return _measure(target, trials[index])

    bracket_crossing(measure, _goal(target, pixels), _slope(target))

    if target.kind == "size":
        chosen = _largest_under(trials, target.value)
    elif target.kind == "psnr":
        chosen = _smallest_reaching(trials, target.value)
    else:
        chosen = _nearest_bpp(trials, target.value, pixels)
    return chosen, len(trials)


def correct(
    target: Target, pixels: int, try_index: Callable[[int], Trial], plain: Trial
) -> tuple[Trial, int]:
    """The file that meets a target other than a quality with effort, and the number of trials.

    `plain` is what `search` found without effort, `try_index` codes with effort, which makes files
    smaller and pictures better, so that another quality is due. As trials are expensive, the first
    file on the right side of the target and within about an index of it is taken: for a size the
    best under it, for a PSNR the smallest that reaches it, for bits per pixel the nearest. Should
    no trial be right, it is `plain`.
    """
    goal, typical_slope = _goal(target, pixels), _slope(target)
    slope = typical_slope
    inward = {"size": math.floor, "psnr": math.ceil}.get(target.kind, round)
    trials: dict[int, Trial] = {}
    index, before = plain.quality_index, None
    while index not in trials and len(trials) < MAX_CORRECTIONS:
        trials[index] = try_index(index)
        here = index, min(_measure(target, trials[index]), 100.0)  # an infinite PSNR is 100 dB
        if before is not None:  # the two last trials; noisy where they are near
            secant = (here[1] - before[1]) / (here[0] - before[0])
            slope = min(max(secant, typical_slope / 2), 2 * typical_slope)
        before = here
        index = inward(min(max(index + (goal - here[1]) / slope, 0), MAX_INDEX))

    if target.kind == "size":
        right = [trial for trial in trials.values() if len(trial.data) <= target.value]
        chosen = max(right, key=lambda trial: trial.quality_index, default=plain)
    elif target.kind == "psnr":
        right = [trial for trial in trials.values() if (trial.psnr_db or 0.0) >= target.value]
        chosen = min(right, key=lambda trial: len(trial.data), default=plain)
    else:
        chosen = min([*trials.values(), plain], key=lambda t: abs(_measure(target, t) - goal))
    return chosen, len(trials)


def _measure(target: Target, trial: Trial) -> float:
    """What the target is about: PSNR in dB, or the logarithm of the bytes."""
    if target.kind != "psnr":
        return math.log(len(trial.data))
    if trial.psnr_db is None:
        raise ValueError("a PSNR target needs trials with their PSNR")
    return trial.psnr_db


def _goal(target: Target, pixels: int) -> float:
    """The target as `_measure` has it."""
    if target.kind == "psnr":
        return target.value
    if target.kind == "size":
        # Sizes are whole numbers: a file of exactly the target is still wanted.
        return math.log(math.floor(target.value) + 0.5)
    return math.log(target.value * pixels / 8)


def _slope(target: Target) -> float:
    return _DB_PER_INDEX if target.kind == "psnr" else _LOG_BYTES_PER_INDEX


def bracket_crossing(
    measure: Callable[[int], float], goal: float, typical_slope: float
) -> dict[int, float]:
    """Measure indices in 0..200 until the place where `measure` first reaches `goal` is certain.

    For an increasing `measure` the result holds the last index below the goal and the first at or
    above it (or the end of the range). At most `MAX_TRIALS` measurements, whatever the function.
    """
    measured: dict[int, float] = {}
    low, high = -1, MAX_INDEX + 1  # measure(low) < goal <= measure(high), ends by convention
    guess = MAX_INDEX // 2
    for trials_left in range(MAX_TRIALS - 1, -1, -1):
        if high - low <= 1:
            break
        # Both sides of the guess must stay short enough for bisection in the trials left.
        reach = 1 << trials_left
        guess = min(max(guess, low + 1, high - reach), high - 1, low + reach)
        measured[guess] = value = measure(guess)
        if value < goal:
            low = guess
        else:
            high = guess

        # A secant through the two measurements that are nearest to the goal.
        (x0, y0), (x1, y1) = [*sorted(measured.items(), key=lambda m: abs(m[1] - goal)), (0, 0)][:2]
        slope = typical_slope
        if len(measured) > 1 and math.isfinite(y1) and (y1 - y0) * (x1 - x0) > 0:
            slope = (y1 - y0) / (x1 - x0)
        crossing = x0 + (goal - y0) / slope if math.isfinite(y0) else (low + high) / 2
        # The first index at or above the goal; the one below it, if that is measured already.
        guess = math.ceil(min(max(crossing, low), high))
        if guess >= high:
            guess = high - 1
    return measured


def _largest_under(trials: dict[int, Trial], size_bytes: float) -> Trial:
    fitting = [trial for trial in trials.values() if len(trial.data) <= size_bytes]
    if not fitting:
        smallest = min(len(trial.data) for trial in trials.values())
        raise TargetError(
            f"even at quality 0 the file has {smallest} bytes, over the {size_bytes:.0f} asked for"
        )
    return max(fitting, key=lambda trial: (len(trial.data), trial.quality_index))


def _smallest_reaching(trials: dict[int, Trial], psnr_db: float) -> Trial:
    reaching = [trial for trial in trials.values() if (trial.psnr_db or 0.0) >= psnr_db]
    if not reaching:
        best = max(trial.psnr_db or 0.0 for trial in trials.values())
        raise TargetError(
            f"even at quality 100 the PSNR is {best:.2f} dB, under the {psnr_db:g} asked for"
        )
    return min(reaching, key=lambda trial: trial.quality_index)


def _nearest_bpp(trials: dict[int, Trial], bpp: float, pixels: int) -> Trial:
    def bpp_of(trial: Trial) -> float:
        return 8 * len(trial.data) / pixels

    nearest = min(trials.values(), key=lambda trial: abs(bpp_of(trial) - bpp))
    excess = bpp_of(nearest) / bpp - 1
    is_below_range = nearest.quality_index == 0 and excess > TOLERANCE
    is_above_range = nearest.quality_index == MAX_INDEX and excess < -TOLERANCE
    if is_below_range or is_above_range:
        raise TargetError(
            f"{bpp:g} bpp is out of reach for this picture: at quality "
            f"{nearest.quality_index / 2:g} the file has {bpp_of(nearest):.4g} bpp"
        )
    return nearest
