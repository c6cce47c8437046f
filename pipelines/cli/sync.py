"""`python -m pipelines sync`: sends records that are still in the spool of a training to MLflow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines.utils.importing import gc_paused
from transforms.errors import DONE, FAILED


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `python -m pipelines`."""
    sync = commands.add_parser(
        "sync",
        help="send to MLflow the records that trainings could not send",
        description="Send to MLflow the records that trainings could not send: values logged while the server could "
        "not be reached, and the final status of runs whose process was killed. Trainings that are still running send "
        "their own records. No record is sent twice.",
        epilog="exit status: 0 every record is sent, 1 a record could not be sent or was refused, "
        "2 an argument or a file is not valid",
    )
    sync.set_defaults(function=_sync)
    sync.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        help="the spool folder (default: SEGBUNDLES_SPOOL, else mlflow_spool beside the SQLite database or in the "
        "working directory)",
    )
    sync.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="send to this MLflow server or store instead of the one recorded for each run",
    )
    sync.add_argument(
        "--refused", action="store_true", help="also send again the records that MLflow refused before"
    )


def _sync(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from pipelines.tracking.journal import spool_folder
    from pipelines.utils.mlflow_variables import tracking_uri

    if arguments.folder is not None:
        folder = Path(arguments.folder)
        if not folder.is_dir():
            parser.error(f"{folder} is not a folder; give the spool folder (mlflow_spool) of a training")
    else:
        folder = spool_folder(tracking_uri())
    with gc_paused():
        import mlflow.tracking  # noqa: F401  (needed by `pipelines.tracking.sync`)

        from pipelines.tracking.sync import sync

    return DONE if sync(folder, uri=arguments.tracking_uri, refused=arguments.refused) else FAILED
