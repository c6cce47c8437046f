"""What the commands of `python -m pipelines` have in common: how a CT is read, and what the help says of exit statuses."""

from __future__ import annotations

import argparse

EXIT = "exit status: 0 all is well, 1 a case failed or was refused, 2 the command cannot run as it was given"


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a DICOM folder is read."""
    parser.add_argument(
        "--series", metavar="X", help="which series to take where a DICOM folder holds several"
    )
    parser.add_argument(
        "--allow",
        nargs="+",
        metavar="NAME",
        help="irregularities of a DICOM series to accept: missing-slices, uneven-spacing (docs/dicom.md)",
    )
