"""The processes that share a training run (`torchrun`): devices, averaging, stopping together."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def choose_device() -> torch.device:
    """This process's CUDA device where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        raise ValueError(f"there are more processes than GPUs on this machine, which has {count}")
    return torch.device("cuda", index)


@dataclass(frozen=True)
class Workers:
    """The processes that share this run, or just this one. Process 0 logs and saves."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def connect(cls) -> Workers:
        """Join the processes that torchrun started, if it did, each with its device."""
        device = choose_device()
        if device.type == "cuda":  # or nccl and `.cuda()` would put every process on the first one
            torch.cuda.set_device(device)
        if "WORLD_SIZE" not in os.environ:
            return cls(device=device)
        if device.type == "cuda":
            dist.init_process_group("nccl", device_id=device)
        else:
            dist.init_process_group("gloo")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def disconnect(self) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, model: nn.Module) -> None:
        """Give every process the parameters and buffers of process 0."""
        if self.count > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)

    def average(self, model: nn.Module, values: dict[str, float]) -> dict[str, float]:
        """Average the gradients of `model` in place; returns `values` averaged.

        Every process gets the same bits, so that all take the same decisions and stay equal.
        """
        if self.count == 1:
            return values
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        numbers = torch.tensor(list(values.values()), device=self.device)
        flat = torch.cat([*(g.flatten() for g in grads), numbers])
        dist.all_reduce(flat)
        flat /= self.count
        *parts, numbers = flat.split([*(g.numel() for g in grads), len(numbers)])
        for g, part in zip(grads, parts, strict=True):
            g.copy_(part.view_as(g))
        return dict(zip(values, numbers.tolist(), strict=True))

    def agree(self, minutes: float, stop: bool) -> tuple[float, bool]:
        """The minutes of process 0, and whether any process wants to stop.

        The same answer everywhere, so that clocks and signals end all processes at the same step.
        """
        if self.count == 1:
            return minutes, stop
        shared = [minutes if self.leads else 0.0, float(stop)]
        total: Tensor = torch.tensor(shared, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total[0]), float(total[1]) > 0


class StopRequest:
    """Within `with`: Ctrl-C or SIGTERM become a request, which the loop grants between two steps.

    A second Ctrl-C interrupts at once, except under torchrun, which repeats the terminal's signal.
    """

    def __init__(self) -> None:
        self._made = False
        self._previous: dict[int, Any] = {}

    def made(self) -> bool:
        return self._made

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._made and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        self._made = True
