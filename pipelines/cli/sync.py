"""`python -m pipelines sync`: brings what trainings have left in their spool to MLflow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines.utils.importing import gc_paused
from transforms.errors import DONE, FAILED


def add_parser(commands: Any) -> None:
    """Add the command to those of `python -m pipelines`."""
    sync = commands.add_parser(
        "sync",
        help="deliver to MLflow what trainings could not deliver themselves",
        description="Deliver to MLflow what trainings could not deliver themselves: values that were said while "
        "the server was away, and the end of runs whose process was killed. Trainings that are still running "
        "deliver their own. Nothing is delivered twice.",
        epilog="exit status: 0 nothing waits any more, 1 something could not be delivered or was refused, "
        "2 the command cannot run as it was given",
    )
    sync.set_defaults(function=_sync)
    sync.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        help="the spool; by default SEGBUNDLES_SPOOL, or mlflow_spool beside the SQLite database or in the "
        "working directory",
    )
    sync.add_argument(
        "--tracking-uri", metavar="URI", help="deliver to this MLflow instead of the one that each run named"
    )
    sync.add_argument("--refused", action="store_true", help="also try again what MLflow has refused before")


def _sync(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from pipelines.tracking.journal import spool_folder
    from pipelines.utils.mlflow_variables import tracking_uri

    if arguments.folder is not None:
        folder = Path(arguments.folder)
        if not folder.is_dir():
            parser.error(f"{folder} is no folder; give the folder mlflow_spool that a training named")
    else:
        folder = spool_folder(tracking_uri())
    with gc_paused():
        import mlflow.tracking  # noqa: F401  (delivery needs it)

        from pipelines.tracking.sync import sync

    return DONE if sync(folder, uri=arguments.tracking_uri, refused=arguments.refused) else FAILED
