"""The depthwise transforms and the hyper-analysis in integers (`integer_transform`), without torch.

Twins of `rhodec.transforms.depthwise` and of the hyper-analysis in `rhodec.entropy.hyper_latent`,
made by `rhodec.train.export`. Latents come in as integers in 1/64 of a quantisation step and
pixels go out as integers, so a decoder's picture is the same on every machine; so are the latents
that the analysis makes of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from rhodec.bitstream.kernel_settings import Rows
from rhodec.transforms.integer_transform import (
    BY_TWO,
    PIXELS,
    REAL,
    Backend,
    GainTable,
    Int16,
    IntegerBlock,
    IntegerLayer,
    run_dense,
    run_gain,
    run_spatial,
)

Float32 = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Arrays = Mapping[str, np.ndarray]

CURVE_FRACTION = 64  # the hyper-analysis sees latents in 1/64 of a step, up to 2^15 of these


@dataclass(frozen=True, eq=False)
class IntegerSynthesis:
    """g_s: latents in 1/64 of a step -> pixels. Every chain of limits is proved at construction."""

    latent_gain: GainTable
    head: IntegerLayer
    feature_gain: GainTable
    coarse: tuple[IntegerBlock, ...]
    up: IntegerLayer
    fine: tuple[IntegerBlock, ...]
    tail: IntegerLayer

    def __post_init__(self) -> None:
        _covers(self.latent_gain.limit, self.head)
        wide = _check_blocks(self.coarse, self.feature_gain.limit)
        _covers(wide, self.up)
        _covers(_check_blocks(self.fine, self.up.limit), self.tail)

    @property
    def halo(self) -> int:
        """Latent rows on either side that a latent row's pixels depend on."""
        return len(self.coarse) + -(-len(self.fine) // 2)

    def run(
        self,
        y_hat64: npt.NDArray[np.int32],
        quality_step: int,
        picture: Pixels,
        rows: Rows,
        backend: Backend = "c",
    ) -> None:
        """Latents int32 (h, w, C) in 1/64 of a step -> the pixels of some latent rows.

        `picture` (H, W, 3) is the place of all h rows, at most 15 rows and columns short of their
        16 h x 16 w pixels.
        """
        height, width, _ = y_hat64.shape
        begin, end = rows
        fine_rows = _grow((2 * begin, 2 * end), len(self.fine), 2 * height)
        coarse_rows = fine_rows[0] // 2, -(-fine_rows[1] // 2)
        first_rows = _grow(coarse_rows, len(self.coarse), height)
        y = run_gain(self.latent_gain, quality_step, y_hat64, first_rows, backend)
        x = np.empty((height, width, self.head.outputs), np.int16)
        run_dense(self.head, y, x, first_rows, backend=backend)
        x = run_gain(self.feature_gain, quality_step, x, first_rows, backend)
        x = _run_blocks(self.coarse, x, coarse_rows, backend)
        features = np.empty((2 * height, 2 * width, self.up.outputs // 4), np.int16)
        run_dense(self.up, x, features, coarse_rows, target=BY_TWO, backend=backend)
        features = _run_blocks(self.fine, features, (2 * begin, 2 * end), backend)
        last = 2 * begin, 2 * end
        run_dense(self.tail, features, picture, last, target=PIXELS, backend=backend)

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """All integers by name."""
        arrays = self.latent_gain.to_arrays(f"{prefix}.latent_gain")
        arrays |= self.feature_gain.to_arrays(f"{prefix}.feature_gain")
        for name in ("head", "up", "tail"):
            arrays |= getattr(self, name).to_arrays(f"{prefix}.{name}")
        return arrays | _blocks_to_arrays(prefix, {"coarse": self.coarse, "fine": self.fine})

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Arrays) -> IntegerSynthesis:
        """The inverse of `to_arrays`; ValueError for what is missing, misshaped or unproved."""
        return cls(
            GainTable.from_arrays(f"{prefix}.latent_gain", arrays),
            IntegerLayer.from_arrays(f"{prefix}.head", arrays),
            GainTable.from_arrays(f"{prefix}.feature_gain", arrays),
            _blocks_from_arrays(f"{prefix}.coarse", arrays),
            IntegerLayer.from_arrays(f"{prefix}.up", arrays),
            _blocks_from_arrays(f"{prefix}.fine", arrays),
            IntegerLayer.from_arrays(f"{prefix}.tail", arrays),
        )


@dataclass(frozen=True, eq=False)
class IntegerAnalysis:
    """g_a: pixels -> features (int16), which serve every quality -> latents in steps (float32).

    The latents are the head's sums times a float32 factor for each quality and channel: one
    multiplication, which every machine rounds alike.
    """

    stem: IntegerLayer
    fine: tuple[IntegerBlock, ...]
    down: IntegerLayer
    feature_gain: GainTable
    coarse: tuple[IntegerBlock, ...]
    head: IntegerLayer
    factor: Float32  # [qualities, latents]

    def __post_init__(self) -> None:
        _covers(_check_blocks(self.fine, self.stem.limit), self.down)
        _covers(_check_blocks(self.coarse, self.feature_gain.limit), self.head)
        if self.factor.dtype != np.float32 or self.factor.shape[1:] != (self.head.outputs,):
            raise ValueError("the latents' factors are not float32 [qualities, latents]")

    @property
    def feature_halo(self) -> int:
        """Latent rows on either side whose pixels a row of features depends on."""
        return -(-len(self.fine) // 2)

    @property
    def latent_halo(self) -> int:
        """Rows of features on either side that a row of latents depends on."""
        return len(self.coarse)

    def features(self, picture: Pixels, height: int, rows: Rows, backend: Backend = "c") -> Int16:
        """Pixels (H, W, 3) of `height` latent rows -> features (height, w, C), some rows of them.

        The picture may end up to 15 rows or columns before the last latent position does; then its
        last row and column are repeated.
        """
        width = -(-picture.shape[1] // 16)
        inner = 2 * rows[0], 2 * rows[1]
        x = np.empty((2 * height, 2 * width, self.stem.outputs), np.int16)
        stem_rows = _grow(inner, len(self.fine), 2 * height)
        run_dense(self.stem, picture, x, stem_rows, source=PIXELS, backend=backend)
        x = _run_blocks(self.fine, x, inner, backend)
        out = np.empty((height, width, self.down.outputs), np.int16)
        run_dense(self.down, x, out, rows, source=BY_TWO, backend=backend)
        return out

    def latents_of(
        self, features: Int16, quality_step: int, rows: Rows, backend: Backend = "c"
    ) -> Float32:
        """Features (h, w, C) -> latents (h, w, latents) in steps, some rows of them."""
        height, width, _ = features.shape
        first_rows = _grow(rows, len(self.coarse), height)
        x = run_gain(self.feature_gain, quality_step, features, first_rows, backend)
        x = _run_blocks(self.coarse, x, rows, backend)
        out = np.empty((height, width, self.head.outputs), np.float32)
        factor = self.factor[quality_step]
        run_dense(self.head, x, out, rows, target=REAL, factor=factor, backend=backend)
        return out

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """All numbers by name."""
        arrays = self.feature_gain.to_arrays(f"{prefix}.feature_gain")
        arrays[f"{prefix}.factor"] = self.factor
        for name in ("stem", "down", "head"):
            arrays |= getattr(self, name).to_arrays(f"{prefix}.{name}")
        return arrays | _blocks_to_arrays(prefix, {"coarse": self.coarse, "fine": self.fine})

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Arrays) -> IntegerAnalysis:
        """The inverse of `to_arrays`; ValueError for what is missing, misshaped or unproved."""
        if f"{prefix}.factor" not in arrays:
            raise ValueError(f"the integer transform lacks the array '{prefix}.factor'")
        return cls(
            IntegerLayer.from_arrays(f"{prefix}.stem", arrays),
            _blocks_from_arrays(f"{prefix}.fine", arrays),
            IntegerLayer.from_arrays(f"{prefix}.down", arrays),
            GainTable.from_arrays(f"{prefix}.feature_gain", arrays),
            _blocks_from_arrays(f"{prefix}.coarse", arrays),
            IntegerLayer.from_arrays(f"{prefix}.head", arrays),
            arrays[f"{prefix}.factor"],
        )


@dataclass(frozen=True, eq=False)
class IntegerHyperAnalysis:
    """h_a: latents in steps -> hyper-latents z, at a quarter of the resolution.

    `curve` int16 [2^15] is asinh for 0, 1/64, 2/64, ... steps, in units of the first layer.
    """

    curve: Int16
    first: IntegerLayer
    halve: IntegerLayer
    spatial: IntegerLayer
    mix: IntegerLayer
    last: IntegerLayer

    def __post_init__(self) -> None:
        if self.curve.dtype != np.int16 or self.curve.shape != (2**15,) or self.curve.min() < 0:
            raise ValueError("the curve is not 2^15 values of int16 from 0 up")
        _covers(int(self.curve.max()), self.first)
        chain = (self.first, self.halve, self.spatial, self.mix, self.last)
        for before, layer in pairwise(chain):
            _covers(before.limit, layer)

    halo = 1  # rows of z on either side that a row of z depends on

    def run(self, y: Float32, rows: Rows, backend: Backend = "c") -> Int16:
        """Latents (h, w, C) in steps -> z (ceil(h/4), ceil(w/4), Z), some rows of it.

        Where h or w is no multiple of 4, the last latents count as repeated.
        """
        a = self.bent(y)
        more = -y.shape[0] % 4, -y.shape[1] % 4
        if any(more):
            a = np.pad(a, ((0, more[0]), (0, more[1]), (0, 0)), "edge")
        height, width, _ = a.shape
        z_height = height // 4
        middle = _grow(rows, 1, z_height)
        x = np.empty((height, width, self.first.outputs), np.int16)
        run_dense(self.first, a, x, (4 * middle[0], 4 * middle[1]), leaky=True, backend=backend)
        half = (height // 2, width // 2)
        wider = 2 * middle[0], 2 * middle[1]
        inner = 2 * rows[0], 2 * rows[1]
        x, before = np.empty((*half, self.halve.outputs), np.int16), x
        run_dense(self.halve, before, x, wider, leaky=True, source=BY_TWO, backend=backend)
        x, before = np.empty((*half, self.spatial.outputs), np.int16), x
        run_spatial(self.spatial, before, x, inner, backend)
        x, before = np.empty((*half, self.mix.outputs), np.int16), x
        run_dense(self.mix, before, x, inner, leaky=True, backend=backend)
        z = np.empty((z_height, width // 4, self.last.outputs), np.int16)
        run_dense(self.last, x, z, rows, source=BY_TWO, backend=backend)
        return z

    def bent(self, y: Float32) -> Int16:
        """sign(y) * curve[|y| in 1/64 of a step]."""
        limit = len(self.curve) - 1
        v = y * np.float32(CURVE_FRACTION)
        np.clip(np.rint(v, out=v), -limit, limit, out=v)
        return self._signed_curve.take(v.astype(np.int16).view(np.uint16))

    @cached_property
    def _signed_curve(self) -> Int16:
        """The curve for every int16, which as uint16 is the index."""
        return np.concatenate([self.curve, -self.curve[-1:], -self.curve[:0:-1]])

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """All integers by name."""
        arrays: dict[str, np.ndarray] = {f"{prefix}.curve": self.curve}
        for name in ("first", "halve", "spatial", "mix", "last"):
            arrays |= getattr(self, name).to_arrays(f"{prefix}.{name}")
        return arrays

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Arrays) -> IntegerHyperAnalysis:
        """The inverse of `to_arrays`; ValueError for what is missing, misshaped or unproved."""
        if f"{prefix}.curve" not in arrays:
            raise ValueError(f"the integer transform lacks the array '{prefix}.curve'")
        names = ("first", "halve", "spatial", "mix", "last")
        layers = [IntegerLayer.from_arrays(f"{prefix}.{name}", arrays) for name in names]
        return cls(arrays[f"{prefix}.curve"], *layers)


def _run_blocks(blocks: Sequence[IntegerBlock], x: Int16, rows: Rows, backend: Backend) -> Int16:
    """Residual blocks one after the other; only `rows` of the last one's result are computed."""
    for index, block in enumerate(blocks):
        out = np.empty_like(x)
        run_spatial(block, x, out, _grow(rows, len(blocks) - 1 - index, len(x)), backend)
        x = out
    return x


def _grow(rows: Rows, by: int, height: int) -> Rows:
    return max(0, rows[0] - by), min(height, rows[1] + by)


# Proofs and arrays -----------------------------------------------------------------------------


def _covers(limit: int, layer: IntegerLayer) -> None:
    if limit > layer.input_max:
        raise ValueError(f"inputs up to {limit} go to a layer that was proved for less")


def _check_blocks(blocks: Sequence[IntegerBlock], limit: int) -> int:
    """Prove a chain of blocks for inputs up to `limit`; the limit of its outputs."""
    for block in blocks:
        _covers(limit, block.mix_in)
        _covers(block.mix_in.limit, block.spatial)
        _covers(block.spatial.limit, block.mix_out)
        _covers(block.mix_out.limit, block.expand)
        _covers(block.expand.limit, block.reduce)
        limit = block.reduce.limit
    return limit


def _blocks_to_arrays(
    prefix: str, chains: Mapping[str, Sequence[IntegerBlock]]
) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, blocks in chains.items():
        for index, block in enumerate(blocks):
            for part, layer in block._asdict().items():
                arrays |= layer.to_arrays(f"{prefix}.{name}.{index}.{part}")
    return arrays


def _blocks_from_arrays(prefix: str, arrays: Arrays) -> tuple[IntegerBlock, ...]:
    blocks = []
    while f"{prefix}.{len(blocks)}.mix_in.weight" in arrays:
        start = f"{prefix}.{len(blocks)}"
        layers = [IntegerLayer.from_arrays(f"{start}.{n}", arrays) for n in IntegerBlock._fields]
        blocks.append(IntegerBlock(*layers))
    return tuple(blocks)
