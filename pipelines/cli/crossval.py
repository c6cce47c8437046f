"""`python -m pipelines crossval`: its options; what it does is in `pipelines.training.fold_runs`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.cli.options import EXIT, add_bundle, bundle_of
from pipelines.utils.importing import gc_paused
from pipelines.utils.installed import COMMAND, name_here
from transforms.errors import DONE

NAME = "crossval"


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        NAME,
        help="train and evaluate all folds of a dataset, and make one model of them",
        description="Train a model per fold, evaluate each on the cases that it has not seen, choose the post-processing "
        "that helps, and describe the ensemble of all models, which predict --model takes. The same command goes on "
        "where it stopped. What stands after -- goes to each training, as in: crossval DATA -- --minutes 30",
        epilog=EXIT,
    )
    parser.set_defaults(function=run)
    parser.add_argument("dataset", metavar="DATASET", help="a dataset folder")
    add_bundle(parser, default="bundles/r2unet")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="folder of the folds (default: crossval/NAME_OF_DATASET in bundles/BUNDLE)",
    )
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default: %(default)s)")
    parser.add_argument(
        "--fold",
        type=int,
        nargs="+",
        metavar="K",
        help="only these, for example one per job of an array (default: all)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the dealing of cases, and of each training")
    parser.add_argument(
        "--gpus", metavar="IDS", help="GPUs to run a fold on each, such as 0,1,2; without, folds run in turn"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=argparse.SUPPRESS,
        metavar="-- --NAME VALUE",
        help="values for the training's config",
    )


def without_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the words of a command line into those for argparse and those after `--`, which go to the training.

    argparse gives `--` and all after it to nobody where options stand between DATASET and `--`.

    Examples:
        >>> without_overrides(["crossval", "DATA", "--folds", "2", "--", "--minutes", "30"])
        (['crossval', 'DATA', '--folds', '2'], ['--minutes', '30'])
    """
    if words and words[0] == NAME and "--" in words:
        place = words.index("--")
        return list(words[:place]), list(words[place + 1 :])
    return list(words), []


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Cross-validate; returns the exit status."""
    dataset = Path(arguments.dataset)
    if not os.path.exists(dataset):
        parser.error(f"{arguments.dataset[:300]} does not exist")
    for name in ("train.json", "evaluate.json"):
        bundle = bundle_of(arguments.bundle, name, parser)
    if arguments.folds < 2:
        parser.error(f"--folds is {arguments.folds}; a cross-validation has 2 or more")
    words = arguments.overrides
    if len(words) % 2 or any(not name.startswith("--") for name in words[::2]):
        parser.error("what stands after -- has to be pairs, such as -- --minutes 30 --learning_rate 0.001")
    import logging

    with gc_paused():
        from pipelines.training.fold_runs import Crossvalidation, summary_of

    # What is done already, or still missing, is logged; trainings are processes that log by themselves.
    logging.basicConfig(format="%(message)s")
    logging.getLogger(name_here("pipelines")).setLevel(logging.INFO)

    overrides = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    output = Path(arguments.output) if arguments.output else bundle.root / "crossval" / dataset.resolve().name
    folds = arguments.fold if arguments.fold is not None else list(range(arguments.folds))
    work = Crossvalidation(bundle.configs, dataset, output, arguments.folds, arguments.seed, overrides)
    file = work.run(folds, arguments.gpus.split(",") if arguments.gpus else ())
    if file is not None:
        print(summary_of(file))
        print(f"one model of them all: {COMMAND} predict PATH -o DIR --bundle {bundle.root} --model {output}")
    return DONE
