"""Layers of integer transforms: exact on every machine, and twice as fast as float32 on a CPU.

A dense layer (1x1) or a depthwise one (3x3, zero padding) works on int16 arrays [H, W, C]:

    y = clamp((sum_i weight_i * a_i + bias) >> shift, -limit, limit),

where the bias includes the rounding. Then there may be a leaky ReLU, max(y, (3277 y + 2^14) >> 15),
or, in a residual branch, an addition: clamp(x + clamp16(sum >> shift), -limit, limit).
`IntegerLayer.check` proves that sum|weight| * input_max + |bias| <= 2^31 - 1 for every output
channel, so int32 cannot overflow and the order of summation is free. Saturation at `limit` is
defined behaviour. Two evaluators give the same integers: "c" (`_inttransform.c`) and "numpy" (the
definition).

Power-of-two requantisation after Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference" (CVPR 2018), here with the channel's step in the
weights instead of a multiplier; deterministic synthesis: Koyuncu et al., "Quantized Decoder in
Learned Image Compression for Deterministic Reconstruction" (ICASSP 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from rhodec.bitstream.kernel_settings import KernelSettings, Rows
from rhodec.transforms import _inttransform

Backend = Literal["c", "numpy"]
Int16 = npt.NDArray[np.int16]

ACCUMULATOR_MAX = 2**31 - 1
WEIGHT_MAX = 2**15 - 1
SHIFT_MAX = 31
CHANNEL_BLOCK = 16  # channel counts are multiples of it
STEM = 8  # pixel rows and columns per position of the finest features
PIXEL_CENTRE = 128
SLOPE = 3277  # of the leaky ReLU, in 2^-15
GAIN_INPUT_MAX = 2**17 - 1
GAIN_MAX = 2**14 - 1
GAIN_SHIFT_MAX = 17

# Where a dense layer's inputs come from and its outputs go: [H, W, C] as they are; [2H, 2W, C/4]
# folded by two, rows before columns before channels; 8x8 pixels of a uint8 picture; and, for
# outputs only, float32 [H, W, C], the sums times a factor for each channel.
AS_IS, BY_TWO, PIXELS, REAL = range(4)

KERNELS = KernelSettings("RHODEC_INTTRANSFORM", _inttransform, parallel_macs=2_000_000)
set_threads, kernel_paths = KERNELS.set_threads, KERNELS.kernel_paths
set_kernel_path, kernel_path = KERNELS.set_kernel_path, KERNELS.kernel_path


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One layer; arrays are copied and made read-only.

    `weight` int16 [out, in] (dense) or [channels, 3, 3] (depthwise), not -2^15; `bias` int32 [out];
    `shift` uint8 [out] in 0..31; `input_max`, the bound |a| <= input_max of the proof, and `limit`,
    the clamp, in 1..2^15 - 1. Raises ValueError for anything else.
    """

    weight: npt.NDArray[np.int16]
    bias: npt.NDArray[np.int32]
    shift: npt.NDArray[np.uint8]
    input_max: int
    limit: int
    _packed: dict[str, _inttransform.Layer] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, dtype in (("weight", np.int16), ("bias", np.int32), ("shift", np.uint8)):
            array = np.asarray(getattr(self, name))
            if array.dtype != dtype:
                raise ValueError(f"{name} has type {array.dtype}, not {np.dtype(dtype)}")
            array = np.array(array, dtype, order="C")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        self.check()

    @property
    def is_dense(self) -> bool:
        return self.weight.ndim == 2

    @property
    def inputs(self) -> int:
        return self.weight.shape[1] if self.is_dense else self.outputs

    @property
    def outputs(self) -> int:
        return len(self.weight)

    def accumulator_max(self) -> npt.NDArray[np.int64]:
        """sum|weight| * input_max + |bias|, the largest |sum| that inputs can cause, [out]."""
        sums = np.abs(self.weight.astype(np.int64)).reshape(self.outputs, -1).sum(axis=1)
        return sums * self.input_max + np.abs(self.bias.astype(np.int64))

    def check(self) -> None:
        """Prove the contract of the module's head; raises ValueError with the first violation."""
        if self.weight.ndim not in (2, 3) or self.weight.shape[2:] not in ((), (3,)):
            raise ValueError(f"weight has the wrong shape {self.weight.shape}")
        if not self.is_dense and self.weight.shape[1] != 3:
            raise ValueError(f"weight has the wrong shape {self.weight.shape}")
        for channels in (self.inputs, self.outputs):
            if not 0 < channels <= 4096 or channels % CHANNEL_BLOCK:
                raise ValueError(f"{channels} channels are no multiple of 16 up to 4096")
        if self.bias.shape != (self.outputs,) or self.shift.shape != (self.outputs,):
            raise ValueError("bias or shift does not have a value for each output channel")
        if self.weight.min() < -WEIGHT_MAX:
            raise ValueError(f"a weight is outside -{WEIGHT_MAX}..{WEIGHT_MAX}")
        if self.shift.max() > SHIFT_MAX:
            raise ValueError(f"a shift is outside 0..{SHIFT_MAX}")
        if not (1 <= self.limit < 2**15 and 1 <= self.input_max < 2**15):
            raise ValueError("limit or input_max is outside 1..2^15 - 1")
        worst = int(self.accumulator_max().max())
        if worst > ACCUMULATOR_MAX:
            raise ValueError(f"a sum may reach {worst}, more than 2^31 - 1")

    def packed(self) -> _inttransform.Layer:
        """The layer laid out for the kernel path in use; made once."""
        path = kernel_path()
        if path not in self._packed:
            self._packed[path] = _inttransform.pack(
                path, self.inputs, self.outputs, self.limit, self.is_dense,
                self.weight, self.bias, self.shift,
            )  # fmt: skip
        return self._packed[path]

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """`prefix.weight`, `.bias`, `.shift` and `.bounds`, int16 (input_max, limit)."""
        bounds = np.array([self.input_max, self.limit], np.int16)
        named = {"weight": self.weight, "bias": self.bias, "shift": self.shift, "bounds": bounds}
        return {f"{prefix}.{name}": array for name, array in named.items()}

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, np.ndarray]) -> IntegerLayer:
        """The inverse of `to_arrays`; anything missing, misshaped or unproved is a ValueError."""
        try:
            weight, bias, shift, bounds = (
                arrays[f"{prefix}.{name}"] for name in ("weight", "bias", "shift", "bounds")
            )
            if bounds.dtype != np.int16 or bounds.shape != (2,):
                raise ValueError("bounds is not an int16 array of two")
            return cls(weight, bias, shift, int(bounds[0]), int(bounds[1]))
        except KeyError as error:
            raise ValueError(f"the integer transform lacks the array {error}") from None
        except ValueError as error:
            raise ValueError(f"{prefix}: {error}") from None


class IntegerBlock(NamedTuple):
    """x + mix_out(spatial(leaky(mix_in(x)))), then that + reduce(leaky(expand(it)))."""

    mix_in: IntegerLayer
    spatial: IntegerLayer
    mix_out: IntegerLayer
    expand: IntegerLayer
    reduce: IntegerLayer


@dataclass(frozen=True, eq=False)
class GainTable:
    """y = clamp((clamp(x, +-(2^17 - 1)) * multiplier + 2^shift // 2) >> shift, -limit, limit).

    `multiplier` uint16 [qualities, channels] up to 2^14 - 1, `shift` uint8 of that shape up to 17,
    so that int32 holds every product.
    """

    multiplier: npt.NDArray[np.uint16]
    shift: npt.NDArray[np.uint8]
    limit: int

    def __post_init__(self) -> None:
        if self.multiplier.dtype != np.uint16 or self.shift.dtype != np.uint8:
            raise ValueError("a gain's multipliers are not uint16 or its shifts not uint8")
        if self.multiplier.ndim != 2 or self.multiplier.shape != self.shift.shape:
            raise ValueError("a gain table has the wrong shape")
        if self.multiplier.max() > GAIN_MAX or self.shift.max() > GAIN_SHIFT_MAX:
            raise ValueError("a gain is out of range")
        if not 1 <= self.limit < 2**15:
            raise ValueError("a gain's limit is outside 1..2^15 - 1")

    @property
    def channels(self) -> int:
        return self.multiplier.shape[1]

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """`prefix.multiplier`, `.shift` and `.limit`."""
        return {
            f"{prefix}.multiplier": self.multiplier,
            f"{prefix}.shift": self.shift,
            f"{prefix}.limit": np.array([self.limit], np.int16),
        }

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, np.ndarray]) -> GainTable:
        """The inverse of `to_arrays`, or ValueError."""
        try:
            limit = np.asarray(arrays[f"{prefix}.limit"]).reshape(1)
            return cls(arrays[f"{prefix}.multiplier"], arrays[f"{prefix}.shift"], int(limit[0]))
        except KeyError as error:
            raise ValueError(f"the integer transform lacks the array {error}") from None


# Evaluation ------------------------------------------------------------------------------------


def run_dense(
    layer: IntegerLayer,
    x: np.ndarray,
    out: np.ndarray,
    rows: Rows,
    *,
    leaky: bool = False,
    source: int = AS_IS,
    target: int = AS_IS,
    factor: npt.NDArray[np.float32] | None = None,
    backend: Backend = "c",
) -> None:
    """Write some rows of `out`, of the positions' height and in the form `target`.

    `x` and `out` are whole arrays, C-contiguous, in the forms `source` and `target`. A picture may
    end up to 15 rows or columns before its positions do; its last ones count as repeated.
    """
    size = _positions(x, source) if source != PIXELS else _positions(out, target)
    if backend == "numpy":
        a = _folded(x, source, size)
        acc = _sums(layer, a.reshape(-1, layer.inputs)).reshape(*size, layer.outputs)
        if target == REAL:
            assert factor is not None
            out[rows[0] : rows[1]] = (acc.astype(np.float32) * factor)[rows[0] : rows[1]]
        else:
            _write(out, _finished(layer, acc, leaky=leaky), rows, target)
        return
    picture = x.shape[:2] if source == PIXELS else out.shape[:2] if target == PIXELS else (1, 1)
    factors = np.zeros(0, np.float32) if factor is None else factor
    packed = layer.packed()
    KERNELS.share_rows(
        lambda part: _inttransform.dense(
            packed, leaky, source, target, x, out, factors, size, part, picture
        ),
        rows,
        size[1] * layer.weight.size,
    )


def run_spatial(
    layers: IntegerLayer | IntegerBlock,
    x: Int16,
    out: Int16,
    rows: Rows,
    backend: Backend = "c",
) -> None:
    """Write some rows of a depthwise layer or of a residual block; x and out [H, W, C]."""
    if backend == "numpy":
        whole = _depthwise(layers, x) if isinstance(layers, IntegerLayer) else _block(layers, x)
        out[rows[0] : rows[1]] = whole[rows[0] : rows[1]]
        return
    parts = (layers,) if isinstance(layers, IntegerLayer) else layers
    packed = tuple(layer.packed() for layer in parts)
    size = (x.shape[0], x.shape[1])
    work = size[1] * sum(layer.weight.size for layer in parts)
    KERNELS.share_rows(lambda part: _inttransform.spatial(packed, x, out, size, part), rows, work)


def run_gain(
    table: GainTable, quality_step: int, x: np.ndarray, rows: Rows, backend: Backend = "c"
) -> Int16:
    """int32 or int16 [H, W, C] times the gains of a quality; only some rows are computed."""
    out = np.empty(x.shape, np.int16)
    multiplier, shift = table.multiplier[quality_step], table.shift[quality_step]
    if backend == "numpy":
        s = shift.astype(np.int64)
        v = np.clip(x.astype(np.int64), -GAIN_INPUT_MAX, GAIN_INPUT_MAX) * multiplier
        out[:] = np.clip((v + ((1 << s) >> 1)) >> s, -table.limit, table.limit)
        return out
    wide, width = x.dtype == np.int32, x.shape[1]
    x = np.ascontiguousarray(x)
    positions = rows[0] * width, rows[1] * width
    _inttransform.gain(kernel_path(), wide, x, out, multiplier, shift, table.limit, positions)
    return out


# The definition --------------------------------------------------------------------------------


def _positions(x: np.ndarray, form: int) -> tuple[int, int]:
    """Height and width of the positions of an array in a form other than PIXELS."""
    step = 2 if form == BY_TWO else 1
    return x.shape[0] // step, x.shape[1] // step


def _sums(layer: IntegerLayer, a: np.ndarray) -> npt.NDArray[np.int64]:
    """weight @ a + bias; float64 holds every partial sum exactly."""
    return (a.astype(np.float64) @ layer.weight.T.astype(np.float64)).astype(np.int64) + layer.bias


def _finished(
    layer: IntegerLayer, acc: np.ndarray, *, leaky: bool = False, residual: Int16 | None = None
) -> Int16:
    y = np.clip(acc >> layer.shift, -(2**15), 2**15 - 1)
    if residual is not None:
        y = y + residual
    y = np.clip(y, -layer.limit, layer.limit)
    if leaky:
        y = np.maximum(y, (SLOPE * y + 2**14) >> 15)
    return y.astype(np.int16)


def _depthwise(layer: IntegerLayer, x: Int16) -> Int16:
    height, width, _ = x.shape
    padded = np.pad(x.astype(np.int64), ((1, 1), (1, 1), (0, 0)))
    acc = np.zeros(x.shape, np.int64) + layer.bias
    for dy in range(3):
        for dx in range(3):
            acc += padded[dy : dy + height, dx : dx + width] * layer.weight[:, dy, dx]
    return _finished(layer, acc)


def _block(block: IntegerBlock, x: Int16) -> Int16:
    t = _finished(block.mix_in, _sums(block.mix_in, x), leaky=True)
    t = _depthwise(block.spatial, t)
    x = _finished(block.mix_out, _sums(block.mix_out, t), residual=x)
    t = _finished(block.expand, _sums(block.expand, x), leaky=True)
    return _finished(block.reduce, _sums(block.reduce, t), residual=x)


def _folded(x: np.ndarray, form: int, size: tuple[int, int]) -> np.ndarray:
    """[H, W, C] inputs from an array in one of the forms."""
    if form == AS_IS:
        return x
    block, (height, width) = (STEM if form == PIXELS else 2), size
    if form == PIXELS:
        y_of = np.minimum(np.arange(height * block), x.shape[0] - 1)
        x_of = np.minimum(np.arange(width * block), x.shape[1] - 1)
        x = x[y_of][:, x_of].astype(np.int16) - PIXEL_CENTRE
    x = x.reshape(height, block, width, block, -1).swapaxes(1, 2)
    return x.reshape(height, width, -1)


def _write(out: np.ndarray, y: Int16, rows: Rows, form: int) -> None:
    """Put rows of [H, W, C] outputs into an array of one of the forms."""
    block = {AS_IS: 1, BY_TWO: 2, PIXELS: STEM}[form]
    height, width, channels = y.shape
    y = y.reshape(height, width, block, block, channels // block**2).swapaxes(1, 2)
    y = y.reshape(height * block, width * block, -1)
    begin, end = rows[0] * block, min(rows[1] * block, out.shape[0])
    y = y[begin:end, : out.shape[1]]
    out[begin:end] = np.clip(y + PIXEL_CENTRE, 0, 255) if form == PIXELS else y
