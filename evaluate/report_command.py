"""The verb `rhodec report`: a folder of pictures, or results files -> one HTML page.

Parsing, progress and the order of work only; the page is made in `html_report`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from rhodec.evaluate.anchor_registry import ANCHORS, anchor
from rhodec.evaluate.argument_values import positive_count
from rhodec.evaluate.comparison_pictures import RATES, Comparison, compare, embed
from rhodec.evaluate.html_report import page_data, picture_data, report_page
from rhodec.evaluate.named_curves import NamedCurve, load_named_curves, of_published
from rhodec.evaluate.picture_coders import PictureCoder, load_rhodec_coder
from rhodec.evaluate.picture_sets import TestPicture, dataset_name, find_pictures, read_picture
from rhodec.evaluate.plot_command import known_kmac
from rhodec.evaluate.published_curves import published_curve
from rhodec.evaluate.rate_distortion import measure
from rhodec.evaluate.results_file import summarise, write_atomically
from rhodec.evaluate.results_journal import Row

EXAMPLES = """\
examples:
  rhodec report photos/ -o report.html                            rho and JPEG
  rhodec report photos/ --codec rho --anchor jpeg --anchor webp -o report.html
  rhodec report kodak/ --anchor vtm-9.1 --pictures 6 -o report.html
  rhodec report results/*.json --anchor vtm-9.1 -o report.html    curves and table, no pictures

The page is one file: it opens in any browser, without a network. Pictures in it are decoded from
real files of each codec at three comparable rates, and kept without loss. Finished measurements are
kept in the folder of --cache, which `rhodec evaluate` shares."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rhodec report`."""
    parser.description = "Make one HTML page with curves, BD-rates, times and decoded pictures."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "input", nargs="+", type=Path, help="a folder of pictures, or results files (.json)"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE")
    parser.add_argument(
        "--codec", action="append", metavar="NAME", help="name or weights file; repeatable (rho)"
    )
    parser.add_argument(
        "--anchor",
        action="append",
        metavar="NAME",
        help=f"{', '.join(ANCHORS)}, or a published curve; repeatable (jpeg)",
    )
    parser.add_argument("--effort", type=int, default=0, metavar="N", help="encoder effort (0)")
    parser.add_argument(
        "--pictures", type=positive_count, default=8, metavar="N", help="in the page, at most (8)"
    )
    parser.add_argument(
        "--max-megabytes",
        type=float,
        default=32.0,
        metavar="X",
        help="of pictures in the page, which are cropped to fit (32)",
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page (from the input)")
    parser.add_argument(
        "--cache", type=Path, default=Path("results/cache"), metavar="DIR", help="(results/cache)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """The exit code: 0 done, 1 a codec, a file or a limit failed, 2 a mistake in the command."""
    folders = [path for path in args.input if path.suffix != ".json"]
    try:
        if len(folders) > 1 or (folders and len(args.input) > 1):
            raise ValueError("give one folder of pictures, or results files")
        if folders:
            pictures = find_pictures(folders[0])
            coders, published = _codecs(args, pictures)
        else:
            words = [*map(str, args.input), *(args.anchor or [])]
            curves = load_named_curves(words)
    except (OSError, ValueError, RuntimeError) as error:  # an anchor may lack its program
        print(f"rhodec: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    try:
        shown = []
        if folders:
            curves, shown = _measure(args, coders, pictures)
            curves += published
        title = args.title or _title(folders[0] if folders else None, curves)
        kmac = {curve.name: value for curve in curves for value in known_kmac(curve)}
        page = report_page(page_data(curves, title, kmac=kmac, pictures=shown))
        write_atomically(args.output, page)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"rhodec: {error}", file=sys.stderr)
        return 1
    if not args.quiet:
        print(f"written: {args.output}, {len(page.encode()) / 1e6:.1f} MB")
    return 0


def _codecs(
    args: argparse.Namespace, pictures: Sequence[TestPicture]
) -> tuple[list[PictureCoder], list[NamedCurve]]:
    """Codecs to run, each once, and published curves, which need the set that they are of."""
    coders: list[PictureCoder] = []
    coders += [load_rhodec_coder(name, args.effort) for name in args.codec or ["rho"]]
    published = []
    for name in args.anchor or ["jpeg"]:
        if name in ANCHORS:
            coders.append(anchor(name))
            continue
        dataset = dataset_name(pictures)
        curve = published_curve(name, dataset or "kodak")
        if dataset is None:
            raise ValueError(
                f"{name} is a published mean over all of {curve.dataset}, which these are not"
            )
        published.append(of_published(curve))
    names = [codec.name for codec in (*coders, *published)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"two codecs are called {twice.pop()}")
    return coders, published


def _measure(
    args: argparse.Namespace, coders: Sequence[PictureCoder], pictures: Sequence[TestPicture]
) -> tuple[list[NamedCurve], list[dict]]:
    """Curves of all pictures, and the page's part for some of them."""
    chosen = _spread(pictures, args.pictures)
    files = sum(len(coder.default_qualities) for coder in coders) * len(pictures)
    curves, rows = [], {}
    with tqdm(total=files, unit="file", leave=False, disable=args.quiet or None) as bar:
        for coder in coders:
            bar.set_description(coder.name)
            rows[coder.name] = measure(
                coder, pictures, coder.default_qualities, args.cache, lambda row: bar.update()
            )
            summary = summarise(coder, rows[coder.name], pictures)
            curves.append(NamedCurve(coder.name, summary["results"], summary))
    with tqdm(
        total=len(chosen) * len(coders) * len(RATES),
        unit="picture",
        leave=False,
        disable=args.quiet or None,
    ) as bar:
        comparisons = [_compare(picture, coders, rows, bar.update) for picture in chosen]
    embedded = zip(comparisons, *embed(comparisons, args.max_megabytes * 1e6), strict=True)
    return curves, [picture_data(*parts) for parts in embedded]


def _compare(
    picture: TestPicture, coders: Sequence[PictureCoder], rows: dict[str, list[Row]], advance
) -> Comparison:
    known = {
        name: {row.quality: row.bpp for row in made if row.picture == picture.name}
        for name, made in rows.items()
    }
    return compare(picture.name, read_picture(picture.path), coders, known, lambda: advance())


def _spread(pictures: Sequence[TestPicture], count: int) -> list[TestPicture]:
    """At most `count` of the pictures, evenly spread, the first among them."""
    kept = min(count, len(pictures))
    return [pictures[i * len(pictures) // kept] for i in range(kept)]


def _title(folder: Path | None, curves: Sequence[NamedCurve]) -> str:
    name = next((c.dataset.get("name") for c in curves if c.dataset.get("name")), None)
    if name:
        return name.capitalize()
    return folder.resolve().name if folder else "Results"
