"""Kernel path and threads of an extension module with exact integer kernels; threads for others.

The networks of `rhodec.entropy` and the transforms of `rhodec.transforms` have the same choices:
which of a module's kernel paths runs, and how many threads share the work. None of it changes a
result. The module is here because all packages may import this one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import pairwise
from typing import Protocol, TypeVar

Rows = tuple[int, int]  # from, to
Part = TypeVar("Part")

_pools: dict[int, ThreadPoolExecutor] = {}  # by the number of their threads


class KernelModule(Protocol):
    """What an extension module tells about its kernel paths."""

    def paths(self) -> list[str]: ...

    def self_test(self, path: str, /) -> bool: ...


class KernelSettings:
    """The settings of one extension module in this process.

    `variable` is the environment variable that may name a kernel path; below `parallel_macs`
    multiplications a second thread costs more than it gives.
    """

    def __init__(self, variable: str, module: KernelModule, parallel_macs: int) -> None:
        self.variable = variable
        self.module = module
        self.parallel_macs = parallel_macs
        self.threads = min(2, os.cpu_count() or 1)
        self.chosen: str | None = None

    def set_threads(self, count: int) -> int:
        """How many threads share the rows of a large layer (default: 2, or 1 on a single core).

        Returns how many did.
        """
        if count < 1:
            raise ValueError("at least one thread")
        before, self.threads = self.threads, count
        return before

    def kernel_paths(self) -> tuple[str, ...]:
        """The kernel paths that this processor runs, "portable" first, the fastest last."""
        return tuple(self.module.paths())

    def set_kernel_path(self, path: str | None) -> str:
        """Choose the kernel path and return its name; None chooses as at the start of the process.

        The environment variable names a path; without it the fastest one is taken. A path is used
        only after it reproduced the portable path's results on adversarial layers. A named path
        that the processor lacks or that fails is an error (ValueError, RuntimeError); otherwise
        failing falls back to "portable" with a RuntimeWarning.
        """
        named = path or os.environ.get(self.variable)
        if named is not None and named not in self.kernel_paths():
            raise ValueError(f"kernel path {named!r} is not one of {self.kernel_paths()}")
        chosen = named or self.kernel_paths()[-1]
        if not self.module.self_test(chosen):
            if named is not None:
                raise RuntimeError(f"kernel path {named!r} fails its self-test on this machine")
            warnings.warn(f"{chosen} kernels fail their self-test", RuntimeWarning, stacklevel=2)
            chosen = "portable"
        self.chosen = chosen
        return chosen

    def kernel_path(self) -> str:
        """The kernel path in use."""
        return self.chosen or self.set_kernel_path(None)

    def share_rows(
        self, compute: Callable[[Rows], None], rows: Rows, macs_per_row: int, multiple: int = 1
    ) -> None:
        """compute((from, to)) for all rows, shared among the threads if they are worth it.

        The rows are divided at multiples of `multiple`.
        """
        begin, end = rows
        steps = -(-(end - begin) // multiple)
        threads = min(self.threads, steps)
        if threads < 2 or (end - begin) * macs_per_row < self.parallel_macs:
            compute(rows)
            return
        bounds = [begin + steps * i // threads * multiple for i in range(threads)]
        self.run([*pairwise(bounds), (bounds[-1], end)], compute)

    def run(self, parts: Sequence[Rows], compute: Callable[[Rows], None]) -> None:
        """compute(part) for all parts, shared among the threads."""
        share(parts, compute, self.threads)


def share(parts: Sequence[Part], compute: Callable[[Part], None], threads: int) -> None:
    """compute(part) for all parts, by this thread and others that take what is left.

    After an error parts are no longer begun, and none is still being computed when this raises,
    KeyboardInterrupt included.
    """
    queue = iter(parts)

    def drop() -> None:
        for _ in queue:
            pass

    def work() -> None:
        try:
            for part in queue:
                compute(part)
        finally:
            drop()  # after an error there is something left

    count = min(threads, len(parts)) - 1
    helpers: list[Future[None]] = []
    try:
        for _ in range(count):
            helpers.append(_threads(count).submit(work))
        work()
        for helper in helpers:
            if not helper.cancel():  # it may not even have begun
                helper.result()
    except BaseException:
        drop()
        for helper in helpers:
            while not helper.cancel() and not helper.done():
                with suppress(KeyboardInterrupt):
                    wait([helper])
        raise


def _threads(count: int) -> ThreadPoolExecutor:
    """So many threads of this process, which all settings share.

    No more than are needed: each has memory of its own, and a busy pool starts all that it may.
    """
    if count not in _pools:
        _pools[count] = ThreadPoolExecutor(count, "rhodec-kernels")
    return _pools[count]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # a child process has none of its threads
