"""Integer networks: the convolution chains that choose coding tables, exact on every machine.

A layer is a convolution (1x1 or 3x3, dense or depthwise, stride 1, zero padding) in integers, then

    y = clamp(floor((acc * multiplier + 2^(shift - 1)) / 2^shift), low, high),
    acc = sum_i weight_i * a_i + bias,

then an optional pixel shuffle by two. `IntegerNetwork.check` proves for every output channel that
sum|weight| * input_max + |bias| <= 2^30 - 1. So int32 cannot overflow, and float64 holds every
partial sum exactly whatever the order of summation, with 23 bits to spare. Three evaluators
therefore give the same integers: "c" (`_intnet.c`), "torch" (integers in float64) and "numpy"
(int64, the definition).

Following Balle, Johnston, Minnen, "Integer Networks for Data Compression with Latent-Variable
Models" (ICLR 2019) in the idea, He et al., "Post-Training Quantization for Cross-Platform Learned
Image Compression" (2022) in multiplier and shift; ours adds the bound, a proof at load instead
of a trust in data.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from rhodec.entropy import _intnet

Backend = Literal["c", "torch", "numpy"]
Int16 = npt.NDArray[np.int16]
Cell = tuple[int, int]

ACCUMULATOR_MAX = 2**30 - 1
INPUT_MAX = 4095  # activations of up to 12 bits; the accumulator bound holds for them all the same
WEIGHT_MAX = 2047
SHIFT_MAX = 45
_DTYPES = {
    "weight": np.int16,
    "bias": np.int32,
    "multiplier": np.uint16,
    "shift": np.uint8,
    "low": np.int32,
    "high": np.int32,
    "input_max": np.int16,
}


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """One layer; arrays are copied and made read-only, and checked for type and shape only.

    `weight` int16 [out, in or 1, k, k] in -2047..2047; `bias` int32 [out]; `multiplier` uint16
    [out], 0 or in [2^14, 2^15); `shift` uint8 [out] in [1, 45]; `low` and `high` int32 [out], the
    clamp, within int16; `input_max` int16 [in], the bound |a| <= input_max that the proof uses.
    With `shuffle`, conv channel c*4 + dy*2 + dx becomes channel c at sub-position (dy, dx), as in
    torch.
    """

    kernel: int
    depthwise: bool
    shuffle: bool
    weight: npt.NDArray[np.int16]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.uint16]
    shift: npt.NDArray[np.uint8]
    low: npt.NDArray[np.int32]
    high: npt.NDArray[np.int32]
    input_max: npt.NDArray[np.int16]
    _packed: dict[str, _intnet.Layer] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            array = np.asarray(getattr(self, name))
            if array.dtype != dtype:
                raise ValueError(f"{name} has type {array.dtype}, not {np.dtype(dtype)}")
            array = np.array(array, dtype, order="C")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.input_max.ndim != 1 or self.bias.ndim != 1:
            raise ValueError("bias and input_max must have one dimension")
        fan = 1 if self.depthwise else self.inputs
        if self.weight.shape != (self.outputs, fan, self.kernel, self.kernel):
            raise ValueError(f"weight has the wrong shape {self.weight.shape}")
        for name in ("multiplier", "shift", "low", "high"):
            if getattr(self, name).shape != (self.outputs,):
                raise ValueError(f"{name} has the wrong shape {getattr(self, name).shape}")

    @property
    def inputs(self) -> int:
        return self.input_max.size

    @property
    def outputs(self) -> int:
        """Channels of the convolution, before the shuffle divides them by four."""
        return self.bias.size

    @property
    def channels(self) -> int:
        """Channels of the layer's result."""
        return self.outputs // 4 if self.shuffle else self.outputs

    @property
    def output_max(self) -> npt.NDArray[np.int32]:
        """The largest |y| that the clamps allow, [channels]."""
        bound = np.maximum(np.abs(self.low), np.abs(self.high))
        return bound.reshape(-1, 4).max(axis=1) if self.shuffle else bound

    def accumulator_max(self) -> npt.NDArray[np.int64]:
        """sum|weight| * input_max + |bias|, the largest |acc| that inputs can cause, [out]."""
        magnitude = np.abs(self.weight.astype(np.int64)).sum(axis=(2, 3))  # [out, in or 1]
        bound = self.input_max.astype(np.int64)
        sums = magnitude[:, 0] * bound if self.depthwise else magnitude @ bound
        return sums + np.abs(self.bias.astype(np.int64))

    def check(self) -> None:
        """Prove the contract of the module's head; raises ValueError with the first violation."""
        if self.kernel not in (1, 3):
            raise ValueError(f"kernel is {self.kernel}, not 1 or 3")
        if not (0 < self.inputs <= 4096 and 0 < self.outputs <= 4096):
            raise ValueError("a layer has 1 to 4096 channels")
        if self.depthwise and (self.inputs != self.outputs or self.shuffle):
            raise ValueError("a depthwise layer keeps its channels and has no shuffle")
        if self.shuffle and self.outputs % 4:
            raise ValueError("a shuffled layer needs a multiple of 4 channels")
        if self.weight.min() < -WEIGHT_MAX or self.weight.max() > WEIGHT_MAX:
            raise ValueError(f"a weight is outside -{WEIGHT_MAX}..{WEIGHT_MAX}")
        if ((self.multiplier != 0) & ((self.multiplier >> 14) != 1)).any():
            raise ValueError("a multiplier is neither 0 nor in [2^14, 2^15)")
        if (self.shift < 1).any() or (self.shift > SHIFT_MAX).any():
            raise ValueError(f"a shift is outside 1..{SHIFT_MAX}")
        if (self.low > self.high).any() or self.low.min() < -(2**15) or self.high.max() >= 2**15:
            raise ValueError("a clamp is empty or outside int16")
        if self.input_max.min() < 0 or self.input_max.max() > INPUT_MAX:
            raise ValueError(f"input_max is outside 0..{INPUT_MAX}")
        worst = int(self.accumulator_max().max())
        if worst > ACCUMULATOR_MAX:
            raise ValueError(f"an accumulator may reach {worst}, more than 2^30 - 1")

    def packed(self, path: str) -> _intnet.Layer:
        """The layer laid out for a kernel path; made once."""
        if path not in self._packed:
            self._packed[path] = _intnet.pack(
                path,
                self.inputs,
                self.outputs,
                self.kernel,
                self.depthwise,
                self.shuffle,
                self.weight,
                self.bias,
                self.multiplier,
                self.shift,
                self.low,
                self.high,
            )
        return self._packed[path]


class IntegerNetwork:
    """A chain of integer layers, proved at construction.

    Slicing gives a network of some of the layers (`net[:-1]` the trunk, `net[-1:]` the head), so
    that a trunk runs once and a head on several cells and channel ranges.
    """

    def __init__(self, layers: Sequence[IntegerLayer]) -> None:
        self.layers = tuple(layers)
        self.check()

    def check(self) -> None:
        """Prove every layer and that each covers its predecessor's clamps, or raise ValueError."""
        if not self.layers:
            raise ValueError("a network needs at least one layer")
        for index, layer in enumerate(self.layers):
            try:
                layer.check()
            except ValueError as error:
                raise ValueError(f"layer {index}: {error}") from None
        for index, (before, layer) in enumerate(
            zip(self.layers, self.layers[1:], strict=False), start=1
        ):
            if before.channels != layer.inputs:
                raise ValueError(f"layer {index} takes {layer.inputs} of {before.channels} inputs")
            if (before.output_max > layer.input_max).any():
                raise ValueError(f"layer {index}: input_max does not cover the clamps before it")

    @property
    def inputs(self) -> int:
        return self.layers[0].inputs

    @property
    def channels(self) -> int:
        return self.layers[-1].channels

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> IntegerLayer: ...
    @overload
    def __getitem__(self, index: slice) -> IntegerNetwork: ...
    def __getitem__(self, index: int | slice) -> IntegerLayer | IntegerNetwork:
        if isinstance(index, slice):
            return IntegerNetwork(self.layers[index])
        return self.layers[index]

    def __call__(self, x: Int16 | Sequence[Int16], backend: Backend = "c") -> Int16:
        """Evaluate everything: see `run`."""
        return self.run(x, backend=backend)

    def run(
        self,
        x: Int16 | Sequence[Int16],
        cell: Cell | None = None,
        channels: slice | None = None,
        backend: Backend = "c",
        is_bounded: bool = False,
    ) -> Int16:
        """Evaluate the network, for one cell and channel range only if these are given.

        `x` is int16 [H, W, in], or a sequence of such arrays to be joined along the channels, with
        |x| <= input_max of the first layer (else ValueError). The result is int16 [H', W', out];
        with `cell` = (cy, cx) only the positions (cy::2, cx::2) of that, and with `channels` (a
        slice with step 1) only those channels. The pointwise layers at the end and the layer before
        them are computed at the cell's positions only; none of them may shuffle. `is_bounded` says
        that |x| is known to be within input_max: it comes out of layers with such clamps.
        """
        a = np.ascontiguousarray(x if isinstance(x, np.ndarray) else np.concatenate(x, axis=-1))
        _check_input(a, self.layers[0], is_bounded)
        evaluate = _EVALUATORS[backend]
        selected = None if channels is None else range(self.channels)[channels]
        if selected is not None and (selected.step != 1 or not selected or self.layers[-1].shuffle):
            raise ValueError("channels must be a non-empty range of a layer without shuffle")
        if cell is not None and not (cell[0] in (0, 1) and cell[1] in (0, 1)):
            raise ValueError(f"cell {cell} is not one of the 2x2 grid")
        narrow = -1 if cell is None else self._first_narrow_layer()
        for index, layer in enumerate(self.layers):
            here = cell if index == narrow else None
            if here and (a.shape[0] <= here[0] or a.shape[1] <= here[1]):
                rows, columns, _ = a[here[0] :: 2, here[1] :: 2].shape  # one of them is 0
                return np.empty((rows, columns, len(selected or range(self.channels))), np.int16)
            last = index == len(self.layers) - 1
            a = evaluate(layer, a, here, selected if last else None)
        return a

    def _first_narrow_layer(self) -> int:
        """The first layer whose result is needed at the positions of one cell only."""
        index = len(self.layers) - 1
        while index and self.layers[index].kernel == 1 and not self.layers[index - 1].shuffle:
            index -= 1
        if any(layer.shuffle for layer in self.layers[index:]):
            raise ValueError("a network that ends with a shuffle cannot be evaluated for one cell")
        return index

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """All integers by name: `prefix.forms` uint8 [layers, 3], `prefix.0.weight` and so on."""
        forms = [(layer.kernel, layer.depthwise, layer.shuffle) for layer in self.layers]
        arrays: dict[str, np.ndarray] = {f"{prefix}.forms": np.array(forms, np.uint8)}
        for index, layer in enumerate(self.layers):
            arrays |= {f"{prefix}.{index}.{name}": getattr(layer, name) for name in _DTYPES}
        return arrays

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, np.ndarray]) -> IntegerNetwork:
        """The inverse of `to_arrays`; anything missing, misshaped or unproved is a ValueError."""
        try:
            forms = np.asarray(arrays[f"{prefix}.forms"])
            if forms.dtype != np.uint8 or forms.ndim != 2 or forms.shape[1] != 3:
                raise ValueError(f"{prefix}.forms is not a uint8 array [layers, 3]")
            if (forms[:, 1:] > 1).any():
                raise ValueError(f"{prefix}.forms holds a flag that is not 0 or 1")
            return cls(
                [
                    IntegerLayer(
                        int(kernel),
                        bool(depthwise),
                        bool(shuffle),
                        **{name: arrays[f"{prefix}.{index}.{name}"] for name in _DTYPES},
                    )
                    for index, (kernel, depthwise, shuffle) in enumerate(forms)
                ]
            )
        except KeyError as error:
            raise ValueError(f"the integer network lacks the array {error}") from None


class PartialSums:
    """A dense 1x1 layer whose inputs become known part by part, in int32 sums (kernels in C only).

    The parts are ranges of input channels. What one of them adds at some positions does not depend
    on the others, so a context model need not evaluate again what it already knew.
    """

    def __init__(self, layer: IntegerLayer, parts: Sequence[slice]) -> None:
        self.layer = layer
        self.parts = [
            replace(layer, weight=layer.weight[:, part], input_max=layer.input_max[part])
            for part in parts
        ]

    def start(self, height: int, width: int) -> npt.NDArray[np.int32]:
        """The sums before any part is known, [H, W, out]."""
        return np.zeros((height, width, self.layer.outputs), np.int32)

    def add(
        self, sums: npt.NDArray[np.int32], part: int, x: Int16, cell: Cell | None = None
    ) -> None:
        """Add a part that has become known, at one cell's positions if that is given.

        `x` is int16 [H, W, channels of the part], or what `[cy::2, cx::2]` of that would be.
        """
        layer = self.parts[part]
        height, width, _ = sums.shape
        step, (cy, cx) = (1, (0, 0)) if cell is None else (2, cell)
        rows = -(-(height - cy) // step)
        if x.dtype != np.int16 or x.shape != (rows, -(-(width - cx) // step), layer.inputs):
            raise ValueError(f"the part is {x.dtype} {x.shape}")
        if not x.size:
            return
        packed, grid, x = layer.packed(kernel_path()), (step, cy, cx), np.ascontiguousarray(x)

        def compute(begin: int, end: int) -> None:
            _intnet.accumulate(packed, x, sums, (height, width), grid, (begin, end))

        _in_threads(compute, rows, x.shape[1] * layer.weight.size)

    def finish(self, sums: npt.NDArray[np.int32]) -> Int16:
        """The layer's result for the parts added so far, the others being 0; int16 [H, W, out]."""
        out = np.empty(sums.shape, np.int16)
        packed = self.layer.packed(kernel_path())

        def compute(begin: int, end: int) -> None:
            _intnet.requantise(packed, sums[begin:end], out[begin:end])

        _in_threads(compute, len(sums), 32 * sums.shape[1] * self.layer.outputs)
        return out


def _check_input(x: np.ndarray, layer: IntegerLayer, is_bounded: bool = False) -> None:
    if x.dtype != np.int16 or x.ndim != 3 or x.shape[-1] != layer.inputs or 0 in x.shape:
        raise ValueError(f"input is {x.dtype} {x.shape}, not int16 (H, W, {layer.inputs})")
    smallest = int(layer.input_max.min())
    if is_bounded:
        return
    if int(x.max()) <= smallest and int(x.min()) >= -smallest:
        return
    wide = x.astype(np.int32)  # the bounds differ between channels, or an input is out of bounds
    if (np.abs(wide).max(axis=(0, 1)) > layer.input_max).any():
        raise ValueError("an input is outside the bound that the network was proved for")


# The C kernels ---------------------------------------------------------------------------------

_PARALLEL_MACS = (
    4_000_000  # about 0.1 ms of work; below it a second thread costs more than it gives
)


class _Settings:
    """Kernel path and threads of this process."""

    path: str | None = None
    threads: int = min(2, os.cpu_count() or 1)
    pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    _Settings.pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # a child process has none of its threads


def set_threads(count: int) -> int:
    """How many threads share the rows of a large layer (default: 2, or 1 on a single core).

    Returns how many did.
    """
    if count < 1:
        raise ValueError("at least one thread")
    if _Settings.pool is not None:
        _Settings.pool.shutdown()
    before, _Settings.threads, _Settings.pool = _Settings.threads, count, None
    return before


def kernel_paths() -> tuple[str, ...]:
    """The kernel paths that this processor runs, of "portable", "avx2", "vnni", slowest first."""
    return tuple(_intnet.paths())


def set_kernel_path(path: str | None) -> str:
    """Choose the kernel path and return its name; None chooses as at the start of the process.

    The environment variable RHODEC_INTNET names a path; without it the fastest one is taken. A path
    is used only after it reproduced the portable path's results on adversarial layers. A named path
    that the processor lacks or that fails is an error (ValueError, RuntimeError); otherwise failing
    falls back to "portable" with a RuntimeWarning.
    """
    named = path or os.environ.get("RHODEC_INTNET")
    if named is not None and named not in kernel_paths():
        raise ValueError(f"kernel path {named!r} is not one of {kernel_paths()}")
    chosen = named or kernel_paths()[-1]
    if not _intnet.self_test(chosen):
        if named is not None:
            raise RuntimeError(f"kernel path {named!r} fails its self-test on this machine")
        warnings.warn(f"{chosen} kernels fail their self-test", RuntimeWarning, stacklevel=2)
        chosen = "portable"
    _Settings.path = chosen
    return chosen


def kernel_path() -> str:
    """The kernel path in use."""
    return _Settings.path or set_kernel_path(None)


def _run_c(layer: IntegerLayer, x: Int16, cell: Cell | None, channels: range | None) -> Int16:
    packed = layer.packed(kernel_path())
    height, width, _ = x.shape
    step, (cy, cx) = (1, (0, 0)) if cell is None else (2, cell)
    rows, columns = -(-(height - cy) // step), -(-(width - cx) // step)
    selected = range(layer.outputs) if channels is None else channels
    if layer.shuffle:
        out = np.empty((2 * rows, 2 * columns, layer.channels), np.int16)
    else:
        out = np.empty((rows, columns, len(selected)), np.int16)

    def compute(begin: int, end: int) -> None:
        _intnet.convolve(
            packed,
            x,
            out,
            (height, width),
            (step, cy, cx),
            (begin, end),
            (selected.start, selected.stop),
        )

    _in_threads(compute, rows, columns * len(selected) * layer.weight[0].size)
    return out


def _in_threads(compute: Callable[[int, int], None], rows: int, macs_per_row: int) -> None:
    """compute(from, to) for all rows, shared among the threads if they are worth it."""
    threads = min(_Settings.threads, rows)
    if threads < 2 or rows * macs_per_row < _PARALLEL_MACS:
        compute(0, rows)
        return
    if _Settings.pool is None:
        _Settings.pool = ThreadPoolExecutor(_Settings.threads - 1, "rhodec-intnet")
    bounds = [rows * i // threads for i in range(threads + 1)]
    others = [_Settings.pool.submit(compute, *part) for part in pairwise(bounds[1:])]
    try:
        compute(0, bounds[1])  # this thread takes a share itself
    finally:
        for other in others:
            other.result()


# The other two evaluators ----------------------------------------------------------------------


def _select(y: Int16, cell: Cell | None, channels: range | None) -> Int16:
    if cell is not None:
        y = y[cell[0] :: 2, cell[1] :: 2]
    return y if channels is None else y[..., channels.start : channels.stop]


def _run_numpy(layer: IntegerLayer, x: Int16, cell: Cell | None, channels: range | None) -> Int16:
    """The definition, in int64 and without a thought for speed."""
    radius = layer.kernel // 2
    height, width, _ = x.shape
    padded = np.pad(x.astype(np.int64), ((radius, radius), (radius, radius), (0, 0)))
    acc = np.zeros((height, width, layer.outputs), np.int64) + layer.bias
    for ky in range(layer.kernel):
        for kx in range(layer.kernel):
            a = padded[ky : ky + height, kx : kx + width]
            w = layer.weight[:, :, ky, kx].astype(np.int64)  # [out, in or 1]
            acc += a * w[:, 0] if layer.depthwise else a @ w.T
    shift = layer.shift.astype(np.int64)
    y = (acc * layer.multiplier.astype(np.int64) + (1 << (shift - 1))) >> shift
    y = np.clip(y, layer.low, layer.high).astype(np.int16)
    if layer.shuffle:  # [H, W, c*4 + dy*2 + dx] -> [2H, 2W, c]
        y = y.reshape(height, width, -1, 2, 2).transpose(0, 3, 1, 4, 2)
        y = y.reshape(2 * height, 2 * width, -1)
    return _select(y, cell, channels)


def _run_torch(layer: IntegerLayer, x: Int16, cell: Cell | None, channels: range | None) -> Int16:
    """Integers in float64: sums below 2^30, their products with multipliers below 2^45: exact.

    Unlike float32, float64 has no reduced-precision modes, and rounding removes what a transform
    algorithm (Winograd, FFT) would add.
    """
    import torch  # only this evaluator needs it
    import torch.nn.functional as F

    if layer.kernel == 1 and cell is not None:
        x, cell = x[cell[0] :: 2, cell[1] :: 2], None
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        a = torch.from_numpy(x.astype(np.float64)).permute(2, 0, 1)[None]  # [1, in, H, W]
        acc = F.conv2d(
            a,
            torch.from_numpy(layer.weight.astype(np.float64)),
            torch.from_numpy(layer.bias.astype(np.float64)),
            padding=layer.kernel // 2,
            groups=layer.inputs if layer.depthwise else 1,
        ).round()
        constants = (layer.multiplier, 2.0 ** (layer.shift - 1.0), 0.5**layer.shift)
        columns = (torch.from_numpy(np.asarray(c, np.float64))[:, None, None] for c in constants)
        multiplier, half, scale = columns
        y = torch.floor((acc * multiplier + half) * scale)
        low, high = (torch.from_numpy(c.astype(np.float64)) for c in (layer.low, layer.high))
        y = torch.minimum(torch.maximum(y, low[:, None, None]), high[:, None, None])
        if layer.shuffle:
            y = F.pixel_shuffle(y, 2)
        result = y[0].permute(1, 2, 0).to(torch.int16).contiguous().numpy()
    return np.ascontiguousarray(_select(result, cell, channels))


_EVALUATORS = {"c": _run_c, "torch": _run_torch, "numpy": _run_numpy}
