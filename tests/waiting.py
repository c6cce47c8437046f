"""Waiting for what happens, as long as it takes: no verdict of a test depends on how fast a machine is.

What never happens is ended by pytest's own limit, `timeout` in pyproject.toml.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 1500.0
"""Seconds, for libraries and programs that want a limit: more than any machine needs, and less than pytest's."""
PAUSE = 0.02


def wait_for(
    condition: Callable[[], Any],
    *workers: subprocess.Popen | BaseProcess,
    said: Callable[[], str] = lambda: "",
) -> Any:
    """What `condition` returns, once that is true.

    Args:
        workers: processes that bring it about; the wait fails as soon as one of them has ended without.
        said: what they said, for the message of a failure.
    """
    while True:
        # Looked at before the condition, so that what a process does last of all counts.
        ended = [worker for worker in workers if not runs(worker.pid)]
        found = condition()
        if found:
            return found
        assert not ended, f"{ended[0]} ended before what was waited for happened\n{said()}"
        time.sleep(PAUSE)


def runs(process: int) -> bool:
    """Whether a process, by its number, has not ended; one that nobody has asked for its exit status has."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def answers(address: str) -> bool:
    """Whether an MLflow server answers at an address."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=PATIENCE):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def stay_until_signalled(reached: str | os.PathLike) -> None:
    """Make the file `reached`, and go on when SIGTERM or SIGINT has come; in the main thread, which handles them.

    For a process that a test starts: it ends when the test is gone.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before, parent = signal.set_wakeup_fd(writing), os.getppid()
    try:
        Path(reached).touch()
        came: set[int] = set()
        # The numbers of all signals come here, such as that of a loader worker's end.
        while not came & {signal.SIGTERM, signal.SIGINT}:
            if select.select([reading], [], [], 1.0)[0]:
                came |= set(os.read(reading, 64))
            elif os.getppid() != parent:
                os._exit(1)
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
