"""The command line, `rhodec VERB ...` or `python -m rhodec VERB ...`.

This module only parses and dispatches. Exit codes: 0 success, 1 at least one input failed, 2 a
mistake in the command line, 130 interrupted. Messages go to standard error; standard output carries
pictures (`-`) or what was asked for (`info`, `codecs`, `selftest`).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

import rhodec
from rhodec.file_verbs import (
    FORMAT_CHOICES,
    positive_count,
    positive_value,
    quality_value,
    size_in_bytes,
)

# Verbs whose modules bring heavy imports: name -> (module, add arguments, run, help).
DELEGATED = {
    "train": (
        "rhodec.train.training_command",
        "add_train_arguments",
        "run_train",
        "train a codec on a folder of pictures",
    ),
    "export": (
        "rhodec.train.training_command",
        "add_export_arguments",
        "run_export",
        "freeze a trained model to a weights file",
    ),
    "evaluate": (
        "rhodec.evaluate.evaluation_command",
        "add_arguments",
        "run",
        "rate, distortion and BD-rate over a set of pictures",
    ),
    "bdrate": (
        "rhodec.evaluate.bdrate_command",
        "add_arguments",
        "run",
        "Bjontegaard deltas between curves",
    ),
    "datasets": (
        "rhodec.evaluate.datasets_command",
        "add_arguments",
        "run",
        "the data sets of the field, and verifying a folder",
    ),
    "plot": (
        "rhodec.evaluate.plot_command",
        "add_arguments",
        "run",
        "rate-distortion curves and costs as figures for a paper",
    ),
    "report": (
        "rhodec.evaluate.report_command",
        "add_arguments",
        "run",
        "curves, BD-rates and decoded pictures in one HTML page",
    ),
    "bench": (
        "rhodec.evaluate.bench_command",
        "add_arguments",
        "run",
        "time by stage, memory and multiplications of a codec",
    ),
}

ENCODE_EXAMPLES = """\
examples:
  rhodec encode photo.png photo.rho                     quality 50
  rhodec encode -q 80 photo.jpg photo.rho               higher quality, larger file
  rhodec encode --size 40k photo.png photo.rho          at most 40000 bytes
  rhodec encode --bpp 0.5 photo.png photo.rho           half a bit per pixel
  rhodec encode --psnr 34 photo.png photo.rho           smallest file with at least 34 dB
  rhodec encode --effort 5 photo.png photo.rho          about 6 % smaller, some seconds more
  rhodec encode --jobs 4 photos/*.jpg coded/            many files, four processes
  cat photo.png | rhodec encode - - > photo.rho         standard input and output

Pictures are read by Pillow and turned upright; 16-bit samples are rounded to 8 bits, alpha is kept
without loss, ICC, EXIF and XMP are carried along. An existing output is replaced only by a complete
new one."""

DECODE_EXAMPLES = """\
examples:
  rhodec decode photo.rho photo.png
  rhodec decode coded/*.rho pictures/                   PNG files
  rhodec decode --format webp coded/*.rho pictures/
  rhodec decode photo.rho - --format ppm | display -

PNG, TIFF, BMP, PPM and WebP are written without loss, JPEG with quality 95."""

INFO_EXAMPLES = """\
examples:
  rhodec info photo.rho
  rhodec info --json coded/*.rho"""

CODECS_EXAMPLES = """\
examples:
  rhodec codecs
  rhodec codecs --json"""

SELFTEST_EXAMPLES = """\
examples:
  rhodec selftest                                       exit code 0: this machine decodes correctly
  rhodec selftest --folder DIR                          files of your own, with a manifest
  rhodec selftest --folder DIR --record                 write that manifest"""


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser of all verbs; the arguments of a delegated one only if it is `verb`."""
    parser = argparse.ArgumentParser(
        prog="rhodec",
        description="A learned image codec: files that decode to the same symbols everywhere.",
        epilog="example: rhodec encode photo.png photo.rho && rhodec decode photo.rho copy.png",
    )
    parser.add_argument("--version", action="version", version=f"rhodec {rhodec.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    encode = _add_verb(verbs, "encode", "pictures to .rho files", ENCODE_EXAMPLES)
    targets = encode.add_mutually_exclusive_group()
    targets.add_argument(
        "-q", "--quality", type=quality_value, metavar="Q", help="0 to 100 in half steps (50)"
    )
    targets.add_argument(
        "--bpp", type=positive_value, metavar="X", help="bits per pixel of the file, nearest"
    )
    targets.add_argument(
        "--size", type=size_in_bytes, metavar="BYTES", help="at most so many bytes: 40k, 40KiB, 1M"
    )
    targets.add_argument(
        "--psnr", type=positive_value, metavar="DB", help="at least so many dB, smallest file"
    )
    encode.add_argument("--codec", default="rho", metavar="NAME", help="name or weights file (rho)")
    encode.add_argument(
        "--effort",
        type=int,
        default=0,
        metavar="N",
        help="0 to 9 (overfit: 0 to 6), encoding time for rate; rho, 768 x 512 pixels, one core: 1 "
        "saves about 2 %% in 1 s, 5 8 %% in 7 s, 9 9 %% in 40 s; overfit, two cores: 0 takes about "
        "5 s, 4 a minute, 5 four, 6 seven; decoding stays as it is (0)",
    )
    encode.add_argument(
        "--keep-best",
        action="store_true",
        help="after Ctrl-C write the picture as it is by then (--codec overfit)",
    )
    _add_file_arguments(encode)

    decode = _add_verb(verbs, "decode", ".rho files to pictures", DECODE_EXAMPLES)
    decode.add_argument(
        "--format", choices=FORMAT_CHOICES, help="output format (by file name, else png)"
    )
    decode.add_argument(
        "--max-pixels", type=positive_count, metavar="N", help="refuse larger pictures (2^28)"
    )
    decode.add_argument("--weights", metavar="FILE", help="a weights file that the pictures need")
    _add_file_arguments(decode)

    info = _add_verb(verbs, "info", "what a .rho file says, without decoding it", INFO_EXAMPLES)
    info.add_argument("file", nargs="+", help="a .rho file, or - for standard input")
    info.add_argument("--json", action="store_true", help="print JSON")

    codecs = _add_verb(verbs, "codecs", "the codecs that are installed", CODECS_EXAMPLES)
    codecs.add_argument("--json", action="store_true", help="print JSON")

    selftest = _add_verb(
        verbs, "selftest", "check that this machine decodes correctly", SELFTEST_EXAMPLES
    )
    selftest.add_argument("--folder", metavar="DIR", help="other files than the packaged ones")
    selftest.add_argument("--record", action="store_true", help="write the manifest of the folder")

    for name, (module, add_arguments, _, summary) in DELEGATED.items():
        delegated = verbs.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == verb:
            getattr(importlib.import_module(module), add_arguments)(delegated)
    return parser


def _add_verb(verbs, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_file_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", nargs="+", help="files, or - for standard input")
    parser.add_argument("output", help="a file, a folder (for several inputs), or -")
    parser.add_argument(
        "-j", "--jobs", type=positive_count, default=1, metavar="N", help="processes (1)"
    )
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("--quiet", action="store_true", help="only report errors")
    talk.add_argument("-v", "--verbose", action="store_true", help="PSNR, time, tracebacks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Mistakes in the command line raise `SystemExit(2)`."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((word for word in argv if not word.startswith("-")), None)
    try:
        parser = build_parser(verb)
        args, rest = parser.parse_known_args(argv)
        if rest:
            _take_files_after_options(args, rest, parser)
        return _dispatch(args, parser)
    except KeyboardInterrupt:
        print("rhodec: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "rhodec" or verb not in DELEGATED:
            raise
        extra = "evaluate" if ".evaluate." in DELEGATED[verb][0] else "train"
        hint = f"install it, for example by: pip install 'rhodec[{extra}]'"
        print(f"rhodec: {verb} needs the package {error.name}; {hint}", file=sys.stderr)
        return 1


def _take_files_after_options(
    args: argparse.Namespace, rest: list[str], parser: argparse.ArgumentParser
) -> None:
    """Sort `a.png b.png -q 60 folder/`, where argparse stops collecting files at the option."""
    is_files = all(word == "-" or not word.startswith("-") for word in rest)
    if args.verb not in ("encode", "decode") or not is_files:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    *args.input, args.output = [*args.input, args.output, *rest]


def _dispatch(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.verb in DELEGATED:
        module, _, run, _ = DELEGATED[args.verb]
        return getattr(importlib.import_module(module), run)(args)

    from rhodec import file_verbs, inspection_verbs
    from rhodec.codec_calls import UsageError
    from rhodec.file_jobs import JobPlanError

    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "encode": file_verbs.run_encode,
        "decode": file_verbs.run_decode,
        "info": inspection_verbs.run_info,
        "codecs": inspection_verbs.run_codecs,
        "selftest": inspection_verbs.run_selftest,
    }
    try:
        return verbs[args.verb](args)
    except (UsageError, JobPlanError) as error:
        parser.error(str(error))
    except (OSError, ValueError) as error:
        print(f"rhodec: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
