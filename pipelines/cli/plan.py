"""`python -m pipelines plan`: its options; what it does is in `pipelines.planning.command`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pipelines.cli.options import EXIT, bundle_of
from pipelines.planning.knobs import PLANNED
from pipelines.utils.importing import gc_paused
from transforms.errors import DONE


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "plan",
        help="choose the settings of a training from a labelled dataset, with reasons",
        description="Look at a labelled dataset and at this machine, and choose the settings of a training: every value "
        "with its reason. Writes them as a config that is given after the bundle's own: python -m monai.bundle run "
        "training --config_file \"['bundles/r2unet/train.json','plan.json']\" --dataset_dir DATASET. A training whose "
        'settings are "auto" plans by itself; this command shows the plan beforehand.',
        epilog=EXIT,
    )
    parser.set_defaults(function=run)
    parser.add_argument("dataset", metavar="DATASET", help="a dataset folder or its dataset.json")
    parser.add_argument(
        "--bundle",
        metavar="FILE",
        default="bundles/r2unet",
        help="config of the training to plan for, or the folder or name of a bundle (default: %(default)s)",
    )
    parser.add_argument("--minutes", type=float, help="how long the whole training may take")
    parser.add_argument("--memory_gb", type=float, help="memory that it may take (default: what is free)")
    parser.add_argument(
        "--store_dir", metavar="DIR", help="folder of the patch store, which keeps what was looked at"
    )
    parser.add_argument(
        "--output", metavar="FILE", default="plan.json", help="the config (default: %(default)s)"
    )
    parser.add_argument(
        "--page", metavar="FILE", help="the page with pictures (default: plan.html beside it)"
    )
    given = parser.add_argument_group(
        "settings", "given values win, and the rest is planned around them (JSON)"
    )
    for name, meaning in PLANNED.items():
        given.add_argument(f"--{name}", metavar="VALUE", type=_value, help=meaning)


def _value(text: str) -> Any:
    import json  # only where a setting is given: help needs none of it

    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Plan; returns the exit status."""
    if not os.path.exists(arguments.dataset):
        parser.error(f"{arguments.dataset[:300]} does not exist")
    config = Path(arguments.bundle)
    if config.suffix not in (".json", ".yaml", ".yml"):
        config = bundle_of(arguments.bundle, "train.json", parser).configs / "train.json"
    if not config.is_file():
        parser.error(f"there is no config {str(config)[:300]}; name the train.json of a bundle")
    with gc_paused():
        from pipelines.planning.command import plan_dataset

    options = ("minutes", "memory_gb", "store_dir", *PLANNED)
    output = Path(arguments.output)
    plan_dataset(
        config,
        Path(arguments.dataset),
        {name: getattr(arguments, name) for name in options if getattr(arguments, name) is not None},
        output,
        Path(arguments.page) if arguments.page else output.with_suffix(".html"),
    )
    return DONE
