"""One MLflow run per training: opened once under its own id, fed off the training thread, closed as it ended."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows: start the first two trainings one after the other there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"


class TrackingError(RuntimeError):
    """MLflow did not take what the run had to say."""


class Terminated(BaseException):
    """The process was asked to end (SIGTERM)."""


class Tracking:
    """An MLflow run with buffered metrics.

    Used as a context: leaving it closes the run as FINISHED, as FAILED with the exception in the tag `error`,
    or as KILLED after SIGTERM or Ctrl-C. Where `MLFLOW_TRACKING_URI` is not set, runs go to
    `sqlite:///mlflow.db` in the working directory, which is what a bare `mlflow ui` shows.

    Metrics are put into a queue and written by one background thread, so an iteration never waits for a
    database or a server.

    Args:
        experiment: name of the MLflow experiment, created if absent.
        run_name: name of the run; None is the experiment and the time of the start.
        uri: tracking URI; None takes MLFLOW_TRACKING_URI or the default above.
        flush_seconds: how long metrics may wait for company.
        enabled: False makes every call do nothing; the default is rank 0 of a distributed training.
    """

    def __init__(
        self,
        experiment: str,
        run_name: str | None = None,
        uri: str | None = None,
        flush_seconds: float = 1.0,
        enabled: bool | None = None,
    ) -> None:
        self.experiment = experiment
        self.run_name = run_name
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
        self.flush_seconds = flush_seconds
        self.enabled = int(os.environ.get("RANK", "0")) == 0 if enabled is None else enabled
        self.run_id: str | None = None
        self._client: Any = None
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._handlers: dict[int, Any] = {}

    def start(self, continue_run: str | None = None) -> str | None:
        """Open a new run, or go on with the one named; returns its id (None when not enabled)."""
        if not self.enabled:
            return None
        # MLflow reports its use to its makers unless told not to; patient networks should stay silent.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import RunStatus
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        with _sqlite_lock(self.uri):
            self._client = MlflowClient(self.uri)
            experiment = self._experiment_id()
        if continue_run is not None:
            try:
                self._client.update_run(continue_run, status=RunStatus.to_string(RunStatus.RUNNING))
                self.run_id = continue_run
            except MlflowException as error:
                logger.warning("MLflow run %s cannot go on, a new one begins: %s", continue_run, error)
        if self.run_id is None:
            command = " ".join(sys.argv)[:5000]
            tags = {"mlflow.user": _user(), "mlflow.source.name": command, "mlflow.source.type": "LOCAL"}
            # MLflow draws its own names from Python's generator, so that all runs of one seed would share one.
            name = self.run_name or f"{self.experiment} {datetime.now():%Y-%m-%d %H:%M:%S}"
            run = self._client.create_run(experiment, run_name=name, tags=tags)
            self.run_id = run.info.run_id
        self._thread = threading.Thread(target=self._write_queue, name="mlflow-writer", daemon=True)
        self._thread.start()
        return self.run_id

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Queue metrics of one step; returns at once."""
        if self.run_id is not None:
            self._queue.put((time.time_ns() // 1_000_000, step, dict(values)))

    def params(self, values: Mapping[str, str]) -> None:
        """Parameters of the run, cut to the length that MLflow takes."""
        if self.run_id is not None:
            from mlflow.entities import Param

            known = self._client.get_run(self.run_id).data.params
            params = [
                Param(_key(key), str(value)[:6000]) for key, value in values.items() if _key(key) not in known
            ]
            for first in range(0, len(params), 100):
                self._client.log_batch(self.run_id, params=params[first : first + 100])

    def tags(self, values: Mapping[str, str]) -> None:
        if self.run_id is not None:
            from mlflow.entities import RunTag

            tags = [RunTag(key, str(value)[:5000]) for key, value in values.items()]
            self._client.log_batch(self.run_id, tags=tags)

    def artifact(self, path: str | os.PathLike, folder: str | None = None) -> None:
        """Store a file with the run."""
        if self.run_id is not None:
            self._client.log_artifact(self.run_id, os.fspath(path), folder)

    def json(self, value: Any, name: str) -> None:
        """Store a value as a JSON file with the run."""
        if self.run_id is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                path.write_text(json.dumps(value, indent=2, default=str) + "\n")
                self.artifact(path)

    def image(self, key: str, picture: np.ndarray, step: int) -> None:
        """Store a picture, (height, width, 3) uint8, as one step of the image grid `key`."""
        if self.run_id is not None:
            self._client.log_image(self.run_id, picture, key=key, step=step)

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Store columns of equal length as an MLflow table; `name` ends in .json."""
        if self.run_id is not None:
            self._client.log_table(self.run_id, {key: list(values) for key, values in columns.items()}, name)

    def inputs(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """Name the datasets of the run.

        Args:
            datasets: each with "name", "digest", "source_type", "source" (text, may be JSON), "schema" and
                "profile" (JSON), and "context", such as training or validation.
        """
        if self.run_id is not None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            inputs = [
                DatasetInput(
                    Dataset(**{key: value for key, value in dataset.items() if key != "context"}),
                    [InputTag("mlflow.data.context", dataset["context"])],
                )
                for dataset in datasets
            ]
            self._client.log_inputs(self.run_id, inputs)

    def drain(self) -> None:
        """Wait until everything queued so far is written or refused."""
        if self._thread is not None and self._thread.is_alive():
            done = threading.Event()
            self._queue.put(done)
            done.wait()

    def flush(self) -> None:
        """Wait until everything queued so far is written.

        Raises:
            TrackingError: the background thread could not write.
        """
        self.drain()
        if self._failure is not None:
            raise TrackingError(f"MLflow at {self.uri} refused metrics: {self._failure}") from self._failure

    def finish(self, status: str) -> None:
        """Write what is left and close the run as FINISHED, FAILED or KILLED."""
        if self.run_id is None:
            return
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        try:
            self._client.set_terminated(self.run_id, status)
        except Exception as error:
            raise TrackingError(
                f"MLflow at {self.uri} did not take that the run is {status}: {error}"
            ) from error

    def __enter__(self) -> Tracking:
        if threading.current_thread() is threading.main_thread():
            self._handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, _terminate)
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
            for number, handler in self._handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._handlers.clear()
        if error is None:
            return
        killed = isinstance(error, (KeyboardInterrupt, Terminated))
        try:
            if not killed:
                self.tags({"error": f"{type(error).__name__}: {error}"})
            self.finish("KILLED" if killed else "FAILED")
        except Exception as failure:
            # What ended the training matters more than what MLflow says to it.
            logger.warning("the MLflow run %s stays open: %s", self.run_id, failure)
        if isinstance(error, Terminated):
            raise SystemExit(128 + signal.SIGTERM) from None
        if kind is None:
            raise error

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"the MLflow experiment '{self.experiment}' was deleted; restore it or choose another --experiment"
            )
        if found is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(self.experiment, artifact_location=_artifact_root(self.uri))
        except MlflowException:
            # Another training created it in between.
            found = self._client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return found.experiment_id

    def _write_queue(self) -> None:
        from mlflow.entities import Metric

        open_for_more = True
        while open_for_more:
            items = [self._queue.get()]
            deadline = time.monotonic() + self.flush_seconds
            while items[-1] is not None and not isinstance(items[-1], threading.Event):
                try:
                    items.append(self._queue.get(timeout=max(0.0, deadline - time.monotonic())))
                except queue.Empty:
                    break
            batch: list[Any] = []
            # Whatever goes wrong, the thread stays: `flush` waits for it.
            try:
                batch = [
                    Metric(_key(name), float(value), item[0], item[1])
                    for item in items
                    if isinstance(item, tuple)
                    for name, value in item[2].items()
                ]
                for first in range(0, len(batch), 1000):
                    self._client.log_batch(self.run_id, metrics=batch[first : first + 1000])
            except Exception as error:
                logger.warning("MLflow at %s refused %d metrics: %s", self.uri, len(batch), error)
                self._failure = error
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()
            open_for_more = items[-1] is not None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(f"signal {number}")


def _key(name: str) -> str:
    allowed = "_-. :/"
    return "".join(c if (c.isascii() and c.isalnum()) or c in allowed else "_" for c in name)[:250]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _sqlite_file(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri[len(prefix) :]).absolute() if uri.startswith(prefix) else None


def _artifact_root(uri: str) -> str | None:
    """Beside the database; a folder `mlruns` would make a bare `mlflow ui` look for old file-store runs."""
    database = _sqlite_file(uri)
    return (database.parent / "mlartifacts").as_uri() if database is not None else None


@contextlib.contextmanager
def _sqlite_lock(uri: str) -> Iterator[None]:
    """Let one process at a time create the tables of a new SQLite file; two at once break each other."""
    database = _sqlite_file(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{database}.lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
