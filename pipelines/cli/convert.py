"""`python -m pipelines convert`: its options; what it does is in `pipelines.data.conversion.convert`."""

from __future__ import annotations

import argparse
import os
from typing import Any

from pipelines.cli.options import EXIT
from pipelines.utils.importing import gc_paused
from transforms.errors import DONE

_TO = {"msd": "a dataset.json whose paths lead to the files", "nnunet": "nnU-Net's raw data"}


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "convert",
        help="make a dataset folder, or nnU-Net's, of a dataset in another layout",
        description="Make a dataset of one in the layout of the Decathlon, nnU-Net or TotalSegmentator, by links to its "
        "files: images are neither copied nor read. Nothing is replaced, and the same command completes what an earlier "
        "one began.",
        epilog=EXIT,
    )
    parser.set_defaults(function=run)
    parser.add_argument("source", metavar="SOURCE", help="a dataset folder or its dataset.json")
    parser.add_argument(
        "destination",
        metavar="DESTINATION",
        help="the new folder; for nnU-Net its name is as Dataset001_Liver",
    )
    parser.add_argument(
        "--to",
        choices=list(_TO),
        default="msd",
        help="; ".join(f"{name}: {meaning}" for name, meaning in _TO.items()) + " (default: %(default)s)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="where labels are folders of masks: these classes only, in this order; all else becomes background",
    )
    parser.add_argument(
        "--splits",
        metavar="FILE",
        help="nnU-Net's splits_final.json, for folds or a validation list (default: the one in SOURCE)",
    )
    parser.add_argument(
        "--write-labels",
        action="store_true",
        help="nnU-Net: write label maps where labels are folders of masks, or else cannot be linked",
    )


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Convert; returns the exit status."""
    if not os.path.exists(arguments.source):
        parser.error(f"{arguments.source[:300]} does not exist")
    with gc_paused():
        from pipelines.data.conversion.convert import convert

    made = convert(
        arguments.source,
        arguments.destination,
        arguments.to,
        arguments.classes,
        arguments.splits,
        arguments.write_labels,
    )
    counts = ", ".join(f"{count} {split}" for split, count in made.cases.items())
    written = f", {made.written} label maps written" if arguments.write_labels else ""
    print(f"{made.root}: {_TO[arguments.to]}, by {made.by}: {counts} cases{written}")
    for notice in made.notices:
        print(f"notice: {notice}")
    return DONE
