"""The real CompressAI behind the evaluator; needs the extra `compressai`, which needs numpy < 2."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("compressai")

from rhodec.evaluate.compressai_coder import load_compressai_coder
from rhodec.evaluate.picture_sets import find_pictures
from rhodec.evaluate.rate_distortion import measure

pytestmark = pytest.mark.filterwarnings("ignore")  # those of CompressAI are not ours

N, M = 8, 12
ARCHITECTURES = [
    "bmshj2018-factorized",
    "bmshj2018-factorized-relu",
    "bmshj2018-hyperprior",
    "mbt2018-mean",
    "mbt2018",
    "cheng2020-anchor",
    "cheng2020-attn",
    "bmshj2018-hyperprior-vbr",
    "mbt2018-mean-vbr",
    "mbt2018-vbr",
]


def new_model(architecture: str) -> Any:
    """A small model with random weights."""
    torch.manual_seed(1)
    model = importlib.import_module("compressai.registry").MODELS[architecture]
    if architecture.startswith("cheng2020"):
        return model(N)
    options = {"vr_entbttlnck": True} if architecture in ARCHITECTURES[7:9] else {}
    return model(N, M, **options)


def saved(model: Any, path: Path) -> Path:
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, path)
    return path


def test_the_architectures_are_those_of_the_zoo() -> None:
    zoo = importlib.import_module("compressai.zoo")
    assert sorted(zoo.image_models) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_codes_with_random_weights(
    architecture: str, photo: np.ndarray, tmp_path: Path
) -> None:
    coder = load_compressai_coder(
        architecture, [saved(new_model(architecture), tmp_path / "random.pth")]
    )
    quality = coder.default_qualities[-1]
    assert len(coder.default_qualities) == (8 if architecture.endswith("-vbr") else 1)
    encoded = coder.encode(coder.prepare(photo), quality)

    # The same by hand, as `compressai.utils.eval_model` does it: 48 x 64 padded to 64 x 64.
    network, options = coder._point(quality)
    x = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        coded = network.compress(F.pad(x, (0, 0, 8, 8)), **options)
        x_hat = network.decompress(coded["strings"], coded["shape"], **options)["x_hat"]
    expected = (x_hat[0, :, 8:-8] * 255).clamp(0, 255).round().permute(1, 2, 0).numpy()
    strings = [batch[0] for batch in coded["strings"]]
    assert len(encoded.data) == 10 + 4 * (len(strings) - 1) + sum(map(len, strings))
    np.testing.assert_array_equal(coder.decode(encoded.data), expected)
    assert encoded.estimate_bits is not None and encoded.estimate_bits() > 0


def trained(steps: int, weight: float) -> Any:
    """A mean-scale hyperprior after a few steps on smooth patches."""
    model = new_model("mbt2018-mean").train()
    auxiliary = [p for name, p in model.named_parameters() if name.endswith(".quantiles")]
    main = [p for name, p in model.named_parameters() if not name.endswith(".quantiles")]
    optimizers = torch.optim.Adam(main, 3e-3), torch.optim.Adam(auxiliary, 1e-1)
    for _ in range(steps):
        x = F.interpolate(torch.rand(4, 3, 8, 8), size=64, mode="bicubic").clamp(0, 1)
        out = model(x)
        bits = -sum(p.log2().sum() for p in out["likelihoods"].values())
        loss = bits / x[:, 0].numel() + weight * 255**2 * F.mse_loss(out["x_hat"], x)
        for optimizer, value in zip(optimizers, (loss, model.aux_loss()), strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return model


def test_a_briefly_trained_checkpoint_is_measured_and_beats_a_random_one(
    folder: Path, tmp_path: Path
) -> None:
    checkpoints = [
        saved(trained(0, 0.01), tmp_path / "random.pth"),
        saved(trained(20, 0.01), tmp_path / "trained.pth"),
    ]
    coder = load_compressai_coder("mbt2018-mean", checkpoints)
    rows = measure(coder, find_pictures(folder)[2:], [1, 2], tmp_path / "cache")
    assert rows[1].psnr_rgb > rows[0].psnr_rgb + 3
    for row in rows:
        assert row.bpp == 8 * row.file_bytes / (row.width * row.height)
    header_bpp = 8 * 14 / (rows[1].width * rows[1].height)
    assert rows[1].bpp - header_bpp == pytest.approx(rows[1].estimated_bpp, rel=0.15, abs=0.01)
