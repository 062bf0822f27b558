"""The classical baselines: GDN transforms with a factorized prior or a hyperprior.

- `factorized`: Balle, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale
  hyperprior" (ICLR 2018), its baseline without the hyperprior;
- `scale-hyperprior`: the same paper's hyperprior, which predicts the scales of zero-mean Gaussians;
- `mean-scale-hyperprior`: Minnen, Balle, Toderici, "Joint autoregressive and hierarchical priors
  for learned image compression" (NeurIPS 2018), without its serial context: means and scales. With
  `schedule = "checkerboard"` it has the two-pass context of He et al., "Checkerboard context model
  for efficient learned image compression" (CVPR 2021).

How they deviate from the papers: one model serves all rates, by gains on the latents
(`TransformModel`), where the papers train a model per rate; the hyperprior's networks are those of
`HyperLatent`, small enough and of a form that runs in exact integers, where the papers have 5x5
convolutions; the transforms start as a Karhunen-Loeve transform. The sizes are for training on a
CPU; the papers have 128 to 192 channels and 192 to 320 latents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from rhodec.codecs.transform_model import RateRange, TransformModel
from rhodec.entropy.factorized_latent import FactorizedLatent
from rhodec.entropy.hyper_latent import HyperLatent, LatentConfig
from rhodec.entropy.latent_format import QUALITY_CLASSES
from rhodec.transforms.gdn_convolutions import GdnAnalysis, GdnSynthesis, gdn_klt_initialise

# 96 latents for the 768 numbers of a 16x16 block: at higher rates the error is what they leave out.
SMALL_RATES = RateRange(lambdas=(0.0005, 0.03))
SMALL_LATENT = LatentConfig(latents=96, hyper=48, features=96, schedule="single")
SMALL_SCALE_LATENT = replace(SMALL_LATENT, means=False)


@dataclass(frozen=True)
class FactorizedConfig:
    """channels: of the inner layers (N in the papers); latents: channels of y (M)."""

    channels: int = 64
    latents: int = 96
    rates: RateRange = SMALL_RATES


@dataclass(frozen=True)
class HyperpriorConfig:
    """channels: of the inner layers (N in the papers); `latent.latents` is their M."""

    channels: int = 64
    latent: LatentConfig = SMALL_LATENT
    rates: RateRange = SMALL_RATES


@dataclass(frozen=True)
class ScaleHyperpriorConfig(HyperpriorConfig):
    """`HyperpriorConfig` that defaults to no means."""

    latent: LatentConfig = SMALL_SCALE_LATENT


class GdnModel(TransformModel):
    """What the baselines share: GDN transforms and their start."""

    analysis: GdnAnalysis
    synthesis: GdnSynthesis

    def __init__(self, channels: int, latents: int, rates: RateRange, latent: nn.Module):
        super().__init__(rates, latents, steered=0)  # gains on y only (Cui et al.)
        self.analysis = GdnAnalysis(channels, latents)
        self.synthesis = GdnSynthesis(channels, latents)
        self.latent = latent

    @torch.no_grad()
    def start_transforms(self, pixels: Tensor) -> Tensor:
        """Fit the transforms to `pixels` (B, H, W, 3) in [0, 1]; their features (B, h, w, C)."""
        gdn_klt_initialise(self.analysis, self.synthesis, pixels - 0.5)
        # In parts: activations at half the resolution take much memory.
        return torch.cat([self.features(part) for part in pixels.split(8)])


class FactorizedModel(GdnModel):
    """Float model of `factorized`."""

    latent: FactorizedLatent

    def __init__(self, config: FactorizedConfig):
        if config.rates.span != (0.0, 1.0):
            raise ValueError("rates.span must be [0, 1]: the tables belong to trained qualities")
        latent = FactorizedLatent(config.latents)
        super().__init__(config.channels, config.latents, config.rates, latent)
        self.config = config

    @torch.no_grad()
    def initialise(self, pixels: Tensor) -> None:
        """Start as a linear transform codec fitted to `pixels`."""
        y = self.start_transforms(pixels)
        qualities = torch.linspace(0, 1, QUALITY_CLASSES, device=pixels.device)
        gains = self.gain(self.log_gain, qualities)[:, 0, 0]
        self.latent.initialise(y.permute(0, 3, 1, 2), gains.log())


class HyperpriorModel(GdnModel):
    """Float model of the two hyperpriors."""

    means: ClassVar[bool]
    latent: HyperLatent

    def __init__(self, config: HyperpriorConfig):
        if config.latent.means != self.means:
            raise ValueError(f"latent.means must be {self.means} for {type(self).__name__}")
        latent = HyperLatent(config.latent)
        super().__init__(config.channels, config.latent.latents, config.rates, latent)
        self.config = config

    @torch.no_grad()
    def initialise(self, pixels: Tensor) -> None:
        """Start as a linear transform codec fitted to `pixels`."""
        features = self.start_transforms(pixels)
        middle = torch.full((len(pixels),), 0.5, device=pixels.device)
        y = self.latents_of(features, middle)
        self.latent.initialise(y.permute(0, 3, 1, 2))


class ScaleHyperpriorModel(HyperpriorModel):
    """Float model of `scale-hyperprior`."""

    means = False


class MeanScaleHyperpriorModel(HyperpriorModel):
    """Float model of `mean-scale-hyperprior`."""

    means = True
