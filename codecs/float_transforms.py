"""Analysis and synthesis of a weights file in floating point, by torch.

For the families whose transforms have no integer form, and as the differentiable twin of those that
have one. Every band gets a halo as wide as the widest receptive field.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rhodec.codecs.transform_model import TransformModel
from rhodec.entropy.latent_codec import FRACTION_BITS
from rhodec.entropy.latent_format import HYPER_STRIDE, QUALITY_STEPS

STRIDE = 16  # pixels per latent position
HALO = 2 * HYPER_STRIDE  # latent rows; no transform sees further (tested)

Float32 = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


class FloatTransforms:
    """The transforms of a `TransformModel`; the interface of `IntegerTransforms`."""

    are_exact = False
    latent_halo = HALO

    def __init__(self, model: TransformModel) -> None:
        self.model = model
        self.hyper_analysis = getattr(model.latent, "hyper_analysis", None)

    @torch.inference_mode()
    def features(self, image: Pixels, begin: int, end: int) -> Float32:
        """Features of some latent rows, float32 (end - begin, w, C)."""
        height, width = image.shape[:2]
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        first, last = max(0, begin - HALO), min(rows, end + HALO)
        y_of = np.minimum(np.arange(first * STRIDE, last * STRIDE), height - 1)
        x_of = np.minimum(np.arange(columns * STRIDE), width - 1)
        band = torch.from_numpy(np.ascontiguousarray(image[y_of][:, x_of]))
        features = self.model.features(band[None].float() / 255)[0]
        return features[begin - first : end - first].numpy()

    @torch.inference_mode()
    def latents_of(self, features: Float32, begin: int, end: int, quality_step: int) -> Float32:
        """Latents in steps, float32 (end - begin, w, C), of some rows of features (h, w, C)."""
        first, last = max(0, begin - HALO), min(len(features), end + HALO)
        quality = self._trained_quality(quality_step)
        y = self.model.latents_of(torch.from_numpy(features[None, first:last]), quality)[0]
        return y[begin - first : end - first].numpy()

    @torch.inference_mode()
    def hyper_latents(self, y: Float32, begin: int, end: int) -> npt.NDArray[np.int32] | None:
        """Some rows of z (ceil(h/4), ceil(w/4), Z) of latents y (h, w, C); None without any."""
        if self.hyper_analysis is None:
            return None
        height, width, _ = y.shape
        rows, columns = -(-height // HYPER_STRIDE), -(-width // HYPER_STRIDE)
        first, last = max(0, begin - HALO), min(rows, end + HALO)
        y_of = np.minimum(np.arange(first * HYPER_STRIDE, last * HYPER_STRIDE), height - 1)
        x_of = np.minimum(np.arange(columns * HYPER_STRIDE), width - 1)
        band = torch.from_numpy(y[y_of][:, x_of])
        z = self.hyper_analysis(torch.asinh(band.permute(2, 0, 1)[None]))[0].permute(1, 2, 0)
        return np.rint(z[begin - first : end - first].numpy()).astype(np.int32)

    @torch.inference_mode()
    def synthesise(
        self, y_hat64: npt.NDArray[np.int32], begin: int, end: int, quality_step: int, out: Pixels
    ) -> None:
        """Write the pixels of some latent rows into the picture `out` (H, W, 3)."""
        height, width, _ = out.shape
        first, last = max(0, begin - HALO), min(len(y_hat64), end + HALO)
        y_hat = torch.from_numpy(y_hat64[first:last]).float() / (1 << FRACTION_BITS)
        x = self.model.synthesise(y_hat[None], self._trained_quality(quality_step))[0]
        x = x[(begin - first) * STRIDE : (end - first) * STRIDE, :width]
        pixels = x.mul(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
        top = begin * STRIDE
        out[top : top + len(pixels)] = pixels[: height - top]

    def _trained_quality(self, quality_step: int) -> Tensor:
        """The quality (1,) that the model's gains know, for a file's quality in half steps."""
        low, high = self.model.rates.span
        return torch.full((1,), low + (high - low) * quality_step / QUALITY_STEPS)


def load_float_model(model: TransformModel, parameters: dict[str, np.ndarray]) -> TransformModel:
    """`model`, which may be on the meta device, with parameters by name; ValueError for a gap.

    What only training needs of the latent model need not be among them.
    """
    floats = {k: torch.from_numpy(v).float() for k, v in parameters.items()}
    model.load_state_dict(floats, strict=False, assign=True)
    needed = (n for n, _ in model.named_parameters() if not n.startswith("latent."))
    missing = [n for n in needed if model.get_parameter(n).is_meta]
    if hasattr(model.latent, "hyper_analysis"):
        parts = model.latent.get_submodule("hyper_analysis").named_parameters()
        missing += [f"latent.hyper_analysis.{n}" for n, p in parts if p.is_meta]
    if missing:
        raise ValueError(f"the weights file lacks {missing[0]} and {len(missing) - 1} more")
    return model.eval()
