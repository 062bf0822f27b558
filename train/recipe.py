"""A training recipe: one TOML file that, with a folder of pictures, defines a training run."""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from rhodec.codecs.config_table import from_table
from rhodec.codecs.registry import FAMILIES
from rhodec.codecs.transform_model import TransformModel
from rhodec.train.distortion import DISTORTIONS, LEAST_SIDES

PRECISIONS = ("auto", "fp32", "bf16")


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
    decay_start: float = 0.0  # share of the run before the learning rate begins to fall
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    distortion: str = "mse"  # or "ms-ssim", for a codec that is to be judged by that
    balance: float = 0.35  # losses are divided by (lambda / lowest lambda) ** balance
    precision: str = "auto"  # "auto": bf16 where the processor multiplies it fast; "fp32"; "bf16"
    seed: int = 1
    validate_minutes: float = 15.0
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        if self.codec not in FAMILIES:
            raise ValueError(f"codec must be one of {', '.join(FAMILIES)}, not {self.codec!r}")
        check_types(self, Recipe)
        check_types(self.config, FAMILIES[self.codec].config, "config")
        positive = ("learning_rate", "gradient_clip", "held_out", "validate_minutes")
        for name in (*positive, "checkpoint_minutes"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive")
        for name in ("steps", "minutes", "final_learning_rate", "warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative")
        if not (self.steps > 0 or self.minutes > 0):
            raise ValueError("a recipe needs a limit: steps, minutes, or both")
        for name in ("ema_decay", "decay_start"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1")
        if not math.isfinite(self.balance):
            raise ValueError("balance must be finite")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}")
        if self.distortion not in DISTORTIONS:
            raise ValueError(f"distortion must be one of {', '.join(DISTORTIONS)}")
        if not 0 <= self.seed < 2**31:
            raise ValueError("seed must be in 0 .. 2^31 - 1")
        ends = [0.0, *(p.until for p in self.phases)]
        if any(not a < b for a, b in pairwise(ends)) or ends[-1] != 1:
            raise ValueError("phases: each until must be above the one before, the last one 1.0")
        if any(p.side <= 0 or p.side % TransformModel.size_multiple for p in self.phases):
            raise ValueError(f"phases: side must be a multiple of {TransformModel.size_multiple}")
        least = LEAST_SIDES[self.distortion]
        if any(p.side < least for p in self.phases):
            raise ValueError(f"phases: side must be at least {least} for {self.distortion}")
        if any(p.batch <= 0 for p in self.phases):
            raise ValueError("phases: batch must be positive")

    def phase(self, progress: float) -> PatchPhase:
        """The phase at `progress` in [0, 1] of the run."""
        return next((p for p in self.phases if progress < p.until), self.phases[-1])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def new_model(self) -> TransformModel:
        return FAMILIES[self.codec].model(self.config)


def read_recipe(path: Path, **overrides: Any) -> Recipe:
    """Read a TOML recipe; `overrides` replace its top-level values where not None.

    ValueError names the file, and the field that is unknown, missing or wrong.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        table |= {k: v for k, v in overrides.items() if v is not None}
        return recipe_from_dict(table)
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path}: {error}") from None


def recipe_from_dict(table: dict[str, Any]) -> Recipe:
    """Inverse of `Recipe.as_dict`."""
    codec = table.get("codec")
    if not isinstance(codec, str) or codec not in FAMILIES:
        raise ValueError(f"codec must be one of {', '.join(FAMILIES)}, not {codec!r}")
    config = _from_table(FAMILIES[codec].config, table.get("config", {}), "config")
    phases = table.get("phases")
    table = {k: v for k, v in table.items() if k != "phases"}
    if phases is not None:
        if not isinstance(phases, list | tuple):
            raise ValueError("phases must be a list of tables")
        named = [(f"phases[{i}]", phase) for i, phase in enumerate(phases)]
        table["phases"] = tuple(_from_table(PatchPhase, phase, name) for name, phase in named)
    return _from_table(Recipe, table | {"config": config}, "")


def _from_table(kind: type, table: Any, name: str) -> Any:
    """`from_table` whose ValueErrors say where in the recipe."""
    prefix = f"{name}: " if name else ""
    if not isinstance(table, dict):
        raise ValueError(f"{name} must be a table")
    try:
        return from_table(kind, table)
    except TypeError as error:  # a field without a default is missing
        raise ValueError(prefix + str(error).replace(".__init__()", "")) from None
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def check_types(value: Any, hint: Any, name: str = "") -> None:
    """ValueError naming the field unless `value`, with all below it, is of the annotated type.

    Integers pass as floats, since `minutes = 5` is good TOML.
    """
    if is_dataclass(hint):
        if not isinstance(value, hint):  # type: ignore[arg-type]
            raise ValueError(f"{name} must be a table")
        hints = get_type_hints(hint)
        for field in fields(hint):
            path = f"{name}.{field.name}" if name else field.name
            check_types(getattr(value, field.name), hints[field.name], path)
    elif get_origin(hint) is tuple:
        kinds = get_args(hint)
        if not isinstance(value, tuple):
            raise ValueError(f"{name} must be a list")
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(value) != len(kinds):
            raise ValueError(f"{name} must have {len(kinds)} values, not {len(value)}")
        for i, (item, kind) in enumerate(zip(value, kinds, strict=True)):
            check_types(item, kind, f"{name}[{i}]")
    elif hint is not Any:
        is_right = isinstance(value, (int, float) if hint is float else hint)
        if not is_right or (isinstance(value, bool) and hint is not bool):
            raise ValueError(f"{name} must be of type {hint.__name__}, not {value!r}")
