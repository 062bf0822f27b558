"""The verbs `encode` and `decode`: from files to files."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rhodec.file_jobs import (
    STREAM,
    FileJob,
    JobPlanError,
    JobReport,
    plan_jobs,
    print_reports,
    read_bytes,
    run_jobs,
    step_progress,
    with_progress,
    write_bytes,
)
from rhodec.rate_control import Target

FORMAT_CHOICES = {
    "png": "PNG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "tiff": "TIFF",
    "bmp": "BMP",
    "ppm": "PPM",
}


@dataclass(frozen=True)
class EncodeSettings:
    """What every encoding job of one command shares; picklable."""

    target: Target
    codec: str
    effort: int
    wants_psnr: bool
    is_verbose: bool
    shows_steps: bool = False
    keep_best: bool = False


@dataclass(frozen=True)
class DecodeSettings:
    """What every decoding job of one command shares; picklable. No format: by file name."""

    file_format: str | None
    max_pixels: int | None
    weights: str | None


def run_encode(args: argparse.Namespace) -> int:
    """`rhodec encode`: 0, or 1 if any input failed; usage errors are raised."""
    from rhodec.codec_calls import UsageError, select_codec

    target = Target.from_options(quality=args.quality, bpp=args.bpp, size=args.size, psnr=args.psnr)
    jobs = plan_jobs(args.input, args.output, ".rho")
    coder = select_codec(args.codec, args.effort)  # once, before any file is touched
    if args.keep_best and not coder.is_fitted:
        raise UsageError(f"--keep-best is for codecs that are fitted, which {coder.name} is not")
    is_slow = args.effort > 1 or coder.is_fitted
    settings = EncodeSettings(
        target=target,
        codec=args.codec,
        effort=args.effort,
        wants_psnr=args.verbose or target.kind == "psnr",
        is_verbose=args.verbose,
        shows_steps=is_slow and len(jobs) == 1 and not args.quiet,
        keep_best=args.keep_best,
    )
    return _run(partial(encode_file, settings), jobs, args)


def run_decode(args: argparse.Namespace) -> int:
    """`rhodec decode`: 0, or 1 if any input failed; usage errors are raised."""
    from rhodec.codec_calls import select_codec
    from rhodec.picture_files import PictureError, format_of

    file_format = FORMAT_CHOICES.get(args.format) if args.format else None
    jobs = plan_jobs(args.input, args.output, f".{args.format or 'png'}")
    for job in jobs:
        if file_format is None and job.destination != STREAM:
            try:
                format_of(job.destination)
            except PictureError as error:
                raise JobPlanError(f"{error}; or choose with --format") from error
    if args.weights is not None:
        select_codec(args.weights)  # once, before any file is touched
    settings = DecodeSettings(file_format, args.max_pixels, args.weights)
    return _run(partial(decode_file, settings), jobs, args)


def _run(work, jobs: list[FileJob], args: argparse.Namespace) -> int:
    for folder in {Path(job.destination).parent for job in jobs if job.destination != STREAM}:
        folder.mkdir(parents=True, exist_ok=True)
    reports = with_progress(run_jobs(work, jobs, args.jobs), len(jobs), is_shown=not args.quiet)
    failures = print_reports(reports, is_quiet=args.quiet, is_verbose=args.verbose)
    return 1 if failures else 0


def encode_file(settings: EncodeSettings, job: FileJob) -> JobReport:
    """Read a picture file, write a `.rho` file."""
    from rhodec.codec_calls import encode_picture
    from rhodec.picture_files import read_picture

    picture = read_picture(read_bytes(STREAM) if job.source == STREAM else job.source)
    with step_progress(is_shown=settings.shows_steps) as report:
        coded = encode_picture(
            picture,
            settings.target,
            codec=settings.codec,
            effort=settings.effort,
            wants_psnr=settings.wants_psnr,
            report=report,
            keep_best=settings.keep_best,
        )
    write_bytes(job.destination, coded.data)

    facts = [f"{len(coded.data)} bytes", f"{coded.rate_bpp:.4f} bpp"]
    if coded.psnr_db is not None:
        facts.append("lossless" if math.isinf(coded.psnr_db) else f"PSNR {coded.psnr_db:.2f} dB")
    if settings.is_verbose or settings.target.kind != "quality":
        facts.append(f"quality {coded.quality_index / 2:g}")
    if settings.is_verbose:
        facts.append(f"{coded.trials} trial{'s' if coded.trials > 1 else ''}")
    return JobReport(job, ", ".join(facts), picture.notes)


def decode_file(settings: DecodeSettings, job: FileJob) -> JobReport:
    """Read a `.rho` file, write a picture file."""
    from rhodec.codec_calls import decode_picture
    from rhodec.picture_files import format_of, picture_to_bytes

    picture = decode_picture(
        read_bytes(job.source), max_pixels=settings.max_pixels, weights=settings.weights
    )
    file_format = settings.file_format
    if file_format is None:
        file_format = "PNG" if job.destination == STREAM else format_of(job.destination)
    data, notes = picture_to_bytes(picture, file_format)
    write_bytes(job.destination, data)
    summary = f"{picture.width} x {picture.height}, {len(data)} bytes of {file_format}"
    return JobReport(job, summary, notes)


# ---- the values of options ----------------------------------------------------------------------


def size_in_bytes(text: str) -> int:
    """'40000', '40k' or '40kB' (1000 bytes), '40KiB' (1024), '1.5M', as a number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kKmM]?)(i?)[bB]?", text.strip())
    if not match or (match[3] and not match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 40k, 40KiB or 1.5M")
    base = 1024 if match[3] else 1000
    size = float(match[1]) * base ** {"": 0, "k": 1, "m": 2}[match[2].lower()]
    if size < 1:
        raise argparse.ArgumentTypeError("a size must be at least one byte")
    return int(size)


def quality_value(text: str) -> float:
    """A quality between 0 and 100."""
    value = _number(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100")
    return value


def positive_value(text: str) -> float:
    """A finite number above zero."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def positive_count(text: str) -> int:
    """A whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
