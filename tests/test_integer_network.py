"""Integer networks: four evaluators and one result, bounds that are proved, an export that fits."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rhodec.entropy import _intnet, integer_export, integer_network
from rhodec.entropy.conv_network import ConvNetwork, ConvSpec
from rhodec.entropy.integer_network import ACCUMULATOR_MAX, IntegerLayer, IntegerNetwork

PATHS = integer_network.kernel_paths()
SIZES = [(1, 1), (1, 7), (5, 3), (6, 13)]


@pytest.fixture(autouse=True)
def default_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RHODEC_INTNET", raising=False)
    threads = integer_network.KERNELS.threads
    yield
    integer_network.KERNELS.chosen = None
    integer_network.set_threads(threads)


def make_layer(
    rng: np.random.Generator,
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    depthwise: bool = False,
    shuffle: bool = False,
    signed: bool = False,
    input_max: int = 255,
    weight_max: int = 31,
    shifts: tuple[int, int] = (12, 24),
) -> IntegerLayer:
    shape = (outputs, 1 if depthwise else inputs, kernel, kernel)
    return IntegerLayer(
        kernel,
        depthwise,
        shuffle,
        weight=rng.integers(-weight_max, weight_max + 1, shape).astype(np.int16),
        bias=rng.integers(-50_000, 50_001, outputs).astype(np.int32),
        multiplier=rng.integers(2**14, 2**15, outputs).astype(np.uint16),
        shift=rng.integers(*shifts, outputs).astype(np.uint8),
        low=np.full(outputs, -127 if signed else 0, np.int32),
        high=np.full(outputs, 127 if signed else 255, np.int32),
        input_max=np.full(inputs, input_max, np.int16),
    )


def make_network(rng: np.random.Generator) -> IntegerNetwork:
    """Every kind of layer, awkward channel counts, one narrow tail of 3x3, 1x1, 1x1."""
    return IntegerNetwork(
        [
            make_layer(rng, 19, 21, 3, input_max=127),
            make_layer(rng, 21, 21, 3, depthwise=True, signed=True, shifts=(16, 20)),
            make_layer(rng, 21, 68, 1, shuffle=True),
            make_layer(rng, 17, 65, 3),
            make_layer(rng, 65, 33, weight_max=127),
            make_layer(rng, 33, 40, signed=True),
        ]
    )


def random_input(rng: np.random.Generator, net: IntegerNetwork, height: int, width: int):
    bound = net[0].input_max.astype(np.int64)
    shape = (height, width, bound.size)
    return rng.integers(-bound, bound + 1, shape).astype(np.int16)


def all_results(net: IntegerNetwork, x, **options) -> dict[str, np.ndarray]:
    results = {"torch": net.run(x, backend="torch", **options)}
    for path in PATHS:
        integer_network.set_kernel_path(path)
        results[path] = net.run(x, backend="c", **options)
    return results


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_all_evaluators_give_the_same_integers(height: int, width: int) -> None:
    rng = np.random.default_rng(height * 100 + width)
    net = make_network(rng)
    x = random_input(rng, net, height, width)
    expected = net(x, "numpy")
    assert expected.shape == (2 * height, 2 * width, 40) and expected.dtype == np.int16
    assert len(np.unique(expected)) > 10  # or the comparison would show little
    for name, found in all_results(net, x).items():
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_numpy_evaluator_follows_the_definition_on_a_layer_computed_by_hand() -> None:
    layer = IntegerLayer(
        3,
        False,
        True,
        weight=np.arange(-18, 18).reshape(4, 1, 3, 3).astype(np.int16),
        bias=np.array([5, -3, 0, 7], np.int32),
        multiplier=np.array([2**14, 20_000, 2**14, 0], np.uint16),
        shift=np.array([15, 16, 14, 20], np.uint8),
        low=np.array([-100, -100, 0, -100], np.int32),
        high=np.array([100, 100, 255, 100], np.int32),
        input_max=np.array([9], np.int16),
    )
    x = np.array([[[2], [3]]], np.int16)  # one row: only the middle row of each kernel is used
    # position (0, 0): centre weight * 2 + right weight * 3; position (0, 1): left * 2 + centre * 3
    sums = [
        [(-14) * 2 + (-13) * 3 + 5, (-15) * 2 + (-14) * 3 + 5],  # -62, -67 -> halved, ties up
        [(-5) * 2 + (-4) * 3 - 3, (-6) * 2 + (-5) * 3 - 3],  # -25, -30 -> * 20000 / 65536
        [4 * 2 + 5 * 3, 3 * 2 + 4 * 3],  # 23, 18
    ]
    assert sums == [[-62, -67], [-25, -30], [23, 18]]
    expected = np.array([[[-31], [-8], [-33], [-9]], [[23], [0], [18], [0]]], np.int16)
    np.testing.assert_array_equal(IntegerNetwork([layer])(x, "numpy"), expected)


@pytest.mark.parametrize(
    ("inputs", "kernel", "depthwise"), [(517, 1, False), (58, 3, False), (40, 3, True)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_layer_exactly_at_the_bound_is_exact_and_one_more_is_refused(
    inputs: int, kernel: int, depthwise: bool, sign: int
) -> None:
    rng = np.random.default_rng(inputs)
    outputs = inputs if depthwise else 18
    shape = (outputs, 1 if depthwise else inputs, kernel, kernel)
    weight = rng.choice(np.array([-127, 127], np.int16), shape)
    slack = ACCUMULATOR_MAX - 255 * np.abs(weight.astype(np.int64)).sum(axis=(1, 2, 3))
    assert (slack >= 0).all()
    layer = make_layer(rng, inputs, outputs, kernel, depthwise=depthwise)
    layer = dataclasses.replace(
        layer,
        weight=weight,
        bias=(sign * slack).astype(np.int32),
        shift=np.full(outputs, 30, np.uint8),  # 2^30 at the accumulator, 2^14..2^15 at the output
        low=np.full(outputs, -(2**15), np.int32),
        high=np.full(outputs, 2**15 - 1, np.int32),
    )
    assert layer.accumulator_max().tolist() == [ACCUMULATOR_MAX] * outputs
    net = IntegerNetwork([layer])
    # the signs of one output channel's weights at every 3x3 patch drive its sum to the bound
    signs = sign * np.sign(weight[:, 0] if depthwise else weight[7]).astype(np.int16)
    patch = (255 * signs).transpose(1, 2, 0)
    x = np.tile(patch, (2, 3, 1)).astype(np.int16)
    expected = net(x, "numpy")
    reached = (sign * ACCUMULATOR_MAX * int(layer.multiplier[7]) + 2**29) >> 30
    assert reached in expected[..., 7]
    for name, found in all_results(net, x).items():
        np.testing.assert_array_equal(found, expected, err_msg=name)
    bias = layer.bias.copy()
    bias[3] += sign
    with pytest.raises(ValueError, match="layer 0: an accumulator may reach 1073741824"):
        IntegerNetwork([dataclasses.replace(layer, bias=bias)])


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("layers", [slice(3, None), slice(4, None), slice(5, None), slice(1, 2)])
def test_a_cell_and_a_channel_range_equal_a_slice_of_the_full_result(
    height: int, width: int, layers: slice
) -> None:
    rng = np.random.default_rng(3)
    net = make_network(rng)[layers]
    x = random_input(rng, net, height, width)
    full = net(x, "numpy")
    for cy, cx in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        for channels in [None, slice(0, 5), slice(7, 21), slice(18, None)]:
            expected = full[cy::2, cx::2, channels or slice(None)]
            results = all_results(net, x, cell=(cy, cx), channels=channels)
            results["numpy"] = net.run(x, (cy, cx), channels, "numpy")
            for name, found in results.items():
                np.testing.assert_array_equal(found, expected, err_msg=name)


def test_a_channel_range_without_a_cell_and_joined_inputs_work() -> None:
    rng = np.random.default_rng(4)
    net = make_network(rng)
    x = random_input(rng, net, 4, 5)
    parts = [x[..., :3], x[..., 3:11], x[..., 11:]]
    expected = net(x, "numpy")
    np.testing.assert_array_equal(net(parts), expected)
    np.testing.assert_array_equal(net.run(parts, channels=slice(30, 34)), expected[..., 30:34])
    np.testing.assert_array_equal(net[3:](net[:3](x)), expected)


def test_a_cell_after_a_shuffle_starts_behind_it() -> None:
    rng = np.random.default_rng(5)
    net = make_network(rng)
    tail = IntegerNetwork([net[2], make_layer(rng, 17, 9)])
    x = random_input(rng, tail, 3, 2)
    np.testing.assert_array_equal(tail.run(x, cell=(1, 0)), tail(x)[1::2, 0::2])
    with pytest.raises(ValueError, match="ends with a shuffle"):
        net[:3].run(random_input(rng, net, 3, 2), cell=(0, 0))
    with pytest.raises(ValueError, match="channels must be"):
        net[:3].run(random_input(rng, net, 3, 2), channels=slice(0, 4))
    for channels in (slice(5, 5), slice(0, 9, 2)):
        with pytest.raises(ValueError, match="channels must be"):
            tail.run(x, channels=channels)
    with pytest.raises(ValueError, match="not one of the 2x2 grid"):
        tail.run(x, cell=(2, 0))


def test_threads_share_the_rows_without_changing_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(integer_network.KERNELS, "parallel_macs", 0)
    rng = np.random.default_rng(6)
    net = make_network(rng)
    x = random_input(rng, net, 7, 5)
    expected = net(x, "numpy")
    for threads in (1, 2, 3, 20):
        integer_network.set_threads(threads)
        np.testing.assert_array_equal(net(x), expected)
        tail = net[3:].run(net[:3](x), cell=(1, 1))
        np.testing.assert_array_equal(tail, expected[1::2, 1::2])
    with pytest.raises(ValueError, match="at least one"):
        integer_network.set_threads(0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sums_that_grow_part_by_part_give_the_layer_s_result(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer_network.KERNELS, "parallel_macs", 0)
    integer_network.set_threads(3)
    rng = np.random.default_rng(width)
    layer = make_layer(rng, 45, 37, signed=True)
    x = random_input(rng, IntegerNetwork([layer]), height, width)
    for path in PATHS:
        integer_network.set_kernel_path(path)
        sums = integer_network.PartialSums(layer, [slice(0, 12), slice(12, 28), slice(28, 45)])
        known = np.zeros_like(x)
        acc = sums.start(height, width)
        sums.add(acc, 0, x[..., :12])
        known[..., :12] = x[..., :12]
        for part, place, cell in ((2, slice(28, 45), (0, 1)), (1, slice(12, 28), (1, 0))):
            at = slice(cell[0], None, 2), slice(cell[1], None, 2), place
            sums.add(acc, part, x[at], cell)
            known[at] = x[at]
            expected = IntegerNetwork([layer])(known, "numpy")
            np.testing.assert_array_equal(sums.finish(acc), expected)
    with pytest.raises(ValueError, match="the part is"):
        sums.add(acc, 1, x)
    packed = make_layer(rng, 4, 4, 3).packed("portable")
    with pytest.raises(ValueError, match="not supported"):
        _intnet.accumulate(packed, x, acc, (height, width), (1, 0, 0), (0, height))
    with pytest.raises(ValueError, match="not supported"):
        _intnet.requantise(packed, acc, x)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("rows", [(0, 2), (2, 3), (1, 5), (4, 12), (3, 3)])
def test_rows_are_filled_from_the_rows_that_they_depend_on(
    height: int, width: int, rows: tuple[int, int]
) -> None:
    rng = np.random.default_rng(13)
    net = make_network(rng)
    x = random_input(rng, net, height, width)
    expected = net(x, "numpy")
    begin, end = (min(row, len(expected)) for row in rows)
    needed = np.full_like(x, -(2**15))  # what the rows do not depend on
    near = slice(max(0, (begin - 1) // 2 - 2), -(-(end + 1) // 2) + 2)  # through the shuffle
    needed[near] = x[near]
    for backend in ("c", "numpy"):
        found = np.full_like(expected, 99)
        net.fill(needed if backend == "c" else x, found, (begin, end), backend=backend)
        np.testing.assert_array_equal(found[begin:end], expected[begin:end])
        assert (found[:begin] == 99).all() and (found[end:] == 99).all()
    tail, y = net[3:], np.ascontiguousarray(net[:3](x))
    for cell in ((0, 1), (1, 0)):
        part = expected[cell[0] :: 2, cell[1] :: 2, 7:21]
        begin, end = (min(row, len(part)) for row in rows)
        found = np.full_like(part, 99)
        tail.fill(y, found, (begin, end), cell, slice(7, 21))
        np.testing.assert_array_equal(found[begin:end], part[begin:end])
        assert (found[:begin] == 99).all() and (found[end:] == 99).all()


def test_torch_evaluator_ignores_autocast_and_missing_onednn() -> None:
    rng = np.random.default_rng(7)
    net = make_network(rng)
    x = random_input(rng, net, 6, 5)
    expected = net(x, "numpy")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(net(x, "torch"), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch itself warns of TF32 on Intel GPUs
        with torch.backends.mkldnn.flags(enabled=False):
            found = net(x, "torch")
    np.testing.assert_array_equal(found, expected)


def test_inputs_outside_the_proved_bound_are_refused() -> None:
    rng = np.random.default_rng(8)
    layer = make_layer(rng, 4, 3)
    layer = dataclasses.replace(layer, input_max=np.array([9, 127, 255, 0], np.int16))
    net = IntegerNetwork([layer])
    x = np.zeros((2, 3, 4), np.int16)
    x[1, 2] = [-9, 127, 255, 0]
    net(x)
    for channel, value in [(0, 10), (1, -128), (2, 256), (3, 1), (2, -32768)]:
        bad = x.copy()
        bad[0, 1, channel] = value
        with pytest.raises(ValueError, match="outside the bound"):
            net(bad)
    misshaped: list[Any] = [x.astype(np.int32), x[..., :3], x[0], x[:0]]
    for bad in misshaped:
        with pytest.raises(ValueError, match="input is"):
            net(bad)


def test_arrays_survive_a_round_trip() -> None:
    rng = np.random.default_rng(9)
    net = make_network(rng)
    arrays = net.to_arrays("hyper")
    again = IntegerNetwork.from_arrays("hyper", arrays)
    x = random_input(rng, net, 3, 3)
    np.testing.assert_array_equal(again(x), net(x))
    assert {k: v.tobytes() for k, v in again.to_arrays("hyper").items()} == {
        k: v.tobytes() for k, v in arrays.items()
    }
    with pytest.raises(ValueError, match="read-only"):
        again[0].weight[0] = 1


DAMAGE = {
    "forms": [
        lambda a: a[:-1, :2],
        lambda a: a.astype(np.int8),
        lambda a: a + np.array([0, 0, 2], np.uint8),
        lambda a: a + np.array([2, 0, 0], np.uint8),
        lambda a: a[:0],
        lambda a: np.concatenate([a, a[-1:]]),
        lambda a: a[::-1],
    ],
    "0.weight": [
        lambda a: np.full_like(a, -2048),
        lambda a: a[1:],
        lambda a: a[:, :1],
        lambda a: a.astype(np.int8),
        lambda a: a.astype(np.float32),
    ],
    "1.bias": [lambda a: a + 2**30, lambda a: a[:5], lambda a: np.full_like(a, -(2**31))],
    "2.multiplier": [lambda a: a // 2, lambda a: a | np.uint16(2**15), lambda a: a[None]],
    "3.shift": [lambda a: a * 0, lambda a: a + np.uint8(40), lambda a: a[:-1]],
    "3.low": [lambda a: a + 256, lambda a: a - 40_000, lambda a: a - 4000],
    "3.high": [lambda a: a + 40_000, lambda a: a - 256, lambda a: a + 1],
    "4.input_max": [lambda a: a - 1, lambda a: -a, lambda a: a + 32_000, lambda a: a[1:]],
}


@pytest.mark.parametrize(
    ("name", "index"), [(name, i) for name, cases in DAMAGE.items() for i in range(len(cases))]
)
def test_damaged_arrays_are_refused_at_load(name: str, index: int) -> None:
    layers = list(make_network(np.random.default_rng(10)).layers)
    layers[0] = make_layer(np.random.default_rng(10), 60, 21, 3, weight_max=20)
    arrays = IntegerNetwork(layers).to_arrays("net")
    arrays[f"net.{name}"] = DAMAGE[name][index](arrays[f"net.{name}"])
    with pytest.raises(ValueError):
        IntegerNetwork.from_arrays("net", arrays)


def test_every_array_is_needed() -> None:
    arrays = make_network(np.random.default_rng(11)).to_arrays("net")
    for name in arrays:
        with pytest.raises(ValueError, match="lacks the array"):
            IntegerNetwork.from_arrays("net", {k: v for k, v in arrays.items() if k != name})


def test_the_kernel_path_can_be_forced_and_unknown_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert PATHS[0] == "portable"
    assert integer_network.set_kernel_path(None) == PATHS[-1] == integer_network.kernel_path()
    monkeypatch.setenv("RHODEC_INTNET", "portable")
    assert integer_network.set_kernel_path(None) == "portable" == integer_network.kernel_path()
    monkeypatch.setenv("RHODEC_INTNET", "sse9")
    with pytest.raises(ValueError, match="sse9"):
        integer_network.set_kernel_path(None)


def test_a_path_that_fails_its_self_test_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(_intnet.self_test(path) for path in PATHS)
    monkeypatch.setattr(_intnet, "self_test", lambda path: False)
    with pytest.warns(RuntimeWarning, match="fail their self-test"):
        assert integer_network.set_kernel_path(None) == "portable"
    with pytest.raises(RuntimeError, match="fails its self-test"):
        integer_network.set_kernel_path("portable")


def test_the_extension_refuses_what_does_not_fit() -> None:
    layer = make_layer(np.random.default_rng(12), 4, 6)
    packed = layer.packed("portable")
    x, out = np.zeros((3, 5, 4), np.int16), np.zeros((3, 5, 6), np.int16)
    _intnet.convolve(packed, x, out, (3, 5), (1, 0, 0), (0, 3), (0, 6))
    good = {"size": (3, 5), "grid": (1, 0, 0), "rows": (0, 3), "channels": (0, 6)}
    bad = [
        {"size": (3, 6)},
        {"size": (5, 3), "rows": (0, 6)},
        {"size": (0, 5)},
        {"size": (2**40, 2**40)},
        {"grid": (0, 0, 0)},
        {"grid": (2, 0, 0)},
        {"grid": (1, 1, 0)},
        {"rows": (-1, 3)},
        {"rows": (2, 1)},
        {"rows": (0, 4)},
        {"channels": (0, 7)},
        {"channels": (-1, 5)},
        {"channels": (3, 3)},
        {"channels": (0, 5)},
    ]
    for change in bad:
        with pytest.raises(ValueError):
            _intnet.convolve(packed, x, out, *(good | change).values())
    whole = (3, 5), (1, 0, 0), (0, 3), (0, 6)
    with pytest.raises(ValueError):
        _intnet.convolve(packed, bytes(x.tobytes() + b"\0\0"), out, *whole)
    with pytest.raises(ValueError, match="misaligned"):
        _intnet.convolve(packed, memoryview(bytes(121))[1:], out, *whole)
    with pytest.raises((BufferError, TypeError)):
        _intnet.convolve(packed, x, bytes(180), *whole)
    with pytest.raises(ValueError):
        _intnet.convolve(object(), x, out, *whole)  # pyright: ignore[reportArgumentType]


def test_export_of_a_random_network_stays_close_to_it_and_within_its_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = ConvNetwork(
            [
                ConvSpec(12, 24, 3),
                ConvSpec(24, 24, 3, depthwise=True, relu=False),
                ConvSpec(24, 64, 1, shuffle=True),
                ConvSpec(16, 32, 3),
                ConvSpec(32, 10, relu=False),
            ]
        )
    for layer in net.layers:
        assert isinstance(layer, torch.nn.Conv2d) and layer.bias is not None
        torch.nn.init.normal_(layer.bias, std=0.1, generator=generator)
    scale = np.linspace(0.02, 0.2, 12)  # each input channel has its own step

    def images(count: int) -> list[torch.Tensor]:
        steps = torch.as_tensor(scale, dtype=torch.float32)[:, None, None]
        return [
            (torch.randn(2, 12, 8, 6, generator=generator) * 40).round().clamp(-127, 127) * steps
            for _ in range(count)
        ]

    calibration, unseen = images(6), images(3)
    with torch.no_grad():
        spread = float(torch.cat([net(x) for x in calibration]).std())
    step = np.full(10, spread / 64)
    integer = integer_export.quantise_network(net, calibration, scale, 127, step, -300, 300)
    assert [layer.inputs for layer in integer.layers] == [12, 24, 24, 16, 32]
    assert integer[-1].low.tolist() == [-300] * 10 and integer[0].low.tolist() == [0] * 24
    report = integer_export.deviation(net, integer, unseen, scale, 127, step)
    # the outputs have a spread of 64 steps: 8-bit weights and activations leave 2 to 4 % of it
    assert report.rms < 3.0 and abs(report.mean) < 0.3 and report.maximum < 30
    x = integer_export.quantise_input(unseen[0], scale, 127)[1]
    np.testing.assert_array_equal(integer(x, "torch"), integer(x, "numpy"))
    np.testing.assert_array_equal(integer(x), integer(x, "numpy"))


def test_export_enlarges_a_step_where_the_bound_asks_for_it() -> None:
    net = ConvNetwork([ConvSpec(256, 4, 3, relu=False)])
    conv = net.layers[0]
    assert isinstance(conv, torch.nn.Conv2d) and conv.bias is not None
    with torch.no_grad():  # all weights at full scale: 256 * 9 * 2047 * 255 would be over 2^30
        conv.weight.copy_(torch.ones_like(conv.weight))
        conv.weight[1] = 0  # a channel of bias alone
        conv.bias.copy_(torch.tensor([3.0, -2.25, 0.0, 1000.0]))
    x = torch.randint(0, 256, (1, 256, 5, 4), generator=torch.Generator().manual_seed(2)) / 255
    integer = integer_export.quantise_network(net, [x], 1 / 255, 255, 1 / 4, -(2**15), 2**15 - 1)
    assert 2**30 * 0.97 < int(integer[0].accumulator_max().max()) < 2**30
    assert integer[0].weight.max() == 1800  # 2^30 * 0.985 / (256 * 9 * 255), not 2047
    y = integer(integer_export.quantise_input(x, 1 / 255, 255)[0])
    assert (y[..., 1] == -9).all()
    report = integer_export.deviation(net, integer, [x], 1 / 255, 255, 1 / 4)
    assert report.maximum < 0.005 * 4 * 256 * 9  # half a percent of the largest output


def test_export_refuses_an_output_scale_that_no_shift_can_reach() -> None:
    net = ConvNetwork([ConvSpec(3, 2, relu=False)])
    with pytest.raises(ValueError, match="too fine"):
        integer_export.quantise_network(net, [torch.ones(1, 3, 2, 2)], 1, 127, 1e-9, -9, 9)
    with pytest.raises(ValueError, match="at least one input"):
        integer_export.quantise_network(net, [], 1, 127, 1, -9, 9)


def test_the_c_core_is_clean_under_sanitizers_on_random_and_hostile_layers() -> None:
    script = Path(__file__).with_name("sanitize_intnet.py")
    done = subprocess.run([sys.executable, str(script), "intnet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sanitized" in done.stdout
