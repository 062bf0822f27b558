"""Values on the command lines of the evaluator: lists of qualities, ranges, counts."""

from __future__ import annotations

import argparse


def parse_qualities(text: str) -> list[float]:
    """`0,10,...,100` or any list of numbers; `...` continues the step before it, up to what
    follows it.

    Raises `argparse.ArgumentTypeError`.
    """
    qualities: list[float] = []
    words = [word.strip() for word in text.split(",")]
    for i, word in enumerate(words):
        if word == "...":
            if len(qualities) < 2 or i + 1 >= len(words) or words[i - 1] == "...":
                raise argparse.ArgumentTypeError("'...' stands between numbers: 0,10,...,100")
            start, end = qualities[-1], _number(words[i + 1])
            step = start - qualities[-2]
            steps = (end - start) / step if step > 0 else 0.0
            if steps < 1 or abs(steps - round(steps)) > 1e-6:
                raise argparse.ArgumentTypeError(f"steps of {step:g} do not lead to {end:g}")
            qualities += [start + k * step for k in range(1, round(steps))]
        else:
            qualities.append(_number(word))
    return sorted(set(qualities))


def parse_window(text: str) -> tuple[float, float]:
    """`29,38`, two increasing numbers; raises `argparse.ArgumentTypeError`."""
    limits = [_number(word) for word in text.split(",")]
    if len(limits) != 2 or limits[0] >= limits[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range such as 29,38")
    return limits[0], limits[1]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number") from None


def positive_count(text: str) -> int:
    """A whole number from 1; raises `argparse.ArgumentTypeError`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
