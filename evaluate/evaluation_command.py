"""The verb `rhodec evaluate`: measure codecs and anchors on a folder and report.

Parsing, progress and printing only; the work is in `rate_distortion`, `results_file` and
`results_page`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from rhodec.evaluate.anchor_base import AnchorError
from rhodec.evaluate.anchor_registry import ANCHORS, anchor, anchor_help
from rhodec.evaluate.anchor_sanity import check_anchors, sanity_table
from rhodec.evaluate.argument_values import parse_qualities, parse_window, positive_count
from rhodec.evaluate.bjontegaard import Method
from rhodec.evaluate.compressai_coder import COMPRESSAI_PREFIX, load_compressai_coder
from rhodec.evaluate.latex_table import latex_document
from rhodec.evaluate.picture_coders import load_rhodec_coder
from rhodec.evaluate.picture_sets import TestPicture, dataset_name, find_pictures
from rhodec.evaluate.published_curves import PublishedCurve, published_curve
from rhodec.evaluate.rate_distortion import (
    Engine,
    MeasurementError,
    Order,
    Row,
    measure_all,
    missing_points,
    serially,
)
from rhodec.evaluate.report_table import bd_table, rate_table
from rhodec.evaluate.results_file import Summary, summarise, write_atomically, write_results
from rhodec.evaluate.results_page import PageOptions, results_page
from rhodec.evaluate.worker_pool import local_processes, ray_cluster

EXAMPLES = """\
examples:
  rhodec evaluate photos/                                    rho and JPEG, tables on the screen
  rhodec evaluate kodak/ --anchor vvc --anchor vtm-9.1       a codec run here, a published curve
  rhodec evaluate kodak/ --codec rho --codec my.safetensors --quality 0,10,...,100 --jobs 4
  rhodec evaluate kodak/ --codec compressai:mbt2018-mean --checkpoint a.pth --checkpoint b.pth

Anchors that are run here:
{anchors}
Any other name is that of a published curve, such as vtm-9.1, hm, elic, cool-chic-5.0, which holds
only on the pictures it was made with; published:NAME where a name is both.

The folder of --out gets NAME.json, NAME.tsv and RESULTS.md. Finished measurements are kept in its
folder `cache` and never made twice, whatever ends a run; delete that folder to measure again."""

PUBLISHED_PREFIX = "published:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rhodec evaluate`."""
    parser.description = "Measure rate, distortion and time on real files, and report BD-rates."
    parser.epilog = EXAMPLES.format(anchors=anchor_help())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="a folder of pictures")
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--codec",
        action="append",
        metavar="NAME",
        help="name, weights file or compressai:ARCHITECTURE; may be repeated (rho)",
    )
    what.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        metavar="FILE",
        help="of a compressai codec, one for each point of its curve",
    )
    what.add_argument(
        "--quality", type=parse_qualities, metavar="LIST", help="qualities of codecs (0,10,...,100)"
    )
    what.add_argument("--effort", type=int, default=0, metavar="N", help="encoder effort (0)")
    what.add_argument(
        "--anchor",
        action="append",
        metavar="NAME",
        help="what to compare with; may be repeated (jpeg)",
    )
    what.add_argument(
        "--perceptual", action="store_true", help="SSIMULACRA2 too, about two seconds per megapixel"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "-j", "--jobs", type=positive_count, default=1, metavar="N", help="processes (1)"
    )
    how.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="ray: a cluster (local)"
    )
    report = parser.add_argument_group("report")
    report.add_argument(
        "--method",
        action="append",
        choices=get_args(Method),
        help="BD-rate fit; repeated: a table for each (pchip)",
    )
    report.add_argument(
        "--against", action="append", metavar="NAME", help="columns of the BD-rate tables (all)"
    )
    report.add_argument(
        "--window", type=parse_window, metavar="LOW,HIGH", help="one range of PSNR for all BD-rates"
    )
    report.add_argument(
        "--out", type=Path, default=Path("results"), metavar="DIR", help="output folder (results)"
    )
    report.add_argument(
        "--report", type=Path, metavar="FILE", help="the page of results (OUT/RESULTS.md)"
    )
    report.add_argument("--latex", type=Path, metavar="FILE", help="the tables for a paper")
    report.add_argument(
        "--plot", type=Path, metavar="FILE", help="a picture of the curves that the page shows"
    )
    report.add_argument("--quiet", action="store_true", help="no tables and no progress")


def run(args: argparse.Namespace) -> int:
    """The exit code: 0 done, 1 a measurement failed, 2 a mistake in the command line."""
    try:
        pictures = find_pictures(args.folder)
        orders, published = _plan(args, pictures)
        engine = _engine(args)
        if args.perceptual and importlib.util.find_spec("ssimulacra2") is None:
            raise ValueError("--perceptual needs: pip install 'rhodec[perceptual]'")
    except (OSError, ValueError, AnchorError) as error:
        print(f"rhodec: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    try:
        summaries = _measure(orders, pictures, engine, args)
        report = _write_reports(summaries, published, args)
    except (OSError, ValueError, MeasurementError) as error:
        print(f"rhodec: {error}", file=sys.stderr)
        return 1
    if not args.quiet:
        methods: list[Method] = args.method or ["pchip"]
        method = methods[0]
        table = bd_table(
            summaries, published, method=method, against=args.against, window=args.window
        )
        for summary in summaries:
            print(f"{summary['name']}\n{rate_table(summary).markdown()}\n")
        print(f"BD-rate in per cent at equal PSNR-RGB ({method}) [range in dB]")
        print(f"{table.markdown()}\n\nwritten: {report}")
    return 0


def _plan(
    args: argparse.Namespace, pictures: Sequence[TestPicture]
) -> tuple[list[Order], list[PublishedCurve]]:
    """What is to be run, and published curves, which need the pictures they were made with."""
    orders = [_codec(name, args) for name in args.codec or ["rho"]]
    published = []
    names = {}  # as typed -> as called
    for name in dict.fromkeys(args.anchor or ["jpeg"]):
        is_published = name.startswith(PUBLISHED_PREFIX)
        if not is_published and (name in ANCHORS or ":" in name):
            coder = anchor(name)
            orders.append(Order(coder, coder.default_qualities, partial(anchor, name)))
            names[name] = coder.name
            continue
        dataset = dataset_name(pictures)
        curve = published_curve(name.removeprefix(PUBLISHED_PREFIX), dataset or "kodak")
        if dataset is None:
            raise ValueError(
                f"{name} is a published mean over all of {curve.dataset}; the pictures in "
                f"{args.folder} are not exactly that set, so the comparison would mean nothing"
            )
        published.append(curve)
        names[name] = curve.name
    called = [order.coder.name for order in orders]
    twice = {name for name in called if called.count(name) > 1}
    if twice:
        raise ValueError(f"two codecs are called {twice.pop()}: rename a weights file")
    names |= {name: name for name in (*called, *(curve.name for curve in published))}
    unknown = [name for name in args.against or () if name not in names]
    if unknown:
        raise ValueError(f"--against {unknown[0]} is neither measured nor an --anchor")
    args.against = [names[name] for name in args.against or ()]
    return orders, published


def _codec(name: str, args: argparse.Namespace) -> Order:
    if name.startswith(COMPRESSAI_PREFIX):
        architecture = name.removeprefix(COMPRESSAI_PREFIX)
        factory = partial(load_compressai_coder, architecture, tuple(args.checkpoint or ()))
        coder = factory()
        return Order(coder, coder.default_qualities, factory)
    factory = partial(load_rhodec_coder, name, args.effort)
    coder = factory()
    return Order(coder, args.quality or coder.default_qualities, factory)


def _engine(args: argparse.Namespace) -> Engine:
    if args.engine == "ray":
        if importlib.util.find_spec("ray") is None:
            raise ValueError("--engine ray needs: pip install 'rhodec[ray]'")
        if args.jobs > 1:
            raise ValueError("--jobs is for one machine; a Ray cluster knows its own cores")
        return ray_cluster
    return serially if args.jobs == 1 else local_processes(args.jobs)


def _measure(
    orders: Sequence[Order],
    pictures: Sequence[TestPicture],
    engine: Engine,
    args: argparse.Namespace,
) -> list[Summary]:
    cache = args.out / "cache"
    total = missing_points(orders, pictures, cache, is_perceptual=args.perceptual)

    def advance(row: Row) -> None:
        bar.set_description(row.codec)
        bar.update()

    with tqdm(total=total, unit="file", leave=False, disable=args.quiet or None) as bar:
        results = measure_all(
            orders,
            pictures,
            cache,
            engine=engine,
            is_perceptual=args.perceptual,
            on_row=advance,
        )
    summaries = []
    for order, rows in zip(orders, results, strict=True):
        summary = summarise(order.coder, rows, pictures)
        write_results(args.out, summary, rows)
        summaries.append(summary)
    return summaries


def _write_reports(
    summaries: Sequence[Summary], published: Sequence[PublishedCurve], args: argparse.Namespace
) -> Path:
    """The page and, where asked for, the LaTeX tables; the path of the page."""
    report = args.report or args.out / "RESULTS.md"
    plot = None
    if args.plot:
        plot = Path(os.path.relpath(args.plot, report.parent)).as_posix()
    options = PageOptions(args.method or ["pchip"], args.against, args.window, plot)
    sanity = sanity_table(check_anchors(summaries))
    write_atomically(report, results_page(summaries, published, options, sanity))
    if args.latex:
        write_atomically(args.latex, latex_document(summaries, published, options))
    return report
