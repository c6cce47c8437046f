"""Options and help texts that several commands of `python -m pipelines` share."""

from __future__ import annotations

import argparse
from typing import Any

from pipelines.config.bundle_folders import Bundle, BundleError, find_bundle

EXIT = "exit status: 0 success, 1 a case failed or was refused, 2 an argument or a file is not valid"


def add_bundle(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Add the option `--bundle`, see `pipelines.config.bundle_folders.find_bundle`."""
    parser.add_argument(
        "--bundle",
        metavar="BUNDLE",
        help="bundle folder such as bundles/r2unet, or the name of a bundle, such as r2unet"
        + (" (default: %(default)s)" if "default" in options else ""),
        **options,
    )


def bundle_of(given: str, config: str, parser: argparse.ArgumentParser) -> Bundle:
    """The bundle that a command is given; a mistake ends the command as any other one in its options."""
    try:
        return find_bundle(given, config)
    except BundleError as error:
        parser.error(str(error))


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options for reading DICOM folders."""
    parser.add_argument("--series", metavar="X", help="the series to read if a DICOM folder holds several")
    parser.add_argument(
        "--allow",
        nargs="+",
        metavar="NAME",
        help="irregularities of a DICOM series to accept: missing-slices, uneven-spacing (docs/dicom.md)",
    )


def add_anonymous(parser: argparse.ArgumentParser) -> None:
    """Add the option that keeps patients out of what a command says and writes."""
    parser.add_argument(
        "--anonymous",
        action="store_true",
        help="number the cases, and name no path, id or header of an image in results, reports and log (docs/security.md)",
    )
