"""The process that segments the series of a node, one after another.

It is a process of its own so that a series that ends it (by a decoder's crash, by lack of memory) does not end the node,
and stays from job to job, since loading torch and MONAI takes seconds.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipelines.utils.worker_processes import end_with_parent
from transforms.errors import UserError

__all__ = ["ModelRefusedError", "Worker", "WorkerEndedError"]


_PATIENCE = 5.0
"""Seconds for an idle process to end."""


class WorkerEndedError(UserError, RuntimeError):
    """The process has ended by force while it worked."""


class ModelRefusedError(UserError, ValueError):
    """The model cannot be loaded, or not be used for series of CT; the message says why."""


class Worker:
    """A process that segments DICOM folders with one bundle, as `python -m pipelines predict` does.

    Args:
        config: the bundle's `inference.json`.
        settings: values by id that replace those of the config, see `pipelines.inference.bundle_inference`.
    """

    def __init__(self, config: Path, settings: Mapping[str, Any]) -> None:
        self.config, self.settings = config, dict(settings)
        self._process: Any = None
        self._connection: Any = None
        self._working = False

    def start(self) -> None:
        """Start the process and load the model once, to know that it can be used.

        Raises:
            ModelRefusedError: it cannot.
            WorkerEndedError: the process ended.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.config, self.settings), daemon=True)
        self._process.start()
        # Else this process would hold it open and not hear that the other one is gone.
        theirs.close()
        self._connection = ours
        problem = self._answer()
        if problem:
            self.stop()
            raise ModelRefusedError(problem)

    def segment(self, images: Path, results: Path, log: Path) -> str:
        """Segment a series; returns "" or the reason why that is not possible.

        Args:
            images: folder of its images.
            results: folder for what the prediction writes.
            log: file for what the prediction says.

        Raises:
            ModelRefusedError: the process had to be started, and the model can no longer be used.
            WorkerEndedError: the process ended, most likely for lack of memory.
        """
        if self._connection is None:
            self.start()
        return self._answer((images, results, log))

    def stop(self) -> None:
        """End the process, also in the middle of a series."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            if not self._working:
                # It ends by itself, and leaves nothing of its libraries behind.
                self._process.join(_PATIENCE)
            self._process.kill()
            self._process.join()
            self._process = None

    def _answer(self, request: tuple[Path, ...] | None = None) -> str:
        assert self._connection is not None
        try:
            self._working = True
            if request is not None:
                self._connection.send(request)
            answer = str(self._connection.recv())
            self._working = False
            return answer
        except (EOFError, ConnectionError) as error:
            process = self._process
            process.join()
            code = process.exitcode
            self.stop()
            how = signal.Signals(-code).name if code < 0 else f"status {code}"
            raise WorkerEndedError(
                f"the process that segments ended with {how}, perhaps for lack of memory"
            ) from error


def _serve(connection: Connection, config: Path, settings: Mapping[str, Any]) -> None:
    """What the process does: say whether the model can be used, then segment what is asked for."""
    end_with_parent()
    # Ctrl-C is for the node, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send(_problem_of_model(settings["model"]))
    with contextlib.suppress(EOFError):
        while True:
            images, results, log = connection.recv()
            with _speaking_to(log):
                answer = _segment(config, settings, images, results)
                # Before the next one begins: `keep_what_is_there` keeps for ever what has not been collected.
                gc.collect()
            connection.send(answer)


def _problem_of_model(model: Any) -> str:
    from pipelines.config.errors import user_error
    from pipelines.inference.ensemble import trained_model

    try:
        trained = trained_model(model)
    except Exception as error:
        known = user_error(error)
        return str(known) if known else f"{model} cannot be loaded: {type(error).__name__}: {error}"
    channels = trained.preprocess.channels
    if channels != 1:
        return f"the model {model} takes images of {channels} channels, and a DICOM series is one of them"
    return ""


def _segment(config: Path, settings: Mapping[str, Any], images: Path, results: Path) -> str:
    from pipelines.config.errors import user_error
    from pipelines.inference.bundle_inference import as_literal, run_inference
    from pipelines.inference.case_reports import read_reports

    try:
        run_inference(config, {**settings, "input": as_literal(images), "output": as_literal(results)})
        return ""
    except Exception as error:
        known = user_error(error)
        if known is None:
            traceback.print_exc()
        failed = [report["error"] for report in read_reports(results).values() if report["status"] != "done"]
        return " ".join(failed) or (str(known) if known else f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _speaking_to(log: Path) -> Any:
    """Let everything that the process prints, its libraries too, go to a file."""
    before = [os.dup(number) for number in (1, 2)]
    with log.open("ab") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, number)
            os.close(kept)
