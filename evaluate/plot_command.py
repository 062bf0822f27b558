"""The verb `rhodec plot`: results files and published curves -> a figure.

Parsing and choosing only; the figures are made in `rd_plot`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rhodec.evaluate.argument_values import parse_window
from rhodec.evaluate.named_curves import (
    METRICS,
    NamedCurve,
    judged_bd_rate,
    load_named_curves,
    metric_name,
)
from rhodec.evaluate.published_curves import list_datasets
from rhodec.evaluate.rd_plot import (
    FORMATS,
    TradeOff,
    rd_figure,
    save_figure,
    trade_off_figure,
)

EXAMPLES = """\
examples:
  rhodec plot results/*.json vtm-9.1 -o curves.pdf
  rhodec plot results/*.json --metric psnr-rgb --metric ms-ssim -o curves.pdf    two panels
  rhodec plot results/*.json elic -o curves.svg --bpp 0,1 --label rho=Ours --width 8.8
  rhodec plot results/*.json --kind bd-time --anchor vtm-9.1 -o time.pdf
  rhodec plot results/*.json elic --kind bd-mac --anchor vtm-9.1 --kmac elic=332 -o mac.pdf

Names that do not end in .json are published curves, drawn dashed. Times are those in the results
files, of decoding, so all should come from one machine; multiplications are counted for codecs of
rhodec, and known of others only as far as --kmac says."""

Value = TypeVar("Value")
KINDS = ("rd", "bd-time", "bd-mac")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rhodec plot`."""
    parser.description = "Draw rate-distortion curves or the cost of a BD-rate, ready for a paper."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "curve", nargs="+", metavar="CURVE", help="a results file, or a published curve's name"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=", ".join(FORMATS)
    )
    parser.add_argument("--kind", choices=KINDS, default="rd", help="what to draw (rd)")
    parser.add_argument(
        "--metric",
        type=_metric,
        action="append",
        metavar="NAME",
        help=f"psnr-rgb, ms-ssim, {', '.join(list(METRICS)[1:-1])}; repeated: a panel for each",
    )
    parser.add_argument(
        "--anchor", metavar="NAME", help="the curve that BD-rates are against (the first one)"
    )
    parser.add_argument(
        "--kmac",
        type=_kmac,
        action="append",
        default=[],
        metavar="NAME=X",
        help="a decoder's thousand multiplications per pixel, from its paper",
    )
    parser.add_argument(
        "--label", type=_pair, action="append", default=[], metavar="NAME=TEXT", help="rename"
    )
    parser.add_argument("--bpp", type=_range, metavar="LOW,HIGH", help="show these rates only")
    parser.add_argument("--log-rate", action="store_true", help="logarithmic rate axis")
    parser.add_argument(
        "--width", type=_width, metavar="CM", help="of the figure (8.8; 18.1 with several panels)"
    )
    parser.add_argument("--title", metavar="TEXT", help="above the plot (none)")
    parser.add_argument(
        "--dataset",
        choices=list_datasets(),
        help="of published curves without results files (kodak)",
    )


def run(args: argparse.Namespace) -> int:
    """The exit code: 0 done, 1 a file cannot be read or written, 2 a mistake in the command."""
    try:
        if args.output.suffix.lower() not in FORMATS:
            raise ValueError(f"{args.output}: a plot is written as {', '.join(FORMATS)}")
        figure = _figure(args)
        save_figure(figure, args.output)
    except (OSError, ValueError) as error:
        print(f"rhodec: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    return 0


def _figure(args: argparse.Namespace):
    metrics = args.metric or ["psnr-rgb"]
    words = list(args.curve)
    curves = load_named_curves(words, args.dataset)
    # A curve may be named as it was typed (an alias, a file) or as it is called.
    by_name = dict(zip(words, curves, strict=True)) | {curve.name: curve for curve in curves}
    labels = _by_curve(args.label, by_name, "--label")
    options = {"width_cm": args.width, "title": args.title, "labels": labels}
    if args.kind == "rd":
        for metric in metrics:
            _say_left_out([c.name for c in curves if not c.values.get(metric)], metric)
        return rd_figure(curves, metrics, bpp_range=args.bpp, log_rate=args.log_rate, **options)
    if len(metrics) > 1:
        raise ValueError(f"--kind {args.kind} takes one metric")
    if args.anchor and args.anchor not in by_name:  # it need not be drawn
        anchor = load_named_curves([*words, args.anchor], args.dataset)[-1]
    else:
        anchor = by_name[args.anchor] if args.anchor else curves[0]
    costs, axis = _costs(args.kind, curves, _by_curve(args.kmac, by_name, "--kmac"))
    points = trade_offs(curves, anchor, metrics[0], costs)
    return trade_off_figure(points, axis, anchor.name, metrics[0], **options)


def _costs(
    kind: str, curves: Sequence[NamedCurve], given: Mapping[str, float]
) -> tuple[dict[str, list[float]], str]:
    """Values over the rate points by codec, empty where unknown, and the name of their axis."""
    if kind == "bd-time":
        times = {curve.name: curve.seconds_per_megapixel() for curve in curves}
        return times, "Decoding time (s per megapixel)"
    counts = {
        curve.name: [given[curve.name]] if curve.name in given else known_kmac(curve)
        for curve in curves
    }
    return counts, "Decoder multiplications (kMAC per pixel)"


def _by_curve(
    pairs: Sequence[tuple[str, Value]], curves: Mapping[str, NamedCurve], option: str
) -> dict[str, Value]:
    """Values by the curves' own names; `ValueError` for a name that is not drawn."""
    for name, _ in pairs:
        if name not in curves:
            raise ValueError(f"{option} names {name!r}, which is not drawn")
    return {curves[name].name: value for name, value in pairs}


def known_kmac(curve: NamedCurve) -> list[float]:
    """The decoder's kMAC per pixel, from the results file or counted; empty where unknown.

    Counted for results of weights that come with this version.
    """
    stated = (curve.record.get("complexity") or {}).get("decoder-kmac-per-pixel")
    if stated is not None:
        return [float(stated)]
    weights = (curve.record.get("conditions") or {}).get("weights")
    if weights is None:
        return []
    from rhodec.codecs.registry import CODECS, load_codec
    from rhodec.evaluate.mac_count import count_macs

    for name in CODECS:
        codec = load_codec(name)
        if codec.weights_hash.hex() == weights:
            try:
                return [count_macs(codec).decoder_kmac_per_pixel]
            except ValueError:  # a codec without networks to count
                return []
    return []


def trade_offs(
    curves: Sequence[NamedCurve],
    anchor: NamedCurve,
    metric: str,
    costs: Mapping[str, Sequence[float]],
) -> list[TradeOff]:
    """The codecs with a cost and a BD-rate against the anchor; says which have none, and why."""
    points = []
    for curve in curves:
        values = costs[curve.name]
        if not values:
            print(f"rhodec: {curve.name} is left out: its cost is not known", file=sys.stderr)
            continue
        if curve is anchor:
            value, doubts = 0.0, []
        else:
            value, doubts = judged_bd_rate(anchor.values, curve.values, metric)
        for doubt in doubts:
            print(f"rhodec: {curve.name} against {anchor.name}: {doubt}", file=sys.stderr)
        if value is not None:
            mean = sum(values) / len(values)
            points.append(TradeOff(curve.name, mean, (min(values), max(values)), value))
    return points


def _say_left_out(names: Sequence[str], metric: str) -> None:
    for name in names:
        print(f"rhodec: {name} is left out: it has no {METRICS[metric]}", file=sys.stderr)


# ---- words of the command line ------------------------------------------------------------------


def _metric(text: str) -> str:
    try:
        return metric_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _kmac(text: str) -> tuple[str, float]:
    name, value = _pair(text)
    return name, _positive(value)


def _range(text: str) -> tuple[float, float]:
    low, high = parse_window(text)
    if not 0 <= low < high < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of rates")
    return low, high


def _width(text: str) -> float:
    width = _positive(text)
    if not 4 <= width <= 100:
        raise argparse.ArgumentTypeError("a width is 4 to 100 cm")
    return width


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value
