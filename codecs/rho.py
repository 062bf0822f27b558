"""`rho`, the flagship: one variable-rate model for photographs, few multiplications per pixel.

Depthwise transforms at 1/8 and 1/16 (in the manner of DCVC-RT, Jia et al., CVPR 2025) that start as
a Karhunen-Loeve transform, a hyperprior, and the four-step parallel context of DCVC-DC (Li et al.,
CVPR 2023) in integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rhodec.codecs.transform_model import RateRange, TransformModel
from rhodec.entropy.hyper_latent import HyperLatent, LatentConfig
from rhodec.transforms.depthwise import DepthwiseAnalysis, DepthwiseSynthesis, klt_initialise


@dataclass(frozen=True)
class RhoConfig:
    """narrow, wide: channels at 1/8 and 1/16; blocks: depthwise blocks at (1/8, 1/16)."""

    narrow: int = 128
    wide: int = 256
    analysis_blocks: tuple[int, int] = (2, 2)
    synthesis_blocks: tuple[int, int] = (3, 2)
    latent: LatentConfig = field(
        default_factory=lambda: LatentConfig(latents=256, hyper=64, features=192)
    )
    rates: RateRange = field(default_factory=RateRange)


class RhoModel(TransformModel):
    """Float model of `rho`."""

    analysis: DepthwiseAnalysis
    synthesis: DepthwiseSynthesis
    latent: HyperLatent

    def __init__(self, config: RhoConfig):
        super().__init__(config.rates, config.latent.latents, config.wide)
        self.config = config
        sizes = config.narrow, config.wide, config.latent.latents
        self.analysis = DepthwiseAnalysis(*sizes, config.analysis_blocks)
        self.synthesis = DepthwiseSynthesis(*sizes, config.synthesis_blocks)
        self.latent = HyperLatent(config.latent)

    @torch.no_grad()
    def initialise(self, pixels: Tensor) -> None:
        """Start as a linear transform codec fitted to `pixels`."""
        klt_initialise(self.analysis, self.synthesis, pixels - 0.5)
        middle = torch.full((len(pixels),), 0.5, device=pixels.device)
        y = self.latents_of(self.features(pixels), middle)
        self.latent.initialise(y.permute(0, 3, 1, 2))
