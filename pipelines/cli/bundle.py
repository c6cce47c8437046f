"""`python -m pipelines bundle`: where the configs of a bundle are."""

from __future__ import annotations

import argparse
import os
from typing import Any

from pipelines.cli.options import bundle_of
from pipelines.config.bundle_folders import known_bundles
from transforms.errors import DONE


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    parser = commands.add_parser(
        "bundle",
        help="print the folder of a bundle's configs",
        description="Print the folder of a bundle's configs, wherever it is installed, for MONAI's own commands: python -m "
        "monai.bundle run --config_file $(segbundles bundle r2unet)/inference.json. Models and results of an installed "
        "bundle lie in bundles/NAME of the working directory. Without NAME, list the bundles.",
        epilog="exit status: 0 success, 2 there is no such bundle",
    )
    parser.set_defaults(function=run)
    parser.add_argument("name", metavar="NAME", nargs="?", help="name or folder of a bundle, such as r2unet")


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print the folder; returns the exit status."""
    if arguments.name is None:
        print("\n".join(known_bundles()))
    else:
        print(os.path.abspath(bundle_of(arguments.name, "metadata.json", parser).configs))
    return DONE
