"""Validation with real bitstreams: held-out pictures coded by exported weights, and decoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from rhodec.codecs.codec_interface import Codec

QUALITIES = (0.0, 25.0, 50.0, 75.0, 100.0)


def real_rate_distortion(
    codec: Codec, crops: Sequence[np.ndarray], qualities: Sequence[float] = QUALITIES
) -> dict[str, list[float]]:
    """Code and decode `crops`, uint8 (H, W, 3): one mean over all of them per quality (0..100).

    "bpp" counts the bytes of the payloads (a file has a header of up to 32 bytes more),
    "estimated_bpp" the model's code length, "psnr_db" is that of what `decode` gives.
    Raises StreamError if a payload does not decode to the encoder's symbols.
    """
    rows: dict[float, list[tuple[float, float, float]]] = {q: [] for q in qualities}
    for crop in tqdm(crops, "coding", unit="picture"):
        height, width = crop.shape[:2]
        latents = codec.analyse(crop)
        for q in qualities:
            coded = codec.quantise(latents, q)
            decoded = codec.decode(coded.payload, width, height, q, coded.digest)
            mse = float(np.square(decoded.astype(np.float64) - crop).mean())
            psnr_db = 10 * np.log10(255**2 / max(mse, 1e-3))
            bits = 8 * len(coded.payload), coded.estimated_bits
            rows[q].append((bits[0] / (height * width), bits[1] / (height * width), psnr_db))
    means = {q: np.mean(rows[q], axis=0).tolist() for q in qualities}
    return {
        "quality": list(qualities),
        "bpp": [means[q][0] for q in qualities],
        "estimated_bpp": [means[q][1] for q in qualities],
        "psnr_db": [means[q][2] for q in qualities],
    }
