"""Freeze a checkpoint: float model -> integer networks and tables -> one weights file.

Floating point ends here: calibration may differ between machines, so its result is stored and
hashed, and nobody derives it again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rhodec.bitstream.rans import CodingTables
from rhodec.codecs.registry import load_codec
from rhodec.codecs.transform_model import TransformModel
from rhodec.codecs.weights_file import pack_weights
from rhodec.entropy.conv_network import ConvNetwork
from rhodec.entropy.factorized_latent import FactorizedLatent
from rhodec.entropy.gaussian_tables import SCALE_LEVELS
from rhodec.entropy.hyper_latent import (
    CONTEXT_INPUT_SCALE,
    HYPER_INPUT_SCALE,
    LEVEL_CENTRE,
    LEVEL_SPAN,
    HyperLatent,
)
from rhodec.entropy.integer_export import ACTIVATION_MAX, HEADROOM, quantise_network
from rhodec.entropy.integer_network import IntegerNetwork
from rhodec.entropy.latent_codec import FRACTION_BITS
from rhodec.entropy.latent_format import (
    CONTEXT_FRACTION_BITS,
    CONTEXT_LIMIT,
    HYPER_LIMIT,
    QUALITY_CLASSES,
    QUALITY_STEPS,
)
from rhodec.entropy.likelihoods import FactorizedPrior
from rhodec.train.photo_patches import PhotoPatches, picture_files, read_all, split_files
from rhodec.train.recipe import Recipe, recipe_from_dict
from rhodec.transforms.depthwise import DepthwiseAnalysis, DepthwiseSynthesis
from rhodec.transforms.integer_calibration import (
    quantise_analysis,
    quantise_hyper_analysis,
    quantise_synthesis,
)
from rhodec.transforms.integer_transform import CHANNEL_BLOCK

CALIBRATION_PATCHES, CALIBRATION_SIDE = 48, 256
FREQUENCY_SUM = 1 << 16
TAIL = 2.0**-15  # probability below which an end of a table is left to the escape


@dataclass(frozen=True)
class ExportReport:
    """What an export made: where, how large, its name in streams, and from what."""

    path: Path
    size: int
    hash: bytes
    steps: int
    minutes: float

    def lines(self) -> list[str]:
        return [
            f"{self.path}: {self.size / 1e6:.2f} MB, weights {self.hash.hex()}",
            f"trained for {self.steps} steps, {self.minutes:.0f} minutes",
        ]


def export_checkpoint(checkpoint: Path, data: Path, out: Path) -> ExportReport:
    """Write the weights file `out` from the averaged weights of a training checkpoint.

    Integer networks are calibrated on training patches of `data` (never on held-out pictures).
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    recipe = recipe_from_dict(state["recipe"])
    model = recipe.new_model().eval()
    model.load_state_dict(state["average"])
    train_files, _ = split_files(picture_files(data), recipe.held_out)
    # A fraction of the pictures is plenty for calibration, and quick to read.
    patches = PhotoPatches(read_all(train_files[::4], CALIBRATION_SIDE), recipe.seed)
    arrays = _transform_arrays(model, patches) | _latent_arrays(model, patches)
    provenance = _provenance(recipe, state["step"], state["minutes"], len(train_files))
    packed = pack_weights(recipe.codec, asdict(recipe.config), provenance, arrays)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_bytes(packed)
    temporary.replace(out)
    codec = load_codec(str(out))  # proves the bounds of everything that was written
    return ExportReport(out, len(packed), codec.weights_hash, state["step"], state["minutes"])


def _provenance(recipe: Recipe, steps: int, minutes: float, pictures: int) -> dict[str, object]:
    return {
        "recipe": {k: v for k, v in recipe.as_dict().items() if k != "config"},
        "steps": steps,
        "minutes": round(minutes, 2),
        "training_pictures": pictures,
        "torch": torch.__version__,
    }


def _transform_arrays(model: TransformModel, patches: PhotoPatches) -> dict[str, np.ndarray]:
    """Analysis and synthesis: in integers where they have that form, else in half precision."""
    gains = ("log_",)
    if _has_integer_form(model):
        integers = quantise_transforms(model, *_calibration_pictures(model, patches))
        return integers | _half_precision(model, gains)
    return _half_precision(model, (*gains, "analysis.", "synthesis.", "latent.hyper_analysis."))


def _has_integer_form(model: TransformModel) -> bool:
    """Whether the transforms are depthwise ones with channels in whole blocks."""
    if not isinstance(model.synthesis, DepthwiseSynthesis):
        return False
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    sizes = {size for m in linears for size in (m.in_features, m.out_features)}
    return not any(size % CHANNEL_BLOCK for size in sizes)


def _half_precision(model: TransformModel, kept: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {
        f"float.{name}": value.half().numpy()
        for name, value in model.state_dict().items()
        if name.startswith(kept)
    }


def _calibration_pictures(
    model: TransformModel, patches: PhotoPatches
) -> tuple[np.ndarray, list[int]]:
    """Training patches uint8 (N, H, W, 3), and the quality step at which each is coded."""
    group = 8
    batches = range(CALIBRATION_PATCHES // group)
    pixels = np.concatenate([patches.batch(i, group, CALIBRATION_SIDE) for i in batches])
    steps = np.rint(np.linspace(0, QUALITY_STEPS, CALIBRATION_PATCHES)).astype(int)
    return pixels, steps.tolist()


@torch.no_grad()
def quantise_transforms(
    model: TransformModel, pixels: np.ndarray, steps: list[int]
) -> dict[str, np.ndarray]:
    """The integer twins of analysis, synthesis and hyper-analysis as arrays of a weights file."""
    assert isinstance(model.analysis, DepthwiseAnalysis)
    assert isinstance(model.synthesis, DepthwiseSynthesis)
    hyper_analysis = model.latent.get_submodule("hyper_analysis")
    assert isinstance(hyper_analysis, nn.Sequential)
    every = _trained_qualities(model, range(QUALITY_STEPS + 1))

    def gains(logs: nn.Parameter) -> np.ndarray:
        return model.gain(logs, every)[:, 0, 0].double().numpy()

    y, y_hat = [], []
    for x, quality in _batches(model, pixels, steps):
        y.append(model.latents_of(model.features(x), quality))
        y_hat.append(model.latent(y[-1].permute(0, 3, 1, 2), quality, noise=False)[0])
    latents = torch.cat(y_hat).permute(0, 2, 3, 1).numpy() * (1 << FRACTION_BITS)
    synthesis = quantise_synthesis(
        model.synthesis,
        np.rint(latents).astype(np.int32),
        steps,
        gains(model.log_inverse_gain),
        gains(model.log_synthesis_gain),
    )
    analysis = quantise_analysis(
        model.analysis, pixels, steps, gains(model.log_gain), gains(model.log_analysis_gain)
    )
    hyper = quantise_hyper_analysis(hyper_analysis, torch.cat(y).numpy())
    arrays = synthesis.to_arrays("int.synthesis") | analysis.to_arrays("int.analysis")
    return arrays | hyper.to_arrays("int.hyper_analysis")


def _trained_qualities(model: TransformModel, steps: Iterable[int]) -> Tensor:
    """The qualities that the model's gains know, for a file's qualities in half steps."""
    low, high = model.rates.span
    return low + (high - low) * torch.tensor(list(steps)).float() / QUALITY_STEPS


def _batches(
    model: TransformModel, pixels: np.ndarray, steps: list[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Calibration pictures as the model takes them, with their qualities."""
    for i in range(0, len(pixels), 8):
        quality = _trained_qualities(model, steps[i : i + 8])
        yield torch.from_numpy(pixels[i : i + 8]).float() / 255, quality


def _latent_arrays(model: TransformModel, patches: PhotoPatches) -> dict[str, np.ndarray]:
    """Everything that chooses a coding table."""
    latent = model.latent
    if isinstance(latent, FactorizedLatent):
        return _prefixed("int.tables", factorized_tables(latent).to_arrays())
    assert isinstance(latent, HyperLatent)
    low, high = model.rates.span
    plane = np.rint(np.linspace(low, high, QUALITY_STEPS + 1) * QUALITY_STEPS).astype(np.int64)
    networks = quantise_hyper_latent(latent, *_observe(model, latent, patches))
    shift = latent.context_shift - CONTEXT_FRACTION_BITS
    arrays = {
        "int.context_shift": shift.numpy().astype(np.int64),
        "int.quality_plane": plane.clip(0, QUALITY_STEPS),
    }
    arrays |= _prefixed("int.tables", hyper_tables(latent.hyper_prior).to_arrays())
    for name, network in networks.items():
        arrays |= network.to_arrays(f"int.{name}")
    return arrays


def _prefixed(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}.{k}": v for k, v in arrays.items()}


@torch.no_grad()
def _observe(
    model: TransformModel, latent: HyperLatent, patches: PhotoPatches
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs of the hyper-decoder and of the context network on patches of all qualities."""
    hyper_inputs: list[Tensor] = []
    context_inputs: list[Tensor] = []

    def keep(inputs: list[Tensor]):
        return lambda module, args: inputs.append(args[0].clone())

    hooks = [
        latent.hyper_synthesis.register_forward_pre_hook(keep(hyper_inputs)),
        latent.context.register_forward_pre_hook(keep(context_inputs)),
    ]
    for x, quality in _batches(model, *_calibration_pictures(model, patches)):
        model(x, quality, noise=False)
    for hook in hooks:
        hook.remove()
    return hyper_inputs, context_inputs


@torch.no_grad()
def quantise_hyper_latent(
    latent: HyperLatent, hyper_inputs: list[Tensor], context_inputs: list[Tensor]
) -> dict[str, IntegerNetwork]:
    """Integer twins of all networks between z_hat and the tables, by name."""
    config, steps = latent.config, latent.schedule.steps
    full = np.full(config.features, ACTIVATION_MAX)
    features = [latent.hyper_synthesis(x) for x in hyper_inputs]
    scale = _feature_scale(features)
    networks = {
        "hyper_synthesis": quantise_network(
            latent.hyper_synthesis,
            hyper_inputs,
            input_scale=np.r_[np.full(config.hyper, HYPER_INPUT_SCALE), 1 / QUALITY_STEPS],
            input_max=np.r_[np.full(config.hyper, HYPER_LIMIT), QUALITY_STEPS],
            output_scale=scale,
            output_low=0 * full,
            output_high=full,
        )
    }
    seen, seen_scale = features, scale
    if steps > 1:
        fraction = 1 << CONTEXT_FRACTION_BITS
        seen = [latent.context(x) for x in context_inputs]
        seen_scale = _feature_scale(seen)
        networks["context"] = quantise_network(
            latent.context,
            context_inputs,
            input_scale=np.r_[scale, np.full(config.latents, CONTEXT_INPUT_SCALE / fraction)],
            input_max=np.r_[full, np.full(config.latents, CONTEXT_LIMIT * fraction)],
            output_scale=seen_scale,
            output_low=0 * full,
            output_high=full,
        )
    for step, head in enumerate(latent.heads):
        assert isinstance(head, ConvNetwork)
        # The context network ran for steps 1, 2, ... of each batch in turn.
        inputs = features if step == 0 else seen[step - 1 :: steps - 1]
        networks[f"heads.{step}"] = _quantise_head(
            latent, head, inputs, scale if step == 0 else seen_scale
        )
    return networks


def _feature_scale(features: list[Tensor]) -> np.ndarray:
    """Real value of one integer step of each feature channel, from its largest value."""
    high = torch.stack([f.amax((0, 2, 3)) for f in features]).amax(0).double().numpy()
    return HEADROOM * np.maximum(high, 0.01 * high.max()) / ACTIVATION_MAX


def _quantise_head(
    latent: HyperLatent, head: ConvNetwork, inputs: list[Tensor], input_scale: np.ndarray
) -> IntegerNetwork:
    """A head whose integers are means in 1/64 of a step and table levels."""
    groups = latent.schedule.groups
    unit = latent.mean_unit().flatten().numpy().reshape(groups, 1, -1)
    mean_scale = 1 / (unit * (1 << FRACTION_BITS))
    level_scale = np.full_like(mean_scale, 1 / LEVEL_SPAN)
    shape = (groups, 2, latent.group_size)
    is_level = np.broadcast_to(np.array([[[False], [True]]]), shape).ravel()
    shifted = copy.deepcopy(head)
    layer = shifted.layers[0]
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    layer.bias += torch.from_numpy(is_level).float() * (LEVEL_CENTRE / LEVEL_SPAN)
    return quantise_network(
        shifted,
        inputs,
        input_scale=input_scale,
        input_max=np.full(latent.config.features, ACTIVATION_MAX),
        output_scale=np.concatenate([mean_scale, level_scale], 1).ravel(),
        output_low=np.where(is_level, 0, -32767),
        output_high=np.where(is_level, SCALE_LEVELS - 1, 32767),
    )


@torch.no_grad()
def hyper_tables(prior: FactorizedPrior) -> CodingTables:
    """One table for each hyper-latent channel, for integers in -127..127."""
    values = torch.arange(-HYPER_LIMIT, HYPER_LIMIT + 1).float()
    return frozen_tables(prior.likelihood(values.expand(prior.channels, -1)))


@torch.no_grad()
def factorized_tables(latent: FactorizedLatent) -> CodingTables:
    """Tables of a factorized prior: class * C + channel, for integers in -1023..1023."""
    classes = torch.arange(QUALITY_CLASSES)
    values = torch.arange(-1023, 1024).float().expand(len(classes), latent.prior.channels, -1)
    return frozen_tables(latent.likelihood(values, classes).flatten(0, 1))


def frozen_tables(pmf: Tensor) -> CodingTables:
    """Integer tables of probabilities (tables, values) of integers centred on 0.

    The tails below TAIL on either side are left to the escape; every bin keeps a count of 1.
    """
    frequencies, offsets = [], []
    centre = pmf.shape[1] // 2
    for p in pmf.double().numpy():
        inside = np.flatnonzero(p > TAIL)
        first, last = (inside[0], inside[-1]) if len(inside) else (centre, centre)
        kept = p[first : last + 1]
        kept = np.append(kept, max(0.0, 1 - kept.sum()))
        counts = 1 + np.floor(kept / kept.sum() * (FREQUENCY_SUM - len(kept))).astype(np.int64)
        counts[np.argmax(counts)] += FREQUENCY_SUM - counts.sum()
        frequencies.append(counts.astype(np.uint32))
        offsets.append(int(first) - centre)
    return CodingTables(frequencies, offsets)
