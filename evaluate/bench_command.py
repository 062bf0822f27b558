"""The verb `rhodec bench`: time by stage, memory and multiplications of a codec on pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rhodec.evaluate.argument_values import positive_count
from rhodec.evaluate.mac_count import STAGES as NETWORKS
from rhodec.evaluate.mac_count import MacCount, count_macs
from rhodec.evaluate.picture_coders import load_rhodec_coder
from rhodec.evaluate.picture_sets import TestPicture, find_pictures, read_picture
from rhodec.evaluate.run_environment import environment, machine
from rhodec.evaluate.stage_bench import (
    STAGES,
    BenchResult,
    FreshRun,
    bench,
    fresh_runs,
    set_threads,
)

EXAMPLES = """\
examples:
  rhodec bench photo.png
  rhodec bench photos/ --quality 30 --threads 1,2 --repeats 9
  rhodec bench photo.png --json > bench.json

Times are medians, wall clock unless they say processor, from samples in memory to a file's bytes
and back, with everything loaded and warm; "fresh process" is the whole command from its start, with
the most memory it had. Multiply-accumulates are counted from the networks in the weights file."""

MILLION = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rhodec bench`."""
    parser.description = "Time encoding and decoding by stage; count memory and multiplications."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("picture", type=Path, help="a picture, or a folder of pictures")
    parser.add_argument("--codec", default="rho", metavar="NAME", help="name or weights file (rho)")
    parser.add_argument("--quality", type=_quality, default=50.0, metavar="Q", help="(50)")
    parser.add_argument(
        "--threads", type=_counts, default=[1, 2], metavar="LIST", help="threads to try (1,2)"
    )
    parser.add_argument("--repeats", type=positive_count, default=5, metavar="N", help="rounds (5)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """The exit code: 0 done, 1 something could not be run, 2 a mistake in the command line."""
    try:
        pictures = find_pictures(args.picture)
        coder = load_rhodec_coder(args.codec)
    except (OSError, ValueError) as error:
        print(f"rhodec: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    try:
        images = [read_picture(picture.path) for picture in pictures]
        results = {}
        for threads in args.threads:
            set_threads(threads)
            results[threads] = bench(coder, images, args.quality, args.repeats)
        fresh = fresh_runs(args.codec, pictures[0].path, args.quality, min(3, args.repeats))
    except (OSError, ValueError, RuntimeError) as error:
        print(f"rhodec: {error}", file=sys.stderr)
        return 1
    macs = _macs(coder.codec, pictures)
    if args.json:
        print(json.dumps(_record(args, coder.name, pictures, results, fresh, macs), indent=1))
    else:
        print(_text(args, coder.name, pictures, results, fresh, macs))
    return 0


def _macs(codec: Any, pictures: Sequence[TestPicture]) -> MacCount | None:
    """Of all pictures together; None for a codec whose networks are not counted."""
    try:
        counts = [count_macs(codec, picture.width, picture.height) for picture in pictures]
    except ValueError:
        return None
    pixels = sum(picture.width * picture.height for picture in pictures)
    by_stage = {stage: sum(c.by_stage[stage] for c in counts) for stage in counts[0].by_stage}
    return MacCount(pixels, 1, by_stage)


def _record(
    args: argparse.Namespace,
    name: str,
    pictures: Sequence[TestPicture],
    results: Mapping[int, BenchResult],
    fresh: Mapping[str, FreshRun],
    macs: MacCount | None,
) -> dict[str, Any]:
    return {
        "codec": name,
        "quality": args.quality,
        "repeats": args.repeats,
        "pictures": {p.name: [p.width, p.height] for p in pictures},
        "threads": {str(threads): asdict(result) for threads, result in results.items()},
        "fresh": {verb: asdict(value) for verb, value in fresh.items()},
        "complexity": macs
        and {
            "encoder-kmac-per-pixel": macs.encoder_kmac_per_pixel,
            "decoder-kmac-per-pixel": macs.decoder_kmac_per_pixel,
            "mac-by-network": dict(macs.by_stage),
        },
        "environment": environment(),
    }


def _text(
    args: argparse.Namespace,
    name: str,
    pictures: Sequence[TestPicture],
    results: Mapping[int, BenchResult],
    fresh: Mapping[str, FreshRun],
    macs: MacCount | None,
) -> str:
    pixels = sum(p.width * p.height for p in pictures)
    what = f"{len(pictures)} pictures" if len(pictures) > 1 else pictures[0].name
    first = next(iter(results.values()))
    lines = [
        f"{name} on {what}, {pixels / MILLION:.2f} megapixels; {machine()}",
        f"quality {args.quality:g}: {first.bpp:.4f} bpp, {first.psnr_rgb:.2f} dB PSNR-RGB",
    ]
    heads = ["ms per picture", "total", "processor", *STAGES]
    for threads, result in results.items():
        rows = [
            [verb, *(f"{1000 * s:.1f}" for s in (t.wall_s, t.cpu_s, *t.stages.values()))]
            for verb, t in (("encode", result.encode), ("decode", result.decode))
        ]
        lines += ["", f"{threads} thread{'s' if threads > 1 else ''}, medians of {args.repeats}:"]
        widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
        lines += [
            "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in (heads, *rows)
        ]
    lines += ["", f"fresh process, {pictures[0].name}:"]
    lines += [
        f"  {verb}  {run.wall_s:.2f} s, processor {run.cpu_s:.2f} s, "
        f"{run.peak_bytes / MILLION:.0f} MB at its peak"
        for verb, run in fresh.items()
    ]
    lines += ["", "multiply-accumulates:"]
    if macs is None:
        lines.append("  not counted for this codec")
    else:
        sides = macs.encoder_kmac_per_pixel, macs.decoder_kmac_per_pixel
        for i, (side, kmac) in enumerate(zip(("encoder", "decoder"), sides, strict=True)):
            parts = [
                f"{stage} {count / pixels / 1000:.2f}"
                for stage, count in macs.by_stage.items()
                if NETWORKS[stage][i]
            ]
            lines.append(f"  {side}  {kmac:.2f} kMAC per pixel: {', '.join(parts)}")
    return "\n".join(lines)


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100 or 2 * value != int(2 * value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a half step from 0 to 100")
    return value


def _counts(text: str) -> list[int]:
    return sorted({positive_count(word) for word in text.split(",")})
