"""Analysis and synthesis of a weights file in integers, without torch.

Each band of rows is computed from the rows it depends on, no more; bands, threads and kernels do
not change the result.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rhodec.codecs.weights_file import WeightsFile
from rhodec.entropy.latent_format import HYPER_STRIDE, QUALITY_STEPS
from rhodec.transforms.integer_depthwise import (
    IntegerAnalysis,
    IntegerHyperAnalysis,
    IntegerSynthesis,
)
from rhodec.transforms.integer_transform import Backend

STRIDE = 16  # pixels per latent position
BACKEND: Backend = "c"  # evaluator of this process; tests also run the definition

Float32 = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]
Pixels = npt.NDArray[np.uint8]


class IntegerTransforms:
    """The integer transforms of a weights file, proved at construction (ValueError)."""

    are_exact = True

    def __init__(self, weights: WeightsFile) -> None:
        arrays = weights.part("int")
        self.synthesis = IntegerSynthesis.from_arrays("synthesis", arrays)
        self.analysis = IntegerAnalysis.from_arrays("analysis", arrays)
        self.hyper_analysis = IntegerHyperAnalysis.from_arrays("hyper_analysis", arrays)
        for transform in (self.synthesis, self.analysis):
            name = "synthesis" if transform is self.synthesis else "analysis"
            blocks = [len(transform.fine), len(transform.coarse)]
            if blocks != list(weights.config.get(f"{name}_blocks", blocks)):
                raise ValueError(f"the weights file lacks blocks of the {name}")
        tables = (self.synthesis.latent_gain.multiplier, self.synthesis.feature_gain.multiplier)
        for table in (*tables, self.analysis.feature_gain.multiplier, self.analysis.factor):
            if len(table) != QUALITY_STEPS + 1:
                raise ValueError("a gain table does not have a row for every quality")

    @property
    def latent_halo(self) -> int:
        return self.analysis.latent_halo

    def features(self, image: Pixels, begin: int, end: int) -> Int16:
        """Features of some latent rows, int16 (end - begin, w, C)."""
        rows, halo = -(-len(image) // STRIDE), self.analysis.feature_halo
        first, last = max(0, begin - halo), min(rows, end + halo)
        band = np.ascontiguousarray(image[first * STRIDE : last * STRIDE])
        inner = (begin - first, end - first)
        return self.analysis.features(band, last - first, inner, BACKEND)[slice(*inner)]

    def latents_of(self, features: Int16, begin: int, end: int, quality_step: int) -> Float32:
        """Latents in steps, float32 (end - begin, w, C), of some rows of features (h, w, C)."""
        halo = self.analysis.latent_halo
        first, last = max(0, begin - halo), min(len(features), end + halo)
        inner = (begin - first, end - first)
        band = features[first:last]
        return self.analysis.latents_of(band, quality_step, inner, BACKEND)[slice(*inner)]

    def hyper_latents(self, y: Float32, begin: int, end: int) -> npt.NDArray[np.int32]:
        """Some rows of z (ceil(h/4), ceil(w/4), Z) of latents y (h, w, C)."""
        rows, halo = -(-len(y) // HYPER_STRIDE), self.hyper_analysis.halo
        first, last = max(0, begin - halo), min(rows, end + halo)
        inner = (begin - first, end - first)
        band = y[first * HYPER_STRIDE : last * HYPER_STRIDE]
        z = self.hyper_analysis.run(band, inner, BACKEND)
        return z[slice(*inner)].astype(np.int32)

    def synthesise(
        self, y_hat64: npt.NDArray[np.int32], begin: int, end: int, quality_step: int, out: Pixels
    ) -> None:
        """Write the pixels of some latent rows into the picture `out` (H, W, 3)."""
        halo = self.synthesis.halo
        first, last = max(0, begin - halo), min(len(y_hat64), end + halo)
        place = out[first * STRIDE : last * STRIDE]
        inner = (begin - first, end - first)
        self.synthesis.run(y_hat64[first:last], quality_step, place, inner, BACKEND)
