"""Model families that can be trained, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rhodec.codecs.hyperprior import (
    FactorizedConfig,
    FactorizedModel,
    HyperpriorConfig,
    MeanScaleHyperpriorModel,
    ScaleHyperpriorConfig,
    ScaleHyperpriorModel,
)
from rhodec.codecs.rho import RhoConfig, RhoModel
from rhodec.codecs.transform_model import TransformModel


@dataclass(frozen=True)
class Family:
    """A model family: its number in streams (bitstream/FORMAT.md), configuration and model."""

    codec_id: int
    config: type
    model: Callable[[Any], TransformModel]


FAMILIES = {
    "factorized": Family(1, FactorizedConfig, FactorizedModel),
    "scale-hyperprior": Family(2, ScaleHyperpriorConfig, ScaleHyperpriorModel),
    "mean-scale-hyperprior": Family(3, HyperpriorConfig, MeanScaleHyperpriorModel),
    "rho": Family(4, RhoConfig, RhoModel),
}
