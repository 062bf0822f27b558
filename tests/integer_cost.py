"""What the integer networks of an export cost in rate, against the float model of its checkpoint.

    python tests/integer_cost.py runs/rho/checkpoint.pt weights.safetensors photos/

Both code the same latents of held-out pictures with plain rounding; prints the difference of the
estimated rates at five qualities.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from rhodec.codecs.registry import load_transform_codec
from rhodec.codecs.transform_codec import Coded
from rhodec.entropy.latent_codec import HyperLatentCodec
from rhodec.entropy.latent_format import QUALITY_STEPS
from rhodec.train.photo_patches import picture_files, split_files
from rhodec.train.recipe import recipe_from_dict
from rhodec.train.validation import centre_crops

QUALITIES = (0, 25, 50, 75, 100)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="rate of integer against float networks")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("weights")
    parser.add_argument("data", type=Path)
    parser.add_argument("--pictures", type=int, default=8)
    args = parser.parse_args()
    state = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    recipe = recipe_from_dict(state["recipe"])
    model = recipe.new_model().eval()
    model.load_state_dict(state["average"])
    codec = load_transform_codec(args.weights)
    latent_codec = codec.latent_codec
    if not isinstance(latent_codec, HyperLatentCodec):
        raise SystemExit("a factorized codec has no integer networks")
    _, held_out = split_files(picture_files(args.data), recipe.held_out)
    bits = np.zeros((len(QUALITIES), 2))
    low, high = model.rates.span
    for crop in centre_crops(held_out[: args.pictures]):
        features = model.features(torch.from_numpy(crop)[None].float() / 255)
        for i, quality in enumerate(QUALITIES):
            step = quality * QUALITY_STEPS // 100
            trained = torch.tensor([low + (high - low) * step / QUALITY_STEPS])
            y = model.latents_of(features, trained)
            _, y_bits, z_bits = model.latent(y.permute(0, 3, 1, 2), trained, noise=False)
            z = codec.hyper_latents(y[0].numpy())
            coded = latent_codec.quantise(y[0].numpy(), z, step, rate_weight=0)
            height, width, _ = crop.shape
            integer = Coded(codec, coded, height, width, step).estimated_bits
            bits[i] += float(y_bits + z_bits), integer
    for quality, (floating, integer) in zip(QUALITIES, bits, strict=True):
        print(f"q {quality:3}: {100 * (integer / floating - 1):+.3f} %")
    floating, integer = bits.sum(0)
    print(f"all  : {100 * (integer / floating - 1):+.3f} %")


if __name__ == "__main__":
    main()
