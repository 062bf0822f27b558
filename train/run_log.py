"""What a training run writes about itself: train.csv, validation.jsonl, TensorBoard events."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path
from typing import Any

COLUMNS = ("step", "minutes", "loss", "bpp", "mse", "gradient_norm", "learning_rate", "skipped")


class Log:
    """The logs in the folder `out`; TensorBoard's only if it is installed.

    A run that continues at `step` drops what an earlier part logged after its last checkpoint.
    Only an `active` log (that of process 0) writes anything.
    """

    def __init__(self, out: Path, active: bool, step: int = 0):
        self.active, self.board = active, None
        self.csv_path, self.validation_path = out / "train.csv", out / "validation.jsonl"
        if not active:
            return
        self._forget_after(step)
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard.writer import SummaryWriter

            self.board = SummaryWriter(str(out / "events"), purge_step=step + 1 if step else None)

    def _forget_after(self, step: int) -> None:
        if self.csv_path.exists():
            header, *rows = self.csv_path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if float(row.partition(",")[0]) <= step]
            self.csv_path.write_text("".join([header, *kept]), encoding="utf-8", newline="")
        if self.validation_path.exists():
            lines = self.validation_path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            self.validation_path.write_text("".join(kept), encoding="utf-8")

    def row(self, values: dict[str, float]) -> None:
        """One row of train.csv: the means since the last one, by the names in `COLUMNS`."""
        if not self.active:
            return
        new = not self.csv_path.exists()
        with self.csv_path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            cells = (values[name] for name in COLUMNS)
            writer.writerow([v if isinstance(v, int) else f"{v:.6g}" for v in cells])
        self._scalars("train", values)

    def validation(self, values: dict[str, Any]) -> None:
        """One line of validation.jsonl."""
        if not self.active:
            return
        with self.validation_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        self._scalars("validation", values)

    def _scalars(self, prefix: str, values: dict[str, Any]) -> None:
        if self.board is None:
            return
        for name, value in values.items():
            # A list has one value per quality of the validation.
            several = enumerate(value) if isinstance(value, list) else [("", value)]
            for place, v in several:
                if isinstance(v, float):
                    tag = f"{prefix}/{name}" if place == "" else f"{prefix}/{name}/{place}"
                    self.board.add_scalar(tag, v, int(values["step"]))

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
