"""Options and help texts that several commands of `python -m pipelines` share."""

from __future__ import annotations

import argparse

EXIT = "exit status: 0 success, 1 a case failed or was refused, 2 an argument or a file is not valid"


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
