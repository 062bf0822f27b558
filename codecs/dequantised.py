"""The parameters of a float model that does what the integer transforms of a weights file do.

What is left out is the rounding and the saturation. For encoders that search by gradient descent.
Activations inside the twin are in integer steps, because no scale between two layers is stored; at
the gains and at both ends they are real, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rhodec.codecs.integer_transforms import IntegerTransforms
from rhodec.codecs.weights_file import WeightsFile
from rhodec.entropy.latent_format import QUALITY_STEPS
from rhodec.transforms.integer_depthwise import CURVE_FRACTION
from rhodec.transforms.integer_transform import PIXEL_CENTRE, GainTable, IntegerLayer

Array = npt.NDArray[np.float64]
HYPER_LAYERS = {0: "first", 2: "halve", 4: "spatial", 5: "mix", 7: "last"}


def float_parameters(weights: WeightsFile, transforms: IntegerTransforms) -> dict[str, np.ndarray]:
    """Names and float32 values for the state of a `RhoModel`, without those of its latent model
    beyond the hyper-analysis."""
    logs = weights.part("float")
    gains = {name: _gains(weights, value) for name, value in logs.items()}
    synthesis, analysis = transforms.synthesis, transforms.analysis
    made = dict(logs)

    latent_unit = _ratio(gains["log_inverse_gain"] / 64, _real(synthesis.latent_gain))
    wide_unit = _ratio(_real(synthesis.feature_gain), gains["log_synthesis_gain"])
    made |= _linear("synthesis.head", synthesis.head, 1 / latent_unit, wide_unit)
    made |= _linear("synthesis.up", synthesis.up)
    made |= _linear("synthesis.tail", synthesis.tail, output_unit=1 / 255)
    made["synthesis.tail.bias"] += (PIXEL_CENTRE - 127.5) / 255

    wide_unit = _ratio(_real(analysis.feature_gain), gains["log_analysis_gain"])
    made |= _linear("analysis.stem", analysis.stem, 255.0)
    # A pixel p is the integer p - 128 and the real number p / 255 - 1/2.
    made["analysis.stem.bias"] += (127.5 - PIXEL_CENTRE) * made["analysis.stem.weight"].sum(1) / 255
    made |= _linear("analysis.down", analysis.down, output_unit=wide_unit)
    step = _ratio(analysis.factor.astype(np.float64), gains["log_gain"])
    made |= _linear("analysis.head", analysis.head, output_unit=step)

    for name, transform in (("synthesis", synthesis), ("analysis", analysis)):
        for stage in ("fine", "coarse"):
            for index, block in enumerate(getattr(transform, stage)):
                for part, layer in block._asdict().items():
                    made |= _linear(f"{name}.{stage}.{index}.{part}", layer)

    hyper = transforms.hyper_analysis
    unit = np.arcsinh((len(hyper.curve) - 1) / CURVE_FRACTION) / float(hyper.curve[-1])
    for index, part in HYPER_LAYERS.items():
        layer = getattr(hyper, part)
        name = f"latent.hyper_analysis.{index}"
        made |= _linear(name, layer, 1 / unit if part == "first" else 1.0)
        if layer.is_dense:  # a convolution of 1x1 or 2x2, folded
            weight = made[f"{name}.weight"]
            kernel = 2 if part in ("halve", "last") else 1
            weight = weight.reshape(len(weight), kernel, kernel, -1)
            made[f"{name}.weight"] = weight.transpose(0, 3, 1, 2)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in made.items()}


def _linear(
    name: str,
    layer: IntegerLayer,
    input_unit: Array | float = 1.0,
    output_unit: Array | float = 1.0,
) -> Mapping[str, Array]:
    """Real weight and bias; units: integer steps per real input, real output per integer step."""
    step = 0.5 ** layer.shift.astype(np.float64) * output_unit
    half = (1 << layer.shift.astype(np.int64)) >> 1
    weight = layer.weight.astype(np.float64)
    if layer.is_dense:
        weight = weight * step[:, None] * input_unit
    else:
        weight = (weight * step[:, None, None])[:, None]
    return {f"{name}.weight": weight, f"{name}.bias": (layer.bias - half) * step}


def _real(table: GainTable) -> Array:
    return table.multiplier * 0.5 ** table.shift.astype(np.float64)


def _ratio(a: Array, b: Array) -> Array:
    """a / b [qualities, channels], which does not depend on the quality, averaged over these."""
    return (a / b).mean(axis=0)


def _gains(weights: WeightsFile, logs: np.ndarray) -> Array:
    """Gains [qualities, channels] from their logarithms at the knots; `TransformModel.gain`."""
    rates = weights.config.get("rates", {})
    low, high = rates.get("span", (0.0, 1.0))
    knots = len(logs)
    place = (low + (high - low) * np.arange(QUALITY_STEPS + 1) / QUALITY_STEPS) * (knots - 1)
    lower = np.floor(place).clip(0, knots - 2).astype(np.int64)
    weight = (place - lower)[:, None]
    logs = logs.astype(np.float64)
    return np.exp(logs[lower] * (1 - weight) + logs[lower + 1] * weight)
