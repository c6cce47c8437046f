"""Finds and creates runs and experiments of MLflow, and closes runs whose process has ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from pipelines.tracking.client import TrackingError, terminate
from pipelines.tracking.journal import sqlite_file
from pipelines.tracking.records import Parent
from pipelines.utils.locks import waiting_for
from pipelines.utils.processes import Process, gone

logger = logging.getLogger(__name__)

# Tags of runs, see `pipelines.tracking.records.Head`; the last one is the key of a parent run.
KEY, WORK, PROCESS = "segbundles.key", "segbundles.work", "segbundles.process"
PARENT_KEY = "segbundles.parent_key"
# Start of the id of a run that MLflow does not have yet; the rest is the run's key.
PENDING = "pending-"
# Without this tag MLflow shows the views for language models.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}


def experiment_id(client: Any, uri: str, name: str) -> str:
    """MLflow's id of the experiment of that name, which is created if it does not exist.

    Raises:
        TrackingError: the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            root = _artifact_root(uri)
            return client.create_experiment(name, artifact_location=root, tags=EXPERIMENT_KIND)
        except MlflowException:
            # Another training created it meanwhile.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the MLflow experiment '{name}' was deleted; restore it or choose another --experiment"
        )
    for tag, value in EXPERIMENT_KIND.items():
        if tag not in found.tags:
            client.set_experiment_tag(found.experiment_id, tag, value)
    return found.experiment_id


def find_run(client: Any, experiment: str, run_id: str) -> str | None:
    """MLflow's id of a run, which may be given by its pending id; None if MLflow does not have the run yet."""
    if not run_id.startswith(PENDING):
        return run_id
    found = runs_with(client, experiment, KEY, run_id[len(PENDING) :])
    return found[0].info.run_id if found else None


def quoted(text: str) -> str:
    """A text in quotation marks for MLflow's filters, which support ' and " but no escape characters."""
    mark = '"' if "'" in text else "'"
    return f"{mark}{text}{mark}"


def runs_with(client: Any, experiment: str, tag: str, value: str) -> list[Any]:
    """The runs of an experiment that have a tag with that value, oldest first."""
    found = client.search_runs([experiment], f"tags.`{tag}` = {quoted(value)}")
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def parent_id(client: Any, uri: str, experiment: str, parent: Parent, user: str) -> str:
    """MLflow's id of the parent run with a key in an experiment, which is created if it does not exist.

    MLflow allows two runs with the same key. A lock therefore keeps processes of one machine from creating a second
    one. If two machines create one at the same time, both use the earlier run, and the other is deleted.
    """
    with _machine_lock(f"{uri} {experiment} {parent['key']}"):
        found = runs_with(client, experiment, PARENT_KEY, parent["key"])
        if found:
            return found[0].info.run_id
        tags = {"mlflow.user": user, PARENT_KEY: parent["key"], **parent.get("tags", {})}
        created = client.create_run(experiment, run_name=parent["name"], tags=tags)
        first = runs_with(client, experiment, PARENT_KEY, parent["key"])[0]
        if first.info.run_id != created.info.run_id:
            client.delete_run(created.info.run_id)
        return first.info.run_id


def update_parent(client: Any, parent: str, spread: list[str], time_ms: int) -> None:
    """Set the status of a parent run from its child runs, and log the mean and spread of their metrics.

    Args:
        client: client of the MLflow store.
        parent: MLflow's id of the parent run.
        spread: prefixes of the names of metrics. The parent gets the mean over the finished children under the name of
            the metric, the sample standard deviation, minimum and maximum with the suffixes _std, _min and _max, and
            the number of finished children as `folds`.
        time_ms: time of the child's end, in milliseconds since 1970. It is the same in a retry, for which MLflow then
            stores no second value.
    """
    experiment = client.get_run(parent).info.experiment_id
    children = runs_with(client, experiment, "mlflow.parentRunId", parent)
    # Of several runs of one fold, the newest gives the status, and the newest finished one the metrics.
    states = {child.data.tags.get("fold", child.info.run_id): child.info.status for child in children}
    newest = {c.data.tags.get("fold", c.info.run_id): c for c in children if c.info.status == "FINISHED"}
    finished = [child.data.metrics for child in newest.values()]
    names = sorted({name for metrics in finished for name in metrics if name.startswith(tuple(spread))})
    values: dict[str, float] = {"folds": float(len(finished))} if spread and finished else {}
    for name in names:
        known = [
            metrics[name] for metrics in finished if metrics.get(name, float("nan")) == metrics.get(name)
        ]
        if known:
            mean = sum(known) / len(known)
            # Classes may be named liver and liver_max, so that two metrics would have the same name.
            ends = ("std", "min", "max")
            join = "." if any(f"{name}_{end}" in names for end in ends) else "_"
            values |= {name: mean, f"{name}{join}min": min(known), f"{name}{join}max": max(known)}
            if len(known) > 1:
                values[f"{name}{join}std"] = (sum((v - mean) ** 2 for v in known) / (len(known) - 1)) ** 0.5
    for name, value in values.items():
        client.log_metric(parent, name, value, time_ms, len(finished), synchronous=True)
    if any(child.info.status == "RUNNING" for child in children):
        client.update_run(parent, status="RUNNING")
    else:
        status = next((s for s in ("FAILED", "KILLED") if s in states.values()), "FINISHED")
        terminate(client, parent, status)


def close_abandoned(client: Any, experiment: str, work: str, except_run: str) -> None:
    """Close the open runs of a work whose processes have certainly ended."""
    running = f"attributes.status = 'RUNNING' and tags.`{WORK}` = {quoted(work)}"
    for run in client.search_runs([experiment], running):
        if run.info.run_id != except_run and gone(process_of(run)):
            close_as_killed(client, run.info.run_id)


def close_as_killed(client: Any, run_id: str) -> None:
    """Close a run whose process ended without closing it, with the reason in the tag `error`."""
    reason = "the process ended without closing its run (killed, out of memory, or power lost)"
    client.set_tag(run_id, "error", reason, synchronous=True)
    terminate(client, run_id, "KILLED")
    logger.info(
        "the process of the MLflow run %s ended without closing it; the run is now closed as KILLED", run_id
    )


def process_of(run: Any) -> Process:
    """The identity of the process that wrote to a run last; empty if the run has no valid tag with it."""
    try:
        found = json.loads(run.data.tags.get(PROCESS, "{}"))
    except ValueError:
        return {}
    return cast(Process, found) if isinstance(found, dict) else {}


def _artifact_root(uri: str) -> str | None:
    """The URI of the folder for artifacts of a new experiment; None for a server, which chooses it.

    The folder is beside a SQLite file, or in the working directory for another database. MLflow's default is relative
    to the working directory of the reading process, so `mlflow ui` would not find the files from another folder.
    """
    database = sqlite_file(uri)
    if database is None and not uri.startswith(("postgresql", "mysql", "mssql")):
        return None
    return ((database.parent if database is not None else Path.cwd()) / "mlartifacts").as_uri()


@contextlib.contextmanager
def _machine_lock(name: str) -> Iterator[None]:
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    with waiting_for(Path(tempfile.gettempdir()) / f"segbundles-{user}-{digest}.lock", timeout=30):
        yield
