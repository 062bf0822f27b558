"""The verb `rhodec evaluate`: measure codecs and anchors on a folder and report.

Parsing, progress and printing only; the work is in `rate_distortion` and `report_table`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.published_curves import PublishedCurve, published_curve
from rhodec.evaluate.rate_distortion import (
    PictureCoder,
    RhodecCoder,
    Row,
    TestPicture,
    dataset_name,
    find_pictures,
    measure,
    missing_points,
)
from rhodec.evaluate.report_table import (
    Summary,
    bd_table,
    rate_table,
    results_page,
    summarise,
    write_atomically,
    write_results,
)

EXAMPLES = """\
examples:
  rhodec evaluate photos/                                    rho and JPEG, tables on the screen
  rhodec evaluate kodak/ --anchor jpeg --anchor vtm-9.1      with a published curve
  rhodec evaluate kodak/ --codec rho --codec my.safetensors --quality 0,10,...,100

Anchors: jpeg (4:2:0), jpeg-444, or a published curve such as vtm-9.1, hm, elic, cool-chic-5.0
(these only on the pictures they were made with); published:NAME where both exist. The folder of
--out gets NAME.json, NAME.tsv and RESULTS.md. Finished measurements are kept in its folder `cache`
and never made twice; delete that folder to measure again."""

# Anchors that are run here; any other name is that of a published curve.
MEASURED_ANCHORS = {
    "jpeg": "4:2:0",
    "jpeg-420": "4:2:0",
    "jpeg-444": "4:4:4",
}
PUBLISHED_PREFIX = "published:"


def parse_qualities(text: str) -> list[float]:
    """`0,10,...,100` or any list of numbers; `...` continues the step before it, up to what
    follows it.

    Raises `argparse.ArgumentTypeError`.
    """
    qualities: list[float] = []
    words = [word.strip() for word in text.split(",")]
    for i, word in enumerate(words):
        if word == "...":
            if len(qualities) < 2 or i + 1 >= len(words) or words[i - 1] == "...":
                raise argparse.ArgumentTypeError("'...' stands between numbers: 0,10,...,100")
            start, end = qualities[-1], _number(words[i + 1])
            step = start - qualities[-2]
            steps = (end - start) / step if step > 0 else 0.0
            if steps < 1 or abs(steps - round(steps)) > 1e-6:
                raise argparse.ArgumentTypeError(f"steps of {step:g} do not lead to {end:g}")
            qualities += [start + k * step for k in range(1, round(steps))]
        else:
            qualities.append(_number(word))
    return sorted(set(qualities))


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rhodec evaluate`."""
    parser.description = "Measure rate, distortion and time on real files, and report BD-rates."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="a folder of pictures")
    parser.add_argument(
        "--codec",
        action="append",
        metavar="NAME",
        help="name or weights file; may be repeated (rho)",
    )
    parser.add_argument(
        "--quality", type=parse_qualities, metavar="LIST", help="qualities of codecs (0,10,...,100)"
    )
    parser.add_argument("--effort", type=int, default=0, metavar="N", help="encoder effort (0)")
    parser.add_argument(
        "--anchor",
        action="append",
        metavar="NAME",
        help="what to compare with; may be repeated (jpeg)",
    )
    parser.add_argument(
        "--method", choices=("pchip", "cubic", "akima"), default="pchip", help="BD-rate fit (pchip)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results"), metavar="DIR", help="output folder (results)"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="the page of results (OUT/RESULTS.md)"
    )
    parser.add_argument("--quiet", action="store_true", help="no tables and no progress")


def run(args: argparse.Namespace) -> int:
    """The exit code: 0 done, 1 a measurement failed, 2 a mistake in the command line."""
    try:
        pictures = find_pictures(args.folder)
        coders = [_codec(name, args.effort) for name in args.codec or ["rho"]]
        anchors, published = _anchors(args.anchor or ["jpeg"], args.folder, pictures)
        names = [coder.name for coder in (*coders, *anchors)]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two codecs are called {twice.pop()}: rename a weights file")
    except (OSError, ValueError) as error:
        print(f"rhodec: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2

    plan: list[tuple[PictureCoder, Sequence[float]]] = [
        *((coder, args.quality or coder.default_qualities) for coder in coders),
        *((anchor, anchor.default_qualities) for anchor in anchors),
    ]
    try:
        summaries = _measure_all(plan, pictures, args.out, args.quiet)
        page = results_page(summaries, published, args.method)
        report = args.report or args.out / "RESULTS.md"
        write_atomically(report, page)
    except (OSError, ValueError) as error:
        where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        print(f"rhodec: {error}{where}", file=sys.stderr)
        return 1
    if not args.quiet:
        for summary in summaries:
            print(f"{summary['name']}\n{rate_table(summary)}\n")
        print(f"BD-rate in per cent at equal PSNR-RGB ({args.method}) [range in dB]")
        print(bd_table(summaries, published, "psnr-rgb", args.method))
        print(f"\nwritten: {report}")
    return 0


def _measure_all(
    plan: Sequence[tuple[PictureCoder, Sequence[float]]],
    pictures: Sequence[TestPicture],
    out: Path,
    quiet: bool,
) -> list[Summary]:
    cache = out / "cache"
    total = sum(missing_points(coder, pictures, qualities, cache) for coder, qualities in plan)
    summaries = []

    def advance(row: Row) -> None:
        bar.update()

    with tqdm(total=total, unit="file", leave=False, disable=quiet or None) as bar:
        for coder, qualities in plan:
            bar.set_description(coder.name)
            rows = measure(coder, pictures, qualities, cache, advance)
            summary = summarise(coder, rows, pictures)
            write_results(out, summary, rows)
            summaries.append(summary)
    return summaries


def _codec(name_or_path: str, effort: int) -> RhodecCoder:
    from rhodec.codecs import registry

    if name_or_path not in registry.CODECS and not Path(name_or_path).is_file():
        known = ", ".join(registry.CODECS)
        raise ValueError(f"no codec or weights file is called {name_or_path!r}; there is {known}")
    return RhodecCoder(registry.load_codec(name_or_path), effort)


def _anchors(
    names: Sequence[str], folder: Path, pictures: Sequence[TestPicture]
) -> tuple[list[JpegAnchor], list[PublishedCurve]]:
    """Anchors to run, and published curves, which need the pictures that they were made with."""
    measured, published = [], []
    for name in dict.fromkeys(names):
        if name in MEASURED_ANCHORS:
            measured.append(JpegAnchor(MEASURED_ANCHORS[name]))
            continue
        dataset = dataset_name(pictures)
        curve = published_curve(name.removeprefix(PUBLISHED_PREFIX), dataset or "kodak")
        if dataset is None:
            raise ValueError(
                f"{name} is a published mean over all of {curve.dataset}; the pictures in {folder} "
                "are not exactly that set, so the comparison would mean nothing"
            )
        published.append(curve)
    return measured, published
