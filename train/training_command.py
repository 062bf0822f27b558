"""The verbs `rhodec train` and `rhodec export`. Messages go to standard error.

Exit codes: 0 success, 1 the run or the export failed, 2 a mistake in the command line, 130
interrupted (a checkpoint is saved).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from rhodec.codecs.registry import load_codec
from rhodec.train.export import export_checkpoint
from rhodec.train.loop import checkpoint_recipe, train
from rhodec.train.photo_patches import picture_files, split_files
from rhodec.train.real_validation import real_rate_distortion
from rhodec.train.recipe import read_recipe
from rhodec.train.validation import centre_crops

RECIPES = Path(__file__).parent / "recipes"

TRAIN_EXAMPLES = """\
examples:
  rhodec train rho --data photos/ --out run/            a packaged recipe
  rhodec train mine.toml --data photos/ --out run/ --minutes 600
  rhodec train rho --data photos/ --out run/ --resume   continue after Ctrl-C or a crash
  torchrun --nproc-per-node 2 -m rhodec train rho --data photos/ --out run/

The run's folder gets checkpoint.pt, train.csv, validation.jsonl and, if TensorBoard is installed,
its events. Ctrl-C saves the checkpoint. Packaged recipes: {recipes}."""

EXPORT_EXAMPLES = """\
examples:
  rhodec export run/checkpoint.pt --data photos/ --out mine.safetensors
  rhodec encode --codec mine.safetensors photo.png photo.rho

DIR is the folder of the training: the integer networks are calibrated on its training pictures, and
the result is checked on those that were held out."""


def packaged_recipes() -> list[str]:
    """Names that `rhodec train` takes in place of a file."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = TRAIN_EXAMPLES.format(recipes=", ".join(packaged_recipes()))
    parser.add_argument("recipe", help="a TOML file, or the name of a packaged recipe")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder (and subfolders) of pictures",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="folder of the run, made if missing"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the checkpoint in the run's folder"
    )
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="FILE",
        help="start a new run with the averaged weights of this checkpoint",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=_limit(float), metavar="M", help="in place of the recipe's; 0: no limit"
    )
    parser.add_argument(
        "--steps", type=_limit(int), metavar="N", help="in place of the recipe's; 0: no limit"
    )
    parser.add_argument(
        "--threads", type=_positive_count, metavar="N", help="CPU threads of each process"
    )


def run_train(args: argparse.Namespace) -> int:
    """`rhodec train`, also as one of torchrun's processes, of which the first one talks."""
    path = _find_recipe(args.recipe)
    if path is None:
        _say(f"there is no recipe {args.recipe}; packaged ones: {', '.join(packaged_recipes())}")
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        recipe = read_recipe(path, minutes=args.minutes, steps=args.steps)
        checkpoint = train(recipe, args.data, args.out, resume=args.resume, start=args.start)
    except KeyboardInterrupt:
        if _is_first_process():
            _say("interrupted; --resume continues the last checkpoint, if there is one")
        return 130
    except (OSError, ValueError, FloatingPointError) as error:
        return _failed(error)
    if _is_first_process():
        _say(f"done; next: rhodec export {checkpoint} --data {args.data}")
    return 0


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXPORT_EXAMPLES
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of a run")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the training's folder of pictures"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="FILE", help="the weights file")
    where.add_argument(
        "--name",
        metavar="NAME",
        help="or NAME.safetensors beside the checkpoint (the codec)",
    )
    parser.add_argument(
        "--check", type=_limit(int), default=8, metavar="N",
        help="held-out pictures to code with the new weights (8); 0: none",
    )  # fmt: skip


def run_export(args: argparse.Namespace) -> int:
    """`rhodec export`: writes the weights, then codes held-out pictures with them."""
    try:
        recipe = checkpoint_recipe(args.checkpoint)
        name = f"{args.name or recipe.codec}.safetensors"
        out = args.out or args.checkpoint.parent / name
        report = export_checkpoint(args.checkpoint, args.data, out)
        print("\n".join(report.lines()), file=sys.stderr)
        if args.check:
            _, held_out = split_files(picture_files(args.data), recipe.held_out)
            crops = centre_crops(held_out[:: max(1, len(held_out) // args.check)][: args.check])
            _print_curve(real_rate_distortion(load_codec(str(out)), crops), len(crops))
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except (OSError, ValueError) as error:
        return _failed(error)
    return 0


def _print_curve(curve: dict[str, list[float]], count: int) -> None:
    """Rates of real bitstreams beside the model's estimates."""
    print(f"coded and decoded {count} held-out pictures:", file=sys.stderr)
    print("quality     bpp  estimate   excess  PSNR (dB)", file=sys.stderr)
    columns = (curve[name] for name in ("quality", "bpp", "estimated_bpp", "psnr_db"))
    for quality, bpp, estimate, psnr_db in zip(*columns, strict=True):
        excess = 100 * (bpp / estimate - 1)
        print(
            f"{quality:7g} {bpp:7.4f}  {estimate:8.4f}  {excess:+6.2f}%  {psnr_db:9.2f}",
            file=sys.stderr,
        )


def _find_recipe(name: str) -> Path | None:
    """The file of that name, else the packaged recipe."""
    if Path(name).is_file():
        return Path(name)
    return RECIPES / f"{name}.toml" if name in packaged_recipes() else None


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(message: str) -> None:
    print(f"rhodec: {message}", file=sys.stderr)


def _failed(error: Exception) -> int:
    """Every process of torchrun says why it failed, since it may be the only one that did."""
    where = "" if _is_first_process() else f"[process {os.environ['RANK']}] "
    _say(f"{where}{error}")
    return 1


def _positive_count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _limit(kind: type[int] | type[float]):
    """Argument type: a number that is not negative."""

    def limit(text: str) -> float:
        value = kind(text)
        if not 0 <= value < float("inf"):
            raise argparse.ArgumentTypeError("must not be negative")
        return value

    return limit
