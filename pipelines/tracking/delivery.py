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
from pipelines.tracking.registry import is_below, missing_files, register
from pipelines.tracking.run_opening import PARENT, Opening, is_written_by
from pipelines.tracking.runs import KEY, close_as_killed, process_of, runs_with, update_parent
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
        strict: whether a run or experiment that MLflow's environment variables name and that cannot be used is an
            error; otherwise a new run is created, or the experiment is looked up by its name.

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
        self._continued: bool = progress.get("goes_on", False)
        self._incomplete: str = progress.get("incomplete", "")
        # The steps of each metric, and the pictures, that a continued run already has.
        self._known_steps: dict[str, set[int]] = {}
        self._known_pictures: set[str] | None = None
        self._run_deleted = False
        self._warned = False

    # Opening and closing the run.

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
            self._continued, self.experiment = opening.continued, opening.experiment
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
            self.tag_missing()
            close_as_killed(self.client, self.run_id)
            self._update_parent(milliseconds())

    # Delivering the records.

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
        for record, record_end in self.journal.records(self._offset):
            if record.get("op") == "metrics":
                batch.append(record)
                values += len(record["values"])
                if values < BATCH // 2:
                    end = record_end
                    continue
                self._metrics(batch)
                batch, values = [], 0
                self._save(record_end)
            else:
                if batch:
                    self._metrics(batch)
                    batch, values = [], 0
                    self._save(end)
                delivered = self._deliver(record)
                self._save(record_end)
                if delivered:
                    self.journal.drop_file(record)
            end = record_end
        if batch:
            self._metrics(batch)
            self._save(end)
        last = self.journal.end()
        if last is not None and not self.ended:
            self._deliver(last)
            self._save(self._offset)

    def tag_missing(self) -> None:
        """List the refused and lost records of this journal in the run's tag `segbundles.incomplete`."""
        before, current = self._incomplete, as_tag(self.journal.missing())
        if before == current or self._run_deleted or self.run_id is None:
            return
        tag = self.client.get_run(self.run_id).data.tags.get(INCOMPLETE, "")
        # Other processes may have added lines for their records of the same run.
        lines = [line for line in tag.split("\n") if line and line not in before.split("\n")]
        text = "\n".join([*lines, *(line for line in current.split("\n") if line and line not in lines)])
        if text:
            set_tags(self.client, self.run_id, {INCOMPLETE: text[:5000]})
        elif tag:
            self.client.delete_tag(self.run_id, INCOMPLETE)
        self._incomplete = current
        self._save(self._offset)

    def _save(self, offset: int) -> None:
        self._offset = offset
        self.journal.set_progress(
            offset=offset,
            run_id=self.run_id,
            goes_on=self._continued,
            ended=self.ended,
            incomplete=self._incomplete,
        )

    def _deliver(self, record: Record) -> bool:
        """Deliver one record; False if MLflow refuses it."""
        deliver = getattr(self, f"_op_{record.get('op')}", None)
        try:
            if self._run_deleted and record.get("op") != "end":
                self._refuse(record, "the run was deleted")
                return False
            elif record.get("lost"):
                self.journal.refuse(record, record["refused"])
                return False
            elif deliver is None:
                raise TrackingError(f"this version does not know records of type '{record.get('op')}'")
            elif "file" in record and not (self.journal.folder / record["file"]).is_file():
                raise TrackingError(f"its file {record['file']} is missing from the journal")
            else:
                deliver(record)
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
            self._run_deleted = not self._exists()
            logger.warning(
                "MLflow refused a record of run %s (%s: %s); the record is kept in %s",
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

        if self._run_deleted:
            for record in records:
                self._refuse(record, "the run was deleted")
            return
        metrics = [
            Metric(name, value, record["time"], record["step"])
            for record in records
            for name, value in record["values"].items()
            if record["step"] not in self._logged_steps(name)
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
            if len(metrics) == 1 or self._run_deleted:
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

    def _logged_steps(self, name: str) -> set[int]:
        if not self._continued:
            return set()
        if name not in self._known_steps:
            history = self.client.get_metric_history(self.run_id, name)
            self._known_steps[name] = {metric.step for metric in history}
        return self._known_steps[name]

    def _op_system(self, record: Record) -> None:
        """System metrics: their step is the number of seconds since the start of the run, also in a continued run."""
        from mlflow.entities import Metric

        start = self.client.get_run(self.run_id).info.start_time
        step = max(0, record["time"] - start) // 1000
        values = record["values"].items()
        self._log_metrics([Metric(name, value, record["time"], step) for name, value in values])

    # The other types of records, one method for each.

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
            self._require_whole(
                whole, f"another file of {whole} is missing, and an incomplete folder is not stored"
            )
        upload(self.client, self.run_id, self.journal.folder / record["file"], record["name"])
        if record.get("table"):
            list_table(self.client, self.run_id, record["name"])

    def _op_image(self, record: Record) -> None:
        if self._continued and step_of_picture(record["name"]) in self._logged_pictures():
            return
        log_picture(self.client, self.run_id, self.journal.folder / record["file"], record["name"])

    def _logged_pictures(self) -> set[str]:
        if self._known_pictures is None:
            files = self.client.list_artifacts(self.run_id, "images")
            # The small copy is stored last; where it is missing, the picture is incomplete.
            self._known_pictures = {
                step_of_picture(file.path) for file in files if file.path.endswith(".webp")
            }
        return self._known_pictures

    def _op_inputs(self, record: Record) -> None:
        log_datasets(self.client, self.run_id, record["datasets"])

    def _op_register(self, record: Record) -> None:
        folder, files = record["folder"], record.get("files") or {}
        self._require_whole(
            folder, f"a file of {folder} is missing, so no version is registered and the alias is not moved"
        )
        missing = missing_files(self.client, self.run_id, folder, files)
        if missing:
            raise TrackingError(
                f"{len(missing)} of {max(1, len(files))} files of {folder} are missing or incomplete on the server "
                f"({', '.join(missing[:10])}), so no version is registered and the alias is not moved"
            )
        register(self.client, self.run_id, record["name"], folder, record["value"], record["alias"], files)

    def _require_whole(self, folder: str, reason: str) -> None:
        """Raise a TrackingError with this reason if a file of the run's folder was refused or lost."""
        if any(
            is_below(str(each.get("name")), folder) for each in self.journal.missing() if each["op"] == "file"
        ):
            raise TrackingError(reason)

    def _op_end(self, record: Record) -> None:
        if self._run_deleted:
            self.ended = True
            return
        if not self._continued:
            self._remove_duplicates()
        self.tag_missing()
        assert self.run_id is not None
        terminate(self.client, self.run_id, record["status"], record["time"])
        self.ended = True
        self._update_parent(record["time"])

    def _update_parent(self, time_ms: int) -> None:
        parent = self.head.get("parent")
        if parent:
            run_id = self.client.get_run(self.run_id).data.tags.get(PARENT)
            if run_id is not None:
                update_parent(self.client, run_id, parent.get("spread", []), time_ms)

    def _remove_duplicates(self) -> None:
        """Delete runs that a slow server created for requests that had already timed out here."""
        experiment = self.client.get_run(self.run_id).info.experiment_id
        for run in runs_with(self.client, experiment, KEY, self.head["key"]):
            if run.info.run_id != self.run_id and not run.data.metrics:
                self.client.delete_run(run.info.run_id)
