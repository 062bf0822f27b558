"""A training recipe: one TOML file that, with a folder of pictures, defines a training run."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rhodec.codecs.config_table import from_table
from rhodec.codecs.registry import FAMILIES
from rhodec.codecs.transform_model import TransformModel


@dataclass(frozen=True)
class PatchPhase:
    """Patches of `side` pixels, `batch` at a time, until `until` of the run (0 to 1)."""

    until: float
    side: int
    batch: int


@dataclass(frozen=True)
class Recipe:
    """One run. It ends at `steps` or `minutes` (0: no limit), whichever comes first."""

    codec: str
    config: Any
    steps: int = 0
    minutes: float = 0.0
    phases: tuple[PatchPhase, ...] = (PatchPhase(1.0, 256, 8),)
    held_out: int = 20  # validation pictures, taken from the training folder
    learning_rate: float = 8e-4
    final_learning_rate: float = 1e-5
    warmup_steps: int = 200
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    balance: float = 0.35  # losses are divided by (lambda / lowest lambda) ** balance
    precision: str = "auto"  # "auto": bf16 where the processor multiplies it fast; "fp32"; "bf16"
    seed: int = 1
    validate_minutes: float = 15.0
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        if not (self.steps > 0 or self.minutes > 0):
            raise ValueError("a recipe needs a limit: steps, minutes, or both")
        if self.phases[-1].until < 1:
            raise ValueError("the last phase must reach until = 1.0")
        if any(p.side % 64 for p in self.phases):
            raise ValueError("patch sides must be multiples of 64")

    def phase(self, progress: float) -> PatchPhase:
        """The phase at `progress` in [0, 1] of the run."""
        return next((p for p in self.phases if progress < p.until), self.phases[-1])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def new_model(self) -> TransformModel:
        return FAMILIES[self.codec].model(self.config)


def read_recipe(path: Path, **overrides: Any) -> Recipe:
    """Read a TOML recipe; `overrides` replace its top-level values where not None.

    ValueError names what is unknown or missing.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    table |= {k: v for k, v in overrides.items() if v is not None}
    return recipe_from_dict(table)


def recipe_from_dict(table: dict[str, Any]) -> Recipe:
    """Inverse of `Recipe.as_dict`."""
    codec = table.get("codec")
    if codec not in FAMILIES:
        raise ValueError(f"codec must be one of {', '.join(FAMILIES)}, not {codec!r}")
    config = from_table(FAMILIES[codec].config, table.get("config", {}))
    phases = table.get("phases")
    table = {k: v for k, v in table.items() if k not in ("config", "phases")}
    if phases is not None:
        table["phases"] = tuple(from_table(PatchPhase, p) for p in phases)
    return from_table(Recipe, table | {"config": config})
