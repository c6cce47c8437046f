"""A note that a training leaves for its next start, since its process may be killed at any time.

Two situations cannot be seen from the checkpoints:

- The process was killed before its first checkpoint. A run is already open in MLflow, and the next start has to
  continue it.
- The process was killed after its last checkpoint, during the seconds that it takes to exit. A scheduler sees a
  failure and starts it again, although the training is finished.

The note is in the lock file of the checkpoint folder, which is never deleted and which only one process writes.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from pipelines.utils.locks import Lock
from pipelines.utils.processes import Process, alive, identity

_BEGUN, _FINISHED = "begun", "finished"


class Note(TypedDict, total=False):
    """The content of the lock file; empty if there is nothing to note.

    Attributes:
        what: "begun" if a run is open without a checkpoint, "finished" if the training is finished.
        work: digest of the training identity, see `pipelines.training.resume.training_identity`.
        run_id: id of the open run.
        process: process that finished the training.
    """

    what: str
    work: str
    run_id: str | None
    process: Process


class Starts:
    """Reads and writes the note in a lock file; without a readable or writable file there is no note.

    Args:
        lock: lock of the checkpoint folder, which this process holds while it uses this object.
    """

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._begun = False
        self._before: Note = {}

    def run_begun(self, work: Mapping[str, str]) -> str | None:
        """The run that an earlier process opened for this work and left without a checkpoint; None if there is none."""
        note = self._note()
        return note["run_id"] if note.get("what") == _BEGUN and note.get("work") == _digest(work) else None

    def begin(self, work: Mapping[str, str], run_id: str | None) -> None:
        """Note that the run of this work is open and has no checkpoint yet."""
        if not self._begun:
            self._before = self._note()
        self._begun = True
        self._write({"what": _BEGUN, "work": _digest(work), "run_id": run_id})

    def has_checkpoint(self) -> None:
        """Remove the note of an open run, since the first checkpoint now holds the id of the run."""
        if self._begun:
            self._begun = False
            self._write(None)

    def fail(self) -> None:
        """Remove the note of an open run that failed without a checkpoint, so that no start continues it.

        The note of a training that was finished before is restored.
        """
        if self._begun:
            self._begun = False
            self._write(self._before if self._before.get("what") == _FINISHED else None)

    def finish(self) -> None:
        """Note that the training is finished; the note is removed when this process exits."""
        self._begun = False
        self._write({"what": _FINISHED, "process": identity()})
        atexit.register(_end, self._lock.path)

    def was_finished(self) -> bool:
        """Whether the process that finished the training was killed before it exited."""
        note = self._note()
        process = note.get("process")
        return note.get("what") == _FINISHED and process != identity() and not alive(process or {})

    def told(self) -> None:
        """Remove the note, since the user has been informed that the training is finished."""
        self._write(None)

    def _note(self) -> Note:
        try:
            found = json.loads(self._lock.note() or b"{}")
        except (OSError, ValueError):
            return {}
        return cast(Note, found) if isinstance(found, dict) else {}

    def _write(self, note: Note | None) -> None:
        # If the note cannot be written, the next start behaves as if no process had been killed.
        with contextlib.suppress(OSError):
            self._lock.write_note(b"" if note is None else json.dumps(note).encode())


def _end(path: Path) -> None:
    """Remove the note when the process exits normally."""
    if getattr(sys, "last_value", None) is not None or not path.is_file():
        return  # the process ends with an uncaught exception, so the next start still needs the note
    lock = Lock(path)
    with contextlib.suppress(OSError):
        if lock.take():
            starts = Starts(lock)
            if starts._note().get("process") == identity():
                starts.told()
            lock.release()


def _digest(work: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(work), sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
