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

    Used as a context: leaving it closes the run as FINISHED, as FAILED with the exception in the tag `error`,
    or as KILLED after SIGTERM or Ctrl-C. Where `MLFLOW_TRACKING_URI` is not set, runs go to
    `sqlite:///mlflow.db` in the working directory, which is what a bare `mlflow ui` shows. The run that
    `MLFLOW_RUN_ID` names, as `mlflow run` does, is gone on with by the first start of a process; other variables of
    MLflow's are in docs/tracking.md.

    Every method writes to the journal and returns. A store that is away, slow or in trouble is warned of once;
    values that it refuses for good are put aside in the journal's folder.

    Args:
        experiment: name of the MLflow experiment, created if absent.
        run_name: name of the run; None is MLFLOW_RUN_NAME, or the experiment and the time of the start.
        uri: tracking URI; None takes MLFLOW_TRACKING_URI or the default above.
        flush_seconds: seconds between deliveries to MLflow.
        enabled: False makes every call do nothing; the default is rank 0 of a distributed training.
        finish_seconds: how long all waiting for MLflow together may hold up the end of the run.
        system_metrics: seconds between samples of CPU, memory, GPU, disk and network; None takes none, nor does
            MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false.
        experiment_id: MLflow's id of the experiment, whose name then takes the place of `experiment`.
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
        # A name such as 2026 comes as a number from a command line.
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
        self._given: str | None = None
        self._journal: Journal | None = None
        self._files: RunFiles | None = None
        self._shipping: Shipping | None = None
        self._system: SystemMetrics | None = None
        self._sigterm = raising_terminated()
        self._warned = False
        self._ended = False

    @property
    def run_id(self) -> str | None:
        """Id of the run; one that begins with "pending-" until MLflow could be reached. None before the start."""
        made = self._shipping.run_id if self._shipping is not None else None
        return made or self._given

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
        """Open a new run, or go on with the one named; returns its id (None when not enabled).

        A run that goes on keeps what it has: a metric's steps that are already there are not logged again.
        Where MLflow does not answer soon, the run is opened when it does. The run of MLFLOW_RUN_ID goes before the
        one named, which is then in the tag `segbundles.continues`.

        Args:
            continue_run: `run_id` of an earlier start.
            parent: "key", "name" and "tags" of the run whose child this one is; the run of that key in the
                experiment, made where there is none. "spread" may list beginnings of the names of metrics whose
                mean and spread over the finished children the parent gets as each of them ends.
            tags: of the run from its first moment on. `segbundles.work` says what is done, so that the next
                start of the same work closes a run that was left open; the default is the command line.

        Raises:
            TrackingError: MLflow answers, but this experiment or tracking URI cannot be used, or no journal can
                be written.
        """
        if not self.enabled:
            return None
        key, self._key = self._key, uuid.uuid4().hex
        uri = absolute(self.uri)
        name, number = self.experiment, self.experiment_id
        head = first_record(uri, name, number, self.run_name, key, continue_run, parent, tags or {})
        self._given = head["continue"] or f"{PENDING}{key}"
        try:
            self._journal = Journal.create(usable_folder(uri), head)
        except OSError as error:
            raise TrackingError(
                f"the journal of the run cannot be written ({error}); set SEGBUNDLES_SPOOL to a folder that can"
            ) from error
        self._files = RunFiles(self._journal)
        self._shipping = Shipping(self._journal, uri, self.flush_seconds)
        try:
            self._shipping.start()
        except TrackingError:
            self._given = self._shipping = self._files = None
            self._journal.remove()
            self._journal = None
            raise
        self.experiment = self._shipping.experiment or self.experiment
        if self._sampling:
            self._system = SystemMetrics(self._system_values, self._sampling)
            self._system.start()
        return self.run_id

    # Logging. Each call writes one record and returns.

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Metrics of one step."""
        if self._journal is None:
            return
        numbers = {}
        for name, value in values.items():
            try:
                numbers[self._metric_keys.of(name)] = float(value)
            except (TypeError, ValueError):
                self._warn("the metric %s is not a number but %r; it is left out", name, value)
        if numbers:
            self._say({"op": "metrics", "time": milliseconds(), "step": int(step), "values": numbers})

    def params(self, values: Mapping[str, str]) -> None:
        """Parameters of the run, cut to the length that MLflow takes.

        A parameter keeps the value that it had first; another one is in the tag `changed.<name>`.
        """
        named = {self._param_keys.of(key): hidden(str(value))[:6000] for key, value in values.items()}
        self._say({"op": "params", "values": named})

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags of the run, cut to 5000 characters."""
        cut = {key: hidden(str(value))[:LONGEST_TAG] for key, value in values.items()}
        self._say({"op": "tags", "values": cut})

    def artifact(self, path: str | os.PathLike, folder: str | None = None) -> None:
        """Store a file, as it is now, with the run.

        A file of more than 8 MB is linked, not copied: whoever changes it later has to replace it.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self._files is not None:
            base = Path(path).name
            self._files.keep(path, f"{folder}/{base}" if folder else base)

    def artifacts(self, root: str | os.PathLike, folder: str) -> None:
        """Store all files below a folder of the disk with the run, such as those of a model.

        They belong together: where one of them cannot be kept or does not arrive, those after it are left out.
        """
        if self._files is not None:
            self._files.keep_whole(Path(root), folder)

    @contextlib.contextmanager
    def losing(self, *names: str) -> Iterator[None]:
        """A block that makes files for the run: where the disk is full, these of the run's files are lost, no more."""
        try:
            yield
        except OSError as error:
            if self._files is None:
                raise
            for name in names:
                self._files.lose(name, error)

    def json(self, value: Any, name: str) -> None:
        """Store a value as a JSON file with the run; `name` may have folders."""
        self._text(json.dumps(without_passwords(value), indent=2, default=str) + "\n", name)

    def image(self, key: str, picture: np.ndarray, step: int) -> None:
        """Store a picture, (height, width, 3) uint8, as one step of the image grid `key`."""
        if self._files is None:
            return
        label = "".join(c if (c.isascii() and c.isalnum()) or c in "_-. /" else "_" for c in key)
        # MLflow's own pattern; a name made once is the same however often it is sent.
        stamp = f"step+{int(step)}+timestamp+{milliseconds()}+{uuid.uuid4()}"
        pixels = np.ascontiguousarray(picture)
        self._files.write(
            f"images/{label.replace('/', '~')}+{stamp}", lambda path: np.save(path, pixels), "image"
        )

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Store columns of equal length as an MLflow table in place of an earlier one; `name` ends in .json.

        Raises:
            SettingError: the name does not end in .json.
            ValueError: the columns differ in length.
        """
        self._text(table_json(name, columns), name, table=True)

    def inputs(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """Name the datasets of the run.

        Args:
            datasets: each with "name", "digest", "source_type", "source" (text, may be JSON), "schema" and
                "profile" (JSON), and "context", such as training or validation.
        """
        self._say({"op": "inputs", "datasets": [dict(dataset) for dataset in datasets]})

    def register(self, name: str, folder: str, value: float, alias: str = "best") -> None:
        """Make the run's artifact folder a version of a registered model.

        The alias goes to the version with the highest value of that model. To be called after the artifacts: only
        when the server has all of the folder's files is it a version.

        Args:
            name: of the registered model, created where absent.
            folder: of the run's artifacts, such as "model".
            value: kept in the version's tag `value`; NaN never takes the alias.
        """
        if self._files is None or self._journal is None:
            return
        files = self._files.below(folder)
        record: Record = {"op": "register", "name": name, "folder": folder, "value": float(value)}
        record["alias"] = alias
        if None in files.values():
            reason = f"a part of {folder} could not be kept, so it is no version, and the alias stays"
            self._journal.refuse({**record, "lost": True}, reason)
        else:
            self._say({**record, "files": {each: size for each, size in files.items() if size is not None}})

    # Waiting and the end.

    def drain(self) -> None:
        """Make sure that all said so far outlasts this process and a power cut, delivered or not."""
        if self._journal is not None:
            self._journal.secure()

    def flush(self) -> bool:
        """Wait, for a bounded time, until MLflow has everything said so far; returns whether it has."""
        if self._shipping is None:
            return True
        started = time.monotonic()
        with Steps(None, "waiting for MLflow"):
            done = self._shipping.wait(self._time_left)
        self._time_left = max(0.0, self._time_left - (time.monotonic() - started))
        return done

    def finish(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED, and wait a bounded time until MLflow knows.

        What MLflow does not have then stays on disk, which one sentence says.
        """
        if self._journal is None or self._shipping is None:
            return
        if self._system is not None:
            self._system.stop()
        end: Record = {"op": "end", "status": status, "time": milliseconds()}
        if not self._ended:
            self._say(end)
            self._ended = True
        self._journal.secure()
        if status == "KILLED":
            self._time_left = min(self._time_left, KILLED_SECONDS)
        delivered = self.flush()
        if delivered and status != "KILLED":
            self._shipping.wait_for_others(min(self._time_left, OTHERS_SECONDS))
        self._given = self.run_id
        self._shipping.stop()
        folder, name = self._journal.folder, self.run_id
        if not delivered:
            waiting = self._shipping.pending
            self._journal.give_up(end)
            logger.warning("%s", undelivered(self.uri, str(name), waiting, folder))
        missing = self._journal.missing()
        if delivered:
            self._journal.remove()
        else:
            self._journal.release()
        for said in incomplete(missing, str(name), folder):
            logger.warning("%s", said)
        self._journal = self._shipping = self._system = self._files = None

    def ignore_sigterm(self) -> None:
        """From here on SIGTERM does not end the process: the run is about to be closed, and torchrun sends it."""
        self._sigterm.ignore()

    def fail(self, error: BaseException) -> None:
        """Close the run as FAILED from another thread, where the one of the training is stuck."""
        self.tags({"error": f"{type(error).__name__}: {error}"})
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
                self.tags({"error": f"{type(error).__name__}: {error}"})
            self.finish("KILLED" if killed else "FAILED")
        except Exception as failure:
            # What ended the training matters more than what becomes of its run.
            logger.warning("the MLflow run %s stays open: %s", self.run_id, failure)
        if isinstance(error, Terminated):
            raise SystemExit(128 + signal.SIGTERM) from None
        if kind is None:
            raise error

    # Within.

    def _say(self, record: Record) -> None:
        if self._journal is not None:
            self._journal.append(record)

    def _system_values(self, values: Mapping[str, float]) -> None:
        numbers = {self._metric_keys.of(name): value for name, value in values.items()}
        self._say({"op": "system", "time": milliseconds(), "values": numbers})

    def _text(self, text: str, name: str, table: bool = False) -> None:
        if self._files is not None:
            self._files.write(name, lambda path: path.write_text(text, encoding="utf-8"), table=table)

    def _warn(self, text: str, *values: Any) -> None:
        if not self._warned:
            logger.warning(text, *values)
        self._warned = True
