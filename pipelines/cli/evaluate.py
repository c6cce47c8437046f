"""`python -m pipelines evaluate`: the options of the command; it runs `pipelines.evaluation.folder_evaluation`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines.cli.options import add_anonymous
from pipelines.utils.importing import gc_paused
from transforms.errors import DONE, FAILED


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "evaluate",
        help="compare segmentations from any source with reference segmentations",
        description="Compute Dice, IoU, HD95, surface Dice and other metrics per case and class.",
        epilog="exit status: 0 success, 1 a case failed or has no prediction, 2 an argument or a file is not valid",
    )
    parser.set_defaults(function=run)
    for name in ("predictions", "references"):
        parser.add_argument(
            name,
            metavar=name.upper(),
            help="a segmentation (NIfTI, NRRD, MHA, DICOM SEG or RTSTRUCT, PNG) or a folder of them, matched by name",
        )
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder for metrics.csv, metrics.json and report.html"
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="dataset.json or labels.json with the names of the classes"
    )
    parser.add_argument(
        "--images",
        metavar="PATH",
        help="the images: for pictures of the worst cases, and for the voxel grid of DICOM segmentations",
    )
    parser.add_argument(
        "--tolerance",
        metavar="MM",
        type=_millimetres,
        default=2.0,
        help="tolerance of the surface Dice (default: 2)",
    )
    parser.add_argument(
        "--centerlines",
        metavar="NAME",
        nargs="+",
        default=[],
        help="thin structures, such as vessels, whose centre lines are compared too (clDice)",
    )
    add_anonymous(parser)
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Evaluate and return the exit status."""
    for path in (arguments.predictions, arguments.references, arguments.labels, arguments.images):
        if path is not None and not Path(path).exists():
            parser.error(f"{path} does not exist")
    if arguments.output is not None and Path(arguments.output).is_file():
        parser.error(f"{arguments.output} is a file; give a folder to --output")
    from pipelines.utils.anonymity import begin

    begin(
        arguments.anonymous, [arguments.predictions, arguments.references, arguments.labels, arguments.images]
    )
    with gc_paused():
        from pipelines.evaluation.folder_evaluation import evaluate
        from pipelines.utils.cores import use_cores
    use_cores()

    whole = evaluate(
        arguments.predictions,
        arguments.references,
        arguments.output,
        arguments.labels,
        arguments.images,
        arguments.tolerance,
        arguments.json,
        arguments.centerlines,
    )
    return DONE if whole else FAILED


def _millimetres(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a distance above 0 mm")
    return value
