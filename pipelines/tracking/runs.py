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

KEY, WORK = "segbundles.key", "segbundles.work"


PROCESS, PARENT_KEY = "segbundles.process", "segbundles.parent_key"


PENDING = "pending-"


# Without this tag MLflow shows an experiment as one of language models.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}


def experiment_id(client: Any, uri: str, name: str) -> str:
    """The experiment of that name, created where absent.

    Raises:
        TrackingError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            root = _artifact_root(uri)
            return client.create_experiment(name, artifact_location=root, tags=EXPERIMENT_KIND)
        except MlflowException:
            # Another training created it in between.
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
    """The id that MLflow knows: `run_id`, or the run that a pending id became; None if there is none yet."""
    if not run_id.startswith(PENDING):
        return run_id
    found = runs_with(client, experiment, KEY, run_id[len(PENDING) :])
    return found[0].info.run_id if found else None


def quoted(text: str) -> str:
    """A text in quotation marks for MLflow's filters, which support ' and " but no escape characters."""
    mark = '"' if "'" in text else "'"
    return f"{mark}{text}{mark}"


def runs_with(client: Any, experiment: str, tag: str, value: str) -> list[Any]:
    """Runs of an experiment with a tag of that value, the first of them first."""
    found = client.search_runs([experiment], f"tags.`{tag}` = {quoted(value)}")
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def parent_id(client: Any, uri: str, experiment: str, parent: Parent, user: str) -> str:
    """The one parent run of a key in an experiment, made where absent.

    Processes of one machine take turns. MLflow itself cannot refuse a second run of a key: of two that two
    machines made at once, both choose the earlier and the other is removed.
    """
    with _turns(f"{uri} {experiment} {parent['key']}"):
        found = runs_with(client, experiment, PARENT_KEY, parent["key"])
        if found:
            return found[0].info.run_id
        tags = {"mlflow.user": user, PARENT_KEY: parent["key"], **parent.get("tags", {})}
        made = client.create_run(experiment, run_name=parent["name"], tags=tags)
        first = runs_with(client, experiment, PARENT_KEY, parent["key"])[0]
        if first.info.run_id != made.info.run_id:
            client.delete_run(made.info.run_id)
        return first.info.run_id


def settle_parent(client: Any, parent: str, spread: list[str], time_ms: int) -> None:
    """Give a parent run the state of its children, and mean and spread of their metrics.

    Args:
        spread: beginnings of the names of metrics. Under each name the parent gets the mean over the finished
            children, and with _std (of the sample), _min, _max added the rest; `folds` is how many there are.
        time_ms: of the child's end, so that a second try writes nothing new.
    """
    experiment = client.get_run(parent).info.experiment_id
    children = runs_with(client, experiment, "mlflow.parentRunId", parent)
    # For a fold with several runs, the newest one gives the state, and the newest finished one the metrics.
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
            # A class may be called liver_max beside another called liver.
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


def close_gone(client: Any, experiment: str, work: str, but: str) -> None:
    """Close the runs of a work whose process has certainly ended without closing them."""
    running = f"attributes.status = 'RUNNING' and tags.`{WORK}` = {quoted(work)}"
    for run in client.search_runs([experiment], running):
        if run.info.run_id != but and gone(process_of(run)):
            close_dead(client, run.info.run_id)


def close_dead(client: Any, run_id: str) -> None:
    """Close a run whose process ended without closing it, with the reason in the tag `error`."""
    reason = "the process ended without closing its run (killed, out of memory, or power lost)"
    client.set_tag(run_id, "error", reason, synchronous=True)
    terminate(client, run_id, "KILLED")
    logger.info("the MLflow run %s was left open by a process that has ended; it is closed as KILLED", run_id)


def process_of(run: Any) -> Process:
    """The `identity` of the process that wrote a run last; empty where the run does not say."""
    try:
        found = json.loads(run.data.tags.get(PROCESS, "{}"))
    except ValueError:
        return {}
    return cast(Process, found) if isinstance(found, dict) else {}


def _artifact_root(uri: str) -> str | None:
    """Beside a SQLite file, in the working directory for another database; a server has a place of its own.

    MLflow itself would take `mlruns` relative to whoever reads, which another folder's `mlflow ui` cannot follow.
    """
    database = sqlite_file(uri)
    if database is None and not uri.startswith(("postgresql", "mysql", "mssql")):
        return None
    return ((database.parent if database is not None else Path.cwd()) / "mlartifacts").as_uri()


@contextlib.contextmanager
def _turns(name: str) -> Iterator[None]:
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    with waiting_for(Path(tempfile.gettempdir()) / f"segbundles-{user}-{digest}.lock", timeout=30):
        yield
