"""The float models: shapes, rates, gradients, what a latent may see, how transforms start."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from rhodec.codecs.float_transforms import HALO, STRIDE
from rhodec.codecs.hyperprior import (
    FactorizedConfig,
    FactorizedModel,
    HyperpriorConfig,
    MeanScaleHyperpriorModel,
    ScaleHyperpriorConfig,
    ScaleHyperpriorModel,
)
from rhodec.codecs.registry import FAMILIES, load_transform_codec
from rhodec.codecs.rho import RhoConfig, RhoModel
from rhodec.codecs.transform_model import RateRange, TransformModel
from rhodec.entropy import hyper_latent, likelihoods
from rhodec.entropy.coding_schedule import SCHEDULES
from rhodec.entropy.factorized_latent import FactorizedLatent
from rhodec.entropy.hyper_latent import HyperLatent, LatentConfig
from rhodec.entropy.latent_format import (
    HYPER_STRIDE,
    QUALITY_CLASSES,
    QUALITY_STEPS,
    quality_class,
)
from rhodec.train.export import export_checkpoint
from rhodec.train.loop import rate_distortion_loss
from rhodec.train.recipe import Recipe, read_recipe
from rhodec.transforms.depthwise import DepthwiseAnalysis
from rhodec.transforms.gdn_convolutions import (
    GdnAnalysis,
    GdnSynthesis,
    GeneralisedNormalisation,
    gdn_klt_initialise,
)

RECIPES = Path(__file__).resolve().parent.parent / "train" / "recipes"
SMALL = LatentConfig(latents=16, hyper=4, features=8, schedule="single")
CONFIGS = {
    "factorized": FactorizedConfig(channels=16, latents=16),
    "scale-hyperprior": ScaleHyperpriorConfig(channels=16, latent=replace(SMALL, means=False)),
    "mean-scale-hyperprior": HyperpriorConfig(channels=16, latent=SMALL),
    "rho": RhoConfig(16, 32, (1, 1), (1, 1), replace(SMALL, schedule="quad")),
}


def pictures(count: int, height: int, width: int, seed: int = 1) -> np.ndarray:
    """Noise at several scales with correlated colours, uint8 (count, height, width, 3)."""
    random = np.random.default_rng(seed)
    x = np.full((count, height, width, 3), 128.0)
    for scale in (1, 4, 16, 64):
        rows, columns = -(-height // scale), -(-width // scale)
        noise = random.normal(0, 1, (count, rows, columns, 3))
        noise += 2 * random.normal(0, 1, (count, rows, columns, 1))
        x += 3 * scale**0.5 * noise.repeat(scale, 1).repeat(scale, 2)[:, :height, :width]
    return np.clip(x, 0, 255).astype(np.uint8)


def batch(count: int = 4, side: int = 64, seed: int = 1) -> Tensor:
    return torch.from_numpy(pictures(count, side, side, seed)).float() / 255


def new_model(family: str) -> TransformModel:
    """A small model, started on its test pictures."""
    torch.manual_seed(1)
    model = Recipe(family, CONFIGS[family], steps=1).new_model()
    model.initialise(batch())
    return model


def randomise(*modules: nn.Module) -> None:
    """Weights without zeros, in double precision: nothing that a layer can see is ignored."""
    torch.manual_seed(2)
    for module in modules:
        module.double()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5 / max(1, parameter[:1].numel()) ** 0.5)


# Models


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_model_keeps_the_shape_and_gives_one_rate_for_each_picture(family: str) -> None:
    model = new_model(family)
    x = batch(2)[:, :, :48].repeat(1, 1, 4, 1)  # 64 x 192
    for noise in (True, False):
        x_hat, y_bits, z_bits = model(x, torch.tensor([0.0, 1.0]), noise)
        assert x_hat.shape == x.shape
        assert y_bits.shape == z_bits.shape == (2,)
        assert (y_bits > 0).all() and y_bits.isfinite().all()
        assert (z_bits > 0).all() if family != "factorized" else (z_bits == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_higher_quality_costs_more_bits_and_has_a_smaller_error(family: str) -> None:
    model, x = new_model(family), batch()
    rates, errors = [], []
    for quality in (0.0, 0.5, 1.0):
        x_hat, y_bits, _ = model(x, torch.full((4,), quality), noise=False)
        rates.append(float(y_bits.sum()))
        errors.append(float((x_hat - x).square().mean()))
    assert rates[0] < rates[1] < rates[2]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient(family: str) -> None:
    model = new_model(family)
    with torch.no_grad():  # what starts at zero may stop a gradient until the first step
        for parameter in (*model.analysis.parameters(), *model.synthesis.parameters()):
            parameter.add_(0.01 * torch.randn_like(parameter))
    loss, _ = rate_distortion_loss(model, batch(2), torch.tensor([0.1, 0.8]), 0.35)
    loss.backward()
    quiet = {
        name
        for name, p in model.named_parameters()
        if p.numel() and (p.grad is None or not p.grad.isfinite().all() or not p.grad.any())
    }
    assert quiet == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_training_steps_lower_the_loss(family: str) -> None:
    model, x = new_model(family), batch()
    quality = torch.linspace(0, 1, 4)

    def loss() -> Tensor:
        torch.manual_seed(3)
        return rate_distortion_loss(model, x, quality, 0.35)[0]

    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    before = float(loss().detach())
    for _ in range(8):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert float(loss().detach()) < 0.98 * before


@pytest.mark.parametrize("means", [False, True])
def test_a_hyperprior_refuses_the_other_ones_configuration(means: bool) -> None:
    config = HyperpriorConfig(latent=replace(SMALL, means=means))
    with pytest.raises(ValueError, match=r"latent\.means must be"):
        (ScaleHyperpriorModel if means else MeanScaleHyperpriorModel)(config)


def test_a_factorized_model_refuses_a_stretched_quality() -> None:
    with pytest.raises(ValueError, match="span"):
        FactorizedModel(FactorizedConfig(rates=RateRange(span=(-0.1, 1.0))))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_builds_its_model(path: Path) -> None:
    with torch.device("meta"):
        model = read_recipe(path).new_model()
    assert type(model) is FAMILIES[read_recipe(path).codec].model


def test_the_checkerboard_is_a_recipe_of_the_mean_scale_hyperprior() -> None:
    torch.manual_seed(1)
    latent = replace(SMALL, schedule="checkerboard")
    model = MeanScaleHyperpriorModel(HyperpriorConfig(channels=16, latent=latent))
    model.initialise(batch())
    x_hat, y_bits, _ = model(batch(), torch.full((4,), 0.5))
    assert x_hat.shape == (4, 64, 64, 3) and len(model.latent.heads) == 2
    assert y_bits.isfinite().all()


@pytest.mark.parametrize("family", ["factorized", "scale-hyperprior", "mean-scale-hyperprior"])
@torch.no_grad()
def test_an_exported_baseline_codes_files_as_its_float_model_estimates(
    family: str, tmp_path: Path
) -> None:
    for i, picture in enumerate(pictures(3, 256, 256)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    model = new_model(family)
    recipe = Recipe(family, CONFIGS[family], steps=1, held_out=1)
    state = {"recipe": recipe.as_dict(), "average": model.state_dict(), "step": 0, "minutes": 0.0}
    torch.save(state, tmp_path / "checkpoint.pt")
    weights = tmp_path / "small.safetensors"
    export_checkpoint(tmp_path / "checkpoint.pt", tmp_path, weights)
    codec = load_transform_codec(str(weights))

    picture = pictures(1, 64, 128, seed=5)[0]
    x = torch.from_numpy(picture)[None].float() / 255
    for quality in (0.0, 50.0, 100.0):
        coded = codec.quantise(codec.analyse(picture), quality)
        shown = codec.reconstruct(coded)
        decoded = codec.decode(coded.payload, 128, 64, quality, coded.digest)
        np.testing.assert_array_equal(decoded, shown)
        q = torch.tensor([quality / 100])
        y = model.latents_of(model.features(x), q).permute(0, 3, 1, 2)
        y_hat, y_bits, z_bits = model.latent(y, q, noise=False)
        # Half-precision weights and 8-bit networks round a latent to its other neighbour at times.
        y_hat64 = torch.from_numpy(coded.latents.y_hat64).permute(2, 0, 1)
        moved = (y_hat64 / 64 - y_hat[0]).abs()
        assert moved.max() < 1.1 and (moved > 0.1).float().mean() < 0.03
        # The float model counts at most 30 bits for a latent, and an untrained one has outliers.
        payload_bits = 8 * len(coded.payload)
        assert abs(payload_bits - float(y_bits + z_bits)) < 0.07 * payload_bits + 64


# Latents


def observed(
    latent: HyperLatent, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Residuals and scales of each member of the schedule, in order, and y_hat."""
    residuals, scales = [], []
    gaussian_bits = likelihoods.gaussian_bits

    def record(residual: Tensor, scale: Tensor) -> Tensor:
        residuals.append(residual)
        scales.append(scale)
        return gaussian_bits(residual, scale)

    with monkeypatch.context() as patch:
        patch.setattr(hyper_latent, "gaussian_bits", record)
        y_hat, _, _ = latent(y, torch.full((len(y),), 0.5), noise=False)
    return residuals, scales, y_hat


def steps_of_elements(schedule: str, like: Tensor) -> Tensor:
    """The step that codes each element of a tensor (B, C, H, W), from `order` alone."""
    order = torch.tensor(SCHEDULES[schedule].order)  # (groups, 4)
    groups = order.repeat_interleave(like.shape[1] // len(order), 0)
    cells = groups.reshape(1, -1, 2, 2)
    return cells.repeat(len(like), 1, like.shape[2] // 2, like.shape[3] // 2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_codes_every_group_and_position_once(name: str) -> None:
    schedule = SCHEDULES[name]
    members = [member for step in range(schedule.steps) for member in schedule.members(step)]
    assert sorted(members) == [(g, p) for g in range(schedule.groups) for p in range(4)]
    assert all(schedule.members(step) for step in range(schedule.steps))


@pytest.mark.parametrize("name", SCHEDULES)
@torch.no_grad()
def test_every_latent_is_coded_exactly_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    latent = HyperLatent(replace(SMALL, schedule=name, means=False))
    y = torch.randperm(2 * 16 * 8 * 12, generator=torch.Generator().manual_seed(1)).float()
    y = y.reshape(2, 16, 8, 12)
    residuals, _, y_hat = observed(latent, y, monkeypatch)  # without means: the latents themselves
    assert torch.equal(y_hat, y)
    coded = torch.cat([residual.flatten() for residual in residuals])
    assert torch.equal(coded.sort().values, y.flatten().sort().values)


@pytest.mark.parametrize("name", SCHEDULES)
@torch.no_grad()
def test_a_latent_sees_only_those_of_earlier_steps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    latent = HyperLatent(replace(SMALL, schedule=name))
    last = latent.hyper_analysis[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)  # z is constant: otherwise all latents see all others through it
    schedule = SCHEDULES[name]
    y = 4 * torch.randn(1, 16, 8, 12)
    step_of = steps_of_elements(name, y)
    _, scales, y_hat = observed(latent, y, monkeypatch)
    step_of_scale = [s for s in range(schedule.steps) for _ in schedule.members(s)]
    for step in range(schedule.steps):
        # A residual changes by whole steps, so its mean shows in y_hat's fractional part.
        moved = y + 5 * (step_of >= step)
        _, moved_scales, moved_y_hat = observed(latent, moved, monkeypatch)
        for s, before, after in zip(step_of_scale, scales, moved_scales, strict=True):
            assert torch.equal(before, after) == (s <= step)
        means_of_step = (moved_y_hat - y_hat)[step_of == step]
        assert torch.equal(y_hat[step_of < step], moved_y_hat[step_of < step])
        assert torch.allclose(means_of_step, torch.tensor(5.0), atol=1e-4)
        later = (moved_y_hat - y_hat)[step_of > step]
        assert not later.numel() or (later - later.round()).abs().max() > 1e-3


def test_quality_classes_of_files_are_those_of_training() -> None:
    steps = torch.arange(QUALITY_STEPS + 1)
    exact = steps.double() / QUALITY_STEPS * (QUALITY_CLASSES - 1)
    classes = torch.tensor([quality_class(int(step)) for step in steps])
    assert ((classes - exact).abs() <= 0.5).all()
    assert classes[0] == 0 and classes[-1] == QUALITY_CLASSES - 1


@torch.no_grad()
def test_a_factorized_prior_is_a_distribution_stretched_by_its_class() -> None:
    torch.manual_seed(1)
    latent = FactorizedLatent(5)
    y = torch.randn(2, 5, 8, 8) * torch.arange(1, 6)[:, None, None]
    latent.initialise(y, torch.linspace(0, 2, QUALITY_CLASSES)[:, None].expand(-1, 5))
    values = torch.arange(-4000, 4001).float().expand(QUALITY_CLASSES, 5, -1)
    p = latent.likelihood(values, torch.arange(QUALITY_CLASSES))
    assert torch.allclose(p.sum(2), torch.ones(QUALITY_CLASSES, 5), atol=1e-4)
    mean = (p * values).sum(2, keepdim=True)
    spread = (p * (values - mean).square()).sum(2).sqrt()
    assert torch.allclose(spread[-1] / spread[10], torch.tensor(1.0).exp(), rtol=0.1)
    assert (spread[:, 1:] > spread[:, :-1]).all()


# Transforms


def analysed(model: TransformModel, x: Tensor) -> Tensor:
    """y of x in double precision, both (B, H, W, C) and without gains."""
    assert isinstance(model.analysis, DepthwiseAnalysis | GdnAnalysis)
    return model.analysis.latents_of(model.analysis.features(x), neutral_gain(model))


def neutral_gain(model: TransformModel) -> Tensor:
    return torch.ones(1, 1, 1, model.log_analysis_gain.shape[1], dtype=torch.float64)


def matrix_of_analysis(model: TransformModel) -> Tensor:
    """Rows: latents of one 16x16 picture; columns: its 768 numbers; (latents, 768), double."""
    impulses = torch.eye(3 * STRIDE**2, dtype=torch.float64).reshape(-1, STRIDE, STRIDE, 3)
    return analysed(model, impulses).flatten(1).T


def linear_model(family: str) -> TransformModel:
    """A started model in double precision; what little GDN does at the start is taken away."""
    model = new_model(family).double()
    for module in model.modules():
        if isinstance(module, GeneralisedNormalisation):
            module.root_gamma.data.zero_()
            module.root_beta.data.fill_((1 - 1e-6) ** 0.5)
    return model


@pytest.mark.parametrize("family", ["factorized", "rho"])
@torch.no_grad()
def test_transforms_start_orthonormal_and_lose_just_the_energy_they_discard(family: str) -> None:
    model = linear_model(family)
    matrix = matrix_of_analysis(model)
    assert torch.allclose(matrix @ matrix.T, torch.eye(16, dtype=torch.float64), atol=1e-5)
    x = batch(3, seed=9).double() - 0.5
    y = analysed(model, x)
    error = (model.synthesis(y, neutral_gain(model)) - x).square().sum()
    discarded = x.square().sum() - y.square().sum()
    assert torch.allclose(error, discarded, rtol=1e-4)
    assert 0 < discarded < 0.5 * (x - x.mean()).square().sum()


@pytest.mark.parametrize("family", ["factorized", "rho"])
@torch.no_grad()
def test_the_start_keeps_more_energy_than_the_same_layers_turned_at_random(family: str) -> None:
    model = linear_model(family)
    x = batch(3, seed=9).double() - 0.5
    blocks = x.reshape(3, 4, STRIDE, 4, STRIDE, 3).transpose(2, 3).reshape(-1, 3 * STRIDE**2)
    kept = (blocks @ matrix_of_analysis(model).T).square().sum() / blocks.square().sum()
    torch.manual_seed(4)
    other, _ = torch.linalg.qr(torch.randn(3 * STRIDE**2, 16, dtype=torch.float64))
    turned = (blocks @ other).square().sum() / blocks.square().sum()
    assert kept > 0.5 > 5 * turned


@torch.no_grad()
def test_a_gdn_pair_starts_close_to_linear_with_nothing_in_its_spare_channels() -> None:
    torch.manual_seed(1)
    analysis, synthesis = GdnAnalysis(20, 16), GdnSynthesis(20, 16)
    x = batch() - 0.5
    gdn_klt_initialise(analysis, synthesis, x)
    gain = torch.ones(1, 1, 1, 0)
    y = analysis.features(x)
    error = (synthesis(y, gain) - x).square().sum()
    for norm in (*analysis.norms, *synthesis.norms):
        assert isinstance(norm, GeneralisedNormalisation)
        norm.root_gamma.zero_()
    linear_y = analysis.features(x)
    linear_error = (synthesis(linear_y, gain) - x).square().sum()
    assert 0 < (linear_y - y).norm() < 0.05 * y.norm()
    assert linear_error < error < 1.1 * linear_error
    first = analysis.convolutions[0]
    assert isinstance(first, nn.Conv2d)
    first.weight[12:] *= -3  # the 12 numbers of a 2x2 group are all that there is to keep
    assert torch.allclose(analysis.features(x), linear_y, atol=1e-4)


@torch.no_grad()
def test_normalisation_is_positive_for_any_parameters_and_undone_by_its_inverse() -> None:
    torch.manual_seed(1)
    gdn, inverse = GeneralisedNormalisation(6), GeneralisedNormalisation(6, inverse=True)
    x = torch.randn(2, 5, 7, 6)
    for layer in (gdn, inverse):
        layer.root_gamma.copy_(torch.randn(6, 6))
        layer.root_beta.zero_()
    assert torch.equal(gdn(x).sign(), x.sign()) and torch.equal(inverse(x).sign(), x.sign())
    power = 64 * x.square() @ gdn.root_gamma.square().T + 1e-6
    assert torch.allclose(gdn(x), x / power.sqrt(), rtol=1e-4)
    for layer in (gdn, inverse):
        layer.root_gamma.fill_(1e-3)
        layer.root_beta.fill_(1.5)
    assert torch.allclose(inverse(gdn(x)), x, rtol=1e-3)


def reach(changed: Tensor, centre: int, unit: int) -> int:
    """Rows in blocks of `unit` from block `centre` to the furthest with a change; (1, H, W, C)."""
    rows = changed.any(3).any(2)[0].nonzero().flatten() // unit
    return int((rows - centre).abs().max())


@pytest.mark.parametrize("family", ["factorized", "rho"])
@torch.no_grad()
def test_no_transform_sees_further_than_the_halo_of_a_band(family: str) -> None:
    # The shipped numbers of blocks, with few channels.
    config = RhoConfig(8, 8, latent=SMALL) if family == "rho" else FactorizedConfig(8, 8)
    model = RhoModel(config) if isinstance(config, RhoConfig) else FactorizedModel(config)
    randomise(model.analysis, model.synthesis)
    assert isinstance(model.analysis, DepthwiseAnalysis | GdnAnalysis)
    size, centre = 2 * HALO + 5, HALO + 2
    for offset in (0, STRIDE - 1):  # the first and the last row of a latent position
        x = torch.zeros(1, STRIDE * size, 8 * STRIDE, 3, dtype=torch.float64)
        moved = x.clone()
        moved[0, centre * STRIDE + offset, 4 * STRIDE, 1] += 0.5
        assert 1 <= reach(analysed(model, x) != analysed(model, moved), centre, 1) <= HALO
        features, moved_features = model.analysis.features(x), model.analysis.features(moved)
        assert reach(features != moved_features, centre, 1) <= HALO
    y = torch.zeros(1, size, 8, model.log_gain.shape[1], dtype=torch.float64)
    moved = y.clone()
    moved[0, centre, 4, 0] += 1
    gain = neutral_gain(model)
    changed = model.synthesis(y, gain) != model.synthesis(moved, gain)
    assert 1 <= reach(changed, centre, STRIDE) <= HALO


@torch.no_grad()
def test_the_hyper_analysis_sees_no_further_than_the_halo_of_a_band() -> None:
    latent = HyperLatent(SMALL)
    randomise(latent.hyper_analysis)
    size, centre = 2 * HALO + 5, HALO + 2
    y = torch.zeros(1, 16, HYPER_STRIDE * size, 16, dtype=torch.float64)
    moved = y.clone()
    moved[0, 3, HYPER_STRIDE * centre, 8] += 1
    before, after = (latent.hyper_analysis(v).permute(0, 2, 3, 1) for v in (y, moved))
    assert reach(before != after, centre, 1) <= HALO


def test_configurations_of_hyperpriors_have_a_schedule_and_the_factorized_one_has_none() -> None:
    # The runtime chooses the latent coder by that key of the stored configuration.
    for family, config in CONFIGS.items():
        assert ("schedule" in asdict(config).get("latent", {})) == (family != "factorized")
