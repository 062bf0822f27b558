"""Fits latents and networks of the overfitted codec to one picture, by gradient descent.

The objective is  J = bits + weight * squared error  with the weight that makes it, per pixel and
times lambda, the usual  MSE / 255^2 + lambda * bpp.  Latents start from a linear analysis and
networks from a shipped set. Latents are rounded softly, with noise (Kim et al., "C3", CVPR 2024),
and moved by Adam; the networks are moved by SOAP. Then the networks alone adapt to the
rounded latents, and their weights are rounded with the steps that are best for J. Before and after
that latents move by one where it pays (`overfit_moves`). Long fits have noise on the weights too,
and the longest come back to the networks and to the latents, in pairs, once they are rounded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from rhodec.bitstream.kernel_settings import share
from rhodec.codecs import _overfit_fitting as fitting
from rhodec.codecs.codec_interface import Pixels, Report
from rhodec.codecs.overfit_moves import (
    LATENT_LIMIT,
    Places,
    move_latents,
    sweeps,
    sweeps_of_pairs,
)
from rhodec.codecs.overfit_networks import (
    WEIGHT_SCALE,
    Architecture,
    CodedLayer,
    Networks,
    Positions,
    context_layers,
    own_layers,
    synthesis_layers,
)
from rhodec.codecs.overfit_quantising import (
    DAMPING,
    Adjust,
    Booleans,
    Integers,
    round_alone,
    round_together,
)
from rhodec.codecs.soap_optimiser import Soap

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Tell = Callable[[int, tuple[float, float]], None]  # iteration, its (bits, squared error)
Gradient = Callable[[], tuple[float, Float32]]  # of a cost in bits; the cost before it

CENTRE, SPAN = 128.0, 32.0  # networks work on (sample - CENTRE) / SPAN
DARKEST, BRIGHTEST = (0 - CENTRE) / SPAN, (255 - CENTRE) / SPAN
LATENT_RATE, NETWORK_RATE = 0.5, 0.02
# Descents for lambdas above this are in half precision where the processor has it: the noise that
# this adds to samples, 0.25 grey levels squared, only matters for better pictures (train/NOTES.md).
ROUGH = 1.5e-4
WARM_UP = 15  # iterations until the networks move at full speed
# Of the soft rounding. Too warm an end leaves latents between the integers, and real rounding costs
# what the fit has gained: 27 % of the loss after 1,500 iterations down to 0.15. The longer, the
# colder.
HOTTEST = 0.6
COLDEST, COLDEST_ITERATIONS, COLDEST_OF_ALL = 0.07, 1000, 0.045
WIDEST, NARROWEST = 1.5, 3.0  # peaks of the noise
SHARPENING, SHARPENING_RATE = 0.06, 0.003  # share of the iterations for rounded latents
ALL_SWEEPS = 1000  # iterations from which on latents are moved in as many rounds as pay
# From as many on, weights have noise up to these, as if they were rounded already: networks that
# bear it take fewer bits. With more pixels, and for the synthesis at a lower lambda, it is finer.
CONTEXT_NOISE, SYNTHESIS_NOISE = 5.4, 21.4  # times 1 / sqrt(pixels) and sqrt(lambda / pixels)
MOST_NOISE = 1 / 64
# From so many iterations on latents are moved in pairs too, and what follows the descent comes
# MORE_TURNS times again, with half as many iterations.
PAIRS, MORE_TURNS = 4000, 2
# Samples that curvatures are estimated from, sums of gradients with random signs: so many for every
# CARE_ITERATIONS iterations, up to MOST_CARE times as many.
RATE_SAMPLES, ERROR_SAMPLES = 4000, 1000
CARE_ITERATIONS, MOST_CARE = 250, 8
# Steps of weights that are not rounded yet, for each care beyond the second; how far they go
ADJUSTING, ADJUSTING_RATE = 2, 0.003
# Rows to a sample of the error. Layers look up to two rows up and down, and what they have to do
# with each other across the border of two samples is lost.
STRIP = 8


class Moments(NamedTuple):
    """How Adam averages the gradients of latents."""

    betas: tuple[float, float]
    # Times the mean of the second moments in a grid: what is added to each. With 0, latents that
    # have hardly a gradient move as far as all others.
    floor: float


MOMENTS = Moments((0.8, 0.97), 0.0)
# In short fits with grid 0, of fewer than SHORT iterations; others gain nothing (train/NOTES.md).
SHORT, MOMENTS_IF_SHORT = 1000, Moments((0.7, 0.97), 1.0)

_threads: int | None = None


def threads() -> int:
    """How many threads share a fit: all processors that this process may use, unless set."""
    if _threads is not None:
        return _threads
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(count: int) -> int:
    """How many threads share the parts of a picture from now on; returns how many did.

    The result of a fit does not depend on it.
    """
    if count < 1:
        raise ValueError("at least one thread")
    global _threads
    before, _threads = threads(), count
    return before


def coldest_of(iterations: int) -> float:
    """Temperature at the end of a descent."""
    longer = max(1.0, iterations / COLDEST_ITERATIONS)
    return max(COLDEST * longer**-0.25, COLDEST_OF_ALL)


def error_weight(rate_lambda: float) -> float:
    """Bits that a squared error of SPAN^2 in one sample is worth."""
    return SPAN**2 / (3 * 255**2 * rate_lambda)


class _Result(NamedTuple):
    """A fit with rounded latents and networks."""

    loss: float  # with the networks' bits
    layers: list[CodedLayer]
    latents: npt.NDArray[np.int8]
    networks: Networks


class Fit:
    """One picture on its way: latents before rounding (`y`), networks, optimiser state."""

    def __init__(
        self,
        image: Pixels,
        sizes: Architecture,
        start: Networks,
        rate_lambda: float,
        finest: int = 0,
    ):
        """`image` (H, W, 3); `start`: what the file will refer to. Latents are zero, and those of
        grids before `finest` stay so.
        """
        self.height, self.width = image.shape[:2]
        self.sizes, self.rate_lambda, self.finest = sizes, rate_lambda, finest
        planes = image.transpose(2, 0, 1).astype(np.float32)
        self.target = np.ascontiguousarray((planes - np.float32(CENTRE)) / np.float32(SPAN))
        floats, self.places = fitting.geometry(self.height, self.width)
        self.y, self._latents, self._slope, self._d_error, self._first, self._second = (
            np.zeros(floats, np.float32) for _ in range(6)
        )
        # With own filters: what they make of the latents, and the gradient of that
        self._filtered, self._d_filtered = (
            np.zeros(floats if sizes.own else 0, np.float32) for _ in range(2)
        )
        sizes_of_parts = fitting.parts(self.height, self.width)
        self._parts = len(sizes_of_parts)
        self._d_rate = np.zeros(sum(sizes_of_parts), np.float32)
        self._d_rates = np.split(self._d_rate, np.cumsum(sizes_of_parts)[:-1])
        self._workshop = fitting.workshop(self.height, self.width, sizes.features, sizes.residual)
        self._start, self.networks = start, start.as_floats()
        self._restart()

    @property
    def _grids(self) -> tuple[int, int, int]:
        return self.height, self.width, self.finest

    def _restart(self, moments: Moments = MOMENTS) -> None:
        """Forget the state of the optimisers."""
        self._moments = moments
        self._first.fill(0)
        self._second.fill(0)
        self._steps = 0
        self._new_soaps()

    def _new_soaps(self) -> None:
        self._context_soap = Soap(context_layers(self.sizes))
        self._synthesis_soap = Soap(synthesis_layers(self.sizes))
        self._own_soap = Soap(own_layers(self.sizes))

    def set_levels(self, levels: list[Float32]) -> None:
        """Latents from planes (h, w), the finest first; those before `finest` become zero."""
        self.y.fill(0)
        for level in range(self.finest, len(levels)):
            self.plane(self.y, level)[:] = levels[level]

    def plane(self, latents: Float32, level: int) -> Float32:
        """One grid (h, w) of what is laid out like the latents, a view of it."""
        h, w, stride, origin = self.places[level]
        return latents[origin : origin + h * stride].reshape(h, stride)[:, :w]

    def levels(self) -> list[Float32]:
        """Latents before rounding as planes (h, w), the finest first."""
        return [self.plane(self.y, level).copy() for level in range(len(self.places))]

    def step(
        self,
        latent_rate: float,
        network_rate: float,
        softness: tuple[float, float] | None,
        rough: bool = False,
    ) -> tuple[float, float]:
        """One iteration at (temperature, peak of the noise); None stands for real rounding.

        The (bits, squared error in units of SPAN^2) before the step; a rate of 0 leaves latents or
        networks alone. `rough`: in half precision, where the processor has it.
        """
        self._steps += 1
        context, synthesis = self.networks.context, self.networks.synthesis
        if softness is None:
            np.rint(self.y, out=self._latents)
        else:
            self._share(
                lambda part: fitting.soften(
                    *self._grids,
                    self.y,
                    *softness,
                    self._steps,
                    self._latents,
                    self._slope,
                    part,
                    self._parts,
                )
            )
        d_contexts = np.zeros((self._parts, len(context)), np.float32)
        own = self.networks.own
        shown = self._filter(self._latents)
        d_shown = self._d_error if own is None else self._d_filtered
        d_shown.fill(0)
        fitting.begin(self._workshop, shown, synthesis, rough)
        squares, bits = self._share(
            lambda part: fitting.band(
                self._workshop,
                part,
                shown,
                synthesis,
                self.target,
                error_weight(self.rate_lambda),
                d_shown,
                None,
                None,
                rough,
            ),
            lambda part: self._rate(self._latents, d_contexts, part, rough),
        )
        d_synthesis = np.zeros_like(synthesis)
        fitting.end(self._workshop, synthesis, d_shown, d_synthesis, rough)
        if rough:
            for gradient in (d_contexts, d_synthesis):
                gradient[~np.isfinite(gradient)] = 0  # half precision can overflow
        d_owns = np.zeros((self._parts, 0 if own is None else len(own)), np.float32)
        if own is not None:
            self._share(
                lambda part: fitting.own_backward(
                    *self._grids,
                    own,
                    self._latents,
                    d_shown,
                    self._d_error,
                    d_owns[part],
                    part,
                    self._parts,
                )
            )
        if latent_rate:
            self._move_latents(self._slope, latent_rate, self._moments)
        if network_rate:
            self._context_soap.move(context, d_contexts.sum(0), network_rate)
            self._synthesis_soap.move(synthesis, d_synthesis, network_rate)
            if own is not None:
                self._own_soap.move(own, d_owns.sum(0), network_rate)
        return sum(bits), sum(squares)

    def _rate(self, latents: Float32, d_contexts: Float32, part: int, rough: bool = False) -> float:
        """Bits of a part of the latents; sets its gradients by them and by the context network."""
        return fitting.rate(
            *self._grids,
            self.sizes.hidden,
            latents,
            self.networks.context,
            self._d_rates[part],
            d_contexts[part],
            None,
            part,
            self._parts,
            rough,
        )

    def _move_latents(self, slope: Float32 | None, rate: float, moments: Moments) -> None:
        """A step of Adam with the gradients by the latents that `step` has found."""
        floors = self._floors(moments)
        self._share(
            lambda part: fitting.adam(
                *self._grids,
                self.y,
                slope,
                self._d_rate,
                self._d_error,
                self._first,
                self._second,
                self._steps,
                rate,
                *moments.betas,
                floors,
                LATENT_LIMIT,
                part,
                self._parts,
            )
        )

    def _floors(self, moments: Moments) -> Float32:
        """What is added to the second moments of each grid, from those of the step before: nothing
        moves in the first step.
        """
        floors = np.zeros(len(self.places), np.float32)
        if moments.floor:
            known = 1 - moments.betas[1] ** (self._steps - 1)
            for level in range(self.finest, len(floors)):
                mean = self.plane(self._second, level).mean()
                floors[level] = moments.floor * mean / known if known else math.inf
        return floors

    def _filter(self, latents: Float32) -> Float32:
        """What the synthesis reads of latents."""
        own = self.networks.own
        if own is None:
            return latents
        self._share(
            lambda part: fitting.own(*self._grids, own, latents, self._filtered, part, self._parts)
        )
        return self._filtered

    def _share(self, *works: Callable[[int], Any]) -> list[list[Any]]:
        """What each work returns for every part of the picture; threads share them."""
        results: list[list[Any]] = [[None] * self._parts for _ in works]

        def compute(job: tuple[int, int]) -> None:
            work, part = job
            results[work][part] = works[work](part)

        jobs = [(work, part) for work in range(len(works)) for part in range(self._parts)]
        share(jobs, compute, threads())
        return results

    def gradient(self) -> Float32:
        """Of J by the rounded latents, laid out like them. The state of their optimiser is lost."""
        self.step(0.0, 0.0, None)
        self._move_latents(None, 0.0, Moments((0.0, 0.0), 0.0))
        return self._first  # Adam's mean of gradients, without memory

    def measure(self, latents: Float32, lengths: Float32, errors: Float32) -> tuple[float, float]:
        """(bits, squared error) of integer latents; sets the bits of each and, pixel by pixel
        (H * W), the squared error.
        """
        context, synthesis = self.networks.context, self.networks.synthesis
        shown = self._filter(latents)
        fitting.begin(self._workshop, shown, synthesis)
        squares, bits = self._share(
            lambda part: fitting.band(
                self._workshop,
                part,
                shown,
                synthesis,
                self.target,
                0.0,
                None,
                None,
                None,
                False,
                errors,
            ),
            lambda part: fitting.rate(
                *self._grids,
                self.sizes.hidden,
                latents,
                context,
                None,
                None,
                None,
                part,
                self._parts,
                False,
                lengths,
            ),
        )
        return sum(bits), sum(squares)

    def judge(
        self,
        level: int,
        around: int,
        places: Places,
        before: tuple[Float32, Float32],
        after: tuple[Float32, Float32],
    ) -> Float64:
        """What each move of a latent changes in J, `before` and `after` as `measure` sets them.

        Of what is up to `around` latents from it; where J falls `before` becomes `after`.
        """
        weight = error_weight(self.rate_lambda)
        return np.frombuffer(
            fitting.judge_moves(*self._grids, level, around, places, weight, *before, *after)
        )

    def loss(self, bits: float, squares: float) -> float:
        """J per pixel times lambda: MSE / 255^2 + lambda * bpp."""
        total = bits + error_weight(self.rate_lambda) * squares
        return self.rate_lambda * total / (self.height * self.width)

    def psnr_db(self, squares: float) -> float:
        """Of a squared error in units of SPAN^2."""
        mse = max(squares, 1e-9) * SPAN**2 / (3 * self.height * self.width)
        return 10 * math.log10(255**2 / mse)

    def bits(self, context: Float32) -> float:
        """Code length of the rounded latents."""
        of_all = *self._grids, self.sizes.hidden, np.rint(self.y), context, None, None, None
        (bits,) = self._share(lambda part: fitting.rate(*of_all, part, self._parts))
        return sum(bits)

    def squares(self, synthesis: Float32) -> float:
        """Squared error of the rounded latents' picture, in units of SPAN^2."""
        return self._distortion(np.rint(self.y), synthesis, self.target)

    def _distortion(
        self,
        latents: Float32,
        synthesis: Float32,
        target: Float32,
        *,
        weight: float = 0.0,
        scratch: Float32 | None = None,
        shown: Float32 | None = None,
        by_row: Float32 | None = None,
    ) -> float:
        """Squared error, the picture, gradients row by row as `fitting.band` gives them.

        With `scratch` for the gradient of the latents if that of the weights is wanted.
        """
        latents = self._filter(latents)
        of_all = latents, synthesis, target, weight, scratch, shown, by_row
        fitting.begin(self._workshop, latents, synthesis)
        (squares,) = self._share(lambda part: fitting.band(self._workshop, part, *of_all))
        return sum(squares)

    # The optimisers' matrices are tiny: threads of the linear algebra would only spin.
    @threadpool_limits.wrap(limits=1, user_api="blas")
    def run(
        self,
        iterations: int,
        report: Report | None = None,
        *,
        fresh: bool = True,
        keep_best: bool = False,
    ) -> list[CodedLayer]:
        """Fit and quantise the networks; the layers for `pack_networks`.

        `fresh`: the latents are a first guess, so the first half descends at a higher lambda, which
        clears latents that are not worth their bits. With `keep_best` a KeyboardInterrupt ends the
        fit where it is, with a valid result.
        """
        sharpening = max(1, round(SHARPENING * iterations))
        descending = max(1, iterations - sharpening)
        is_long = iterations >= PAIRS
        first = sweeps(min(1, iterations / ALL_SWEEPS))
        last = first + (sweeps_of_pairs() if is_long else [])
        turns = [sharpening, *[sharpening // 2] * (MORE_TURNS if is_long else 0)]
        moved, moving = (sum(sweep.rounds for sweep in plan) for plan in (first, last))
        done = descending + moved
        tell = self._teller(report, done + sum(turns) + len(turns) * moving)
        is_short = self.finest == 0 and iterations < SHORT
        moments = MOMENTS_IF_SHORT if is_short else MOMENTS
        is_noisy = iterations >= ALL_SWEEPS
        care = min(max(1, round(iterations / CARE_ITERATIONS)), MOST_CARE)
        layers, best = None, None
        try:
            self.descend(descending, 3.0 if fresh else 1.0, tell, moments, is_noisy=is_noisy)
            move_latents(self, first, _later(tell, descending))
            for steps in turns:
                layers = None
                self.sharpen(steps, _later(tell, done), is_noisy=is_noisy)
                layers = self.quantise_networks(care)
                move_latents(self, last, _later(tell, done + steps))
                done += steps + moving
                if is_long:
                    best = self._better(best, layers)
        except KeyboardInterrupt:
            if not keep_best:
                raise
        if best is not None and layers is not best.layers:
            self.y[:], self.networks, layers = best.latents, best.networks, best.layers
        return layers or self.quantise_networks()

    def _better(self, best: _Result | None, layers: list[CodedLayer]) -> _Result:
        """What the fit has now, or `best` if that costs less."""
        bits = self.bits(self.networks.context) + sum(layer.bits() for layer in layers)
        loss = self.loss(bits, self.squares(self.networks.synthesis))
        if best is not None and best.loss <= loss:
            return best
        return _Result(loss, layers, self.y.astype(np.int8), self.networks.copy())

    @threadpool_limits.wrap(limits=1, user_api="blas")
    def try_out(self, iterations: int, report: Report | None = None) -> float:
        """Loss of the rounded latents, without the networks' bits, after a short descent."""
        self.descend(iterations, tell=self._teller(report, iterations))
        return self.loss(self.bits(self.networks.context), self.squares(self.networks.synthesis))

    def _teller(self, report: Report | None, total: int) -> Tell:
        """Reports an iteration of so many."""

        def tell(i: int, state: tuple[float, float]) -> None:
            if report is not None:
                rate_bpp = state[0] / (self.height * self.width)
                report((i + 1) / total, rate_bpp, self.psnr_db(state[1]))

        return tell

    def descend(
        self,
        iterations: int,
        strictness: float = 3.0,
        tell: Tell | None = None,
        moments: Moments = MOMENTS,
        *,
        is_noisy: bool = False,
    ) -> None:
        """Move latents and networks; lambda starts `strictness` times as high.

        `is_noisy`: with noise on the networks' weights.
        """
        self._restart(moments)
        wanted = self.rate_lambda
        coldest = coldest_of(iterations)
        random = np.random.default_rng(0) if is_noisy else None
        try:
            for i in range(iterations):
                u = i / iterations
                slow = 0.5 * (1 + math.cos(math.pi * u))
                self.rate_lambda = wanted * max(1.0, strictness - 2 * (strictness - 1) * u)
                warm = min(1.0, (i + 1) / WARM_UP)
                softness = HOTTEST + (coldest - HOTTEST) * u, WIDEST + (NARROWEST - WIDEST) * u
                with self._noise(random):
                    state = self.step(
                        LATENT_RATE * slow + 0.005,
                        NETWORK_RATE * slow * warm + 2e-4,
                        softness,
                        rough=wanted > ROUGH,
                    )
                if tell is not None:
                    tell(i, state)
        finally:
            self.rate_lambda = wanted

    @contextmanager
    def _noise(self, random: np.random.Generator | None) -> Iterator[None]:
        """Noise on the weights of context network and synthesis, for one step; None: no noise."""
        if random is None:
            yield
            return
        pixels = self.height * self.width
        shaken: list[tuple[Float32, Float32]] = []
        for weights, most in (
            (self.networks.context, CONTEXT_NOISE / math.sqrt(pixels)),
            (self.networks.synthesis, SYNTHESIS_NOISE * math.sqrt(self.rate_lambda / pixels)),
        ):
            noise = random.uniform(-1, 1, weights.shape) * min(most, MOST_NOISE)
            shaken.append((weights, noise.astype(np.float32)))
        for weights, noise in shaken:
            weights += noise
        try:
            yield
        finally:
            for weights, noise in shaken:
                weights -= noise

    def sharpen(self, iterations: int, tell: Tell | None = None, *, is_noisy: bool = False) -> None:
        """Move the networks alone, for the rounded latents: without noise on those they can promise
        more. `is_noisy`: with noise on the weights.
        """
        self._new_soaps()
        random = np.random.default_rng(1) if is_noisy else None
        for i in range(iterations):
            slow = 0.5 * (1 + math.cos(math.pi * i / iterations))
            with self._noise(random):
                state = self.step(0.0, SHARPENING_RATE * slow, None)
            if tell is not None:
                tell(i, state)

    def quantise_networks(self, care: int = 1) -> list[CodedLayer]:
        """The coded form of every layer for the least J; sets the networks so.

        `care`: how many times the fewest samples curvatures are estimated from.
        """
        filters, *synthesis = synthesis_layers(self.sizes)
        weight = error_weight(self.rate_lambda)

        def error_bits(weights: Float32) -> float:
            return weight * self.squares(weights)

        coded = self._rounded(
            "context",
            context_layers(self.sizes),
            self.bits,
            self.rate_curvature(care),
            self._rate_gradient,
            care,
        )
        coded += self._rounded("synthesis", [filters], error_bits)
        own: list[CodedLayer] = []
        if self.sizes.own:
            own = self._rounded(
                "own", own_layers(self.sizes), lambda _: error_bits(self.networks.synthesis)
            )
        curvature = self.error_curvature(care)
        coded += self._rounded(
            "synthesis", synthesis, error_bits, curvature, self._error_gradient, care
        )
        return coded + own

    def _rounded(
        self,
        vector: str,
        layers: list[Positions],
        cost: Callable[[Float32], float],
        curvature: Float64 | None = None,
        gradient: Gradient | None = None,
        care: int = 1,
    ) -> list[CodedLayer]:
        """Layers of a network rounded together, or a small one by itself if without curvature."""
        value = getattr(self.networks, vector)
        starts = [getattr(self._start, vector)[layer].astype(np.int64) for layer in layers]
        exact = [value[layer].astype(np.float64) * WEIGHT_SCALE for layer in layers]

        def put(weights: list[Integers]) -> float:
            for layer, integers in zip(layers, weights, strict=True):
                value[layer] = integers / np.float32(WEIGHT_SCALE)
            return cost(value)

        if curvature is None:
            coded = [round_alone(exact[0], starts[0], lambda weights: put([weights]))]
        else:
            places = np.concatenate([layer.ravel() for layer in layers])
            curvature = curvature[np.ix_(places, places)] / WEIGHT_SCALE**2
            adjust = None
            if gradient is not None and care > 2:
                adjust = _adjusting(value, layers, gradient, ADJUSTING * (care - 2))
            coded = round_together(exact, curvature, starts, put, DAMPING / care, adjust)
        put([layer.added_to(start) for layer, start in zip(coded, starts, strict=True)])
        return coded

    def _rate_gradient(self) -> tuple[float, Float32]:
        """Bits of the rounded latents and their gradient by the context network's weights."""
        latents = np.rint(self.y)
        d_contexts = np.zeros((self._parts, len(self.networks.context)), np.float32)
        (bits,) = self._share(lambda part: self._rate(latents, d_contexts, part))
        return sum(bits), d_contexts.sum(0)

    def _error_gradient(self) -> tuple[float, Float32]:
        """Squared error of the rounded latents, in bits, and its gradient by the synthesis."""
        synthesis, weight = self.networks.synthesis, error_weight(self.rate_lambda)
        d_synthesis, scratch = np.zeros_like(synthesis), np.zeros_like(self.y)
        squares = self._distortion(
            np.rint(self.y), synthesis, self.target, weight=weight, scratch=scratch
        )
        fitting.end(self._workshop, synthesis, scratch, d_synthesis)
        return weight * squares, d_synthesis

    def rate_curvature(self, care: int = 1) -> Float64:
        """Second derivatives of the bits of the rounded latents by the context network's weights.

        Their estimate is the Fisher information: gradients g of one latent's bits have the mean
        curvature  ln 2 g g^T.  Sums over a row with random signs serve as well as single ones.
        """
        context, latents = self.networks.context, np.rint(self.y)
        rows = np.zeros(
            (sum(place[0] for place in self.places[self.finest :]), len(context)), np.float32
        )
        scratch, out = np.zeros_like(latents), np.zeros((len(context), len(context)))
        random = np.random.default_rng(0)
        repeats = -(-care * RATE_SAMPLES // len(rows))
        for _ in range(repeats):
            signs = _signs(random, latents.shape).astype(np.float32)
            fitting.rate(*self._grids, self.sizes.hidden, latents, context, scratch, rows, signs)
            out += rows.T @ rows
        return out * (math.log(2) / repeats)

    def error_curvature(self, care: int = 1) -> Float64:
        """Second derivatives of `weight * squared error` by the synthesis's weights.

        After Gauss and Newton: 2 `weight` J^T J, J the derivatives of the samples, again estimated
        from sums with random signs.
        """
        synthesis, latents = self.networks.synthesis, np.rint(self.y)
        rows = np.zeros((self.height, len(synthesis)), np.float32)
        scratch, out = np.zeros_like(latents), np.zeros((len(synthesis), len(synthesis)))
        shown = np.zeros_like(self.target)
        self._distortion(latents, synthesis, self.target, shown=shown)
        inside = (shown >= DARKEST) & (shown <= BRIGHTEST)  # other samples have no derivatives
        np.clip(shown, DARKEST, BRIGHTEST, out=shown)
        random = np.random.default_rng(0)
        strips = np.arange(0, self.height, STRIP)
        repeats = -(-care * ERROR_SAMPLES // len(strips))
        for _ in range(repeats):
            # Half the gradient of the squared error from this target is the signs.
            target = shown - _signs(random, shown.shape) * inside
            self._distortion(latents, synthesis, target, weight=0.5, scratch=scratch, by_row=rows)
            sums = np.add.reduceat(rows, strips)
            out += sums.T @ sums
        return out * (2 * error_weight(self.rate_lambda) / repeats)


def _later(tell: Tell, first: int) -> Tell:
    """`tell` for iterations that come after the first so many."""
    return lambda i, state: tell(first + i, state)


def _adjusting(value: Float32, layers: list[Positions], gradient: Gradient, steps: int) -> Adjust:
    """Steps down the gradient for weights of layers of `value` that are still free."""

    def adjust(weights: list[Float64], free: list[Booleans]) -> list[Float64]:
        fixed = np.ones(len(value), np.bool_)
        for layer, exact, moves in zip(layers, weights, free, strict=True):
            value[layer], fixed[layer] = exact / WEIGHT_SCALE, ~moves
        held, soap = value[fixed], Soap(layers)
        least, best = math.inf, value.copy()
        for i in range(steps):
            cost, slope = gradient()
            if cost < least:
                least, best = cost, value.copy()
            slope[fixed] = 0
            soap.move(value, slope, ADJUSTING_RATE * 0.5 * (1 + math.cos(math.pi * i / steps)))
            value[fixed] = held
        return [best[layer].astype(np.float64) * WEIGHT_SCALE for layer in layers]

    return adjust


def _signs(random: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """-1 or 1, one byte each: a large picture has many."""
    return 2 * random.integers(0, 2, shape, np.int8) - 1
