"""20,000 damaged files: each must be refused by a StreamError, or give the right picture.

    python tests/damage_files.py [--cases 20000] [--seed 1] [--codec rho]

Small pictures and a larger one are encoded, then damaged or, with right CRCs, forged as
damaged_cases.py describes; the first cases cut one file, and its payload, at every byte.

Decoding happens in a process of its own, whose death or silence counts as a failure of the file it
had in hand. A file passes if it is refused by a StreamError or decodes, a damaged one to exactly
the pixels of its source and a forged one to exactly its source's latents at the size in its header;
within the time of a normal decode plus a second (of the processor, so that a busy machine does not
count), and with no more memory than intact files and `--memory` need. Exit code 1 and a line for
each case that does not.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from damaged_cases import DAMAGES, FORGERIES, Case, encode_sources, make_case
from memory_check import peak_memory_mb
from noted_latents import note_latents

from rhodec.bitstream import container
from rhodec.bitstream.stream_error import StreamError

EXTRA_SECONDS = 1.0  # allowed beyond a normal decode of the same file
SILENCE_SECONDS = 60.0  # after which a worker is killed
LOADING_SECONDS = 600.0  # the same before its first case
MEMORY_MB = 64.0  # allowed beyond what intact files need: the allocator's slack


@dataclass(frozen=True)
class Intact:
    """An undamaged file, and what it decodes to; `seconds` of CPU time for a normal decode."""

    data: bytes
    pixels: np.ndarray
    latents: bytes
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What came of a case; `fault` says what is wrong with that, if anything."""

    index: int
    kind: str
    source: str
    is_refused: bool
    extra_seconds: float
    memory_mb: float
    fault: str = ""


# ---- judgement, in the worker -------------------------------------------------------------------


class LatentsSeen:
    """Keeps the latents that a codec decodes: proof that a forged file gave its source's."""

    def __init__(self, codec) -> None:
        self.last = b""
        note_latents(codec, self.keep)

    def keep(self, latents: np.ndarray) -> None:
        self.last = latents.tobytes()


def measure_intact(data: bytes, decode: Callable[[bytes], np.ndarray], seen: LatentsSeen) -> Intact:
    """Decode an undamaged file three times; the slowest after the first is the normal time."""
    pixels = decode(data)
    seconds = []
    for _ in range(2):
        start = time.process_time()
        pixels = decode(data)
        seconds.append(time.process_time() - start)
    return Intact(data, pixels, seen.last, max(seconds))


def fault_of(case: Case, intact: dict[str, Intact], pixels: np.ndarray, latents: bytes) -> str:
    """What is wrong with a damaged file that decoded to `pixels`, or an empty string."""
    if not case.is_forged:
        # A splice may be the whole of another file.
        whole = next((i for i in intact.values() if i.data == case.data), intact[case.source])
        return "" if np.array_equal(pixels, whole.pixels) else "decodes to a wrong picture"
    header = container.parse(case.data)
    if pixels.shape[:2] != (header.height, header.width):
        return f"decodes to {pixels.shape}, its header says {header.width} x {header.height}"
    if all(latents != i.latents for i in intact.values()):
        return "decodes to latents that no encoder made"
    return ""


def judge(
    index: int,
    case: Case,
    intact: dict[str, Intact],
    decode: Callable[[bytes], np.ndarray],
    seen: LatentsSeen,
) -> Outcome:
    """Decode one case and say what came of it, time included; memory is the caller's."""
    fault, is_refused = "", False
    start = time.process_time()
    try:
        pixels = decode(case.data)
    except StreamError as error:
        seconds = time.process_time() - start
        is_refused = True
        if not str(error):
            fault = "refused without a reason"
    except Exception as error:  # any other is a failure, whatever it is
        seconds = time.process_time() - start
        fault = f"{type(error).__name__}: {error}"
    else:
        seconds = time.process_time() - start
        fault = fault_of(case, intact, pixels, seen.last)
    extra = seconds - intact[case.source].seconds
    if extra > EXTRA_SECONDS and not fault:
        fault = f"took {extra:.1f} s more than the intact file"
    return Outcome(index, case.kind, case.source, is_refused, extra, 0.0, fault)


def work(folder: Path, codec: str, seed: int, begin: int, end: int) -> None:
    """The worker: a line before and after each case, fields separated by tabs."""
    import torch

    import rhodec
    from rhodec.codecs.registry import load_codec

    torch.set_num_threads(1)
    seen = LatentsSeen(load_codec(codec))
    files = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.rho"))}
    intact = {name: measure_intact(data, rhodec.decode, seen) for name, data in files.items()}
    normal_mb = peak_memory_mb()
    for index in range(begin, end):
        case = make_case(files, index, seed)
        print("start", index, case.kind, case.source, sep="\t", flush=True)
        outcome = judge(index, case, intact, rhodec.decode, seen)
        fields = (int(outcome.is_refused), outcome.extra_seconds, peak_memory_mb() - normal_mb)
        print("done", index, *fields, outcome.fault.replace("\n", " "), sep="\t", flush=True)


# ---- supervision --------------------------------------------------------------------------------


def supervise(
    command: Callable[[int], list[str]],
    cases: int,
    memory_mb: float = MEMORY_MB,
    silence_seconds: float = SILENCE_SECONDS,
) -> list[Outcome]:
    """Run workers (`command(first case)`) one after the other until every case has an outcome."""
    outcomes: list[Outcome] = []
    while len(outcomes) < cases:
        outcomes += run_worker(command(len(outcomes)), cases, memory_mb, silence_seconds)
    return outcomes


def run_worker(
    command: list[str], cases: int, memory_mb: float, silence_seconds: float
) -> list[Outcome]:
    """What one worker did until it ended; a case that it had in hand then is a fault.

    Raises RuntimeError if it ends too early without one.
    """
    outcomes: list[Outcome] = []
    in_hand: tuple[int, str, str] | None = None
    highest_mb, reason = 0.0, ""
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        readers = [
            threading.Thread(target=_pass_on, args=(process.stdout, lines)),
            threading.Thread(target=errors.extend, args=(process.stderr,)),
        ]
        for reader in readers:
            reader.start()
        while True:
            # Before its first case a worker loads the networks, which takes longer than any case.
            patience = silence_seconds if outcomes or in_hand else LOADING_SECONDS
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                process.kill()
                reason = f"no answer within {patience:.0f} s"
                break
            if line is None:
                break
            event, index, *fields = line.rstrip("\n").split("\t")
            if event == "start":
                in_hand = int(index), fields[0], fields[1]
                continue
            assert in_hand is not None
            refused, extra, memory, fault = fields
            # The maximum so far: only the case that raised it is to blame.
            if float(memory) > max(memory_mb, highest_mb) and not fault:
                fault = f"memory rose {float(memory):.0f} MB over that of intact files"
            highest_mb = max(highest_mb, float(memory))
            outcomes.append(Outcome(*in_hand, refused == "1", float(extra), float(memory), fault))
            in_hand = None
        for reader in readers:
            reader.join()
        status = process.wait()
    reason = reason or f"the process ended with {status} {''.join(errors[-1:]).strip()}"
    if in_hand is not None:
        outcomes.append(Outcome(*in_hand, False, 0.0, 0.0, reason))
    elif not outcomes or outcomes[-1].index + 1 < cases:
        raise RuntimeError(f"a worker failed between cases: {reason}")
    return outcomes


def _pass_on(stream, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def run(codec: str, cases: int, seed: int, memory_mb: float = MEMORY_MB) -> list[Outcome]:
    """Encode the sources, then decode that many damaged files."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in encode_sources(codec).items():
            (Path(scratch) / f"{name}.rho").write_bytes(data)

        def command(first: int) -> list[str]:
            numbers = [str(n) for n in (seed, first, cases)]
            return [sys.executable, __file__, "--work", scratch, codec, *numbers]

        return supervise(command, cases, memory_mb)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--codec", default="rho", help="name or weights file")
    parser.add_argument("--memory", type=float, default=MEMORY_MB, help="MB over intact files")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.work:
        folder, codec, seed, begin, end = args.work
        work(Path(folder), codec, int(seed), int(begin), int(end))
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    outcomes = run(args.codec, args.cases, args.seed, args.memory)
    count, refused = Counter(o.kind for o in outcomes), Counter()
    refused.update(o.kind for o in outcomes if o.is_refused)
    print(f"{'damage':20} {'files':>6} {'refused':>8} {'decoded':>8}")
    for kind in (*DAMAGES, *FORGERIES):
        print(f"{kind:20} {count[kind]:6} {refused[kind]:8} {count[kind] - refused[kind]:8}")
    slowest = max(outcomes, key=lambda o: o.extra_seconds)
    print(f"slowest: {slowest.extra_seconds:+.3f} s against the intact file ({slowest.kind})")
    print(f"most memory: {max(o.memory_mb for o in outcomes):+.1f} MB against intact files")
    faults = [o for o in outcomes if o.fault]
    for o in faults:
        print(f"case {o.index} ({o.kind} of {o.source}): {o.fault}")
    print(f"{len(outcomes)} damaged files, {len(faults)} wrong")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
