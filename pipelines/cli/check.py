"""`python -m pipelines check`: the options of the command; the check itself is in `pipelines.data.check`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pipelines.cli.options import EXIT, add_reading
from pipelines.utils.importing import gc_paused
from transforms.errors import DONE, FAILED


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "check",
        help="list what is read from a dataset and every error in it",
        description="List, for each case, which files are read and every error for which the case would be refused. "
        "Every image and label is read completely, which takes as long as decompressing it; --headers-only reads the "
        "headers alone. No file is changed.",
        epilog=EXIT,
    )
    parser.set_defaults(function=run)
    parser.add_argument(
        "input",
        metavar="DATASET",
        help="a dataset folder or dataset.json, or a folder of images or DICOM folders",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="also write the findings as JSON; - for standard output"
    )
    parser.add_argument(
        "--headers-only",
        action="store_true",
        help="read no voxels: quick, but damaged voxel data is not found",
    )
    add_reading(parser)


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run the check and return the exit status."""
    if not os.path.exists(arguments.input):
        parser.error(f"{arguments.input[:300]} does not exist")
    with gc_paused():
        from pipelines.data.check import check_input

    wrong = check_input(
        Path(arguments.input),
        json_file=arguments.json,
        series=arguments.series,
        allow=arguments.allow or (),
        voxels=not arguments.headers_only,
    )
    return FAILED if wrong else DONE
