"""Sends the records of a journal to MLflow, each once and in order, starting where an earlier attempt ended.

A process can be killed after MLflow's answer and before the progress is saved, so the last records may be sent again.
This has no effect: MLflow's SQL store ignores a metric with the same key, step, time and value, a run is searched by
the key in its tags before it is created, files have fixed names, and parameters never change.

Every call uses `synchronous=True`: with MLFLOW_ENABLE_ASYNC_LOGGING MLflow would answer before it has stored anything.
"""

from __future__ import annotations

import logging
from typing import Any

from pipelines.tracking.client import TrackingError, first_line, refused_for_good, terminate
from pipelines.tracking.journal import Journal, milliseconds
from pipelines.tracking.records import Head, Record
from pipelines.tracking.refused import INCOMPLETE, as_tag, named
from pipelines.tracking.registry import is_below, not_there, register
from pipelines.tracking.run_opening import PARENT, Opening, is_written_by
from pipelines.tracking.runs import KEY, close_dead, process_of, runs_with, settle_parent
from pipelines.tracking.writes import (
    list_table,
    log_datasets,
    log_params,
    log_picture,
    set_tags,
    step_of_picture,
    upload,
)

logger = logging.getLogger(__name__)

BATCH = 1000


class Delivery:
    """The delivery of one journal to MLflow.

    Args:
        journal: a journal that this process has locked.
        client: see `pipelines.tracking.client.connect`.
        uri: tracking URI of the client, if it is not the one in the journal.
        strict: whether it is an error if a run or experiment given by MLflow's environment variables cannot be used;
            otherwise a new run is created, or the experiment is searched by its name.

    Attributes:
        run_id: MLflow's id of the run, once `open` has found or created it.
        experiment: name of the run's experiment, if `open` has read it from MLflow.
        ended: whether the end of the run has been delivered.
    """

    def __init__(self, journal: Journal, client: Any, uri: str | None = None, strict: bool = False) -> None:
        self.journal = journal
        self.client = client
        self.strict = strict
        self.experiment: str | None = None
        head = journal.head()
        if head is None:
            raise TrackingError(f"{journal.folder} has no first record")
        self.head: Head = head if uri is None else {**head, "uri": uri}
        progress = journal.progress()
        self.run_id: str | None = progress.get("run_id")
        self.ended: bool = progress.get("ended", False)
        self._offset: int = progress["offset"]
        self._goes_on: bool = progress.get("goes_on", False)
        self._incomplete: str = progress.get("incomplete", "")
        # The steps and pictures that a continued run already has.
        self._there: dict[str, set[int]] = {}
        self._pictures: set[str] | None = None
        self._lost = False
        self._warned = False

    # The run.

    def open(self) -> str:
        """Find or create the run; returns its id.

        Raises:
            TrackingError: the experiment was deleted, or MLflow refuses the run.
            Exception: any error of MLflow and its libraries while the store cannot be reached.
        """
        if self.run_id is not None:
            return self.run_id
        try:
            opening = Opening(self.client, self.head, self.strict)
            self.run_id = opening.run()
            self._goes_on, self.experiment = opening.goes_on, opening.experiment
        except TrackingError:
            raise
        except Exception as error:
            if not refused_for_good(error):
                raise
            raise TrackingError(f"MLflow refuses the run: {first_line(error)}") from error
        self._save(next(iter(self.journal.records(0)))[1])
        return self.run_id

    def abandon(self) -> None:
        """Close the run of a process that ended without closing it, unless another process has continued the run."""
        if self.ended or self.run_id is None:
            return
        run = self.client.get_run(self.run_id)
        if run.info.status == "RUNNING" and is_written_by(self.head, process_of(run)):
            self.tell_missing()
            close_dead(self.client, self.run_id)
            self._settle(milliseconds())

    # The records.

    @property
    def pending(self) -> int:
        """Bytes of the journal that are not delivered yet."""
        return max(0, self.journal.size - self._offset)

    def advance(self) -> None:
        """Deliver all complete records.

        Raises:
            Exception: any error of MLflow and its libraries while the store cannot be reached; the progress up to
                the error is saved.
        """
        batch: list[Record] = []
        values, end = 0, self._offset
        for record, behind in self.journal.records(self._offset):
            if record.get("op") == "metrics":
                batch.append(record)
                values += len(record["values"])
                if values < BATCH // 2:
                    end = behind
                    continue
                self._metrics(batch)
                batch, values = [], 0
                self._save(behind)
            else:
                if batch:
                    self._metrics(batch)
                    batch, values = [], 0
                    self._save(end)
                taken = self._deliver(record)
                self._save(behind)
                if taken:
                    self.journal.drop_file(record)
            end = behind
        if batch:
            self._metrics(batch)
            self._save(end)
        last = self.journal.end()
        if last is not None and not self.ended:
            self._deliver(last)
            self._save(self._offset)

    def tell_missing(self) -> None:
        """List in the run's tag `segbundles.incomplete` the records of this journal that did not arrive."""
        said, now = self._incomplete, as_tag(self.journal.missing())
        if said == now or self._lost or self.run_id is None:
            return
        tag = self.client.get_run(self.run_id).data.tags.get(INCOMPLETE, "")
        # Lines of other processes of the same run are kept.
        lines = [line for line in tag.split("\n") if line and line not in said.split("\n")]
        text = "\n".join([*lines, *(line for line in now.split("\n") if line and line not in lines)])
        if text:
            set_tags(self.client, self.run_id, {INCOMPLETE: text[:5000]})
        elif tag:
            self.client.delete_tag(self.run_id, INCOMPLETE)
        self._incomplete = now
        self._save(self._offset)

    def _save(self, offset: int) -> None:
        self._offset = offset
        self.journal.set_progress(
            offset=offset,
            run_id=self.run_id,
            goes_on=self._goes_on,
            ended=self.ended,
            incomplete=self._incomplete,
        )

    def _deliver(self, record: Record) -> bool:
        """Deliver one record; False if MLflow refuses it."""
        way = getattr(self, f"_op_{record.get('op')}", None)
        try:
            if self._lost and record.get("op") != "end":
                self._refuse(record, "the run was deleted")
                return False
            elif record.get("lost"):
                self.journal.refuse(record, record["refused"])
                return False
            elif way is None:
                raise TrackingError(f"no operation is called '{record.get('op')}'")
            elif "file" in record and not (self.journal.folder / record["file"]).is_file():
                raise TrackingError(f"its file {record['file']} is gone")
            else:
                way(record)
        except Exception as error:
            if not refused_for_good(error):
                raise
            self._refuse(record, first_line(error))
            self.ended = self.ended or record.get("op") == "end"
            return False
        return True

    def _refuse(self, record: Record, reason: str) -> None:
        self.journal.refuse({**record, "run_id": self.run_id}, reason)
        if not self._warned:
            self._lost = not self._exists()
            logger.warning(
                "MLflow does not take a part of run %s (%s: %s); it is kept in %s",
                self.run_id,
                named(record),
                reason,
                self.journal.folder,
            )
        self._warned = True

    def _exists(self) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(self.run_id).info.lifecycle_stage != "deleted"
        except MlflowException as error:
            if not refused_for_good(error):
                raise
            return False

    # Metrics.

    def _metrics(self, records: list[Record]) -> None:
        from mlflow.entities import Metric

        if self._lost:
            for record in records:
                self._refuse(record, "the run was deleted")
            return
        metrics = [
            Metric(name, value, record["time"], record["step"])
            for record in records
            for name, value in record["values"].items()
            if record["step"] not in self._steps_there(name)
        ]
        for first in range(0, len(metrics), BATCH):
            self._log_metrics(metrics[first : first + BATCH])

    def _log_metrics(self, metrics: list[Any]) -> None:
        if not metrics:
            return
        try:
            self.client.log_batch(self.run_id, metrics=metrics, synchronous=True)
        except Exception as error:
            if not refused_for_good(error):
                raise
            if len(metrics) == 1 or self._lost:
                for m in metrics:
                    record: Record = {
                        "op": "metrics",
                        "time": m.timestamp,
                        "step": m.step,
                        "values": {m.key: m.value},
                    }
                    self._refuse(record, first_line(error))
                return
            # One refused value must not prevent the others; bisection finds it quickly.
            half = len(metrics) // 2
            self._log_metrics(metrics[:half])
            self._log_metrics(metrics[half:])

    def _steps_there(self, name: str) -> set[int]:
        if not self._goes_on:
            return set()
        if name not in self._there:
            history = self.client.get_metric_history(self.run_id, name)
            self._there[name] = {metric.step for metric in history}
        return self._there[name]

    def _op_system(self, record: Record) -> None:
        """System metrics: their step is the number of seconds since the start of the run, also in a continued run."""
        from mlflow.entities import Metric

        start = self.client.get_run(self.run_id).info.start_time
        step = max(0, record["time"] - start) // 1000
        values = record["values"].items()
        self._log_metrics([Metric(name, value, record["time"], step) for name, value in values])

    # The other operations, one method each.

    def _op_run(self, record: Record) -> None:
        self.open()

    def _op_params(self, record: Record) -> None:
        for key, value in log_params(self.client, self.run_id, record["values"]).items():
            self._deliver({"op": "param", "key": key, "value": value})

    def _op_param(self, record: Record) -> None:
        self.client.log_param(self.run_id, record["key"], record["value"], synchronous=True)

    def _op_tags(self, record: Record) -> None:
        set_tags(self.client, self.run_id, record["values"])

    def _op_file(self, record: Record) -> None:
        whole = record.get("whole")
        if whole is not None:
            # A mixture of new and old files would be a model that cannot be loaded.
            self._require_whole(whole, f"it belongs to {whole}, of which a part did not arrive")
        upload(self.client, self.run_id, self.journal.folder / record["file"], record["name"])
        if record.get("table"):
            list_table(self.client, self.run_id, record["name"])

    def _op_image(self, record: Record) -> None:
        if self._goes_on and step_of_picture(record["name"]) in self._pictures_there():
            return
        log_picture(self.client, self.run_id, self.journal.folder / record["file"], record["name"])

    def _pictures_there(self) -> set[str]:
        if self._pictures is None:
            files = self.client.list_artifacts(self.run_id, "images")
            # The small copy is stored last, so a picture without it is incomplete.
            self._pictures = {step_of_picture(file.path) for file in files if file.path.endswith(".webp")}
        return self._pictures

    def _op_inputs(self, record: Record) -> None:
        log_datasets(self.client, self.run_id, record["datasets"])

    def _op_register(self, record: Record) -> None:
        folder, files = record["folder"], record.get("files") or {}
        self._require_whole(
            folder, f"a part of {folder} did not arrive, so it is no version, and the alias stays"
        )
        absent = not_there(self.client, self.run_id, folder, files)
        if absent:
            raise TrackingError(
                f"{len(absent)} of {max(1, len(files))} files of {folder} are not on the server or not whole "
                f"({', '.join(absent[:10])}), so it is no version, and the alias stays"
            )
        register(self.client, self.run_id, record["name"], folder, record["value"], record["alias"], files)

    def _require_whole(self, folder: str, reason: str) -> None:
        """Raise TrackingError if a file of a folder of the run was refused or lost."""
        if any(
            is_below(str(each.get("name")), folder) for each in self.journal.missing() if each["op"] == "file"
        ):
            raise TrackingError(reason)

    def _op_end(self, record: Record) -> None:
        if self._lost:
            self.ended = True
            return
        if not self._goes_on:
            self._remove_duplicates()
        self.tell_missing()
        assert self.run_id is not None
        terminate(self.client, self.run_id, record["status"], record["time"])
        self.ended = True
        self._settle(record["time"])

    def _settle(self, time_ms: int) -> None:
        parent = self.head.get("parent")
        if parent:
            run_id = self.client.get_run(self.run_id).data.tags.get(PARENT)
            if run_id is not None:
                settle_parent(self.client, run_id, parent.get("spread", []), time_ms)

    def _remove_duplicates(self) -> None:
        """Delete runs that a slow server created for requests that had already timed out here."""
        experiment = self.client.get_run(self.run_id).info.experiment_id
        for run in runs_with(self.client, experiment, KEY, self.head["key"]):
            if run.info.run_id != self.run_id and not run.data.metrics:
                self.client.delete_run(run.info.run_id)
