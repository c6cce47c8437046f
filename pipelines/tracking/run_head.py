"""The first record of a journal, which identifies the run to continue or to create."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import datetime

from pipelines.tracking.journal import milliseconds, sqlite_file
from pipelines.tracking.records import Head, Parent
from pipelines.tracking.runs import WORK
from pipelines.utils.mlflow_variables import RUN_ID, run_context
from pipelines.utils.passwords import hidden
from pipelines.utils.processes import identity, user_name

logger = logging.getLogger(__name__)

LONGEST_TAG = 5000


def first_record(
    uri: str,
    experiment: str,
    experiment_id: str | None,
    run_name: str | None,
    key: str,
    continue_run: str | None,
    parent: Parent | None,
    tags: Mapping[str, str],
) -> Head:
    """The record, with what this process and MLflow's variables add to what was asked for.

    Args:
        uri: tracking URI, of which the record has all but a password.
        experiment, experiment_id, run_name: see `pipelines.tracking.run.Tracking`.
        key: of a new run.
        continue_run, parent, tags: see `pipelines.tracking.run.Tracking.start`.
    """
    given = {name: hidden(str(value))[:LONGEST_TAG] for name, value in (run_context() | dict(tags)).items()}
    # As MLflow itself does: a second run of this process is another one.
    named = os.environ.pop(RUN_ID, None)
    if named and continue_run not in (None, named):
        logger.info("the run goes on as %s, which %s names; up to now it was %s", named, RUN_ID, continue_run)
        given["segbundles.continues"] = str(continue_run)
    source = {"mlflow.source.name": hidden(" ".join(sys.argv))[:LONGEST_TAG], "mlflow.source.type": "LOCAL"}
    return {
        "op": "run",
        # Whoever delivers it later has the password from where this process had it.
        "uri": hidden(uri),
        "experiment": experiment,
        "experiment_id": experiment_id,
        "key": key,
        # MLflow draws its own names from Python's generator, so that all runs of one seed would share one.
        "name": run_name or f"{experiment} {datetime.now():%Y-%m-%d %H:%M:%S} {key[:4]}",
        "time": milliseconds(),
        "continue": named or continue_run,
        "named": bool(named),
        "parent": parent,
        "tags": {"mlflow.user": user_name()} | source | given,
        "work": given.get(WORK) or _work(experiment),
        "process": json.dumps(identity(), sort_keys=True),
    }


def absolute(uri: str) -> str:
    """A SQLite URI that means the same file from any folder."""
    database = sqlite_file(uri)
    return uri if database is None else f"sqlite:///{database}"


def _work(experiment: str) -> str:
    text = json.dumps([experiment, os.getcwd(), sys.argv])
    return hashlib.sha256(text.encode()).hexdigest()
