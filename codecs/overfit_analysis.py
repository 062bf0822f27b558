"""First latents of the overfitted codec: a linear function of the picture around each position.

The coefficients come from a regression of fitted latents on a pyramid of block means: for a latent
of grid l the 5x5 neighbourhood at its own resolution and the 3x3 one at half of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rhodec.codecs.overfit_networks import LEVELS

Float32 = npt.NDArray[np.float32]
NEAR, WIDE = 2, 1  # reach at the latent's own resolution and at half of it
DEAD_ZONE = 0.5
BAND = 256  # rows of a grid at a time


def coefficient_count(level: int) -> int:
    """Coefficients of one grid: taps x colours, and a constant."""
    wide = (2 * WIDE + 1) ** 2 if level + 1 < LEVELS else 0
    return 3 * ((2 * NEAR + 1) ** 2 + wide) + 1


def pyramid(planes: Float32) -> list[Float32]:
    """(3, H, W) -> LEVELS pictures, each of means of 2x2 blocks of the one before."""
    out = [planes]
    for _ in range(LEVELS - 1):
        x = out[-1]
        _, h, w = x.shape
        x = np.pad(x, ((0, 0), (0, h % 2), (0, w % 2)), mode="edge")
        x = x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
        out.append(x * np.float32(0.25))
    return out


def taps(pictures: list[Float32], level: int, first: int, last: int):
    """The inputs (rows, w) of the regression for rows first .. last - 1, one after the other."""
    w = pictures[level].shape[2]
    rows, columns = np.arange(first, last), np.arange(w)
    for up, reach in ((0, NEAR), (1, WIDE)):
        if level + up == LEVELS:
            break
        picture = pictures[level + up]
        _, high, wide = picture.shape
        for dy in range(-reach, reach + 1):
            y = np.clip((rows >> up) + dy, 0, high - 1)
            for dx in range(-reach, reach + 1):
                x = np.clip((columns >> up) + dx, 0, wide - 1)
                yield from picture[:, y[:, None], x[None]]
    yield np.ones((last - first, w), np.float32)


def first_latents(planes: Float32, coefficients: Float32) -> list[Float32]:
    """(3, H, W) -> latents (h, w) of every grid; coefficients of all grids in one vector.

    Shrunk by `DEAD_ZONE`: most that are small are noise of the regression.
    """
    pictures = pyramid(planes)
    out, at = [], 0
    for level, picture in enumerate(pictures):
        count = coefficient_count(level)
        weights = coefficients[at : at + count]
        at += count
        _, h, w = picture.shape
        latents = np.zeros((h, w), np.float32)
        for first in range(0, h, BAND):
            band = latents[first : first + BAND]
            for weight, tap in zip(
                weights, taps(pictures, level, first, first + len(band)), strict=True
            ):
                band += weight * tap
        out.append(np.sign(latents) * np.maximum(np.abs(latents) - np.float32(DEAD_ZONE), 0))
    return out


def regress(planes: Float32, latents: list[Float32]) -> Float32:
    """Coefficients that make `first_latents` of a picture resemble its fitted latents."""
    pictures = pyramid(planes)
    out = []
    for level, target in enumerate(latents):
        h, w = target.shape
        a = np.stack([tap.ravel() for tap in taps(pictures, level, 0, h)], 1).astype(np.float64)
        gram = a.T @ a
        ridge = 1e-3 * np.trace(gram) / len(gram) + (50 if h * w < 1000 else 1)
        gram[np.diag_indices(len(gram))] += ridge
        out.append(np.linalg.solve(gram, a.T @ target.ravel()))
    return np.concatenate(out).astype(np.float32)
