"""Counted multiplications against hand computations, the clock of stages, and the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rhodec.__main__ import main
from rhodec.bitstream.rans import Decoder
from rhodec.codecs.registry import FAMILIES, load_codec
from rhodec.codecs.rho import RhoConfig
from rhodec.codecs.weights_file import WeightsFile
from rhodec.entropy import integer_network
from rhodec.entropy.coding_schedule import SCHEDULES
from rhodec.entropy.hyper_latent import LatentConfig
from rhodec.entropy.integer_network import IntegerLayer, IntegerNetwork, PartialSums
from rhodec.evaluate import bench_command, stage_bench
from rhodec.evaluate.mac_count import (
    MacCount,
    chain_macs,
    count_macs,
    count_weights,
    integer_macs,
)
from rhodec.evaluate.stage_bench import FreshRun, clocked

N, W, L, Z, F = 8, 12, 16, 4, 6  # narrow, wide, latents, hyper-latents, features
SMALL = RhoConfig(
    narrow=N,
    wide=W,
    analysis_blocks=(1, 2),
    synthesis_blocks=(2, 1),
    latent=LatentConfig(latents=L, hyper=Z, features=F),
)


def layer(
    inputs: int, outputs: int, kernel: int = 1, depthwise: bool = False, shuffle: bool = False
) -> IntegerLayer:
    """An integer layer of this shape; its numbers do not matter."""
    return IntegerLayer(
        kernel,
        depthwise,
        shuffle,
        weight=np.ones((outputs, 1 if depthwise else inputs, kernel, kernel), np.int16),
        bias=np.zeros(outputs, np.int32),
        multiplier=np.full(outputs, 1 << 14, np.uint16),
        shift=np.full(outputs, 20, np.uint8),
        low=np.zeros(outputs, np.int32),
        high=np.ones(outputs, np.int32),
        input_max=np.ones(inputs, np.int16),
    )


def small_networks() -> dict[str, IntegerNetwork]:
    """The entropy model's networks in the form of `HyperLatent`, with fewer layers."""
    return {
        "hyper_synthesis": IntegerNetwork([layer(Z + 1, F, 3), layer(F, 4 * F, shuffle=True),
                                           layer(F, 4 * F, shuffle=True)]),
        "context": IntegerNetwork([layer(F + L, F), layer(F, F, 3, depthwise=True)]),
        **{f"heads.{step}": IntegerNetwork([layer(F, 2 * L)]) for step in range(4)},
    }  # fmt: skip


# ---- multiplications ----------------------------------------------------------------------------


def test_a_small_codec_has_the_multiplications_that_a_hand_counts() -> None:
    arrays = {
        f"int.{key}": value
        for name, network in small_networks().items()
        for key, value in network.to_arrays(name).items()
    }
    config = json.loads(json.dumps(SMALL, default=vars))
    weights = WeightsFile("rho", config, {}, arrays, b"")
    h, w = 4, 8  # latent positions of 64 x 128 pixels
    count = count_weights(weights, width=16 * w, height=16 * h)

    def block(channels: int) -> int:  # three square products, the depthwise 3x3, a double expansion
        return 2 * channels**2 + 9 * channels + 2 * channels * 2 * channels

    p = h * w
    analysis = 4 * p * (192 * N + block(N)) + p * (4 * N * W + 2 * block(W) + W * L)
    synthesis = p * (L * W + block(W) + W * 4 * N) + 4 * p * (2 * block(N) + N * 192)
    hyper_analysis = p * L * F + p // 4 * (4 * F * F + 9 * F + F * F) + p // 16 * 4 * F * Z
    hyper_synthesis = p // 16 * (9 * (Z + 1) * F + F * 4 * F) + p // 4 * F * 4 * F
    # The latents of the last of the four steps are context for none.
    context = p * (F + L * 3 // 4) * F + 3 * p * 9 * F
    assert count.by_stage == {
        "analysis": analysis,
        "hyper analysis": hyper_analysis,
        "hyper synthesis": hyper_synthesis,
        "context": context,
        "heads": p * F * 2 * L,
        "synthesis": synthesis,
    }
    shared = hyper_synthesis + context + p * F * 2 * L
    pixels = 256 * p
    assert count.decoder_kmac_per_pixel == (synthesis + shared) / pixels / 1000
    assert count.encoder_kmac_per_pixel == (analysis + hyper_analysis + shared) / pixels / 1000


def test_normalisation_and_transposed_convolutions_are_counted() -> None:
    config = {"channels": 4, "latents": 6}
    model = FAMILIES["factorized"]
    with torch.device("meta"):
        assert model.model(model.config(**config)).analysis
    count = count_weights(WeightsFile("factorized", config, {}, {}, b""), width=32, height=16)
    p = 2  # latent positions; the layers work at 64, 16, 4 and 1 times as many
    analysis = p * (64 * (25 * 3 * 4 + 16) + 16 * (25 * 16 + 16) + 4 * (25 * 16 + 16) + 25 * 4 * 6)
    # A transposed convolution multiplies every input sample by every tap.
    synthesis = p * (25 * 6 * 4 + 4 * (16 + 25 * 16) + 16 * (16 + 25 * 16) + 64 * (16 + 25 * 12))
    assert count.by_stage == {"analysis": analysis, "synthesis": synthesis}


def test_shuffles_move_later_layers_to_more_positions() -> None:
    layers = [layer(2, 12, shuffle=True), layer(3, 3, 3, depthwise=True), layer(3, 5)]
    assert chain_macs(layers, 2, 3) == 6 * 24 + 24 * 27 + 24 * 15


def test_odd_sizes_count_the_cells_that_exist() -> None:
    counts = integer_macs(small_networks(), SCHEDULES["quad"], rows=3, columns=5)
    assert counts["heads"] == 15 * F * 2 * L
    assert counts["hyper synthesis"] == 2 * (9 * (Z + 1) * F + 4 * F * F + 4 * 4 * F * F)


def test_the_count_is_what_the_shipped_codec_executes(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = load_codec("rho")
    image = np.random.default_rng(1).integers(0, 256, (72, 100, 3), np.uint8)
    executed = 0
    convolve, add = integer_network._convolve, PartialSums.add

    def counting(layer, x, out, rows, cell, channels):
        nonlocal executed
        convolve(layer, x, out, rows, cell, channels)
        columns = out.shape[1] // (2 if layer.shuffle else 1)
        outputs = layer.outputs if channels is None else len(channels)
        executed += (rows[1] - rows[0]) * columns * outputs * layer.weight[0].size

    def counting_add(self, sums, part, x, cell=None):
        nonlocal executed
        add(self, sums, part, x, cell)
        executed += x.size * self.layer.outputs

    monkeypatch.setattr(integer_network, "_convolve", counting)
    monkeypatch.setattr(PartialSums, "add", counting_add)
    monkeypatch.setattr(integer_network.KERNELS, "threads", 1)  # more share some rows
    codec.quantise(codec.analyse(image), 50)
    counted = count_macs(codec, width=100, height=72).by_stage
    assert executed == counted["hyper synthesis"] + counted["context"] + counted["heads"]


def test_codecs_that_cannot_be_counted_are_named() -> None:
    with pytest.raises(ValueError, match="no weights file"):
        count_macs(SimpleNamespace(name="x"))
    with pytest.raises(ValueError, match="family 'other'"):
        count_weights(WeightsFile("other", {}, {}, {}, b""))


# ---- stages -------------------------------------------------------------------------------------


class Slow:
    """A codec whose methods take known times of a clock that only they advance."""

    def __init__(self) -> None:
        self.now = 0.0
        self.latent_codec = SimpleNamespace(quantise=self.quantise_latents, payload=self.code)

    def analyse(self) -> None:
        self.now += 1

    def quantise(self) -> None:
        self.now += 2
        self.latent_codec.quantise()
        self.now += 4
        self.latent_codec.payload()

    def quantise_latents(self) -> None:
        self.now += 8

    def code(self) -> None:
        self.now += 16

    def decode(self) -> None:
        self.now += 32
        raise ValueError("damaged")


def test_every_stage_has_its_own_time_and_nothing_is_lost(monkeypatch) -> None:
    codec = Slow()
    monkeypatch.setattr("time.perf_counter", lambda: codec.now)
    decode = Decoder.decode
    with pytest.raises(ValueError, match="damaged"), clocked(codec) as clock:
        codec.analyse()
        codec.now += 64
        codec.quantise()
        codec.decode()
    expected = {"analysis": 7, "entropy model": 8, "range coder": 16, "synthesis": 32, "other": 64}
    assert clock.seconds == expected
    assert sum(clock.seconds.values()) == codec.now
    assert set(vars(codec)) == {"now", "latent_codec"} and Decoder.decode is decode
    assert codec.latent_codec.payload == codec.code


def test_a_fresh_process_reports_its_own_time_and_memory() -> None:
    hungry = "import time; text = bytearray(200_000_000); time.sleep(0.1)"
    run = stage_bench._run_once([sys.executable, "-c", hungry])
    assert 200e6 < run.peak_bytes < 400e6
    assert run.wall_s > 0.1
    modest = stage_bench._run_once([sys.executable, "-c", ""])
    assert modest.peak_bytes < 100e6  # not that of the hungry one before
    with pytest.raises(RuntimeError, match="failed: no luck"):
        stage_bench._run_once([sys.executable, "-c", "import sys; sys.exit('no luck')"])


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    with Image.open(Path(__file__).parent / "data" / "kodim23.png") as image:
        image.crop((200, 200, 328, 264)).save(path)
    return path


@pytest.fixture
def no_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh processes load torch, which takes seconds; they have a test of their own."""
    runs = {"encode": FreshRun(1.0, 0.9, 5 * 10**8), "decode": FreshRun(2.0, 1.9, 4 * 10**8)}
    monkeypatch.setattr(bench_command, "fresh_runs", lambda *arguments: runs)
    monkeypatch.setattr(bench_command, "set_threads", lambda count: None)


def test_the_command_prints_times_by_stage_that_add_up(photo, no_new_processes, capsys) -> None:
    assert main(["bench", str(photo), "--repeats", "1", "--threads", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    result = record["threads"]["1"]
    for verb, busy in (("encode", "analysis"), ("decode", "synthesis")):
        stages = result[verb]["stages"]
        assert sum(stages.values()) == pytest.approx(result[verb]["wall_s"])
        assert min(stages[busy], stages["entropy model"], stages["container"]) > 0
        assert stages["range coder"] > 0
    assert result["encode"]["stages"]["synthesis"] == 0 < result["bpp"]
    assert record["fresh"]["encode"] == {"wall_s": 1.0, "cpu_s": 0.9, "peak_bytes": 5 * 10**8}
    expected = count_macs(load_codec("rho"), width=128, height=64)
    complexity = record["complexity"]
    assert complexity["decoder-kmac-per-pixel"] == expected.decoder_kmac_per_pixel
    assert complexity["mac-by-network"] == expected.by_stage


def test_the_command_prints_a_table(photo, no_new_processes, capsys) -> None:
    assert main(["bench", str(photo.parent), "--repeats", "1", "--threads", "2,1"]) == 0
    out = capsys.readouterr().out
    assert "1 thread, medians of 1:" in out and "2 threads" in out
    assert "encode  1.00 s, processor 0.90 s, 500 MB at its peak" in out
    assert "decoder  13." in out and "synthesis 11.9" in out
    heads = next(line for line in out.splitlines() if "ms per picture" in line)
    assert heads.split("processor")[1].split("  ")[1:] == [
        *["analysis", "entropy model", "range coder", "synthesis", "container", "other"]
    ]


def test_mistakes_in_the_command_are_explained(photo, capsys) -> None:
    assert main(["bench", str(photo), "--codec", "none"]) == 2
    assert "no codec or weights file" in capsys.readouterr().err
    assert main(["bench", str(photo.parent / "none")]) == 2
    for words in (["--quality", "101"], ["--quality", "0.3"], ["--threads", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(["bench", str(photo), *words])


def test_counts_of_a_folder_are_those_of_its_pictures_together() -> None:
    codec = load_codec("rho")
    pictures = [SimpleNamespace(width=16, height=16), SimpleNamespace(width=64, height=32)]
    total = bench_command._macs(codec, pictures)  # type: ignore[arg-type]
    assert isinstance(total, MacCount)
    parts = [count_macs(codec, p.width, p.height) for p in pictures]
    assert total.by_stage["heads"] == sum(part.by_stage["heads"] for part in parts)
    assert total.width * total.height == 16 * 16 + 64 * 32
