"""Integer transforms: two evaluators and one result, sums that are proved, an export that fits."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rhodec.transforms import _inttransform, integer_calibration, integer_transform
from rhodec.transforms.depthwise import DepthwiseAnalysis, DepthwiseSynthesis
from rhodec.transforms.integer_depthwise import (
    IntegerAnalysis,
    IntegerHyperAnalysis,
    IntegerSynthesis,
)
from rhodec.transforms.integer_transform import (
    ACCUMULATOR_MAX,
    AS_IS,
    BY_TWO,
    PIXELS,
    REAL,
    Backend,
    GainTable,
    IntegerBlock,
    IntegerLayer,
    run_dense,
    run_gain,
    run_spatial,
)

PATHS = integer_transform.kernel_paths()


@pytest.fixture(autouse=True)
def default_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RHODEC_INTTRANSFORM", raising=False)
    threads = integer_transform.KERNELS.threads
    yield
    integer_transform.KERNELS.chosen = None
    integer_transform.set_threads(threads)


def make_layer(
    rng: np.random.Generator,
    inputs: int,
    outputs: int,
    *,
    depthwise: bool = False,
    input_max: int = 8191,
    limit: int = 8191,
) -> IntegerLayer:
    """Weights as large as the proof allows, so that sums come close to 2^31."""
    shape = (outputs, 3, 3) if depthwise else (outputs, inputs)
    fan = 9 if depthwise else inputs
    largest = min(32767, ACCUMULATOR_MAX // (input_max * fan) - 1)
    return IntegerLayer(
        rng.integers(-largest, largest + 1, shape).astype(np.int16),
        rng.integers(-99_999, 100_000, outputs).astype(np.int32),
        rng.integers(8, 20, outputs).astype(np.uint8),
        input_max,
        limit,
    )


def make_block(rng: np.random.Generator, channels: int) -> IntegerBlock:
    return IntegerBlock(
        make_layer(rng, channels, channels, input_max=16383),
        make_layer(rng, channels, channels, depthwise=True),
        make_layer(rng, channels, channels, limit=16383),
        make_layer(rng, channels, 2 * channels, input_max=16383),
        make_layer(rng, 2 * channels, channels, limit=16383),
    )


def activations(rng: np.random.Generator, *shape: int, limit: int = 8191) -> np.ndarray:
    """Half of them at the limits."""
    x = rng.integers(-limit, limit + 1, shape)
    return np.where(rng.random(shape) < 0.5, np.sign(x) * limit, x).astype(np.int16)


def in_parts(run, height: int, threads: int) -> None:
    """Two calls of a row range each, by so many threads."""
    integer_transform.set_threads(threads)
    run((0, height // 2))
    run((height // 2, height))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("source", [AS_IS, BY_TWO, PIXELS])
@pytest.mark.parametrize("target", [AS_IS, BY_TWO, PIXELS, REAL])
def test_a_dense_layer_follows_the_definition_in_every_form(
    path: str, source: int, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer_transform.KERNELS, "parallel_macs", 0)
    integer_transform.set_kernel_path(path)
    rng = np.random.default_rng(source * 10 + target)
    for height, width in ((1, 1), (3, 7), (5, 49)):
        layer = make_layer(rng, 192 if source == PIXELS else 64, 192 if target == PIXELS else 32)
        picture = 8 * height - int(rng.integers(8)), 8 * width - int(rng.integers(8)), 3
        shapes = {
            AS_IS: (height, width, layer.inputs),
            BY_TWO: (2 * height, 2 * width, layer.inputs // 4),
        }
        x = (
            rng.integers(0, 256, picture).astype(np.uint8)
            if source == PIXELS
            else activations(rng, *shapes[source])
        )
        if source == PIXELS and target == PIXELS:
            continue  # the size of the positions would be in neither
        out_shape = {
            AS_IS: (height, width, layer.outputs),
            BY_TWO: (2 * height, 2 * width, layer.outputs // 4),
            PIXELS: picture,
            REAL: (height, width, layer.outputs),
        }[target]
        dtype = {PIXELS: np.uint8, REAL: np.float32}.get(target, np.int16)
        factor = rng.random(layer.outputs).astype(np.float32) if target == REAL else None
        results = []
        backends: tuple[Backend, ...] = ("c", "numpy")
        for backend in backends:
            out = np.zeros(out_shape, dtype)

            def run(rows: tuple[int, int], layer=layer, x=x, out=out, f=factor, b=backend) -> None:
                run_dense(
                    layer, x, out, rows, leaky=target != REAL, source=source, target=target,
                    factor=f, backend=b,  # type: ignore[arg-type]
                )  # fmt: skip

            in_parts(run, height, 3)
            results.append(out)
        np.testing.assert_array_equal(*results)
        assert height * width < 4 or len(np.unique(results[1])) > 10


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 50), (7, 5)])
def test_blocks_and_depthwise_layers_follow_the_definition(
    path: str, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer_transform.KERNELS, "parallel_macs", 0)
    integer_transform.set_kernel_path(path)
    rng = np.random.default_rng(width)
    block = make_block(rng, 32)
    for layers, limit in ((block, 16383), (block.spatial, 8191)):
        x = activations(rng, height, width, 32, limit=limit)
        out, expected = np.zeros_like(x), np.zeros_like(x)
        run_spatial(layers, x, expected, (0, height), "numpy")
        in_parts(partial(run_spatial, layers, x, out), height, 2)
        np.testing.assert_array_equal(out, expected)
        assert np.abs(expected).max() <= limit and len(np.unique(expected)) > 10


def test_the_definition_on_a_layer_computed_by_hand() -> None:
    weight = np.zeros((16, 16), np.int16)
    weight[0, :2], weight[1, 2], weight[2, 0] = (3, -5), 32767, 1
    bias = np.zeros(16, np.int32)
    bias[:3] = 2, -1, -20
    shift = np.full(16, 2, np.uint8)
    layer = IntegerLayer(weight, bias, shift, 100, 90)
    x = np.zeros((1, 2, 16), np.int16)
    x[0, 0, :3], x[0, 1, :3] = (7, 9, -1), (100, -100, 1)
    out = np.zeros((1, 2, 16), np.int16)
    run_dense(layer, x, out, (0, 1), backend="numpy")
    # (3*7 - 5*9 + 2) >> 2 = -6; saturated; (7 - 20) >> 2 = -4; (800 + 2) >> 2 = 200, saturated
    assert out[0, :, :3].tolist() == [[-6, -90, -4], [90, 90, 20]]
    run_dense(layer, x, out, (0, 1), leaky=True, backend="numpy")
    assert out[0, :, :3].tolist() == [[-1, -9, 0], [90, 90, 20]]


@pytest.mark.parametrize("path", PATHS)
def test_gains_follow_the_definition_beyond_their_range_too(path: str) -> None:
    integer_transform.set_kernel_path(path)
    rng = np.random.default_rng(4)
    table = GainTable(
        rng.integers(0, 2**14, (3, 48)).astype(np.uint16),
        rng.integers(0, 18, (3, 48)).astype(np.uint8),
        5000,
    )
    for dtype in (np.int16, np.int32):
        limits = np.iinfo(dtype)
        x = rng.integers(limits.min, limits.max + 1, (4, 5, 48)).astype(dtype)
        for step in range(3):
            expected = run_gain(table, step, x, (0, 4), "numpy")
            np.testing.assert_array_equal(run_gain(table, step, x, (0, 4)), expected)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_exactly_at_the_bound_are_exact_and_one_more_is_refused(
    depthwise: bool, sign: int
) -> None:
    rng = np.random.default_rng(5)
    layer = make_layer(rng, 48, 48, depthwise=depthwise)
    slack = ACCUMULATOR_MAX - layer.accumulator_max() + np.abs(layer.bias)
    layer = dataclasses.replace(
        layer, bias=(sign * slack).astype(np.int32), shift=np.full(48, 17, np.uint8), limit=32767
    )
    assert layer.accumulator_max().tolist() == [ACCUMULATOR_MAX] * 48
    reached = (sign * ACCUMULATOR_MAX) >> 17
    if depthwise:  # position (1, 1) sees all nine inputs with the signs of the weights
        x = (sign * 8191 * np.sign(layer.weight).transpose(1, 2, 0)).astype(np.int16, order="C")
    else:
        x = (sign * 8191 * np.sign(layer.weight[7])).astype(np.int16)[None, None]
    for path in PATHS:
        integer_transform.set_kernel_path(path)
        out = np.zeros((*x.shape[:2], 48), np.int16)
        if depthwise:
            run_spatial(layer, x, out, (0, 3))
            assert (out[1, 1] == reached).all()
        else:
            run_dense(layer, x, out, (0, 1))
            assert out[0, 0, 7] == reached
    bias = layer.bias.copy()
    bias[3] += sign
    with pytest.raises(ValueError, match="a sum may reach 2147483648"):
        dataclasses.replace(layer, bias=bias)


def small_synthesis(rng: np.random.Generator) -> IntegerSynthesis:
    gains = GainTable(
        rng.integers(2**12, 2**14, (5, 32)).astype(np.uint16), np.full((5, 32), 12, np.uint8), 8191
    )
    return IntegerSynthesis(
        gains,
        make_layer(rng, 32, 32),
        dataclasses.replace(gains, limit=16383),
        (make_block(rng, 32),),
        make_layer(rng, 32, 64, input_max=16383, limit=16383),
        (make_block(rng, 16), make_block(rng, 16)),
        make_layer(rng, 16, 192, input_max=16383),
    )


def test_a_synthesis_survives_its_arrays_and_computes_any_rows_alike() -> None:
    rng = np.random.default_rng(6)
    net = small_synthesis(rng)
    arrays = net.to_arrays("net")
    again = IntegerSynthesis.from_arrays("net", arrays)
    y = rng.integers(-9000, 9000, (6, 3, 32)).astype(np.int32)
    whole, part, definition = (np.zeros((91, 40, 3), np.uint8) for _ in range(3))
    net.run(y, 2, whole, (0, 6))
    net.run(y, 2, definition, (0, 6), "numpy")
    for begin in range(6):
        again.run(y, 2, part, (begin, begin + 1))
    np.testing.assert_array_equal(whole, definition)
    np.testing.assert_array_equal(whole, part)
    for name in arrays:
        if ".fine." in name or ".coarse." in name:
            continue  # a chain may be shorter; what a codec's chain must be, its configuration says
        with pytest.raises(ValueError, match="lacks the array"):
            IntegerSynthesis.from_arrays("net", {k: v for k, v in arrays.items() if k != name})


DAMAGE = {
    "head.weight": [lambda a: a[:8], lambda a: a[:, :8], lambda a: a.astype(np.int32)],
    "head.bias": [
        lambda a: np.full_like(a, -(2**31) + 5),
        lambda a: a[1:],
        lambda a: a.astype(np.int64),
    ],
    "head.shift": [lambda a: a + np.uint8(24), lambda a: a[None]],
    "head.bounds": [lambda a: a * 0, lambda a: -a, lambda a: a[:1], lambda a: a.astype(np.int8)],
    "up.bounds": [lambda a: a // 2],  # no longer covers the limits before it
    "fine.0.spatial.weight": [
        lambda a: a[:, :, :2],
        lambda a: a[..., None],
        lambda a: np.full_like(a, -(2**15)),
    ],
    "fine.1.mix_in.bounds": [lambda a: a // 2],
    "latent_gain.multiplier": [
        lambda a: a * 0 + 2**14,
        lambda a: a[:, :5],
        lambda a: a.astype(np.int16),
    ],
    "latent_gain.shift": [lambda a: a + np.uint8(9), lambda a: a.astype(np.int8)],
    "feature_gain.limit": [lambda a: a * 0, lambda a: a * 2],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "index"), [(name, i) for name, cases in DAMAGE.items() for i in range(len(cases))]
)
def test_damaged_arrays_are_refused_at_load(name: str, index: int) -> None:
    arrays = small_synthesis(np.random.default_rng(7)).to_arrays("net")
    arrays[f"net.{name}"] = DAMAGE[name][index](arrays[f"net.{name}"])
    with pytest.raises(ValueError):
        IntegerSynthesis.from_arrays("net", arrays)


def test_the_extension_refuses_what_does_not_fit() -> None:
    layer = make_layer(np.random.default_rng(8), 16, 32).packed()
    x, out, none = np.zeros((3, 5, 16), np.int16), np.zeros((3, 5, 32), np.int16), np.zeros(0, "f4")
    good: dict[str, Any] = {
        "size": (3, 5),
        "rows": (0, 3),
        "picture": (1, 1),
        "source": 0,
        "target": 0,
    }
    _inttransform.dense(layer, False, 0, 0, x, out, none, (3, 5), (0, 3), (1, 1))
    for change in (
        {"size": (3, 6)}, {"size": (0, 5)}, {"size": (2**40, 2**40)}, {"rows": (-1, 3)},
        {"rows": (0, 4)}, {"rows": (2, 1)}, {"source": 3}, {"target": 4},
        {"target": 2}, {"target": 3}, {"source": 2, "picture": (24, 40)},
    ):  # fmt: skip
        a: dict[str, Any] = {**good, **change}
        with pytest.raises(ValueError):
            _inttransform.dense(
                layer, False, a["source"], a["target"], x, out, none, a["size"], a["rows"],
                a["picture"],
            )  # fmt: skip
    with pytest.raises(ValueError, match="form"):
        _inttransform.spatial((layer,), x, x.copy(), (3, 5), (0, 3))
    with pytest.raises(ValueError, match="form"):
        _inttransform.spatial((layer,) * 5, x, x.copy(), (3, 5), (0, 3))
    with pytest.raises(ValueError, match="PyCapsule_GetPointer"):
        _inttransform.spatial((x,), x, x.copy(), (3, 5), (0, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown or not supported"):
        _inttransform.self_test("sse9")


def test_the_kernel_path_can_be_forced_and_a_failing_one_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert PATHS[0] == "portable"
    assert integer_transform.set_kernel_path(None) == PATHS[-1] == integer_transform.kernel_path()
    monkeypatch.setenv("RHODEC_INTTRANSFORM", "portable")
    assert integer_transform.set_kernel_path(None) == "portable"
    monkeypatch.setenv("RHODEC_INTTRANSFORM", "sse9")
    with pytest.raises(ValueError, match="sse9"):
        integer_transform.set_kernel_path(None)
    monkeypatch.delenv("RHODEC_INTTRANSFORM")
    monkeypatch.setattr(_inttransform, "self_test", lambda path: False)
    with pytest.warns(RuntimeWarning, match="fail their self-test"):
        assert integer_transform.set_kernel_path(None) == "portable"
    with pytest.raises(RuntimeError, match="fails its self-test"):
        integer_transform.set_kernel_path("portable")
    with pytest.raises(ValueError, match="at least one"):
        integer_transform.set_threads(0)


@pytest.fixture(scope="module")
def pair() -> tuple[DepthwiseAnalysis, DepthwiseSynthesis]:
    """Untrained transforms whose residual branches do something."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        nets = DepthwiseAnalysis(16, 32, 48, (1, 1)), DepthwiseSynthesis(16, 32, 48, (2, 1))
        for net in nets:
            for module in net.modules():
                if isinstance(module, torch.nn.Linear):
                    torch.nn.init.normal_(module.weight, std=0.7 / module.in_features**0.5)
                    torch.nn.init.normal_(module.bias, std=0.1)
        return nets


GAINS = np.exp(np.linspace(-0.5, 0.5, 201))[:, None]


@torch.no_grad()
def test_exported_transforms_are_close_to_the_float_ones(pair) -> None:
    analysis, synthesis = pair
    rng = np.random.default_rng(9)
    steps = [0, 70, 200, 111]
    pixels = rng.integers(0, 256, (4, 32, 48, 3)).astype(np.uint8)
    latent_gains = GAINS * rng.uniform(1, 9, 48)
    feature_gains = GAINS * rng.uniform(0.5, 1.5, 32)
    y64 = rng.normal(0, 200, (4, 4, 3, 48)).astype(np.int32)
    made = integer_calibration.quantise_synthesis(
        synthesis, y64, steps, 1 / latent_gains, feature_gains
    )
    for item, q in zip(y64, steps, strict=True):
        out = np.zeros((64, 48, 3), np.uint8)
        made.run(item, q, out, (0, 4))
        y = torch.from_numpy(item / 64 / latent_gains[q])[None].float()
        real = synthesis(y, torch.from_numpy(feature_gains[q]).float())[0].numpy() * 255 + 127.5
        assert np.abs(out - real.clip(0, 255)).max() < 1
        assert np.abs(out - real.clip(0, 255)).mean() < 0.3

    exact = integer_calibration.quantise_analysis(
        analysis, pixels, steps, latent_gains, feature_gains
    )
    exact = IntegerAnalysis.from_arrays("a", exact.to_arrays("a"))
    for item, q in zip(pixels, steps, strict=True):
        found = exact.latents_of(exact.features(item, 2, (0, 2)), q, (0, 2))
        y = analysis.features(torch.from_numpy(item)[None].float() / 255 - 0.5)
        y = analysis.latents_of(y, torch.from_numpy(feature_gains[q]).float())[0].numpy()
        expected = y * latent_gains[q]
        assert np.abs(found - expected).max() < 0.005 * np.abs(expected).max()


@torch.no_grad()
def test_an_exported_hyper_analysis_is_close_to_the_float_one() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(32, 48, 1),
            torch.nn.LeakyReLU(0.1),
            torch.nn.Conv2d(48, 48, 2, 2),
            torch.nn.LeakyReLU(0.1),
            torch.nn.Conv2d(48, 48, 3, padding=1, groups=48),
            torch.nn.Conv2d(48, 48, 1),
            torch.nn.LeakyReLU(0.1),
            torch.nn.Conv2d(48, 16, 2, 2),
        )
    last = net[7]
    assert isinstance(last, torch.nn.Conv2d)
    last.weight *= 30
    rng = np.random.default_rng(10)
    y = (rng.normal(0, 1, (3, 8, 12, 32)) * np.exp(rng.uniform(-2, 4, 32))).astype(np.float32)
    made = integer_calibration.quantise_hyper_analysis(net, y)
    made = IntegerHyperAnalysis.from_arrays("h", made.to_arrays("h"))
    for item in y:
        z = net(torch.asinh(torch.from_numpy(item).permute(2, 0, 1)[None]))[0].permute(1, 2, 0)
        found = made.run(item, (0, 2))
        np.testing.assert_array_equal(found, made.run(item, (0, 2), "numpy"))
        assert np.abs(found - z.numpy()).max() < 0.7
        assert np.abs(found).max() > 4


def test_the_c_core_is_clean_under_sanitizers_on_random_and_hostile_layers() -> None:
    script = Path(__file__).with_name("sanitize_intnet.py")
    done = subprocess.run(
        [sys.executable, str(script), "inttransform"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inttransform, sanitized" in done.stdout
