"""The verb `rhodec datasets`: list the known data sets, show one, verify a folder."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from rhodec.evaluate.known_datasets import (
    Dataset,
    Verdict,
    guess_dataset,
    known_dataset,
    known_datasets,
    verify_folder,
)

EXAMPLES = """\
examples:
  rhodec datasets list
  rhodec datasets show clic2020-professional-valid      how to obtain it, and its files
  rhodec datasets verify DIR                            the set is guessed by the names of the files
  rhodec datasets verify DIR --name kodak

Exit codes of verify: 0 the folder is the set, 1 it is not, 2 a mistake in the command line. Where
no hashes are known, names and sizes are compared, and the output says so."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rhodec datasets`."""
    parser.description = "The data sets of the field: contents, sources, verification."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", metavar="list|show|verify", required=True)
    actions.add_parser("list", help="all known data sets")
    show = actions.add_parser("show", help="source, licence and files of one")
    show.add_argument("name", metavar="NAME")
    verify = actions.add_parser("verify", help="is this folder the data set?")
    verify.add_argument("folder", type=Path, metavar="DIR")
    verify.add_argument("--name", help="the data set (guessed by the names of the files)")


def run(args: argparse.Namespace) -> int:
    """The exit code: 0 done or verified, 1 not the data set, 2 a mistake in the command line."""
    try:
        if args.action == "list":
            print("\n".join(map(_summary, known_datasets().values())))
            return 0
        if args.action == "show":
            print(_description(known_dataset(args.name)))
            return 0
        dataset = known_dataset(args.name) if args.name else guess_dataset(args.folder)
        verdict = verify_folder(args.folder, dataset)
    except ValueError as error:
        print(f"rhodec: {error}", file=sys.stderr)
        return 2
    print(_verdict_text(args.folder, dataset, verdict))
    return 0 if verdict.is_good else 1


def _summary(dataset: Dataset) -> str:
    proof = "hashes" if all(file.is_proven for file in dataset.files) else "names and sizes"
    return f"{dataset.name:28} {dataset.count:4} {dataset.kind:9} {proof:16} {dataset.title}"


def _description(dataset: Dataset) -> str:
    lines = [f"{dataset.name}: {dataset.title}, {dataset.count} {dataset.kind}"]
    lines += [f"licence: {dataset.licence}"]
    lines += [f"obtain:  {line}" for line in dataset.obtain]
    lines += [f"note:    {line}" for line in dataset.notes]
    for file in dataset.files:
        known = {key: value for key, value in asdict(file).items() if value is not None}
        name = known.pop("name")
        lines.append(f"  {name}  " + " ".join(f"{key}={value}" for key, value in known.items()))
    return "\n".join(lines)


def _verdict_text(folder: Path, dataset: Dataset, verdict: Verdict) -> str:
    lines = [f"missing: {name}" for name in verdict.missing]
    lines += [f"wrong: {name}: {reason}" for name, reason in verdict.wrong.items()]
    lines += [f"not part of {dataset.name}: {name}" for name in verdict.others]
    right = len(verdict.proven) + len(verdict.plausible)
    how = "by hash" if verdict.proven else "by name and size only: no hashes are known"
    counted = f"{right} of {dataset.count} {dataset.kind} agree" + (f" ({how})" if right else "")
    lines.append(
        f"{folder} is {dataset.name}: {counted}"
        if verdict.is_good
        else f"{folder} is not {dataset.name}: {counted}"
    )
    return "\n".join(lines)
