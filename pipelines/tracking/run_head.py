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
from pipelines.utils.anonymity import without_places
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
    """Create the first record from these arguments, MLflow's environment variables and this process.

    Args:
        uri: tracking URI; the record has it without its password.
        experiment, experiment_id, run_name: see `pipelines.tracking.run.Tracking`.
        key: identifies a new run, see `pipelines.tracking.records.Head`.
        continue_run, parent, tags: see `pipelines.tracking.run.Tracking.start`.
    """
    own_tags = {
        name: without_places(hidden(str(value)))[:LONGEST_TAG]
        for name, value in (run_context() | dict(tags)).items()
    }
    # MLflow itself also removes the variable, so that a second run of this process is a new run.
    named = os.environ.pop(RUN_ID, None)
    if named and continue_run not in (None, named):
        logger.info("run %s of the variable %s is continued instead of run %s", named, RUN_ID, continue_run)
        own_tags["segbundles.continues"] = str(continue_run)
    source = {"mlflow.source.name": without_places(hidden(" ".join(sys.argv)))[:LONGEST_TAG]}
    source["mlflow.source.type"] = "LOCAL"
    return {
        "op": "run",
        # A later process that delivers the journal reads the password from the environment, or the user gives it.
        "uri": hidden(uri),
        "experiment": experiment,
        "experiment_id": experiment_id,
        "key": key,
        # MLflow would draw a name from Python's random generator, so that all runs with one seed would have one name.
        "name": run_name or f"{experiment} {datetime.now():%Y-%m-%d %H:%M:%S} {key[:4]}",
        "time": milliseconds(),
        "continue": named or continue_run,
        "named": bool(named),
        "parent": parent,
        "tags": {"mlflow.user": user_name()} | source | own_tags,
        "work": own_tags.get(WORK) or _default_work(experiment),
        "process": json.dumps(identity(), sort_keys=True),
    }


def absolute(uri: str) -> str:
    """The URI with an absolute path if it is a SQLite URI, so that it does not depend on the working directory."""
    database = sqlite_file(uri)
    return uri if database is None else f"sqlite:///{database}"


def _default_work(experiment: str) -> str:
    text = json.dumps([experiment, os.getcwd(), sys.argv])
    return hashlib.sha256(text.encode()).hexdigest()
