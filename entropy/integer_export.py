"""Export: post-training quantisation of a float `ConvNetwork` to an exact `IntegerNetwork`.

Weights and activations get 8 bits (W8A8): activations 0..255 after ReLU, -127..127 otherwise. The
layers are a plain chain, so every scale may differ between channels: the real value of one integer
step of an input channel folds into the weights,

    W_oi = w_oi * input_scale_i,        weight_oi = round(W_oi / step_o),
    multiplier_o / 2^shift_o = step_o / output_scale_o  (15 bits of mantissa),

and step_o is enlarged where sum|weight| * input_max + |bias| would pass 2^30 - 1. Each bias makes
the mean of the integer pre-activation over the calibration inputs that of the float network, errors
of the layers before included (Nagel et al., "Data-Free Quantization Through Weight Equalization and
Bias Correction", ICCV 2019). Scales of hidden channels lie between one for the whole layer and one
for each channel's own range, as in SmoothQuant (Xiao et al., ICML 2023); the exponent is chosen by
the error at the network's output.

Export is floating-point and may differ between machines; its result is what a model file stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhodec.entropy.conv_network import ConvNetwork, ConvSpec
from rhodec.entropy.integer_network import (
    ACCUMULATOR_MAX,
    WEIGHT_MAX,
    IntegerLayer,
    IntegerNetwork,
)

Array = npt.NDArray[np.float64]

ACTIVATION_MAX = 4095  # after ReLU
_SIGNED_MAX = 2047
HEADROOM = 1.5  # room above the largest calibrated activation for pictures not seen
_BALANCES = (0.0, 0.5, 1.0)  # exponents tried between a layer's range and a channel's own


@dataclass(frozen=True)
class Deviation:
    """Integer minus float output, in steps of the integer output; clamped as the integers are."""

    mean: float
    rms: float
    maximum: float
    equal: float
    """Share of outputs that are exactly the rounded float output."""


def quantise_network(
    net: ConvNetwork,
    inputs: Iterable[Tensor],
    input_scale: npt.ArrayLike,
    input_max: npt.ArrayLike,
    output_scale: npt.ArrayLike,
    output_low: npt.ArrayLike,
    output_high: npt.ArrayLike,
    quantile: float = 1.0,
) -> IntegerNetwork:
    """The integer twin of `net`, proved (`IntegerNetwork.check`).

    `inputs` are float tensors (B, C, H, W) as `net` sees them in use; a few dozen images suffice.
    `input_scale` and `input_max` (scalars or [C]) say what the integer input is: real value of one
    step, and largest |integer|. `output_scale` (scalar or [channels of the result]) is the real
    value of one integer output step, `output_low` and `output_high` the integers' range, within
    int16. Hidden activations saturate at HEADROOM times the given quantile of their magnitude.
    """
    batches = [x.detach().float().cpu() for x in inputs]
    if not batches:
        raise ValueError("calibration needs at least one input")
    first, last = net.specs[0], net.specs[-1]
    channels = last.outputs // 4 if last.shuffle else last.outputs
    a_scale = _per_channel(input_scale, first.inputs)
    a_max = _per_channel(input_max, first.inputs).astype(np.int64)
    result = _Result(
        _per_channel(output_scale, channels),
        _per_channel(output_low, channels).astype(np.int64),
        _per_channel(output_high, channels).astype(np.int64),
    )
    seen = _observe(net, batches, quantile)
    exact = [  # integers in float32, (B, C, H, W)
        torch.from_numpy(np.stack(quantise_input(x, a_scale, a_max))).permute(0, 3, 1, 2).float()
        for x in batches
    ]
    candidates = [
        _quantise_with(net, seen, exact, a_scale, a_max, result, balance)
        for balance in (_BALANCES if len(net.specs) > 1 else _BALANCES[:1])
    ]
    errors = [
        deviation(net, candidate, batches, a_scale, a_max, result.scale).rms
        for candidate in candidates
    ]
    return candidates[int(np.argmin(errors))]


def quantise_input(x: Tensor, scale: npt.ArrayLike, maximum: npt.ArrayLike) -> list[np.ndarray]:
    """Float (B, C, H, W) -> int16 [H, W, C] for each item: clamp(round(x / scale), +-maximum)."""
    a = x.detach().double().cpu().permute(0, 2, 3, 1).numpy() / np.asarray(scale, np.float64)
    bound = np.asarray(maximum, np.float64)
    return list(np.clip(np.rint(a), -bound, bound).astype(np.int16))


def deviation(
    net: ConvNetwork,
    integer: IntegerNetwork,
    inputs: Iterable[Tensor],
    input_scale: npt.ArrayLike,
    input_max: npt.ArrayLike,
    output_scale: npt.ArrayLike,
) -> Deviation:
    """How far the integer network is from the float one on float inputs (B, C, H, W)."""
    last = integer[-1]
    low, high = (b[::4] if last.shuffle else b for b in (last.low, last.high))
    differences, equal = [], []
    for x in inputs:
        with torch.no_grad():
            y = net(x.float()).double().permute(0, 2, 3, 1).cpu().numpy()
        target = np.clip(y / np.asarray(output_scale, np.float64), low, high)
        found = np.stack([integer(a) for a in quantise_input(x, input_scale, input_max)])
        differences.append((found - target).ravel())
        equal.append((found == np.floor(target + 0.5)).ravel())
    d = np.concatenate(differences)
    return Deviation(
        mean=float(d.mean()),
        rms=float(np.sqrt(np.square(d).mean())),
        maximum=float(np.abs(d).max()),
        equal=float(np.concatenate(equal).mean()),
    )


@dataclass(frozen=True)
class _Result:
    """What the integers at the end of the network mean, [channels]."""

    scale: Array
    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]


def _per_channel(value: npt.ArrayLike, channels: int) -> Array:
    return np.broadcast_to(np.asarray(value, np.float64), (channels,)).copy()


@dataclass(frozen=True)
class _Seen:
    """What the float network does in one layer over the calibration inputs."""

    mean: Array  # of the sums before ReLU, [out]
    whole: float  # quantile of |activation| over the layer
    own: Array  # the same for each channel of the result, [channels]


def _observe(net: ConvNetwork, batches: Sequence[Tensor], quantile: float) -> list[_Seen]:
    real, seen = list(batches), []
    for spec, conv in zip(net.specs, net.layers, strict=True):
        sums = [_convolve(spec, x, *_parameters(conv)) for x in real]
        real = [F.relu(x) if spec.relu else x for x in sums]
        real = [F.pixel_shuffle(x, 2) if spec.shuffle else x for x in real]
        values = torch.cat([x.abs().transpose(0, 1).flatten(1) for x in real], dim=1).numpy()
        values *= HEADROOM
        whole = float(np.quantile(values, quantile)) or float(values.max()) or 1.0
        own = np.quantile(values, quantile, axis=1)
        # a channel that was silent here need not be so elsewhere
        seen.append(_Seen(_mean(sums), whole, np.maximum(own, whole / 64)))
    return seen


def _quantise_with(
    net: ConvNetwork,
    seen: Sequence[_Seen],
    exact: Sequence[Tensor],
    a_scale: Array,
    a_max: npt.NDArray[np.int64],
    result: _Result,
    balance: float,
) -> IntegerNetwork:
    """All layers in order; `exact` are the integer inputs as float tensors (B, C, H, W)."""
    layers: list[IntegerLayer] = []
    for index, (spec, conv) in enumerate(zip(net.specs, net.layers, strict=True)):
        if index == len(net.specs) - 1:
            y_scale, low, high = result.scale, result.low, result.high
        else:
            follower = net.specs[index + 1]
            # A depthwise layer has one weight step for each of its inputs: own ranges cost nothing.
            exponent = 1.0 if follower.depthwise else balance
            top = ACTIVATION_MAX if spec.relu else _SIGNED_MAX
            y_scale = seen[index].own ** exponent * seen[index].whole ** (1 - exponent) / top
            low, high = np.full(y_scale.size, -top), np.full(y_scale.size, top)
        if spec.relu:
            low = np.maximum(low, 0)
        if spec.shuffle:  # four convolution channels share a channel of the result
            y_scale, low, high = (np.repeat(v, 4) for v in (y_scale, low, high))
        layer = _quantise_layer(
            spec, conv, seen[index].mean, exact, a_scale, a_max, y_scale, low, high
        )
        layers.append(layer)
        exact = [_advance(layer, x) for x in exact]
        a_max = layer.output_max.astype(np.int64)
        a_scale = y_scale[::4] if spec.shuffle else y_scale
    return IntegerNetwork(layers)


def _convolve(spec: ConvSpec, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    groups = spec.inputs if spec.depthwise else 1
    return F.conv2d(x, weight, bias, padding=spec.kernel // 2, groups=groups)


def _parameters(conv: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return conv.weight.detach().float().cpu(), conv.bias.detach().float().cpu()


def _mean(sums: Sequence[Tensor]) -> Array:
    """Mean of each channel over batches of tensors (B, C, H, W), [C]."""
    return np.mean([x.double().mean(dim=(0, 2, 3)).numpy() for x in sums], axis=0)


def _advance(layer: IntegerLayer, x: Tensor) -> Tensor:
    """One integer layer on integers held in a float tensor (B, C, H, W)."""
    net = IntegerNetwork([layer])
    items = [net(item) for item in x.permute(0, 2, 3, 1).short().contiguous().numpy()]
    return torch.from_numpy(np.stack(items)).permute(0, 3, 1, 2).float()


def _quantise_layer(
    spec: ConvSpec,
    conv: nn.Module,
    mean: Array,
    exact: Sequence[Tensor],
    a_scale: Array,
    a_max: npt.NDArray[np.int64],
    y_scale: Array,
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
) -> IntegerLayer:
    """One layer; `mean` is that of its float sums [out], `exact` are its integer inputs."""
    weight, bias = _parameters(conv)
    scale = a_scale[:, None] if spec.depthwise else a_scale[None, :]
    folded = weight.double().numpy() * scale[..., None, None]  # [out, in or 1, k, k]
    magnitude = np.abs(folded)
    sums = magnitude.sum(axis=(2, 3))  # [out, in or 1]
    worst = sums[:, 0] * a_max if spec.depthwise else sums @ a_max
    worst = worst + np.abs(bias.double().numpy())
    # 2^-20 of an output step: below it weights no longer matter, and the shift stays in range
    step = np.maximum(magnitude.max(axis=(1, 2, 3)) / WEIGHT_MAX, y_scale * 2.0**-20)
    step = np.maximum(step, worst / (0.985 * ACCUMULATOR_MAX))
    while True:
        q = np.rint(folded / step[:, None, None, None]).astype(np.int16)
        integers = torch.from_numpy(q).float()
        shift_of_mean = np.rint(
            mean / step - _mean([_convolve(spec, x, integers, None) for x in exact])
        )
        multiplier, shift = _multipliers(step / y_scale)
        layer = IntegerLayer(
            spec.kernel,
            spec.depthwise,
            spec.shuffle,
            weight=q,
            bias=shift_of_mean.astype(np.int32),
            multiplier=multiplier,
            shift=shift,
            low=low.astype(np.int32),
            high=high.astype(np.int32),
            input_max=a_max.astype(np.int16),
        )
        over = layer.accumulator_max() > ACCUMULATOR_MAX
        if not over.any():
            return layer
        step = np.where(over, step * 1.01, step)  # rounding or the corrected bias passed the margin


def _multipliers(ratio: Array) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """(m, s) with m / 2^s nearest to each ratio, m in [2^14, 2^15)."""
    fraction, exponent = np.frexp(ratio)  # fraction in [1/2, 1)
    m = np.rint(fraction * 2**15).astype(np.int64)
    exponent = np.where(m == 2**15, exponent + 1, exponent)
    m = np.where(m == 2**15, 2**14, m)
    s = 15 - exponent
    if (s < 1).any():
        raise ValueError("an output scale is too fine: one weight step is 2^14 output steps")
    return m.astype(np.uint16), s.astype(np.uint8)
