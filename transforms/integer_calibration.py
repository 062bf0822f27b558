"""Export: post-training quantisation of the depthwise transforms to `integer_depthwise`.

Every channel of an activation has a real value of one integer step, its *scale*, from the largest
magnitude on calibration pictures, times HEADROOM. The scales fold into the weights,

    W_oi = weight_oi * input_scale_i / output_scale_o,     integer weight = round(W_oi * 2^shift_o),

with the largest shift for which the sums stay below 2^31 and the weights in int16 (some 12 bits in
practice). Layers are made in order, each on the integers that the layers before really give, and
each bias makes the mean of the channel that of the float network (Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", ICCV 2019).

Export is floating-point and may differ between machines; its result is what a weights file stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhodec.transforms.depthwise import (
    DepthwiseAnalysis,
    DepthwiseBlock,
    DepthwiseSynthesis,
    depth_to_space,
    space_to_depth,
)
from rhodec.transforms.integer_depthwise import (
    CURVE_FRACTION,
    IntegerAnalysis,
    IntegerHyperAnalysis,
    IntegerSynthesis,
)
from rhodec.transforms.integer_transform import (
    ACCUMULATOR_MAX,
    AS_IS,
    BY_TWO,
    GAIN_MAX,
    GAIN_SHIFT_MAX,
    PIXEL_CENTRE,
    SHIFT_MAX,
    STEM,
    WEIGHT_MAX,
    GainTable,
    Int16,
    IntegerBlock,
    IntegerLayer,
    run_dense,
    run_gain,
    run_spatial,
)

Array = npt.NDArray[np.float64]

# Room above the largest calibrated activation: drawings and noise reach far beyond photographs.
HEADROOM = 6.0
STREAM_LIMIT = 2**15 - 1  # activations that residual blocks add to
HIDDEN_LIMIT = 2**14 - 1  # all others: fewer bits here leave more for the weights
_FINEST = 1 / 64  # of a layer's largest range: a channel that was silent here need not be elsewhere


@dataclass(frozen=True)
class Signal:
    """An activation as both networks have it: real [N, H, W, C], integers alike, scale [C]."""

    real: Tensor
    exact: Int16
    scale: Array
    limit: int


def quantise_synthesis(
    net: DepthwiseSynthesis,
    y_hat64: npt.NDArray[np.int32],
    quality_steps: Sequence[int],
    latent_gains: Array,
    feature_gains: Array,
) -> IntegerSynthesis:
    """The integer twin of `net`, whose output 0 is mid-grey and 1/255 one level.

    `y_hat64` (N, h, w, C) are latents in 1/64 of a step of N pictures coded at the given quality
    steps, of which both gains (rows of [qualities, channels]) have one row each.
    """
    steps = list(quality_steps)
    real = torch.from_numpy(y_hat64 * (latent_gains[steps] / 64)[:, None, None]).float()
    scale = _scale(real, HIDDEN_LIMIT)
    latent_gain = _gain_table(latent_gains / 64 / scale, HIDDEN_LIMIT)
    y = Signal(real, _gained(latent_gain, steps, y_hat64), scale, HIDDEN_LIMIT)

    head, x = _dense(y, net.head, limit=STREAM_LIMIT)
    real = x.real * torch.from_numpy(feature_gains[steps]).float()[:, None, None]
    scale = _stream_scale(real, net.coarse)
    feature_gain = _gain_table(feature_gains * x.scale / scale, STREAM_LIMIT)
    x = Signal(real, _gained(feature_gain, steps, x.exact), scale, STREAM_LIMIT)
    coarse, x = _blocks(x, net.coarse)

    assert isinstance(net.up, nn.Linear)
    unfolded = depth_to_space(F.linear(x.real, net.up.weight, net.up.bias), 2)
    scale = _stream_scale(unfolded, net.fine)
    up, x = _dense(x, net.up, limit=STREAM_LIMIT, scale=np.tile(scale, 4), target=BY_TWO)
    fine, x = _blocks(x, net.fine)
    level = np.full(3 * STEM**2, 1 / 255)
    tail, _ = _dense(x, net.tail, limit=WEIGHT_MAX, scale=level, offset=127.5 - PIXEL_CENTRE)
    return IntegerSynthesis(latent_gain, head, feature_gain, coarse, up, fine, tail)


def quantise_analysis(
    net: DepthwiseAnalysis,
    pixels: npt.NDArray[np.uint8],
    quality_steps: Sequence[int],
    latent_gains: Array,
    feature_gains: Array,
) -> IntegerAnalysis:
    """The integer twin of `net` on pictures minus 1/2; arguments as for `quantise_synthesis`.

    `pixels` (N, H, W, 3), height and width multiples of 16.
    """
    steps = list(quality_steps)
    real = space_to_depth(torch.from_numpy(pixels).float() / 255 - 0.5, STEM)
    exact = space_to_depth(torch.from_numpy(pixels).short() - PIXEL_CENTRE, STEM).numpy()
    x = Signal(real, exact, np.full(3 * STEM**2, 1 / 255), PIXEL_CENTRE)
    scale = _stream_scale(F.linear(real, net.stem.weight, net.stem.bias), net.fine)
    stem, x = _dense(x, net.stem, limit=STREAM_LIMIT, scale=scale)
    fine, x = _blocks(x, net.fine)
    down, x = _dense(x, net.down, limit=STREAM_LIMIT, source=BY_TWO)
    real = x.real * torch.from_numpy(feature_gains[steps]).float()[:, None, None]
    scale = _stream_scale(real, net.coarse)
    feature_gain = _gain_table(feature_gains * x.scale / scale, STREAM_LIMIT)
    x = Signal(real, _gained(feature_gain, steps, x.exact), scale, STREAM_LIMIT)
    coarse, x = _blocks(x, net.coarse)
    head, step = _sums_only(x, net.head)
    factor = (latent_gains * step).astype(np.float32)
    return IntegerAnalysis(stem, fine, down, feature_gain, coarse, head, factor)


def quantise_hyper_analysis(net: nn.Sequential, y: npt.NDArray[np.float32]) -> IntegerHyperAnalysis:
    """The integer twin of `HyperLatent.hyper_analysis` after asinh; `y` (N, h, w, C) in steps."""
    first, _, halve, _, spatial, mix, _, last = net
    unit = float(np.arcsinh(2.0**15 / CURVE_FRACTION)) / HIDDEN_LIMIT
    curve = np.rint(np.arcsinh(np.arange(2**15) / CURVE_FRACTION) / unit).astype(np.int16)
    magnitude = np.minimum(np.abs(np.rint(y * CURVE_FRACTION)), 2**15 - 1).astype(np.int64)
    exact = (np.sign(y) * curve[magnitude]).astype(np.int16)
    real = torch.asinh(torch.from_numpy(y))
    a = Signal(real, exact, np.full(y.shape[-1], unit), HIDDEN_LIMIT)
    layer_1, a = _dense(a, first, limit=HIDDEN_LIMIT, leaky=True)
    layer_2, a = _dense(a, halve, limit=HIDDEN_LIMIT, leaky=True, source=BY_TWO)
    assert isinstance(spatial, nn.Conv2d)
    layer_3, a = _depthwise(a, spatial)
    layer_4, a = _dense(a, mix, limit=HIDDEN_LIMIT, leaky=True)
    z = np.ones(_linear(last)[0].shape[0])
    layer_5, _ = _dense(a, last, limit=127, scale=z, source=BY_TWO)
    return IntegerHyperAnalysis(curve, layer_1, layer_2, layer_3, layer_4, layer_5)


# Layers ----------------------------------------------------------------------------------------


def _blocks(x: Signal, modules: nn.Sequential) -> tuple[tuple[IntegerBlock, ...], Signal]:
    """Residual blocks; their stream keeps its scale."""
    made = []
    for block in modules:
        assert isinstance(block, DepthwiseBlock)
        mix_in, t = _dense(x, block.mix_in, limit=HIDDEN_LIMIT, leaky=True)
        spatial, t = _depthwise(t, block.spatial)
        mix_out, x = _dense(t, block.mix_out, limit=STREAM_LIMIT, residual=x)
        expand, t = _dense(x, block.expand, limit=HIDDEN_LIMIT, leaky=True)
        reduce, x = _dense(t, block.reduce, limit=STREAM_LIMIT, residual=x)
        made.append(IntegerBlock(mix_in, spatial, mix_out, expand, reduce))
    return tuple(made), x


def _dense(
    x: Signal,
    module: nn.Module,
    *,
    limit: int,
    scale: Array | None = None,
    leaky: bool = False,
    residual: Signal | None = None,
    source: int = AS_IS,
    target: int = AS_IS,
    offset: float = 0.0,
) -> tuple[IntegerLayer, Signal]:
    """A dense layer and what it gives; `offset`, in output steps, is added to its output."""
    weight, bias = _linear(module)
    real, exact, a_scale = x.real, x.exact, x.scale
    if source == BY_TWO:
        real, a_scale = space_to_depth(real, 2), np.tile(a_scale, 4)
        exact = space_to_depth(torch.from_numpy(exact), 2).numpy()
    sums = F.linear(real, weight, bias)
    real = F.leaky_relu(sums, 0.1) if leaky else sums
    if residual is not None:
        real, scale = residual.real + sums, residual.scale
    if scale is None:
        scale = _scale(sums, limit)
    goal = real if residual is not None else sums
    mean = goal.double().mean((0, 1, 2)).numpy() / scale + offset
    if residual is not None:
        mean -= residual.exact.mean((0, 1, 2))
    folded = weight.double().numpy() * a_scale / scale[:, None]
    layer = _quantised(folded, mean, exact, x.limit, limit)
    if residual is None:
        shape = (*exact.shape[:3], layer.outputs)
        flat, made = _flat(exact), np.empty((shape[0] * shape[1], *shape[2:]), np.int16)
        run_dense(layer, flat, made, (0, len(flat)), leaky=leaky)
        made = made.reshape(shape)
    else:
        made = _with_residual(layer, exact, residual.exact)
    if target == BY_TWO:
        real, scale = depth_to_space(real, 2), scale[: len(scale) // 4]
        made = depth_to_space(torch.from_numpy(made), 2).numpy()
    return layer, Signal(real, made, scale, limit)


def _depthwise(x: Signal, module: nn.Conv2d) -> tuple[IntegerLayer, Signal]:
    real = F.conv2d(
        x.real.permute(0, 3, 1, 2), module.weight.float(), module.bias.float(),  # type: ignore[union-attr]
        padding=1, groups=module.groups,
    ).permute(0, 2, 3, 1)  # fmt: skip
    scale = _scale(real, HIDDEN_LIMIT)
    folded = module.weight.double().numpy()[:, 0] * (x.scale / scale)[:, None, None]
    mean = real.double().mean((0, 1, 2)).numpy() / scale
    layer = _quantised(folded, mean, x.exact, x.limit, HIDDEN_LIMIT)
    made = np.empty_like(x.exact)
    for item, out in zip(x.exact, made, strict=True):
        run_spatial(layer, item, out, (0, len(item)))
    return layer, Signal(real, made, scale, HIDDEN_LIMIT)


def _sums_only(x: Signal, module: nn.Module) -> tuple[IntegerLayer, Array]:
    """A dense layer whose sums are the result, and the real value of one step of them [out]."""
    weight, bias = _linear(module)
    folded = weight.double().numpy() * x.scale
    largest = np.abs(folded).max(axis=1) / WEIGHT_MAX
    step = np.maximum(largest, np.abs(folded).sum(axis=1) * x.limit / (0.9 * ACCUMULATOR_MAX))
    mean = F.linear(x.real, weight, bias).double().mean((0, 1, 2)).numpy() / step
    layer = _quantised(folded / step[:, None], mean, x.exact, x.limit, WEIGHT_MAX, is_shifted=False)
    return layer, step


def _quantised(
    folded: Array,
    mean: Array,
    exact: Int16,
    input_max: int,
    limit: int,
    *,
    is_shifted: bool = True,
) -> IntegerLayer:
    """The layer with weights [out, ...] in output steps, and the mean of its outputs [out]."""
    axes = tuple(range(1, folded.ndim))
    magnitude = np.abs(folded).max(axis=axes).clip(2.0**-60)
    worst = np.abs(folded).sum(axis=axes) * input_max + np.abs(mean) + 1
    room = np.minimum(WEIGHT_MAX / magnitude, 0.98 * ACCUMULATOR_MAX / worst)
    shift = np.floor(np.log2(room)).clip(0, SHIFT_MAX).astype(np.int64)
    if not is_shifted:
        shift[:] = 0
    while True:
        unit = 2.0**shift
        q = np.rint(folded * unit.reshape(-1, *[1] * len(axes))).astype(np.int16)
        bias = np.rint(mean * unit - _mean_of_sums(q, exact) + ((1 << shift) >> 1))
        over = np.abs(q.astype(np.int64)).sum(axis=axes) * input_max + np.abs(bias)
        if (over <= ACCUMULATOR_MAX).all() or not shift.any():
            return IntegerLayer(
                q, bias.astype(np.int32), shift.astype(np.uint8), int(input_max), int(limit)
            )
        shift[over > ACCUMULATOR_MAX] -= 1  # the corrected bias passed the margin


def _mean_of_sums(q: Int16, exact: Int16) -> Array:
    """Mean of each output's sum without bias over inputs [N, H, W, in]."""
    if q.ndim == 2:
        return exact.reshape(-1, exact.shape[-1]).mean(axis=0, dtype=np.float64) @ q.T
    height, width = exact.shape[1:3]
    padded = np.pad(exact, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = np.zeros(len(q))
    for dy in range(3):
        for dx in range(3):
            part = padded[:, dy : dy + height, dx : dx + width]
            total += part.mean(axis=(0, 1, 2), dtype=np.float64) * q[:, dy, dx]
    return total


def _with_residual(layer: IntegerLayer, exact: Int16, residual: Int16) -> Int16:
    """clamp(residual + clamp16(sum >> shift)); exact, and quick enough for calibration."""
    sums = exact.reshape(-1, layer.inputs).astype(np.float64) @ layer.weight.T.astype(np.float64)
    t = np.clip((sums.astype(np.int64) + layer.bias) >> layer.shift, -(2**15), 2**15 - 1)
    y = np.clip(residual.reshape(t.shape) + t, -layer.limit, layer.limit)
    return y.astype(np.int16).reshape(residual.shape)


# Scales ----------------------------------------------------------------------------------------


def _linear(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight [out, in] and bias [out] of a linear layer, or of a convolution, kernel folded."""
    assert isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None
    weight = module.weight.detach().float()
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1).flatten(1)
    return weight, module.bias.detach().float()


def _scale(real: Tensor, limit: int) -> Array:
    """Real value of one step of each channel of [..., C]."""
    high = real.abs().flatten(0, -2).amax(0).double().numpy()
    return HEADROOM * np.maximum(high, max(float(high.max()), 1e-6) * _FINEST) / limit


def _stream_scale(real: Tensor, modules: nn.Sequential) -> Array:
    """The scale of a stream that starts as `real` and goes through residual blocks."""
    scale = _scale(real, STREAM_LIMIT)
    for block in modules:
        real = block(real)
        scale = np.maximum(scale, _scale(real, STREAM_LIMIT))
    return scale


def _gain_table(gains: Array, limit: int) -> GainTable:
    """multiplier / 2^shift nearest to the gains [qualities, channels]."""
    if gains.max() > GAIN_MAX:
        raise ValueError("a gain is too large for its table")
    shift = np.floor(np.log2(GAIN_MAX / np.maximum(gains, 1e-30))).clip(0, GAIN_SHIFT_MAX)
    multiplier = np.rint(gains * 2.0**shift)
    return GainTable(multiplier.astype(np.uint16), shift.astype(np.uint8), limit)


def _gained(table: GainTable, steps: list[int], x: np.ndarray) -> Int16:
    items = [run_gain(table, q, item, (0, len(item))) for q, item in zip(steps, x, strict=True)]
    return np.stack(items)


def _flat(x: Int16) -> Int16:
    return np.ascontiguousarray(x).reshape(-1, *x.shape[2:])
