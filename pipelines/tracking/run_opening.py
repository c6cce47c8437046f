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
        continued: whether the run existed before this journal.
        experiment: name of the run's experiment, if it was read from MLflow.
    """

    def __init__(self, client: Any, head: Head, strict: bool) -> None:
        self.client = client
        self.head = head
        self.strict = strict
        self.continued = False
        self.experiment: str | None = None

    def run(self) -> str:
        """Find or create the run; returns its id.

        Raises:
            TrackingError: the experiment, or in strict mode a run or experiment that MLflow's variables name, cannot
                be used.
            Exception: any error of MLflow and its libraries while the store cannot be reached.
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
        key, earlier_id = head["key"], head.get("continue")
        if earlier_id:
            run_id = self._run_to_continue(experiment, earlier_id)
            if run_id is not None:
                self._continue(run_id, tags)
                return run_id
            if earlier_id.startswith(PENDING) and not runs_with(
                client, experiment, KEY, earlier_id[len(PENDING) :]
            ):
                # The new run gets the key of the absent one, so that the next search for that run finds the new run.
                key = earlier_id[len(PENDING) :]
        existing = runs_with(client, experiment, KEY, key)
        if existing:
            return existing[0].info.run_id
        tags |= {KEY: key, WORK: head["work"], PROCESS: head["process"]}
        run = client.create_run(experiment, start_time=head["time"], run_name=head["name"], tags=tags)
        return run.info.run_id

    def _continue(self, run_id: str, tags: dict[str, str]) -> None:
        self.continued = True
        self.client.update_run(run_id, status="RUNNING")
        existing_tags = self.client.get_run(run_id).data.tags
        if self.head.get("named"):
            # Another program created the run, so its tags about its origin are kept.
            tags = {k: v for k, v in tags.items() if not (k.startswith("mlflow.") and k in existing_tags)}
            tags |= {WORK: self.head["work"], KEY: existing_tags.get(KEY, self.head["key"])}
        set_tags(self.client, run_id, tags | {PROCESS: self.head["process"]})
        if "error" in existing_tags:
            # The error of an earlier process does not belong to the continued run.
            self.client.delete_tag(run_id, "error")

    def _find_experiment(self) -> str:
        """Id of the experiment: of the run in MLFLOW_RUN_ID if set, else the experiment with the given id or name."""
        head, client = self.head, self.client
        if head.get("named"):
            try:
                found = client.get_experiment(client.get_run(head["continue"]).info.experiment_id)
                self.experiment = found.name
                return found.experiment_id
            except Exception as error:
                if not refused_for_good(error):
                    raise
                self._reject(f"{RUN_ID} names the run {head['continue']}: {first_line(error)}")
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
            self._reject(f"{EXPERIMENT_ID} names the experiment {head['experiment_id']}: {reason}")
        return experiment_id(client, head["uri"], head["experiment"])

    def _reject(self, reason: str) -> None:
        if self.strict:
            raise TrackingError(f"{reason}; change or unset the variable")
        logger.warning("%s; the variable is ignored", reason)

    def _run_to_continue(self, experiment: str, earlier_id: str) -> str | None:
        """Id of the run to continue; None, with a message, if that run cannot be continued and a new one is needed."""
        from mlflow.exceptions import MlflowException

        reason = "MLflow has no such run"
        try:
            run_id = find_run(self.client, experiment, earlier_id)
            if run_id is None:
                logger.info("MLflow does not have the run %s yet; it is created now", earlier_id)
                return None
            run = self.client.get_run(run_id)
            process = process_of(run)
            if run.info.lifecycle_stage == "deleted":
                reason = "it was deleted"
            elif run.info.status == "RUNNING" and alive(process) and not is_written_by(self.head, process):
                reason = f"process {process.get('pid')} is writing to it"
            else:
                return run_id
        except MlflowException as error:
            if not refused_for_good(error):
                raise
            reason = first_line(error)
        if self.head.get("named"):
            self._reject(f"{RUN_ID} names the run {earlier_id}: {reason}")
        logger.warning("MLflow run %s cannot be continued, so a new run is created: %s", earlier_id, reason)
        return None


def is_written_by(head: Head, process: Process) -> bool:
    """Whether a process wrote the journal with this first record, see `pipelines.utils.processes.identity`."""
    return process == json.loads(head["process"])
