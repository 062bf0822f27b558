"""Rate and distortion of a model in training on a few held-out pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rhodec.codecs.transform_model import TransformModel
from rhodec.train.distortion import DISTORTIONS, MS_SSIM_SCALE, squared_error
from rhodec.train.photo_patches import read_rgb

QUALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
CROP = 512  # pixels; held-out pictures are cropped at the centre


def centre_crops(files: list[Path], least: int = 1) -> list[np.ndarray]:
    """The middle of each picture, uint8 (H, W, 3), H and W the multiples of 64 up to `CROP`.

    Pictures with a side below 64 or `least` are left out; ValueError when that leaves none.
    """
    least = max(least, 64)
    crops = []
    for file in files:
        picture = read_rgb(file)
        height, width = (min(CROP, side // 64 * 64) for side in picture.shape[:2])
        if min(height, width) >= least:
            top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
            crops.append(picture[top : top + height, left : left + width].copy())
    if not crops:
        raise ValueError(f"none of the {len(files)} held-out pictures has sides of {least} or more")
    return crops


@torch.no_grad()
def validate(
    model: TransformModel,
    crops: list[np.ndarray],
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
    distortion: str = "mse",
) -> dict[str, object] | None:
    """Mean loss over five qualities, and the (bpp, PSNR) curve; rates are likelihoods of integers.

    PSNR of the picture rounded to 8 bits, mean over pictures, in dB; with the distortion "ms-ssim"
    also the mean MS-SSIM. The loss of each quality is divided by the square root of its lambda
    relative to the lowest, so that none dominates.
    Draws no random numbers. None if `stop` asked for an end between two pictures.
    """
    bpp = np.zeros((len(QUALITIES), len(crops)))
    psnr_db, loss, cost = np.zeros_like(bpp), np.zeros_like(bpp), np.zeros_like(bpp)
    for j, crop in enumerate(crops):
        if stop():
            return None
        x = torch.from_numpy(crop).to(device)[None].float() / 255
        for i, q in enumerate(QUALITIES):
            quality = torch.full((1,), q, device=device)
            x_hat, y_bits, z_bits = model(x, quality, noise=False)
            decoded = (x_hat.clamp(0, 1) * 255).round() / 255
            mse = float(squared_error(decoded, x))
            cost[i, j] = float(DISTORTIONS[distortion](decoded, x))
            bpp[i, j] = float(y_bits + z_bits) / (crop.shape[0] * crop.shape[1])
            psnr_db[i, j] = 10 * np.log10(255**2 / max(mse, 1e-3))
            weight = float(model.lambda_of(quality))
            relative = weight / model.rates.lambdas[0]
            loss[i, j] = (bpp[i, j] + weight * cost[i, j]) / relative**0.5
    curve = {
        "bpp": [round(float(v), 5) for v in bpp.mean(1)],
        "psnr_db": [round(float(v), 4) for v in psnr_db.mean(1)],
    }
    if distortion == "ms-ssim":
        curve["ms_ssim"] = [round(1 - float(v) / MS_SSIM_SCALE, 5) for v in cost.mean(1)]
    return {"loss": float(loss.mean()), **curve}
