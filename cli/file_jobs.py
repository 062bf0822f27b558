"""Running one verb over many files: names of the outputs, safe writing, processes, progress.

A failed or interrupted run leaves every existing file as it was: outputs are written under a
temporary name in the same folder and renamed when they are complete.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

STREAM = "-"  # standard input or output


class JobPlanError(ValueError):
    """Inputs and outputs that cannot be matched: a mistake in the command line."""


@dataclass(frozen=True)
class FileJob:
    """One input and the output it becomes; either may be `STREAM`."""

    source: str
    destination: str


@dataclass(frozen=True)
class JobReport:
    """What became of a job: a summary for the reader, notes, or the error that ended it."""

    job: FileJob
    summary: str = ""
    notes: tuple[str, ...] = ()
    error: str | None = None
    details: str = field(default="", repr=False)  # the traceback, for --verbose
    seconds: float = 0.0


def plan_jobs(sources: Sequence[str], destination: str, extension: str) -> list[FileJob]:
    """One job per source.

    `destination` is a folder if it exists as one, ends with a slash, or there are several sources;
    outputs in it are called like the sources, with `extension`. Raises `JobPlanError`.
    """
    is_folder = Path(destination).is_dir() or destination.endswith(("/", os.sep))
    if len(sources) > 1 and destination == STREAM:
        raise JobPlanError("several inputs need an output folder, not standard output")
    if len(sources) > 1 and STREAM in sources:
        raise JobPlanError("standard input can only be the only input")
    if len(sources) > 1 and not is_folder and Path(destination).exists():
        raise JobPlanError(f"several inputs need an output folder; {destination} is a file")
    if len(sources) == 1 and not is_folder:
        if STREAM not in (sources[0], destination) and _is_same_file(sources[0], destination):
            raise JobPlanError(f"{destination} is the input itself")
        return [FileJob(sources[0], destination)]
    if sources[0] == STREAM:
        raise JobPlanError("standard input needs an output file name, not a folder")

    jobs: dict[str, FileJob] = {}
    for source in sources:
        output = str(Path(destination) / (Path(source).stem + extension))
        if output in jobs:
            raise JobPlanError(f"{jobs[output].source} and {source} would both become {output}")
        if _is_same_file(source, output):
            raise JobPlanError(f"{output} is an input itself")
        jobs[output] = FileJob(source, output)
    return list(jobs.values())


def _is_same_file(one: str, other: str) -> bool:
    with suppress(OSError):
        return os.path.samefile(one, other)
    return False


# ---- one job ------------------------------------------------------------------------------------


def read_bytes(source: str) -> bytes:
    """The whole of a file or of standard input."""
    return sys.stdin.buffer.read() if source == STREAM else Path(source).read_bytes()


def write_bytes(destination: str, data: bytes) -> None:
    """Write a file so that it is there whole or, after a failure, as it was before."""
    if destination == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    path = Path(os.path.realpath(destination))  # a link stays a link
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        path.write_bytes(data)  # a pipe or device cannot be replaced
        return
    with _temporary_name(path) as temporary:
        temporary.write_bytes(data)
        if path.exists():
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)


@contextmanager
def _temporary_name(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def run_job(work: Callable[[FileJob], JobReport], job: FileJob) -> JobReport:
    """The report of a job, whatever happens in it; only an interrupt passes through."""
    start = time.perf_counter()
    try:
        report = work(job)
    except Exception as error:  # a bad file must not end the others
        return JobReport(job, error=_describe_error(error, job), details=traceback.format_exc())
    return JobReport(job, report.summary, report.notes, seconds=time.perf_counter() - start)


def _describe_error(error: Exception, job: FileJob) -> str:
    if isinstance(error, OSError) and error.strerror:
        is_elsewhere = error.filename and str(error.filename) != job.source
        return f"{error.strerror}: {error.filename}" if is_elsewhere else error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory"
    # An error with a name of its own speaks for itself; others are defects and need theirs.
    expected = isinstance(error, ValueError) and str(error)
    return str(error) if expected else f"{type(error).__name__}: {error}"


# ---- many jobs ----------------------------------------------------------------------------------


def run_jobs(
    work: Callable[[FileJob], JobReport], jobs: Sequence[FileJob], processes: int
) -> Iterator[JobReport]:
    """Reports in the order in which jobs finish, from this process or from several.

    `work` must be picklable for more than one process; each process gets one compute thread.
    """
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield run_job(work, job)
        return
    executor = ProcessPoolExecutor(
        min(processes, len(jobs)),
        mp_context=get_context("spawn"),  # torch's threads do not survive a fork
        initializer=_start_worker,
    )
    try:
        futures = [executor.submit(_run_interruptible, partial(run_job, work), j) for j in jobs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Waiting workers leave Ctrl-C to the parent; see _run_interruptible for busy ones.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch, if weights need it
    from rhodec.codecs import overfit_fitting
    from rhodec.entropy import integer_network
    from rhodec.transforms import integer_transform

    overfit_fitting.set_threads(1)
    integer_network.set_threads(1)
    integer_transform.set_threads(1)


def _run_interruptible(run: Callable[[FileJob], JobReport], job: FileJob) -> JobReport:
    """Let Ctrl-C end a running job through its cleaning up, so that no half file stays."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run(job)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def with_progress(
    reports: Iterable[JobReport], total: int, *, is_shown: bool
) -> Iterator[JobReport]:
    """The reports, with a progress bar on standard error where someone can see it."""
    if not is_shown or total < 2 or not sys.stderr.isatty():
        yield from reports
        return
    from tqdm import tqdm

    with tqdm(reports, total=total, unit="file", leave=False, file=sys.stderr) as bar:
        yield from bar


@contextmanager
def step_progress(*, is_shown: bool) -> Iterator[Callable[[float, float, float], None] | None]:
    """What shows the steps of an encoding with effort where someone can see it, else None."""
    if not is_shown or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    form = "{percentage:3.0f}%|{bar}| {desc}"
    with tqdm(total=100, leave=False, file=sys.stderr, bar_format=form) as bar:

        def report(share_done: float, rate_bpp: float, psnr_db: float) -> None:
            bar.n = round(100 * share_done)
            bar.set_description_str(f"{rate_bpp:.4f} bpp, {psnr_db:.2f} dB")

        yield report


def print_reports(reports: Iterable[JobReport], *, is_quiet: bool, is_verbose: bool) -> int:
    """Say on standard error what happened; the number of jobs that failed."""
    failures = 0
    for report in reports:
        source, destination = report.job.source, report.job.destination
        if report.error is not None:
            failures += 1
            _say(f"rhodec: {source}: {report.error}")
            if is_verbose:
                _say(report.details.rstrip())
        elif not is_quiet:
            for note in report.notes:
                _say(f"rhodec: {source}: note: {note}")
            timing = f", {report.seconds:.2f} s" if is_verbose else ""
            _say(f"{source} -> {destination}: {report.summary}{timing}")
    return failures


def _say(line: str) -> None:
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)  # does not tear a progress bar apart
    else:
        print(line, file=sys.stderr)
