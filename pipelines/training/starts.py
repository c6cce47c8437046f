"""What a training notes for the next start of it, which may follow a kill at any moment.

Two moments leave no trace in checkpoints. Before the first of them a run is open in MLflow already, and the next
start has to go on with it. After the last of them the process still takes seconds to end; killed then, it has failed
for whoever started it, and is started again, though everything is done.

The note lies in the lock file of the folder of checkpoints, which lasts and which only one process writes.
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
    """What the lock file says; nothing where no start has to know anything.

    Attributes:
        what: whether a run has begun, or all is done.
        work: digest of what makes the training the one it is.
        run_id: of the run that has begun.
        process: that has done all.
    """

    what: str
    work: str
    run_id: str | None
    process: Process


class Starts:
    """The note in a lock file. Where the file cannot be locked or written there is none, and every start is the first.

    Args:
        lock: of the folder, held by this process while anything is asked or written.
    """

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._begun = False
        self._before: Note = {}

    def run_begun(self, work: Mapping[str, str]) -> str | None:
        """The run that an earlier process opened for this work before it was killed without a checkpoint."""
        note = self._note()
        return note["run_id"] if note.get("what") == _BEGUN and note.get("work") == _digest(work) else None

    def begin(self, work: Mapping[str, str], run_id: str | None) -> None:
        """Note the run of this work, until there is a checkpoint."""
        if not self._begun:
            self._before = self._note()
        self._begun = True
        self._write({"what": _BEGUN, "work": _digest(work), "run_id": run_id})

    def has_checkpoint(self) -> None:
        """From here on the checkpoint says which run it is."""
        if self._begun:
            self._begun = False
            self._write(None)

    def fail(self) -> None:
        """Nobody goes on with a run that failed before its first checkpoint; what was done before stays done."""
        if self._begun:
            self._begun = False
            self._write(self._before if self._before.get("what") == _FINISHED else None)

    def finish(self) -> None:
        """Note that all is done but the end of this process, which removes the note."""
        self._begun = False
        self._write({"what": _FINISHED, "process": identity()})
        atexit.register(_end, self._lock.path)

    def was_finished(self) -> bool:
        """Whether the process that finished the training was killed before it had ended."""
        note = self._note()
        process = note.get("process")
        return note.get("what") == _FINISHED and process != identity() and not alive(process or {})

    def told(self) -> None:
        """Whoever started it knows now that the training is finished."""
        self._write(None)

    def _note(self) -> Note:
        try:
            found = json.loads(self._lock.note() or b"{}")
        except (OSError, ValueError):
            return {}
        return cast(Note, found) if isinstance(found, dict) else {}

    def _write(self, note: Note | None) -> None:
        # Without a note a start does what it would do after no kill at all.
        with contextlib.suppress(OSError):
            self._lock.write_note(b"" if note is None else json.dumps(note).encode())


def _end(path: Path) -> None:
    """At the end of the process: nobody has to be told again that the training is finished."""
    if getattr(sys, "last_value", None) is not None or not path.is_file():
        return  # it ends with an error after all, and is started again
    lock = Lock(path)
    with contextlib.suppress(OSError):
        if lock.take():
            starts = Starts(lock)
            if starts._note().get("process") == identity():
                starts.told()
            lock.release()


def _digest(work: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(work), sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
