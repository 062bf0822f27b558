"""The training loop: `rhodec train recipe.toml --data DIR --out RUN`.

Every step's data and noise depend only on (seed, step, process), so a resumed run whose limit is in
steps continues exactly; with a limit in minutes the learning rate depends on the clock.
Several processes (`torchrun`) average their gradients; process 0 validates, logs and saves.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from rhodec.codecs.transform_model import TransformModel
from rhodec.train.distortion import DISTORTIONS, LEAST_SIDES, squared_error
from rhodec.train.photo_patches import PhotoPatches, picture_files, read_all, split_files
from rhodec.train.recipe import Recipe, recipe_from_dict
from rhodec.train.run_log import Log
from rhodec.train.validation import centre_crops, validate
from rhodec.train.worker_processes import StopRequest, Workers
from rhodec.transforms.depthwise import DepthwiseBlock

MAX_SKIPS_IN_A_ROW = 10  # non-finite steps before the run goes back to its last checkpoint
LOG_EVERY = 100  # steps
START_PATCHES, START_SIDE = 64, 256  # sample that a new model is fitted to


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast if asked for, or in "auto" where the processor multiplies bf16 fast."""
    fast = device.type == "cuda" or any(
        getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("amx_tile", "avx512_bf16")
    )
    if precision == "bf16" or (precision == "auto" and fast):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def rate_distortion_loss(
    model: TransformModel, x: Tensor, quality: Tensor, balance: float, distortion: str = "mse"
) -> tuple[Tensor, dict[str, float]]:
    """(bpp + lambda * distortion) / (lambda / lowest lambda)^balance, mean over the batch.

    `distortion` is one of `DISTORTIONS`. Also the plain loss (without the division), rate and MSE
    (on the 0..255 scale) for the log.
    """
    x_hat, y_bits, z_bits = model(x, quality)
    cost = DISTORTIONS[distortion](x_hat, x)
    mse = squared_error(x_hat.detach(), x)
    bpp = (y_bits + z_bits) / (x.shape[1] * x.shape[2])
    weight = model.lambda_of(quality)
    plain = bpp + weight * cost
    loss = (plain / (weight / model.rates.lambdas[0]) ** balance).mean()
    means = torch.stack([plain.mean(), bpp.mean(), mse.mean()]).detach().tolist()
    return loss, dict(zip(("loss", "bpp", "mse"), means, strict=True))


class Trainer:
    """State of one run in the folder `out`: model, averaged weights, optimiser, progress."""

    def __init__(self, recipe: Recipe, out: Path, device: torch.device):
        self.recipe, self.out, self.device = recipe, out, device
        torch.manual_seed(recipe.seed)
        self.model = recipe.new_model().to(device)
        self.average = recipe.new_model().to(device)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99),
            weight_decay=recipe.weight_decay, fused=True,
        )  # fmt: skip
        self.step, self.minutes = 0, 0.0  # done so far, over all resumed parts
        self.skipped = 0  # of these steps, those that were not finite

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.progress_at(self.step)

    def progress_at(self, step: int) -> float:
        """Share of the run that is done once `step` steps are, if that took no more minutes."""
        r = self.recipe
        by_step = step / r.steps if r.steps else 0.0
        return min(1.0, max(by_step, self.minutes / r.minutes if r.minutes else 0.0))

    def learning_rate(self) -> float:
        """Linear warm-up, constant up to `decay_start`, then a cosine that ends with the run."""
        r = self.recipe
        warmup = min(1.0, (self.step + 1) / max(1, r.warmup_steps))
        decayed = max(0.0, self.progress - r.decay_start) / (1 - r.decay_start)
        cosine = 0.5 * (1 + math.cos(math.pi * decayed))
        return warmup * (r.final_learning_rate + (r.learning_rate - r.final_learning_rate) * cosine)

    def start(self, pixels: Tensor, workers: Workers) -> None:
        """Initialise a fresh run from sample pictures (B, H, W, 3) in [0, 1]."""
        self.model.initialise(pixels)
        workers.share(self.model)  # other processors may have rounded differently
        self.average.load_state_dict(self.model.state_dict())

    @torch.no_grad()
    def update_average(self) -> None:
        """Exponential moving average of the weights, its decay ramped up from 0.1."""
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for ours, theirs in pairs:
            ours.lerp_(theirs, 1 - decay)

    def start_from(self, checkpoint: Path) -> None:
        """Begin a fresh run with the averaged weights of another run's checkpoint.

        The recipe may have more depthwise blocks than the checkpoint: new ones are the identity.
        """
        state = _read_checkpoint(checkpoint, self.device)
        for model in (self.model, self.average):
            try:
                missing, unexpected = model.load_state_dict(state["average"], strict=False)
            except RuntimeError as error:
                raise ValueError(f"{checkpoint} does not fit the recipe's [config]") from error
            of_blocks = {
                f"{name}.{key}"
                for name, block in model.named_modules()
                if isinstance(block, DepthwiseBlock)
                for key in block.state_dict()
            }
            if unexpected or not of_blocks.issuperset(missing):
                raise ValueError(f"{checkpoint} is of another model than the recipe's")

    def train_step(self, batch: np.ndarray, workers: Workers) -> dict[str, float] | None:
        """One step; None (and no change) if the loss or a gradient is not finite."""
        torch.manual_seed((self.recipe.seed << 32) + self.step * workers.count + workers.rank)
        x = torch.from_numpy(batch).to(self.device).float() / 255
        quality = torch.rand(len(x), device=self.device)
        rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with autocast(self.recipe.precision, self.device):
            recipe = self.recipe
            loss, values = rate_distortion_loss(
                self.model, x, quality, recipe.balance, recipe.distortion
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        values = workers.average(self.model, values)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        if not math.isfinite(float(norm)) or not math.isfinite(values["loss"]):
            return None
        self.optimiser.step()
        self.update_average()
        return values | {"gradient_norm": float(norm), "learning_rate": rate}

    def checkpoint_path(self) -> Path:
        return self.out / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint under a temporary name, then rename it: never half a file."""
        state = {
            "recipe": self.recipe.as_dict(), "step": self.step, "minutes": self.minutes,
            "skipped": self.skipped,
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        temporary = self.checkpoint_path().with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
        os.replace(temporary, self.checkpoint_path())

    def load(self) -> None:
        """Continue from the checkpoint; ValueError if it is of another model than the recipe's."""
        path = self.checkpoint_path()
        state = _read_checkpoint(path, self.device)
        saved = recipe_from_dict(state["recipe"])
        if (saved.codec, saved.config) != (self.recipe.codec, self.recipe.config):
            raise ValueError(f"{path} is of another codec or [config] than the recipe")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.minutes = state["step"], state["minutes"]
        self.skipped = state.get("skipped", 0)


def checkpoint_recipe(path: Path) -> Recipe:
    """The recipe that a checkpoint was made with."""
    return recipe_from_dict(_read_checkpoint(path, torch.device("cpu"))["recipe"])


def _read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """What `Trainer.save` wrote; ValueError if the file is something else."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is damaged, or no checkpoint: {error}") from error
    if not isinstance(state, dict) or "recipe" not in state:
        raise ValueError(f"{path} is not the checkpoint of a training run")
    return state


def train(
    recipe: Recipe, data: Path, out: Path, resume: bool = False, start: Path | None = None
) -> Path:
    """Run `recipe` on the pictures below `data`; returns the checkpoint's path.

    `resume` continues the checkpoint in `out`; without it an existing one is refused. `start` is a
    checkpoint whose averaged weights a new run begins with, in place of a transform fitted to the
    pictures; its optimiser is not used. Ctrl-C and
    SIGTERM save a checkpoint after the current step, then raise KeyboardInterrupt. Raises
    ValueError or OSError for data that cannot be used, FloatingPointError for a run that diverged.
    """
    workers = Workers.connect()
    try:
        trainer = Trainer(recipe, out, workers.device)
        path = trainer.checkpoint_path()
        if path.exists() and not resume:
            raise ValueError(f"{path} exists: resume it or choose another folder")
        if resume:
            if not path.exists():
                raise ValueError(f"there is no {path} to resume")
            trainer.load()
        files, held_out = split_files(picture_files(data), recipe.held_out)
        crops = centre_crops(held_out, LEAST_SIDES[recipe.distortion]) if workers.leads else []
        pictures = read_all(files, max(p.side for p in recipe.phases), quiet=not workers.leads)
        if not resume and start:
            trainer.start_from(start)
        elif not resume:
            side = min(START_SIDE, *(p.side for p in recipe.phases))
            sample = PhotoPatches(pictures, recipe.seed).batch(0, START_PATCHES, side)
            trainer.start(torch.from_numpy(sample).to(workers.device).float() / 255, workers)
        patches = PhotoPatches(pictures, recipe.seed + 1000 * workers.rank)
        if workers.leads:
            out.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(Log(out, workers.leads, trainer.step)) as log:
            _run(trainer, patches, crops, workers, log)
    finally:
        workers.disconnect()
    return path


def _run(
    trainer: Trainer, patches: PhotoPatches, crops: list[np.ndarray], workers: Workers, log: Log
) -> None:
    recipe, lead = trainer.recipe, workers.leads

    def requests() -> Iterator[tuple[int, int, int]]:
        # Asked for a few steps ahead: the phase follows from the step that the batch is for. With a
        # limit in minutes, a few batches after a phase's end still have its size.
        for step in range(trainer.step, recipe.steps or 2**40):
            phase = recipe.phase(trainer.progress_at(step))
            yield step, phase.batch, phase.side

    sums: dict[str, float] = {}
    count = 0  # steps in `sums`

    with (
        StopRequest() as request,
        contextlib.closing(patches.stream(requests())) as batches,
        tqdm(
            desc="training", unit="step", initial=trainer.step, total=recipe.steps or None,
            disable=not lead, mininterval=10,
        ) as bar,
    ):  # fmt: skip

        def log_row() -> None:
            means = {name: total / count for name, total in sums.items()}
            done = {"step": trainer.step, "minutes": trainer.minutes, "skipped": trainer.skipped}
            log.row(means | done)
            bar.set_postfix({name: f"{means[name]:.4g}" for name in ("loss", "bpp", "mse")})

        def run_validation() -> None:
            values = validate(
                trainer.average, crops, trainer.device, request.made, recipe.distortion
            )
            if values is not None:
                log.validation({"step": trainer.step, "minutes": trainer.minutes, **values})

        skips_in_a_row = 0
        stop = went_back = False
        last_save = last_validation = trainer.minutes
        clock = time.monotonic()
        for batch in batches:
            if stop or trainer.progress >= 1:
                break
            values = trainer.train_step(batch, workers)
            if values is None:
                trainer.skipped, skips_in_a_row = trainer.skipped + 1, skips_in_a_row + 1
                if skips_in_a_row >= MAX_SKIPS_IN_A_ROW:
                    _go_back(trainer, went_back)
                    skips_in_a_row, went_back = 0, True
            else:
                skips_in_a_row, went_back = 0, False
                sums = {name: sums.get(name, 0.0) + v for name, v in values.items()}
                count += 1
            trainer.step += 1
            now = time.monotonic()
            minutes = trainer.minutes + (now - clock) / 60
            trainer.minutes, stop = workers.agree(minutes, request.made())
            clock = now
            bar.update()
            if trainer.step % LOG_EVERY == 0 and count:
                log_row()
                sums, count = {}, 0
            # After a bad step the weights may be the cause: not worth going back to.
            save_due = trainer.minutes - last_save >= recipe.checkpoint_minutes
            if lead and save_due and values is not None:
                last_save = trainer.minutes
                trainer.save()
            if lead and trainer.minutes - last_validation >= recipe.validate_minutes:
                last_validation = trainer.minutes
                run_validation()
        if count:
            log_row()
        if lead:
            trainer.save()
            if not stop:
                run_validation()
    if stop:
        raise KeyboardInterrupt


def _go_back(trainer: Trainer, went_back: bool) -> None:
    """Older weights, but newer data: the steps that failed are not repeated."""
    failed = f"the loss was not finite {MAX_SKIPS_IN_A_ROW} steps in a row before step "
    if went_back:
        raise FloatingPointError(f"{failed}{trainer.step}, even with the checkpoint's weights")
    if not trainer.checkpoint_path().exists():
        raise FloatingPointError(f"{failed}{trainer.step}, and there is no checkpoint yet")
    step, minutes, skipped = trainer.step, trainer.minutes, trainer.skipped
    trainer.load()
    trainer.step, trainer.minutes, trainer.skipped = step, minutes, skipped
