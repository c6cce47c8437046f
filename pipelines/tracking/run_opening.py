"""Finds or creates the MLflow run of a journal; every process that delivers the journal gets the same run."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from pipelines.tracking.client import TrackingError, first_line, refused_for_good
from pipelines.tracking.records import Head
from pipelines.tracking.runs import (
    KEY,
    PENDING,
    PROCESS,
    WORK,
    experiment_id,
    find_run,
    parent_id,
    process_of,
    runs_with,
)
from pipelines.tracking.writes import set_tags
from pipelines.utils.mlflow_variables import EXPERIMENT_ID, EXPERIMENT_NAME, RUN_ID
from pipelines.utils.processes import Process, alive

logger = logging.getLogger(__name__)

PARENT = "mlflow.parentRunId"


class Opening:
    """Opens the run that the first record of a journal asks for.

    Args:
        client: see `pipelines.tracking.client.connect`.
        head: the first record.
        strict: see `pipelines.tracking.delivery.Delivery`.

    Attributes:
        goes_on: whether the run was there before this journal.
        experiment: name of the run's experiment, where MLflow was asked for it.
    """

    def __init__(self, client: Any, head: Head, strict: bool) -> None:
        self.client = client
        self.head = head
        self.strict = strict
        self.goes_on = False
        self.experiment: str | None = None

    def run(self) -> str:
        """Find or make the run; returns its id.

        Raises:
            TrackingError: what MLflow's variables or names ask for cannot be used.
            Exception: what MLflow and its libraries raise.
        """
        head, client = self.head, self.client
        experiment = self._find_experiment()
        tags = dict(head["tags"])
        if str(tags.get(PARENT, "")).startswith(PENDING):
            tags[PARENT] = find_run(client, experiment, tags[PARENT]) or tags[PARENT]
        parent = head.get("parent")
        if parent:
            user = tags.get("mlflow.user", "unknown")
            tags[PARENT] = parent_id(client, head["uri"], experiment, parent, user)
            client.update_run(tags[PARENT], status="RUNNING")
        key, wanted = head["key"], head.get("continue")
        if wanted:
            run_id = self._continued(experiment, wanted)
            if run_id is not None:
                self._go_on(run_id, tags)
                return run_id
            if wanted.startswith(PENDING) and not runs_with(client, experiment, KEY, wanted[len(PENDING) :]):
                # With this key, the next search for that run finds this one.
                key = wanted[len(PENDING) :]
        made = runs_with(client, experiment, KEY, key)
        if made:
            return made[0].info.run_id
        tags |= {KEY: key, WORK: head["work"], PROCESS: head["process"]}
        run = client.create_run(experiment, start_time=head["time"], run_name=head["name"], tags=tags)
        return run.info.run_id

    def _go_on(self, run_id: str, tags: dict[str, str]) -> None:
        self.goes_on = True
        self.client.update_run(run_id, status="RUNNING")
        theirs = self.client.get_run(run_id).data.tags
        if self.head.get("named"):
            # Another program created the run, so its tags about its origin are kept.
            tags = {k: v for k, v in tags.items() if not (k.startswith("mlflow.") and k in theirs)}
            tags |= {WORK: self.head["work"], KEY: theirs.get(KEY, self.head["key"])}
        set_tags(self.client, run_id, tags | {PROCESS: self.head["process"]})
        if "error" in theirs:
            # The error of an earlier process does not belong to the continued run.
            self.client.delete_tag(run_id, "error")

    def _find_experiment(self) -> str:
        """Id of the experiment: that of the run that is named, the one of the id, or the one of the name."""
        head, client = self.head, self.client
        if head.get("named"):
            try:
                found = client.get_experiment(client.get_run(head["continue"]).info.experiment_id)
                self.experiment = found.name
                return found.experiment_id
            except Exception as error:
                if not refused_for_good(error):
                    raise
                self._forbid(f"{RUN_ID} names the run {head['continue']}: {first_line(error)}")
        if head.get("experiment_id"):
            try:
                found = client.get_experiment(head["experiment_id"])
                name = os.environ.get(EXPERIMENT_NAME, found.name)
                if self.strict and name == head["experiment"] != found.name:
                    reason = f"that is '{found.name}', and {EXPERIMENT_NAME} is '{name}'"
                elif found.lifecycle_stage == "deleted":
                    reason = "it was deleted"
                else:
                    self.experiment = found.name
                    return found.experiment_id
            except Exception as error:
                if not refused_for_good(error):
                    raise
                reason = first_line(error)
            self._forbid(f"{EXPERIMENT_ID} names the experiment {head['experiment_id']}: {reason}")
        return experiment_id(client, head["uri"], head["experiment"])

    def _forbid(self, reason: str) -> None:
        if self.strict:
            raise TrackingError(f"{reason}; set another one, or unset the variable")
        logger.warning("%s; experiment and run are those of the names instead", reason)

    def _continued(self, experiment: str, wanted: str) -> str | None:
        """The run to go on with; None, with a warning, where a new one has to begin."""
        from mlflow.exceptions import MlflowException

        reason = "MLflow has no such run"
        try:
            run_id = find_run(self.client, experiment, wanted)
            if run_id is None:
                logger.info("MLflow has nothing of the run %s yet; it begins now", wanted)
                return None
            run = self.client.get_run(run_id)
            process = process_of(run)
            if run.info.lifecycle_stage == "deleted":
                reason = "it was deleted"
            elif run.info.status == "RUNNING" and alive(process) and not is_written_by(self.head, process):
                reason = f"process {process.get('pid')} is writing it"
            else:
                return run_id
        except MlflowException as error:
            if not refused_for_good(error):
                raise
            reason = first_line(error)
        if self.head.get("named"):
            self._forbid(f"{RUN_ID} names the run {wanted}: {reason}")
        logger.warning("MLflow run %s cannot go on, a new one begins: %s", wanted, reason)
        return None


def is_written_by(head: Head, process: Process) -> bool:
    """Whether a journal was written by a process, see `pipelines.utils.processes.identity`."""
    return process == json.loads(head["process"])
