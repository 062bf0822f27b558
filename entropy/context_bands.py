"""Evaluates a context model in bands of rows, each with the rows around it that it depends on.

A band goes through a whole step of the coding schedule without the others: what has become known
enters the sums of the context network's first layer, the rest of the network and the step's head
follow. So one thread takes a band from end to end, and large pictures need little memory. The
result is exactly that of the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhodec.bitstream.kernel_settings import Rows
from rhodec.entropy.integer_network import KERNELS, Backend, Int16, IntegerNetwork, PartialSums

BAND_POSITIONS = 1 << 14  # latent positions of one band
THREAD_POSITIONS = 1 << 8  # of the least band that is worth a thread

Member = tuple[int, int]  # group, position in the cell


@dataclass
class _Band:
    """Latent rows `begin` to `end`, of the rows `first` (even) to `last` that they depend on."""

    begin: int
    end: int
    first: int
    last: int
    sums: npt.NDArray[np.int32] | None = None

    def cell_rows(self, y: int, *, inner: bool = False) -> slice:
        """The band's rows among the rows y, y + 2, ... of a cell's position."""
        begin, end = (self.begin, self.end) if inner else (self.first, self.last)
        return slice((begin - y + 1) // 2, (end - y + 1) // 2)


class ContextBands:
    """The context network and heads on the features of one picture, step after step.

    `context` is None without a context network. `sums` are those of its first layer and `rest` the
    layers after it, for the kernels in C; without them the whole network runs anew.
    """

    def __init__(
        self,
        features: Int16,
        context: IntegerNetwork | None,
        sums: PartialSums | None,
        rest: IntegerNetwork | None,
        latents: int,
        backend: Backend,
    ) -> None:
        self.features, self.context = features, context
        self.backend: Backend = backend
        self.sums, self.rest = (sums, rest) if backend == "c" else (None, None)
        height, width, _ = features.shape
        self.known = None
        if context is not None and self.sums is None:
            self.known = np.zeros((height, width, latents), np.int16)
        halo = 0 if context is None else sum(layer.kernel // 2 for layer in context.layers)
        halo += halo % 2
        count = -(-height * width // BAND_POSITIONS)
        if backend == "c":
            count = max(count, min(KERNELS.threads, height * width // THREAD_POSITIONS))
        rows = 2 * -(-height // (2 * max(1, count)))  # even, so that cells are whole
        self.bands = []
        for begin in range(0, height, rows):
            end = min(begin + rows, height)
            self.bands.append(_Band(begin, end, max(0, begin - halo), min(height, end + halo)))

    def outputs(
        self,
        head: IntegerNetwork,
        members: Sequence[Member],
        group_outputs: int,
        news: Sequence[tuple[Member, Int16]] | None,
    ) -> list[Int16]:
        """The head's outputs [rows, columns, group_outputs] for each member of a step.

        `news` are the members of the step before and what they hold for the context network, int16
        [rows, columns, channels of a group] each; None before the first step.
        """
        height, width, _ = self.features.shape
        outputs = []
        for _, position in members:
            y, x = divmod(position, 2)
            size = (height - y + 1) // 2, (width - x + 1) // 2
            outputs.append(np.empty((*size, group_outputs), np.int16))
        if self.known is not None:
            for (group, position), known in news or ():
                y, x = divmod(position, 2)
                channels = slice(group * known.shape[-1], (group + 1) * known.shape[-1])
                self.known[y::2, x::2, channels] = known

        def compute(part: Rows) -> None:
            band = self.bands[part[0]]
            f = self._features(band, news)
            for (group, position), out in zip(members, outputs, strict=True):
                cell = divmod(position, 2)
                place, inner = band.cell_rows(cell[0]), band.cell_rows(cell[0], inner=True)
                rows = inner.start - place.start, inner.stop - place.start
                channels = slice(group * group_outputs, (group + 1) * group_outputs)
                head.fill(f, out[place], rows, cell, channels, self.backend)

        parts = [(index, index + 1) for index in range(len(self.bands))]
        if self.backend == "c":
            KERNELS.run(parts, compute)
        else:
            for part in parts:
                compute(part)
        return outputs

    def _features(self, band: _Band, news: Sequence[tuple[Member, Int16]] | None) -> Int16:
        """What a head sees, [last - first, width, F]; only the band's own rows are sure."""
        features = self.features[band.first : band.last]
        if news is None or self.context is None:
            return features
        height, width, _ = features.shape
        rows = band.begin - band.first, band.end - band.first
        if self.sums is None or self.rest is None:
            assert self.known is not None
            x = np.concatenate([features, self.known[band.first : band.last]], axis=-1)
            out = np.empty((height, width, self.context.channels), np.int16)
            self.context.fill(x, out, rows, backend=self.backend)
            return out
        if band.sums is None:
            band.sums = self.sums.start(height, width)
            self.sums.add(band.sums, 0, features)
        for (group, position), known in news:
            cell = divmod(position, 2)
            self.sums.add(band.sums, 1 + group, known[band.cell_rows(cell[0])], cell)
        x = self.sums.finish(band.sums)
        out = np.empty((height, width, self.rest.channels), np.int16)
        self.rest.fill(x, out, rows)
        return out
