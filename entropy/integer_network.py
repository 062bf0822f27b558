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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from rhodec.bitstream.kernel_settings import KernelSettings, Rows
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

# 4 million multiplications are about 0.1 ms of work.
KERNELS = KernelSettings("RHODEC_INTNET", _intnet, parallel_macs=4_000_000)
set_threads, kernel_paths = KERNELS.set_threads, KERNELS.kernel_paths
set_kernel_path, kernel_path = KERNELS.set_kernel_path, KERNELS.kernel_path


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
        last = self.layers[-1]
        selected = None if channels is None else range(self.channels)[channels]
        if selected is not None and (selected.step != 1 or not selected or last.shuffle):
            raise ValueError("channels must be a non-empty range of a layer without shuffle")
        if cell is not None and not (cell[0] in (0, 1) and cell[1] in (0, 1)):
            raise ValueError(f"cell {cell} is not one of the 2x2 grid")
        sizes = self._sizes(a.shape[0], a.shape[1])
        rows, columns = _cell_size(*sizes[-1], cell)
        count = self.channels if selected is None else len(selected)
        out = np.empty((rows, columns, count), np.int16)
        if backend != "c":
            self.fill(a, out, (0, rows), cell, channels, backend)
        elif out.size:
            macs = sum(h * w * y.weight.size for (h, w), y in zip(sizes, self.layers, strict=False))
            KERNELS.share_rows(
                lambda part: self.fill(a, out, part, cell, channels),
                (0, rows),
                macs // rows,
                2 if last.shuffle else 1,  # a shuffle makes two rows at once
            )
        return out

    def fill(
        self,
        x: Int16,
        out: Int16,
        rows: Rows,
        cell: Cell | None = None,
        channels: slice | None = None,
        backend: Backend = "c",
    ) -> None:
        """Write some rows of what `run` returns into `out`, which is of its shape; in this thread.

        Of `x`, contiguous and known to be bounded, only the rows are read that these depend on.
        With a shuffle at the end the rows begin and end at even numbers, or at the last one.
        """
        narrow = -1 if cell is None else self._first_narrow_layer()
        selected = None if channels is None else range(self.channels)[channels]
        if not (out.size and rows[0] < rows[1]):
            return
        if backend != "c":
            evaluate = _EVALUATORS[backend]
            for index, layer in enumerate(self.layers):
                is_last = index == len(self.layers) - 1
                here, chosen = cell if index == narrow else None, selected if is_last else None
                x = evaluate(layer, x, here, chosen)
            out[rows[0] : rows[1]] = x[rows[0] : rows[1]]
            return
        # From the last layer to the first: which rows of its grid are needed.
        sizes, needed = self._sizes(x.shape[0], x.shape[1]), [rows]
        for index in range(len(self.layers) - 1, -1, -1):
            layer, (begin, end) = self.layers[index], needed[0]
            if layer.shuffle:
                begin, end = begin // 2, -(-end // 2)
                needed[0] = begin, end
            if cell is not None and index == narrow:
                begin, end = 2 * begin + cell[0], 2 * (end - 1) + cell[0] + 1
            radius = layer.kernel // 2
            needed.insert(0, (max(0, begin - radius), min(sizes[index][0], end + radius)))
        for index, layer in enumerate(self.layers):
            is_last = index == len(self.layers) - 1
            here, chosen = cell if index == narrow else None, selected if is_last else None
            height, width = sizes[index + 1]
            if cell is not None and index >= narrow:
                height, width = _cell_size(height, width, cell)
            y = out if is_last else np.empty((height, width, layer.channels), np.int16)
            _convolve(layer, x, y, needed[index + 1], here, chosen)
            x = y

    def _sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width before each layer and after the last one, when all is computed."""
        sizes = [(height, width)]
        for layer in self.layers:
            factor = 2 if layer.shuffle else 1
            sizes.append((factor * sizes[-1][0], factor * sizes[-1][1]))
        return sizes

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
    on the others, so a context model need not evaluate again what it already knew. No threads.
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
        rows, columns = _cell_size(height, width, cell)
        if x.dtype != np.int16 or x.shape != (rows, columns, layer.inputs):
            raise ValueError(f"the part is {x.dtype} {x.shape}")
        if x.size:
            packed, x = layer.packed(kernel_path()), np.ascontiguousarray(x)
            _intnet.accumulate(packed, x, sums, (height, width), _grid(cell), (0, rows))

    def finish(self, sums: npt.NDArray[np.int32]) -> Int16:
        """The layer's result for the parts added so far, the others being 0; int16 [H, W, out]."""
        out = np.empty(sums.shape, np.int16)
        _intnet.requantise(self.layer.packed(kernel_path()), sums, out)
        return out


def _grid(cell: Cell | None) -> tuple[int, int, int]:
    return (1, 0, 0) if cell is None else (2, *cell)


def _cell_size(height: int, width: int, cell: Cell | None) -> tuple[int, int]:
    """Rows and columns of the positions of one cell, or of all."""
    step, y, x = _grid(cell)
    return len(range(y, height, step)), len(range(x, width, step))


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


# The three evaluators --------------------------------------------------------------------------


def _convolve(
    layer: IntegerLayer, x: Int16, out: Int16, rows: Rows, cell: Cell | None, channels: range | None
) -> None:
    """Some rows of the layer's grid, with the kernels in C."""
    selected = range(layer.outputs) if channels is None else channels
    _intnet.convolve(
        layer.packed(kernel_path()),
        x,
        out,
        (x.shape[0], x.shape[1]),
        _grid(cell),
        rows,
        (selected.start, selected.stop),
    )


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


_EVALUATORS = {"torch": _run_torch, "numpy": _run_numpy}
