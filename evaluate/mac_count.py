"""Multiplications of a codec's networks, counted from what its weights file says it has.

Float transforms are built from the configuration on torch's "meta" device, where every layer gets
its shape and nothing is computed, and run once under torch's counter of matrix products and
convolutions. Integer networks are walked layer by layer. So the count does not depend on how the
codec runs its networks, and one multiply-accumulate counts 1, as in the papers of the field.
Elementwise work (gains, activations, squares of GDN) is not counted, nor rows that a large picture
computes twice where bands overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rhodec.codecs.weights_file import WeightsFile, read_weights
from rhodec.entropy.coding_schedule import SCHEDULES, CodingSchedule
from rhodec.entropy.integer_network import IntegerLayer, IntegerNetwork

LATENT_STRIDE = 16  # pixels per latent position
HYPER_STRIDE = 4  # latent positions per hyper-latent position
# Without padding at any level, so that the count per pixel is that of a large picture.
NOMINAL_SIDE = 512

# Which part runs where: stage -> (in the encoder, in the decoder). An encoder needs no synthesis
# unless it is asked for its PSNR.
STAGES = {
    "analysis": (True, False),
    "hyper analysis": (True, False),
    "hyper synthesis": (True, True),
    "context": (True, True),
    "heads": (True, True),
    "synthesis": (False, True),
}


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates of a picture of `width` x `height`, by stage."""

    width: int
    height: int
    by_stage: Mapping[str, int]

    @cached_property
    def encoder_kmac_per_pixel(self) -> float:
        return self._per_pixel(0)

    @cached_property
    def decoder_kmac_per_pixel(self) -> float:
        return self._per_pixel(1)

    def _per_pixel(self, side: int) -> float:
        total = sum(count for stage, count in self.by_stage.items() if STAGES[stage][side])
        return total / (self.width * self.height) / 1000


def count_macs(codec: Any, width: int = NOMINAL_SIDE, height: int = NOMINAL_SIDE) -> MacCount:
    """The multiplications of a codec of the registry, for a picture of this size.

    Raises `ValueError` for a codec that is not made of a float model and integer networks.
    """
    path: Path | None = getattr(codec, "weights_path", None)
    if path is None:
        raise ValueError(f"{codec.name} has no weights file to count from")
    return count_weights(read_weights(path), width, height)


def count_weights(
    weights: WeightsFile, width: int = NOMINAL_SIDE, height: int = NOMINAL_SIDE
) -> MacCount:
    """The multiplications that a weights file causes; see `count_macs`."""
    import torch

    from rhodec.codecs.config_table import from_table
    from rhodec.codecs.registry import FAMILIES

    family = FAMILIES.get(weights.family)
    if family is None or not hasattr(family, "model"):
        raise ValueError(f"the networks of family {weights.family!r} are not counted")
    with torch.device("meta"):
        model = family.model(from_table(family.config, weights.config))
    rows, columns = -(-height // LATENT_STRIDE), -(-width // LATENT_STRIDE)
    counts = _float_macs(model, rows, columns)
    latent = weights.config.get("latent", {})
    if "schedule" in latent:
        arrays = weights.part("int")
        names = {key.rsplit(".forms", 1)[0] for key in arrays if key.endswith(".forms")}
        networks = {name: IntegerNetwork.from_arrays(name, arrays) for name in names}
        counts |= integer_macs(networks, SCHEDULES[latent["schedule"]], rows, columns)
    return MacCount(width, height, counts)


def _float_macs(model: Any, rows: int, columns: int) -> dict[str, int]:
    """Multiplications of the float networks for so many latent rows and columns."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counts = {}

    def counted(stage: str, function, *arguments):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            result = function(*arguments)
        counts[stage] = counts.get(stage, 0) + counter.get_total_flops() // 2  # a MAC is two
        return result

    meta: dict[str, Any] = {"device": "meta"}
    pixels = torch.empty(1, rows * LATENT_STRIDE, columns * LATENT_STRIDE, 3, **meta)
    gains = model.log_gain.shape[1], model.log_analysis_gain.shape[1]
    of_latents, of_features = (torch.empty(1, 1, 1, channels, **meta) for channels in gains)
    # The parts of `TransformModel` that multiply matrices, without its choice of gains.
    features = counted("analysis", model.analysis.features, pixels)
    y = counted("analysis", model.analysis.latents_of, features, of_features) * of_latents
    counted("synthesis", model.synthesis, y, of_features)
    hyper_analysis = getattr(model.latent, "hyper_analysis", None)
    if hyper_analysis is not None:
        padded = [-(-side // HYPER_STRIDE) * HYPER_STRIDE for side in (rows, columns)]
        counted("hyper analysis", hyper_analysis, torch.empty(1, y.shape[-1], *padded, **meta))
    return counts


def integer_macs(
    networks: Mapping[str, IntegerNetwork], schedule: CodingSchedule, rows: int, columns: int
) -> dict[str, int]:
    """Multiplications of the entropy model for so many latent rows and columns, by stage.

    The context network runs for every step but the first; the sums of its first layer grow by what
    a step makes known. A head runs only at the positions and channels that its step codes.
    """

    def cells(step: int) -> int:
        """Positions of each member of a step, in all."""
        places = (divmod(position, 2) for _, position in schedule.members(step))
        return sum(len(range(y, rows, 2)) * len(range(x, columns, 2)) for y, x in places)

    hyper_size = -(-rows // HYPER_STRIDE), -(-columns // HYPER_STRIDE)
    hyper_synthesis = networks["hyper_synthesis"]
    counts = {"hyper synthesis": chain_macs(hyper_synthesis.layers, *hyper_size)}
    if "context" in networks:
        first, *rest = networks["context"].layers
        features = hyper_synthesis.channels
        group_size = (first.inputs - features) // schedule.groups
        steps = range(schedule.steps - 1)
        known = rows * columns * features + sum(cells(step) for step in steps) * group_size
        counts["context"] = known * first.outputs + len(steps) * chain_macs(rest, rows, columns)
    heads = 0
    for step in range(schedule.steps):
        (layer,) = networks[f"heads.{step}"].layers
        heads += cells(step) * layer.outputs * layer.inputs // schedule.groups
    return counts | {"heads": heads}


def chain_macs(layers: Iterable[IntegerLayer], rows: int, columns: int) -> int:
    """Multiplications of a chain of integer layers on (rows, columns) positions."""
    total = 0
    for layer in layers:
        total += rows * columns * layer.outputs * layer.weight[0].size
        if layer.shuffle:
            rows, columns = 2 * rows, 2 * columns
    return total
