"""Where the time of a codec goes: stages of encoding and decoding, fresh processes, memory.

Stages are timed from outside, by wrapping the methods that `stage_methods` lists, so a codec pays
nothing for being measurable. Each stage has the time of its own methods without that of the stages
they call, so the stages and `other` add up to the whole.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rhodec.bitstream import container
from rhodec.bitstream.rans import Decoder
from rhodec.evaluate.picture_coders import RhodecCoder
from rhodec.evaluate.quality_metrics import psnr_rgb

STAGES = ("analysis", "entropy model", "range coder", "synthesis", "container", "other")
OTHER = STAGES[-1]


def stage_methods(codec: Any) -> list[tuple[str, Any, str]]:
    """(stage, owner, method) of all that is timed; what a codec lacks is not.

    The one place that knows which method does what. `quantise` and `decode` of a codec call the
    entropy model and the range coder; what is left of them is analysis and synthesis.
    """
    latents = getattr(codec, "latent_codec", None)
    methods = [
        ("analysis", codec, "analyse"),
        ("analysis", codec, "quantise"),
        ("entropy model", latents, "quantise"),
        ("entropy model", latents, "decode"),
        ("range coder", latents, "payload"),
        ("range coder", Decoder, "decode"),
        ("range coder", Decoder, "finish"),
        ("synthesis", codec, "reconstruct"),
        ("synthesis", codec, "decode"),
        ("container", container, "pack"),
        ("container", container, "parse"),
    ]
    return [(stage, owner, name) for stage, owner, name in methods if hasattr(owner, name)]


class StageClock:
    """Wall seconds by stage; one stage runs at any moment, `other` when no timed method does."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running = [OTHER]
        self._since = time.perf_counter()

    def timed(self, stage: str, function: Callable) -> Callable:
        """The function, with its time given to the stage."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.tick()
            self._running.append(stage)
            try:
                return function(*arguments, **options)
            finally:
                self.tick()
                self._running.pop()

        return call

    def tick(self) -> None:
        """Give the time since the last tick to the stage that runs."""
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now


@contextmanager
def clocked(codec: Any) -> Iterator[StageClock]:
    """A clock for all that a codec does inside the context."""
    clock = StageClock()
    with ExitStack() as stack:
        for stage, owner, name in stage_methods(codec):
            method = clock.timed(stage, getattr(owner, name))
            stack.enter_context(_replaced(owner, name, method))
        yield clock
        clock.tick()


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute replaced for a while; one that the class has is uncovered again."""
    is_own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


# ---- a warm codec -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Medians over the repeats, in seconds per picture; `stages` is wall time."""

    wall_s: float
    cpu_s: float
    stages: dict[str, float]


@dataclass(frozen=True)
class BenchResult:
    """Rate and quality are means over the pictures."""

    encode: Timing
    decode: Timing
    bpp: float
    psnr_rgb: float


def set_threads(count: int) -> None:
    """Let torch and the integer kernels use so many threads."""
    import torch

    from rhodec.codecs import overfit_fitting
    from rhodec.entropy import integer_network
    from rhodec.transforms import integer_transform

    torch.set_num_threads(count)
    overfit_fitting.set_threads(count)
    integer_network.set_threads(count)
    integer_transform.set_threads(count)


def bench(
    coder: RhodecCoder, images: Sequence[np.ndarray], quality: float, repeats: int
) -> BenchResult:
    """Time a codec on uint8 pictures (H, W, 3), from samples to a file's bytes and back.

    One more round before the first one loads and warms everything up.
    """
    coded: list[bytes] = []
    shown: list[np.ndarray] = []

    def encode() -> None:
        coded[:] = [coder.encode(coder.prepare(image), quality).data for image in images]

    def decode() -> None:
        shown[:] = [coder.decode(data) for data in coded]

    encode()
    decode()
    encoding, decoding = (
        _timing(coder.codec, action, repeats, len(images)) for action in (encode, decode)
    )
    rates = [
        8 * len(data) / (image.shape[0] * image.shape[1])
        for data, image in zip(coded, images, strict=True)
    ]
    qualities = [psnr_rgb(*pair) for pair in zip(images, shown, strict=True)]
    return BenchResult(encoding, decoding, statistics.fmean(rates), statistics.fmean(qualities))


def _timing(codec: Any, action: Callable[[], None], repeats: int, pictures: int) -> Timing:
    wall, cpu = [], []
    stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for _ in range(repeats):
        start = time.process_time()
        with clocked(codec) as clock:
            action()
        wall.append(sum(clock.seconds.values()) / pictures)
        cpu.append((time.process_time() - start) / pictures)
        for stage in STAGES:
            stages[stage].append(clock.seconds.get(stage, 0.0) / pictures)
    medians = {stage: statistics.median(values) for stage, values in stages.items()}
    return Timing(statistics.median(wall), statistics.median(cpu), medians)


# ---- fresh processes ----------------------------------------------------------------------------


@dataclass(frozen=True)
class FreshRun:
    """A whole process from start to end: seconds, and the most memory that it had, in bytes."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def fresh_runs(codec: str, picture: Path, quality: float, repeats: int) -> dict[str, FreshRun]:
    """`rhodec encode` and `rhodec decode` of one picture in new processes; medians.

    Raises `RuntimeError` with what the process said if one fails.
    """
    weights = [] if not Path(codec).is_file() else ["--weights", codec]
    with tempfile.TemporaryDirectory(prefix="rhodec-") as folder:
        file, copy = (str(Path(folder) / name) for name in ("picture.rho", "picture.png"))
        commands = {
            "encode": ["--codec", codec, "--quality", f"{quality:g}", str(picture), file],
            "decode": [*weights, file, copy],
        }
        return {
            verb: _median_run([sys.executable, "-m", "rhodec", verb, "--quiet", *words], repeats)
            for verb, words in commands.items()
        }


def _median_run(command: Sequence[str], repeats: int) -> FreshRun:
    runs = [_run_once(command) for _ in range(repeats)]
    return FreshRun(
        statistics.median(run.wall_s for run in runs),
        statistics.median(run.cpu_s for run in runs),
        int(statistics.median(run.peak_bytes for run in runs)),
    )


# A new process starts with the memory peak of the one that forked it, and this one is large. So a
# small one forks it and writes down the status, the seconds and the memory.
_METER = """
import json, os, sys, time
start = time.perf_counter()
child = os.fork()
if child == 0:
    os.execv(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - start
values = status, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss
with open(sys.argv[1], "w") as file:
    json.dump(values, file)
"""


def _run_once(command: Sequence[str]) -> FreshRun:
    with tempfile.TemporaryDirectory(prefix="rhodec-") as folder:
        values = Path(folder) / "values.json"
        meter = [sys.executable, "-S", "-c", _METER, str(values)]
        said = subprocess.run([*meter, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        status, wall_s, cpu_s, peak = json.loads(values.read_text())
    if status:
        text = said.stdout.decode(errors="replace").strip()
        raise RuntimeError(f"{' '.join(command[2:4])} failed: {text}")
    return FreshRun(wall_s, cpu_s, peak * (1 if sys.platform == "darwin" else 1024))
