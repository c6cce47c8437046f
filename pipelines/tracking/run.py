"""One MLflow run per training, which also works while the MLflow server cannot be reached.

Everything that is logged is written to a journal on disk (`pipelines.tracking.journal`) and sent to MLflow by a
background thread (`pipelines.tracking.delivery`). Records that could not be sent stay in the journal for the next
start or for `python -m pipelines sync`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipelines.metrics.mlflow_names import Keys
from pipelines.tracking.client import TrackingError
from pipelines.tracking.delivery_thread import Shipping
from pipelines.tracking.journal import Journal, milliseconds, usable_folder
from pipelines.tracking.records import Parent, Record
from pipelines.tracking.refused import incomplete, undelivered
from pipelines.tracking.run_files import RunFiles, table_json
from pipelines.tracking.run_head import LONGEST_TAG, absolute, first_record
from pipelines.tracking.runs import PENDING
from pipelines.tracking.system_metrics import SystemMetrics
from pipelines.utils.anonymity import told, without_places
from pipelines.utils.mlflow_variables import RUN_NAME, tracking_uri, wants_system_metrics
from pipelines.utils.passwords import hidden, without_passwords
from pipelines.utils.progress import Steps
from pipelines.utils.ranks import rank
from pipelines.utils.signals import Terminated, raising_terminated

__all__ = ["Terminated", "Tracking", "TrackingError"]

logger = logging.getLogger(__name__)

# After SIGTERM a scheduler gives a process some seconds before it kills it.
KILLED_SECONDS = 8.0
# Longest time that the end of a run waits for the delivery of earlier journals.
OTHERS_SECONDS = 30.0


class Tracking:
    """An MLflow run that neither delays a training nor makes it fail.

    As a context manager it closes the run at the end: as FINISHED, as FAILED with the exception in the tag `error`,
    or as KILLED after SIGTERM or Ctrl-C. If `MLFLOW_TRACKING_URI` is not set, runs are stored in `sqlite:///mlflow.db`
    in the working directory, which `mlflow ui` shows by default. The first start in a process continues the run whose
    id is in `MLFLOW_RUN_ID`, which `mlflow run` sets; docs/tracking.md describes the other variables of MLflow.

    The logging methods write to the journal and return. If the store cannot be reached, is slow or fails, there is one
    warning; records that it refuses are kept in the journal's folder.

    Args:
        experiment: name of the MLflow experiment, created if it does not exist.
        run_name: name of the run; None takes MLFLOW_RUN_NAME, or the experiment and the time of the start.
        uri: tracking URI; None takes MLFLOW_TRACKING_URI or the default above.
        flush_seconds: seconds between deliveries to MLflow.
        enabled: False makes every call do nothing; the default is rank 0 of a distributed training.
        finish_seconds: longest total time, in seconds, that `flush` and `finish` wait for MLflow.
        system_metrics: seconds between samples of CPU, memory, GPU, disk and network; no samples are taken if it is
            None or MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false.
        experiment_id: MLflow's id of an existing experiment, which is used instead of the one named `experiment`.
    """

    def __init__(
        self,
        experiment: str,
        run_name: str | None = None,
        uri: str | None = None,
        flush_seconds: float = 2.0,
        enabled: bool | None = None,
        finish_seconds: float = 60.0,
        system_metrics: float | None = 10.0,
        experiment_id: str | None = None,
    ) -> None:
        # MONAI's command line converts a name such as 2026 to a number.
        self.experiment = str(experiment)
        self.experiment_id = None if experiment_id is None else str(experiment_id)
        run_name = run_name if run_name is not None else os.environ.get(RUN_NAME) or None
        self.run_name = None if run_name is None else str(run_name)
        self.uri = tracking_uri(uri)
        self.flush_seconds = flush_seconds
        self.enabled = rank() == 0 if enabled is None else enabled
        self._time_left = finish_seconds
        self._sampling = system_metrics if wants_system_metrics() else None
        self._metric_keys, self._param_keys = Keys(), Keys()
        self._key = uuid.uuid4().hex
        self._known_id: str | None = None
        self._journal: Journal | None = None
        self._files: RunFiles | None = None
        self._delivery: Shipping | None = None
        self._system: SystemMetrics | None = None
        self._sigterm = raising_terminated()
        self._warned = False
        self._ended = False

    @property
    def run_id(self) -> str | None:
        """Id of the run; it begins with "pending-" until MLflow could be reached. None before the start."""
        opened = self._delivery.run_id if self._delivery is not None else None
        return opened or self._known_id

    @property
    def next_id(self) -> str:
        """The id with which the next new run can be continued; known before that run starts."""
        return f"{PENDING}{self._key}"

    def start(
        self,
        continue_run: str | None = None,
        parent: Parent | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str | None:
        """Open a new run, or continue an earlier one; returns its id (None if not enabled).

        A continued run keeps its values: steps of a metric that it already has are not logged again. If MLflow does
        not answer soon, the run is opened later in the background. If MLFLOW_RUN_ID is set, that run is continued
        instead of `continue_run`, whose id is then stored in the tag `segbundles.continues`.

        Args:
            continue_run: `run_id` of an earlier start.
            parent: the parent run of this run, see `pipelines.tracking.records.Parent`; it is created in the
                experiment if there is none with this key, and updated whenever one of its children ends.
            tags: tags of the run, set when it is opened. `segbundles.work` identifies the work, so that the next
                start of the same work closes a run that a killed process left open; the default is the experiment,
                the working directory and the command line.

        Raises:
            TrackingError: MLflow answers, but this experiment or tracking URI cannot be used, or the journal cannot
                be written.
        """
        if not self.enabled:
            return None
        key, self._key = self._key, uuid.uuid4().hex
        uri = absolute(self.uri)
        name, experiment_id = self.experiment, self.experiment_id
        head = first_record(uri, name, experiment_id, self.run_name, key, continue_run, parent, tags or {})
        self._known_id = head["continue"] or f"{PENDING}{key}"
        try:
            self._journal = Journal.create(usable_folder(uri), head)
        except OSError as error:
            raise TrackingError(
                f"the journal of the run cannot be written ({error}); set SEGBUNDLES_SPOOL to a folder that is writable"
            ) from error
        self._files = RunFiles(self._journal)
        self._delivery = Shipping(self._journal, uri, self.flush_seconds)
        try:
            self._delivery.start()
        except TrackingError:
            self._known_id = self._delivery = self._files = None
            self._journal.remove()
            self._journal = None
            raise
        self.experiment = self._delivery.experiment or self.experiment
        if self._sampling:
            self._system = SystemMetrics(self._system_values, self._sampling)
            self._system.start()
        return self.run_id

    # Logging. Each call writes one record and returns.

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log the metrics of one step."""
        if self._journal is None:
            return
        numbers = {}
        for name, value in values.items():
            try:
                numbers[self._metric_keys.of(name)] = float(value)
            except (TypeError, ValueError):
                self._warn("the metric %s is not a number but %r; it is not logged", name, value)
        if numbers:
            self._append({"op": "metrics", "time": milliseconds(), "step": int(step), "values": numbers})

    def params(self, values: Mapping[str, str]) -> None:
        """Log parameters of the run, cut to the length that MLflow allows.

        A parameter keeps its first value; a different later value is stored in the tag `changed.<name>`.
        """
        named = {self._param_keys.of(key): hidden(str(value))[:6000] for key, value in values.items()}
        self._append({"op": "params", "values": named})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run, each cut to 5000 characters."""
        cut = {key: hidden(str(value))[:LONGEST_TAG] for key, value in values.items()}
        self._append({"op": "tags", "values": cut})

    def artifact(self, path: str | os.PathLike, folder: str | None = None) -> None:
        """Store a file as an artifact of the run, as it is now.

        A file of 8 MiB or more is linked, not copied: to change it later, replace it and do not write into it.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self._files is not None:
            base = Path(path).name
            self._files.keep(path, f"{folder}/{base}" if folder else base)

    def artifacts(self, root: str | os.PathLike, folder: str) -> None:
        """Store all files below a folder of the disk, such as those of a model, as artifacts in a folder of the run.

        The files need one another: if one cannot be written to the journal, none is stored, and if MLflow refuses one,
        none of the following ones is stored.
        """
        if self._files is not None:
            self._files.keep_whole(Path(root), folder)

    @contextlib.contextmanager
    def losing(self, *names: str) -> Iterator[None]:
        """A context for writing files: after an OSError, as from a full disk, the artifacts `names` count as lost."""
        try:
            yield
        except OSError as error:
            if self._files is None:
                raise
            for name in names:
                self._files.lose(name, error)

    def json(self, value: Any, name: str) -> None:
        """Store a value as a JSON artifact; `name` may contain folders."""
        self._write_text(json.dumps(without_passwords(value), indent=2, default=str) + "\n", name)

    def image(self, key: str, picture: np.ndarray, step: int) -> None:
        """Store a picture, (height, width, 3) uint8, as one step of the image grid `key`."""
        if self._files is None:
            return
        label = "".join(c if (c.isascii() and c.isalnum()) or c in "_-. /" else "_" for c in key)
        # MLflow's pattern of names. The name is chosen here, so that sending the picture again does not store a second one.
        suffix = f"step+{int(step)}+timestamp+{milliseconds()}+{uuid.uuid4()}"
        pixels = np.ascontiguousarray(picture)
        self._files.write(
            f"images/{label.replace('/', '~')}+{suffix}", lambda path: np.save(path, pixels), "image"
        )

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Store columns of equal length as an MLflow table, which replaces an earlier one of that name.

        Raises:
            SettingError: the name does not end in .json.
            ValueError: the columns differ in length.
        """
        self._write_text(table_json(name, columns), name, table=True)

    def inputs(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """Log the datasets that the run uses.

        Args:
            datasets: datasets, each with "name", "digest", "source_type", "source" (text, may be JSON), "schema" and
                "profile" (JSON), and "context", such as training or validation.
        """
        self._append({"op": "inputs", "datasets": [dict(dataset) for dataset in datasets]})

    def register(self, name: str, folder: str, value: float, alias: str = "best") -> None:
        """Register an artifact folder of the run as a version of a model.

        To be called after the artifacts of the folder are logged. The version is registered only if the server has all
        of them. The version with the highest value gets the alias.

        Args:
            name: name of the registered model, which is created if it does not exist.
            folder: artifact folder of the run, such as "model".
            value: metric of the version, stored in its tag `value`; a version whose value is NaN never gets the alias.
            alias: alias of the best version.
        """
        if self._files is None or self._journal is None:
            return
        files = self._files.below(folder)
        record: Record = {"op": "register", "name": name, "folder": folder, "value": float(value)}
        record["alias"] = alias
        if None in files.values():
            reason = f"a file of {folder} could not be saved, so no version is registered and the alias is not moved"
            self._journal.refuse({**record, "lost": True}, reason)
        else:
            self._append(
                {**record, "files": {each: size for each, size in files.items() if size is not None}}
            )

    # Waiting for the delivery, and closing the run.

    def drain(self) -> None:
        """Flush all records to the disk, so that those not delivered yet survive a crash or a power failure."""
        if self._journal is not None:
            self._journal.secure()

    def flush(self) -> bool:
        """Wait for a limited time until MLflow has everything logged so far; returns whether it has."""
        if self._delivery is None:
            return True
        started = time.monotonic()
        with Steps(None, "waiting for MLflow"):
            done = self._delivery.wait(self._time_left)
        self._time_left = max(0.0, self._time_left - (time.monotonic() - started))
        return done

    def finish(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED, and wait for a limited time until MLflow has all records.

        Records that MLflow does not have then stay in the journal, with a warning.
        """
        if self._journal is None or self._delivery is None:
            return
        if self._system is not None:
            self._system.stop()
        end: Record = {"op": "end", "status": status, "time": milliseconds()}
        if not self._ended:
            self._append(end)
            self._ended = True
        self._journal.secure()
        if status == "KILLED":
            self._time_left = min(self._time_left, KILLED_SECONDS)
        delivered = self.flush()
        if delivered and status != "KILLED":
            self._delivery.wait_for_others(min(self._time_left, OTHERS_SECONDS))
        self._known_id = self.run_id
        self._delivery.stop()
        folder, name = self._journal.folder, self.run_id
        if not delivered:
            waiting = self._delivery.pending
            self._journal.give_up(end)
            logger.warning("%s", undelivered(self.uri, str(name), waiting, folder))
        missing = self._journal.missing()
        if delivered:
            self._journal.remove()
        else:
            self._journal.release()
        for message in incomplete(missing, str(name), folder):
            logger.warning("%s", message)
        self._journal = self._delivery = self._system = self._files = None

    def ignore_sigterm(self) -> None:
        """Ignore SIGTERM from now on, so that torchrun cannot end the process while it closes the run."""
        self._sigterm.ignore()

    def fail(self, error: BaseException) -> None:
        """Close the run as FAILED; to be called from another thread if the training's thread hangs."""
        self.tags({"error": f"{type(error).__name__}: {told(error)}"})
        self.finish("FAILED")

    def __enter__(self) -> Tracking:
        self._sigterm.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish("FINISHED")
        except (KeyboardInterrupt, Terminated) as interruption:
            error = interruption
        finally:
            # From here on a second signal ends the process at once.
            self._sigterm.restore()
        if error is None:
            return
        killed = isinstance(error, (KeyboardInterrupt, Terminated))
        try:
            if not killed:
                self.tags({"error": f"{type(error).__name__}: {told(error)}"})
            self.finish("KILLED" if killed else "FAILED")
        except Exception as failure:
            # The exception that ended the training must not be replaced by one from closing the run.
            logger.warning("the MLflow run %s could not be closed: %s", self.run_id, failure)
        if isinstance(error, Terminated):
            raise SystemExit(128 + signal.SIGTERM) from None
        if kind is None:
            raise error

    # Helpers.

    def _append(self, record: Record) -> None:
        if self._journal is not None:
            self._journal.append(without_places(record))

    def _system_values(self, values: Mapping[str, float]) -> None:
        numbers = {self._metric_keys.of(name): value for name, value in values.items()}
        self._append({"op": "system", "time": milliseconds(), "values": numbers})

    def _write_text(self, text: str, name: str, table: bool = False) -> None:
        if self._files is not None:
            kept = without_places(text)
            self._files.write(name, lambda path: path.write_text(kept, encoding="utf-8"), table=table)

    def _warn(self, text: str, *values: Any) -> None:
        if not self._warned:
            logger.warning(text, *values)
        self._warned = True
