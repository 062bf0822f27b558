"""Training: data, recipes, the loop and its promises, several processes, and the two verbs."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rhodec.__main__ import main
from rhodec.codecs.registry import load_codec
from rhodec.evaluate import ms_ssim
from rhodec.train import loop
from rhodec.train.distortion import structural_error
from rhodec.train.loop import Trainer, train
from rhodec.train.photo_patches import PhotoPatches, picture_files, read_all, read_rgb, split_files
from rhodec.train.real_validation import real_rate_distortion
from rhodec.train.recipe import Recipe, read_recipe, recipe_from_dict
from rhodec.train.run_log import COLUMNS, Log
from rhodec.train.validation import centre_crops, validate
from rhodec.train.worker_processes import StopRequest, Workers

CPU = torch.device("cpu")
TINY = {
    "codec": "rho",
    "steps": 6,
    "held_out": 2,
    "warmup_steps": 2,
    "phases": [
        {"until": 0.5, "side": 64, "batch": 2},
        {"until": 1.0, "side": 128, "batch": 1},
    ],
    "config": {
        "narrow": 16,
        "wide": 24,
        "analysis_blocks": [1, 1],
        "synthesis_blocks": [1, 1],
        "latent": {"latents": 16, "hyper": 4, "features": 16},
    },
}


def tiny(**changes: Any) -> Recipe:
    return recipe_from_dict(TINY | changes)


def write_pictures(folder: Path, count: int = 6, height: int = 144, width: int = 160) -> Path:
    """Smooth noise, every picture another one."""
    random = np.random.default_rng(3)
    for i in range(count):
        small = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def one_process_without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test here trains alone, and quickly."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("photos"))


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C in the middle of a step."""
    train_step = Trainer.train_step

    def interrupted(self: Trainer, *arguments: Any) -> Any:
        if self.step == step:
            signal.raise_signal(signal.SIGINT)
        return train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", interrupted)


def not_finite_at(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[int], bool]) -> None:
    """Losses of NaN at some calls of the loss, counted from 0."""
    plain, calls = loop.rate_distortion_loss, iter(range(10**6))

    def loss_of(*arguments: Any) -> tuple[torch.Tensor, dict[str, float]]:
        loss, values = plain(*arguments)
        return (loss * torch.nan, values) if is_bad(next(calls)) else (loss, values)

    monkeypatch.setattr(loop, "rate_distortion_loss", loss_of)


def state_of(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def tensors_of(state: Any) -> list[torch.Tensor]:
    """All tensors of a nested state, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    items = state.values() if isinstance(state, dict) else state
    nested = isinstance(state, dict | list | tuple)
    return [t for item in items for t in tensors_of(item)] if nested else []


def assert_same_bits(ours: Any, theirs: Any) -> None:
    pairs = list(zip(tensors_of(ours), tensors_of(theirs), strict=True))
    assert pairs and all(torch.equal(a, b) for a, b in pairs)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "train.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- data ---------------------------------------------------------------------------------------


def test_the_split_is_disjoint_complete_even_and_stable() -> None:
    files = [Path(f"{i:03}.png") for i in range(101)]
    for held_out in (1, 2, 20, 100):
        training, validation = split_files(files, held_out)
        assert len(validation) == held_out
        assert set(training) | set(validation) == set(files)
        assert not set(training) & set(validation)
        assert split_files(list(files), held_out) == (training, validation)
    gaps = np.diff([files.index(f) for f in split_files(files, 20)[1]])
    assert gaps.min() >= 5 and gaps.max() <= 6


def test_a_split_that_leaves_nothing_is_refused_by_name() -> None:
    for held_out in (0, 3, 4):
        with pytest.raises(ValueError, match=f"held_out is {held_out}, but there are 3"):
            split_files([Path("a"), Path("b"), Path("c")], held_out)


def test_only_visible_picture_files_are_found_in_every_subfolder(tmp_path: Path) -> None:
    (tmp_path / "sub" / "folder.png").mkdir(parents=True)
    for name in ("b.PNG", "sub/a.jpeg", ".hidden.png", "sub/._a.jpeg", "notes.txt"):
        (tmp_path / name).touch()
    assert picture_files(tmp_path) == [tmp_path / "b.PNG", tmp_path / "sub/a.jpeg"]
    with pytest.raises(ValueError, match="no picture"):
        picture_files(tmp_path / "sub" / "folder.png")
    with pytest.raises(ValueError, match="not a folder"):
        picture_files(tmp_path / "missing")


def test_a_batch_depends_only_on_seed_and_step(photos: Path) -> None:
    pictures = read_all(picture_files(photos), 64)
    patches = PhotoPatches(pictures, seed=5)
    batch = patches.batch(7, 3, 64)
    assert batch.shape == (3, 64, 64, 3) and batch.dtype == np.uint8
    patches.batch(8, 2, 128)
    assert np.array_equal(patches.batch(7, 3, 64), batch)
    assert np.array_equal(PhotoPatches(pictures, seed=5).batch(7, 3, 64), batch)
    assert not np.array_equal(patches.batch(8, 3, 64), batch)
    assert not np.array_equal(PhotoPatches(pictures, seed=6).batch(7, 3, 64), batch)


def test_the_stream_gives_the_batches_that_were_asked_for_and_stops_its_thread(
    photos: Path,
) -> None:
    patches = PhotoPatches(read_all(picture_files(photos), 128), seed=1)
    wanted = [(step, 1 + step % 2, 64 if step < 5 else 128) for step in range(9)]
    for request, batch in zip(wanted, patches.stream(iter(wanted)), strict=True):
        assert np.array_equal(batch, patches.batch(*request))
    endless = patches.stream((step, 1, 64) for step in iter(int, 1))
    next(endless)
    endless.close()  # returns only once the thread has ended


def test_an_error_in_the_background_reaches_the_loop(photos: Path) -> None:
    patches = PhotoPatches(read_all(picture_files(photos), 128), seed=1)
    with pytest.raises(ValueError):
        list(patches.stream(iter([(0, 1, 64), (1, 1, 4096)])))


def test_pictures_smaller_than_the_patch_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path, 2)
    Image.new("RGB", (500, 63)).save(tmp_path / "flat.png")
    assert len(read_all(picture_files(tmp_path), 64)) == 2
    assert "1 of 3 pictures are left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="sides of 256 pixels"):
        read_all(picture_files(tmp_path), 256)


def test_every_pixel_format_is_read_as_8_bit_rgb(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).round().astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "16bit.png")
    assert np.abs(read_rgb(tmp_path / "16bit.png")[:, :, 1] - ramp / 257).max() <= 0.51
    colours = Image.new("RGBA", (8, 8), (10, 20, 30, 128))
    colours.save(tmp_path / "alpha.png")
    palette = colours.convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "palette.png", transparency=b"\x00\x80")
    for name in ("alpha.png", "palette.png"):
        assert read_rgb(tmp_path / name).tolist() == np.full((8, 8, 3), (10, 20, 30)).tolist()


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    data = (tmp_path / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut\.png"):
        read_all(picture_files(tmp_path), 64)


# ---- recipes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": "jpeg"}, "codec must be one of"),
        ({"learning_rat": 1.0}, "learning_rat"),
        ({"learning_rate": "fast"}, "learning_rate must be of type float"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"steps": 1.5}, "steps must be of type int"),
        ({"steps": True}, "steps must be of type int"),
        ({"steps": 0}, "steps, minutes"),
        ({"minutes": -1}, "minutes must not be negative"),
        ({"minutes": float("nan")}, "minutes must not be negative"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"precision": "fp8"}, "precision"),
        ({"distortion": "psnr"}, "distortion must be one of mse, ms-ssim"),
        ({"distortion": "ms-ssim"}, "side must be at least 192 for ms-ssim"),
        ({"seed": -1}, "seed"),
        ({"phases": 3}, "phases must be a list"),
        ({"phases": []}, "phases"),
        ({"phases": [{"until": 1.0, "side": 64}]}, r"phases\[0\].*batch"),
        ({"phases": [{"until": 1.0, "side": 64, "batch": 0}]}, "batch must be positive"),
        ({"phases": [{"until": 1.0, "side": 100, "batch": 1}]}, "side must be a multiple of 64"),
        ({"phases": [{"until": 0.9, "side": 64, "batch": 1}]}, "until"),
        ({"config": {"narow": 16}}, "config.*narow"),
        ({"config": {"narrow": "wide"}}, "config.narrow must be of type int"),
        ({"config": {"analysis_blocks": [1]}}, "config.analysis_blocks must have 2 values"),
        ({"config": {"latent": {"latents": 16, "hyper": 4}}}, "config.*features"),
        ({"config": {"rates": {"lambdas": ["a", 1.0]}}}, r"config.rates.lambdas\[0\]"),
    ],
)
def test_a_mistake_in_a_recipe_names_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_a_recipe_file_is_read_with_overrides_and_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('codec = "rho"\nsteps = 10\nminutes = 5\nseed = 3\n')
    assert read_recipe(path).minutes == 5
    assert read_recipe(path, steps=20, minutes=0.0, seed=None).steps == 20
    assert recipe_from_dict(read_recipe(path).as_dict()) == read_recipe(path)
    path.write_text("codec = \n")
    with pytest.raises(ValueError, match=r"mine\.toml"):
        read_recipe(path)


def test_every_packaged_recipe_can_be_read() -> None:
    files = sorted((Path(loop.__file__).parent / "recipes").glob("*.toml"))
    assert "rho" in {f.stem for f in files}
    for file in files:
        codec = file.stem.removesuffix("-msssim").partition("-continued")[0]
        assert read_recipe(file).codec == codec


def test_phases_follow_the_progress() -> None:
    recipe = tiny()
    sides = [recipe.phase(p).side for p in (0.0, 0.499, 0.5, 0.99, 1.0)]
    assert sides == [64, 64, 128, 128, 128]


# ---- the loop -----------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_ends_at_the_final_one(tmp_path: Path) -> None:
    recipe = tiny(steps=1000, warmup_steps=10, learning_rate=1e-3, final_learning_rate=1e-5)
    trainer = Trainer(recipe, tmp_path, CPU)
    rates = []
    for trainer.step in range(1001):
        rates.append(trainer.learning_rate())
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3, rel=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[500] == pytest.approx(0.5 * (1e-3 + 1e-5))
    assert rates[1000] == 1e-5


def test_the_learning_rate_can_stay_constant_before_it_falls(tmp_path: Path) -> None:
    recipe = tiny(steps=1000, warmup_steps=10, decay_start=0.6, learning_rate=1e-3)
    trainer = Trainer(recipe, tmp_path, CPU)
    rates = []
    for trainer.step in range(1001):
        rates.append(trainer.learning_rate())
    assert set(rates[10:601]) == {1e-3}
    assert rates[800] == pytest.approx(0.5 * (1e-3 + recipe.final_learning_rate))
    assert rates[1000] == recipe.final_learning_rate


def test_a_run_ends_at_steps_or_minutes_whichever_comes_first(tmp_path: Path) -> None:
    trainer = Trainer(tiny(steps=100, minutes=10), tmp_path, CPU)
    trainer.step, trainer.minutes = 50, 9.0
    assert trainer.progress == 0.9
    trainer.step = 95
    assert trainer.progress == 0.95
    trainer.minutes = 11.0
    assert trainer.progress == 1.0


def test_the_average_follows_fast_at_first_and_then_at_its_decay(tmp_path: Path) -> None:
    trainer = Trainer(tiny(ema_decay=0.99), tmp_path, CPU)
    for step, decay in ((0, 0.1), (90, 0.91), (10**6, 0.99)):
        trainer.step = step
        with torch.no_grad():
            trainer.average.log_gain.fill_(1.0)
            trainer.model.log_gain.fill_(0.0)
        trainer.update_average()
        assert trainer.average.log_gain.mean().item() == pytest.approx(decay)


def test_one_step_changes_the_weights_and_ten_lower_the_loss(photos: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny(steps=40, learning_rate=2e-3), tmp_path, CPU)
    patches = PhotoPatches(read_all(picture_files(photos), 128), seed=1)
    workers = Workers()
    trainer.start(torch.from_numpy(patches.batch(0, 8, 128)).float() / 255, workers)
    before = [p.clone() for p in trainer.model.parameters()]
    batch = patches.batch(0, 2, 64)
    first = trainer.train_step(batch, workers)
    assert first is not None
    assert any(
        not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)
    )
    for _ in range(10):
        last = trainer.train_step(batch, workers)
    assert last is not None and last["loss"] < first["loss"]


def test_an_interrupted_run_continues_bit_for_bit(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    # One of the two validates and saves after every step: neither may touch what follows.
    train(tiny(validate_minutes=1e-9, checkpoint_minutes=1e-9), photos, whole)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), photos, parts)
    assert state_of(parts)["step"] == 3  # the step that was interrupted is finished
    minutes = state_of(parts)["minutes"]
    train(tiny(), photos, parts, resume=True)
    assert state_of(parts)["step"] == 6
    assert state_of(parts)["minutes"] > minutes
    for name in ("model", "average", "optimiser"):
        assert_same_bits(state_of(parts)[name], state_of(whole)[name])
    assert any(
        not torch.equal(state_of(whole)["model"][k], v)
        for k, v in state_of(whole)["average"].items()
    )
    assert len((whole / "validation.jsonl").read_text().splitlines()) >= 6
    assert len((parts / "validation.jsonl").read_text().splitlines()) == 1


def test_the_patches_change_exactly_at_the_end_of_a_phase(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, train_step = [], Trainer.train_step

    def watched(self: Trainer, batch: np.ndarray, *arguments: Any) -> Any:
        shapes.append(batch.shape[:2])
        return train_step(self, batch, *arguments)

    monkeypatch.setattr(Trainer, "train_step", watched)
    train(tiny(), photos, tmp_path)
    assert shapes == [(2, 64)] * 3 + [(1, 128)] * 3


def test_a_limit_in_minutes_counts_all_parts(photos: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny(steps=0, minutes=5), tmp_path, CPU)
    trainer.step, trainer.minutes = 40, 5.0
    trainer.save()
    train(tiny(steps=0, minutes=5), photos, tmp_path, resume=True)
    assert state_of(tmp_path)["step"] == 40


def test_a_checkpoint_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny(), tmp_path, CPU)
    trainer.save()

    def full_disk(state: Any, file: Any) -> None:
        file.write(b"half a")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    trainer.step = 5
    with pytest.raises(OSError, match="no space"):
        trainer.save()
    trainer.load()
    assert trainer.step == 0


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    not_finite_at(monkeypatch, lambda call: call in (2, 4))
    states, train_step = [], Trainer.train_step

    def watched(self: Trainer, *arguments: Any) -> Any:
        values = train_step(self, *arguments)
        average = [p.clone() for p in self.average.parameters()]
        states.append([p.clone() for p in self.model.parameters()] + average)
        return values

    monkeypatch.setattr(Trainer, "train_step", watched)
    train(tiny(), photos, tmp_path)
    assert_same_bits(states[1], states[2])
    assert_same_bits(states[3], states[4])
    assert not torch.equal(states[2][0], states[3][0])
    assert state_of(tmp_path)["skipped"] == 2
    assert [row["skipped"] for row in rows_of(tmp_path)] == ["0", "0", "1", "2"]
    assert [row["step"] for row in rows_of(tmp_path)] == ["1", "2", "4", "6"]


def test_ten_bad_steps_in_a_row_go_back_to_the_checkpoint_with_newer_data(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite_at(monkeypatch, lambda call: 2 <= call < 12)
    loads: list[int] = []
    load = Trainer.load

    def watched(self: Trainer) -> None:
        loads.append(self.step)
        with torch.no_grad():  # what the checkpoint has to repair
            next(self.model.parameters()).fill_(torch.nan)
        load(self)

    monkeypatch.setattr(Trainer, "load", watched)
    train(tiny(steps=14, checkpoint_minutes=1e-9), photos, tmp_path)
    state = state_of(tmp_path)
    assert loads == [11]
    assert (state["step"], state["skipped"]) == (14, 10)
    assert all(torch.isfinite(t).all() for t in tensors_of(state["model"]))


def test_a_run_that_stays_bad_fails_and_keeps_its_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite_at(monkeypatch, lambda call: call >= 2)
    with pytest.raises(FloatingPointError, match="even with the checkpoint's weights"):
        train(tiny(steps=50, checkpoint_minutes=1e-9), photos, tmp_path)
    assert state_of(tmp_path)["step"] == 2
    assert all(torch.isfinite(t).all() for t in tensors_of(state_of(tmp_path)["model"]))


def test_a_run_that_is_bad_from_the_start_fails(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite_at(monkeypatch, lambda call: True)
    with pytest.raises(FloatingPointError, match="no checkpoint"):
        train(tiny(steps=50), photos, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_checkpoint_of_another_model_is_refused(photos: Path, tmp_path: Path) -> None:
    Trainer(tiny(), tmp_path, CPU).save()
    other = tiny(config=TINY["config"] | {"narrow": 8})
    with pytest.raises(ValueError, match=r"another codec or \[config\]"):
        train(other, photos, tmp_path, resume=True)


def test_a_second_interrupt_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as request:
        assert not request.made()
        signal.raise_signal(signal.SIGTERM)
        assert request.made()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_torchrun_repeats_the_interrupt_and_that_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    with StopRequest() as request:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert request.made()


# ---- logs and validation ------------------------------------------------------------------------


def test_the_log_has_its_columns_and_forgets_what_no_checkpoint_holds(tmp_path: Path) -> None:
    values = dict.fromkeys(COLUMNS, 0.123456789)
    log = Log(tmp_path, active=True)
    for step in (999_999, 1_234_567, 1_234_568):
        log.row(values | {"step": step, "skipped": 0})
        log.validation({"step": step, "minutes": 1.0, "loss": 2.0, "bpp": [0.5]})
    lines = (tmp_path / "train.csv").read_text().splitlines()
    assert lines[0] == "step,minutes,loss,bpp,mse,gradient_norm,learning_rate,skipped"
    assert lines[2] == "1234567,0.123457,0.123457,0.123457,0.123457,0.123457,0.123457,0"
    Log(tmp_path, active=True, step=1_234_567)
    assert (tmp_path / "train.csv").read_text().splitlines() == lines[:3]
    validation = (tmp_path / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in validation] == [999_999, 1_234_567]


def test_a_log_that_is_not_active_writes_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path, active=False)
    log.row({})
    log.validation({})
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    class Board:
        def add_scalar(self, *arguments: Any) -> None:
            written.append(arguments)

        def close(self) -> None:
            written.append("closed")

    log = Log(tmp_path, active=True)
    assert log.board is None  # not installed, as far as this test goes
    log.board = Board()  # type: ignore[assignment]
    log.validation({"step": 3, "minutes": 1.5, "bpp": [0.5, 0.75]})
    log.close()
    assert written == [
        ("validation/minutes", 1.5, 3),
        ("validation/bpp/0", 0.5, 3),
        ("validation/bpp/1", 0.75, 3),
        "closed",
    ]


def test_validation_draws_no_random_numbers_and_can_be_stopped(photos: Path) -> None:
    torch.manual_seed(0)
    model = tiny().new_model()
    crops = centre_crops(picture_files(photos)[:2])
    assert [c.shape for c in crops] == [(128, 128, 3)] * 2
    state = torch.get_rng_state()
    first = validate(model, crops, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == validate(model, crops, CPU)
    assert validate(model, crops, CPU, stop=lambda: True) is None


def test_held_out_pictures_that_are_too_small_are_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (600, 63)).save(tmp_path / "flat.png")
    Image.new("RGB", (600, 100)).save(tmp_path / "wide.png")
    assert [c.shape for c in centre_crops(picture_files(tmp_path))] == [(64, 512, 3)]
    with pytest.raises(ValueError, match="held-out"):
        centre_crops([tmp_path / "flat.png"])


# ---- several processes --------------------------------------------------------------------------

RANK_SCRIPT = """
import os, sys
from pathlib import Path
import torch
from rhodec.train import loop
from rhodec.train.recipe import read_recipe

recipe, data, out = map(Path, sys.argv[1:])
trainers = []

class Watched(loop.Trainer):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        trainers.append(self)

loop.Trainer = Watched
loop.train(read_recipe(recipe), data, out)
trainer = trainers[0]
state = {"model": trainer.model.state_dict(), "average": trainer.average.state_dict()}
torch.save(state | {"minutes": trainer.minutes}, out / f"rank{os.environ['RANK']}.pt")
"""
RECIPE_FILE = """
codec = "rho"
steps = 3
held_out = 2
phases = [{until = 1.0, side = 64, batch = 1}]
[config]
narrow = 16
wide = 24
analysis_blocks = [1, 1]
synthesis_blocks = [1, 1]
[config.latent]
latents = 16
hyper = 4
features = 16
"""


def test_two_processes_of_torchrun_stay_equal(photos: Path, tmp_path: Path) -> None:
    script, recipe, out = tmp_path / "script.py", tmp_path / "recipe.toml", tmp_path / "out"
    script.write_text(RANK_SCRIPT)
    recipe.write_text(RECIPE_FILE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, script, recipe, photos, out],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(out / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    assert_same_bits(first, second)
    assert first["minutes"] == second["minutes"] > 0
    # Two patches a step, not one twice: a single process ends elsewhere.
    alone = tmp_path / "alone"
    train(read_recipe(recipe), photos, alone)
    assert not torch.equal(state_of(alone)["model"]["log_gain"], first["model"]["log_gain"])
    assert_same_bits(state_of(out)["model"], first["model"])
    assert len((out / "validation.jsonl").read_text().splitlines()) == 1


# ---- the two verbs ------------------------------------------------------------------------------


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE_FILE)
    return str(path)


def test_train_runs_resumes_and_says_what_is_wrong(
    photos: Path, tmp_path: Path, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = ["train", recipe_file, "--data", str(photos), "--out", str(tmp_path / "run")]
    assert main([*verb, "--resume"]) == 1
    assert "checkpoint.pt to resume" in capsys.readouterr().err
    assert main([*verb, "--steps", "2"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "rhodec export" in err
    assert main(verb) == 1
    assert "exists: resume it" in capsys.readouterr().err
    assert main([*verb, "--resume"]) == 0
    assert state_of(tmp_path / "run")["step"] == 3
    assert main(["train", recipe_file, "--data", str(tmp_path / "no"), "--out", str(tmp_path)]) == 1
    assert "no is not a folder" in capsys.readouterr().err


def test_a_failed_start_leaves_no_folder_behind(
    tmp_path: Path, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    verb = ["train", recipe_file, "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "r")]
    assert main(verb) == 1
    assert "no picture in" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_mistakes_in_the_command_line_exit_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(["train", "rhoo", *where]) == 2
    assert "packaged ones: factorized" in capsys.readouterr().err
    for wrong in (["--steps", "-1"], ["--minutes", "nan"], ["--threads", "0"], ["--steps", "x"]):
        with pytest.raises(SystemExit) as exit_:
            main(["train", "rho", *where, *wrong])
        assert exit_.value.code == 2
        assert wrong[0] in capsys.readouterr().err


def test_an_interrupted_train_exits_with_130_and_a_checkpoint(
    photos: Path,
    tmp_path: Path,
    recipe_file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupt_at(monkeypatch, 0)
    verb = ["train", recipe_file, "--data", str(photos), "--out", str(tmp_path / "run")]
    assert main(verb) == 130
    assert "--resume" in capsys.readouterr().err
    assert state_of(tmp_path / "run")["step"] == 1


def test_export_writes_weights_whose_real_bitstreams_meet_the_estimate(
    tmp_path: Path, recipe_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    write_pictures(photos, 4, 256, 256)
    run = tmp_path / "run"
    assert main(["train", recipe_file, "--data", str(photos), "--out", str(run)]) == 0
    checkpoint = str(run / "checkpoint.pt")
    capsys.readouterr()
    assert main(["export", checkpoint, "--data", str(photos), "--name", "mine", "--check=1"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "coded and decoded 1 held-out pictures" in err
    codec = load_codec(str(run / "mine.safetensors"))
    assert codec.name == "mine"
    _, held_out = split_files(picture_files(photos), 2)
    curve = real_rate_distortion(codec, centre_crops(held_out), (0, 40))
    assert curve["bpp"] == pytest.approx(curve["estimated_bpp"], rel=0.02)
    assert curve["bpp"][0] < curve["bpp"][1] and curve["psnr_db"][0] < curve["psnr_db"][1]


def test_export_refuses_what_is_not_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    for name in ("missing.pt", "checkpoint.pt", "other.pt"):
        assert main(["export", str(tmp_path / name), "--data", str(tmp_path)]) == 1
        assert name in capsys.readouterr().err


def test_a_run_can_start_with_the_averaged_weights_of_another(photos: Path, tmp_path: Path) -> None:
    first = train(tiny(steps=3), photos, tmp_path / "first")
    trainer = Trainer(tiny(steps=3), tmp_path / "second", CPU)
    trainer.start_from(first)
    average = torch.load(first, weights_only=True)["average"]
    for model in (trainer.model, trainer.average):
        for name, value in model.state_dict().items():
            assert torch.equal(value, average[name]), name
    assert trainer.step == 0


def test_more_blocks_than_the_checkpoint_has_start_as_the_identity(
    photos: Path, tmp_path: Path
) -> None:
    first = train(tiny(steps=3), photos, tmp_path / "first")
    deeper = {"analysis_blocks": [1, 2], "synthesis_blocks": [2, 3]}
    grown = Trainer(tiny(config=TINY["config"] | deeper), tmp_path / "second", CPU)
    grown.start_from(first)
    plain = Trainer(tiny(), tmp_path / "third", CPU)
    plain.start_from(first)
    x, quality = torch.rand(1, 64, 64, 3), torch.tensor([0.4])
    with torch.no_grad():
        for ours, theirs in zip(
            grown.model(x, quality, noise=False), plain.model(x, quality, noise=False), strict=True
        ):
            assert torch.equal(ours, theirs)
    wider = Trainer(tiny(config=TINY["config"] | {"narrow": 8}), tmp_path / "fourth", CPU)
    with pytest.raises(ValueError, match="does not fit"):
        wider.start_from(first)
    fewer = Trainer(tiny(config=TINY["config"] | {"synthesis_blocks": [0, 1]}), tmp_path, CPU)
    with pytest.raises(ValueError, match="another model"):
        fewer.start_from(first)


def test_ms_ssim_as_a_loss_is_that_of_the_evaluation_and_has_a_gradient() -> None:
    random = np.random.default_rng(4)
    smooth = random.integers(0, 256, (2, 24, 28, 3)).repeat(8, 1).repeat(8, 2)
    pictures = (smooth + random.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8)
    decoded = (smooth + random.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
    x, x_hat = (torch.from_numpy(p).float() / 255 for p in (pictures, decoded))
    x_hat.requires_grad_()
    found = structural_error(x_hat, x)
    expected = [1280 * (1 - ms_ssim(a, b)) for a, b in zip(pictures, decoded, strict=True)]
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4)
    found.sum().backward()
    assert x_hat.grad is not None
    step = 1e-3 * x_hat.grad / x_hat.grad.abs().max()
    with torch.no_grad():
        assert (structural_error(x_hat - step, x) < found).all()
        assert torch.isfinite(structural_error(1 - x, x)).all()  # all contrast terms negative


def test_a_run_for_ms_ssim_validates_by_it(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    write_pictures(photos, 4, 200, 208)
    recipe = tiny(steps=2, distortion="ms-ssim", phases=[{"until": 1.0, "side": 192, "batch": 1}])
    train(recipe, photos, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "validation.jsonl").read_text().splitlines()[-1])
    assert all(0 < value < 1 for value in line["ms_ssim"])


def test_bf16_changes_only_what_is_added_to_the_picture() -> None:
    """Under autocast the branches of the blocks are bf16; without them nothing changes."""
    torch.manual_seed(2)
    model = tiny().new_model()
    model.initialise(torch.rand(8, 64, 64, 3))
    x, quality = torch.rand(1, 64, 64, 3), torch.tensor([0.9])
    with torch.no_grad():
        exact = model.latents_of(model.features(x), quality)
        with loop.autocast("bf16", CPU):
            mixed = model.latents_of(model.features(x), quality)
    assert mixed.dtype == torch.float32
    assert (mixed - exact).abs().max() < 0.01 * exact.abs().max()
