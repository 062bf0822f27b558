"""The training loop: `rhodec train recipe.toml --data DIR --out RUN`.

Every step's data and noise depend only on (seed, step, process), so a resumed run continues exactly.
Several processes (`torchrun`) average their gradients; process 0 validates, logs and saves.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from rhodec.codecs.transform_model import TransformModel
from rhodec.train.photo_patches import PhotoPatches, picture_files, read_all, split_files
from rhodec.train.recipe import Recipe, recipe_from_dict
from rhodec.train.validation import validate

MAX_SKIPS_IN_A_ROW = 10  # non-finite steps before the run goes back to its last checkpoint
LOG_EVERY = 100
COLUMNS = ("step", "minutes", "loss", "bpp", "mse", "gradient_norm", "learning_rate", "skipped")


@dataclass
class Workers:
    """The processes that share this run (`torchrun`), or just this one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def connect(cls, device: torch.device) -> Workers:
        if "WORLD_SIZE" not in os.environ:
            return cls()
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def average_gradients(self, model: nn.Module) -> None:
        if self.count > 1:
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            flat = torch.cat([g.flatten() for g in grads])
            dist.all_reduce(flat)
            for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
                g.copy_(part.view_as(g) / self.count)

    def agree(self, value: float) -> float:
        """Process 0's value, so that a wall-clock limit ends all processes at the same step."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        if dist.get_backend() == "nccl":
            shared = shared.cuda()
        dist.broadcast(shared, 0)
        return float(shared.item())


def choose_device() -> torch.device:
    """This process's CUDA device where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast if asked for, or in "auto" where the processor multiplies bf16 fast."""
    fast = device.type == "cuda" or getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    if precision == "bf16" or (precision == "auto" and fast):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def rate_distortion_loss(
    model: TransformModel, x: Tensor, quality: Tensor, balance: float
) -> tuple[Tensor, dict[str, float]]:
    """(bpp + lambda * 255^2 * MSE) / (lambda / lowest lambda)^balance, mean over the batch.

    Also the plain loss (without the division), rate and MSE (on the 0..255 scale) for the log.
    """
    x_hat, y_bits, z_bits = model(x, quality)
    mse = (x_hat - x).square().mean((1, 2, 3)) * 255**2
    bpp = (y_bits + z_bits) / (x.shape[1] * x.shape[2])
    weight = model.lambda_of(quality)
    plain = bpp + weight * mse
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
            weight_decay=recipe.weight_decay, fused=device.type == "cuda" or None,
        )  # fmt: skip
        self.step, self.minutes = 0, 0.0  # done so far, over all resumed parts

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        r = self.recipe
        by_step = self.step / r.steps if r.steps else 0.0
        return min(1.0, max(by_step, self.minutes / r.minutes if r.minutes else 0.0))

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine that ends with the run."""
        r = self.recipe
        warmup = min(1.0, (self.step + 1) / max(1, r.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return warmup * (r.final_learning_rate + (r.learning_rate - r.final_learning_rate) * cosine)

    def start(self, pixels: Tensor) -> None:
        """Initialise a fresh run from sample pictures (B, H, W, 3) in [0, 1]."""
        self.model.initialise(pixels)
        self.average.load_state_dict(self.model.state_dict())

    @torch.no_grad()
    def update_average(self) -> None:
        """Exponential moving average of the weights, its decay ramped up from 0.1."""
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        ours, theirs = list(self.average.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)

    def train_step(self, batch: np.ndarray, workers: Workers) -> dict[str, float] | None:
        """One step; None (and no change) if the loss or a gradient is not finite."""
        torch.manual_seed((self.recipe.seed << 32) + self.step * workers.count + workers.rank)
        x = torch.from_numpy(batch).to(self.device).float() / 255
        quality = torch.rand(len(x), device=self.device)
        rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with autocast(self.recipe.precision, self.device):
            loss, values = rate_distortion_loss(self.model, x, quality, self.recipe.balance)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        workers.average_gradients(self.model)
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
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        temporary = self.checkpoint_path().with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint_path())

    def load(self) -> None:
        state = torch.load(self.checkpoint_path(), map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.minutes = state["step"], state["minutes"]


def checkpoint_recipe(path: Path) -> Recipe:
    """The recipe that a checkpoint was made with."""
    table = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["recipe"]
    return recipe_from_dict(table)


class Log:
    """train.csv, validation.jsonl and TensorBoard events (if installed) in the run's folder."""

    def __init__(self, out: Path, active: bool):
        self.out, self.active, self.board = out, active, None
        if active:
            with contextlib.suppress(ImportError):
                from torch.utils.tensorboard.writer import SummaryWriter

                self.board = SummaryWriter(str(out / "events"))

    def row(self, values: dict[str, float]) -> None:
        path = self.out / "train.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow({k: f"{values[k]:.6g}" for k in COLUMNS})
        self._scalars("train", values)

    def validation(self, values: dict[str, Any]) -> None:
        with (self.out / "validation.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        self._scalars("validation", values)

    def _scalars(self, prefix: str, values: dict[str, Any]) -> None:
        if self.board is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{prefix}/{name}", value, int(values["step"]))

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def train(recipe: Recipe, data: Path, out: Path, resume: bool = False) -> Path:
    """Run `recipe` on the pictures below `data`; returns the checkpoint's path.

    `resume` continues the checkpoint in `out`; without it an existing one is refused.
    """
    device = choose_device()
    workers = Workers.connect(device)
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, out, device)
    if trainer.checkpoint_path().exists() and not resume:
        raise ValueError(f"{trainer.checkpoint_path()} exists: resume it or choose another folder")

    files, held_out = split_files(picture_files(data), recipe.held_out)
    patches = PhotoPatches(
        read_all(files, max(p.side for p in recipe.phases)), recipe.seed + 1000 * workers.rank
    )
    if resume:
        trainer.load()
    else:
        sample = PhotoPatches(patches.pictures, recipe.seed).batch(0, 64, 256)
        trainer.start(torch.from_numpy(sample).to(device).float() / 255)
    log = Log(out, workers.rank == 0)
    try:
        _run(trainer, patches, held_out, workers, log)
    finally:
        log.close()
        if workers.count > 1:
            dist.destroy_process_group()
    return trainer.checkpoint_path()


def _run(
    trainer: Trainer, patches: PhotoPatches, held_out: list[Path], workers: Workers, log: Log
) -> None:
    recipe, lead = trainer.recipe, workers.rank == 0

    def requests() -> Iterator[tuple[int, int, int]]:
        # The background thread prepares a few steps ahead: near a phase's border some patches may
        # still have the old size.
        for step in range(trainer.step, recipe.steps or 2**40):
            phase = recipe.phase(trainer.progress)
            yield step, phase.batch, phase.side

    def run_validation() -> None:
        values = validate(trainer.average, held_out, trainer.device)
        log.validation({"step": trainer.step, "minutes": trainer.minutes, **values})

    sums: dict[str, float] = {}
    count = skipped = skips_in_a_row = 0
    last_save = last_validation = trainer.minutes
    clock = time.monotonic()
    bar = tqdm(desc="training", unit="step", initial=trainer.step, disable=not lead, mininterval=10)
    for batch in patches.stream(requests()):
        if trainer.progress >= 1:
            break
        values = trainer.train_step(batch, workers)
        if values is None:
            skipped, skips_in_a_row = skipped + 1, skips_in_a_row + 1
            if skips_in_a_row >= MAX_SKIPS_IN_A_ROW:
                if not trainer.checkpoint_path().exists():
                    raise FloatingPointError("the loss is not finite from the start")
                step, minutes = trainer.step, trainer.minutes
                trainer.load()  # older weights, but newer data: the same steps are not repeated
                trainer.step, trainer.minutes, skips_in_a_row = step, minutes, 0
        else:
            skips_in_a_row = 0
            sums = {k: sums.get(k, 0.0) + v for k, v in values.items()}
            count += 1
        trainer.step += 1
        now = time.monotonic()
        trainer.minutes = workers.agree(trainer.minutes + (now - clock) / 60)
        clock = now
        bar.update()
        if lead and trainer.step % LOG_EVERY == 0 and count:
            means = {k: v / count for k, v in sums.items()}
            log.row(
                means | {"step": trainer.step, "minutes": trainer.minutes, "skipped": skipped}
            )
            bar.set_postfix({k: f"{means[k]:.4g}" for k in ("loss", "bpp", "mse")})
            sums, count = {}, 0
        if lead and trainer.minutes - last_save >= recipe.checkpoint_minutes:
            last_save = trainer.minutes
            trainer.save()
        if lead and trainer.minutes - last_validation >= recipe.validate_minutes:
            last_validation = trainer.minutes
            run_validation()
    bar.close()
    if lead:
        trainer.save()
        run_validation()
