"""An error of one rank ends all of them, soon, and each knows whose error it was.

Left alone, the other ranks wait for the one that failed until a time limit of minutes, or fail with what the
network says ("Connection closed by peer"), and the one that has the MLflow run never learns why. So a failing
rank puts its error into the store by which torchrun's processes found each other, and a thread of each rank looks
there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Protocol, TypedDict

import torch

from pipelines.utils.signals import SignalHandler
from transforms.errors import UserError

LOOK = 1.0
"""Seconds between looks for an error of another rank."""
GRACE = 10.0
"""Seconds that a rank gets to end by itself once another one has failed; what it waits for may never come."""
CLOSING = 25.0
"""Seconds that ranks leave rank 0 to close the MLflow run. torchrun kills what is left 30 s after the first has ended."""
_FAILURE, _CLOSED = "failure", "closed"


class OtherRankError(UserError, RuntimeError):
    """Another process of this training failed; the message says which and why."""


class RankLostError(UserError, RuntimeError):
    """Another process of this training ended without a word."""


class Failure(TypedDict):
    """What a rank tells the others: who failed, where, and why."""

    rank: int
    host: str
    error: str


class Watch:
    """Looks for errors of other ranks, and tells them of one's own; one a process, by `start`.

    Args:
        store: that all ranks reach, empty at the start.
        rank, world: this process and how many there are.
    """

    current: Watch | None = None

    def __init__(self, store: torch.distributed.Store, rank: int, world: int) -> None:
        self.store, self.rank, self.world = store, rank, world
        self.close_run: Callable[[BaseException], None] | None = None
        self._own = False
        self._ended = threading.Event()
        self._ending = threading.Event()
        self._hook = sys.excepthook
        self._thread = threading.Thread(target=self._look, name="other ranks", daemon=True)

    @staticmethod
    def start() -> None:
        """Begin to look; from here on an uncaught error of this process is told to the others."""
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        if world == 1 or address is None or port is None:
            return
        client = torch.distributed.TCPStore(
            address, int(port), is_master=False, timeout=timedelta(seconds=30), wait_for_workers=False
        )
        # After a restart by torchrun the errors of the attempt before are still there.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        watch = Watch(torch.distributed.PrefixStore(f"segbundles/{attempt}", client), rank, world)
        watch._hook, sys.excepthook = sys.excepthook, watch._uncaught
        watch._thread.start()
        Watch.current = watch

    @staticmethod
    def stop() -> None:
        """Look no more: this process ends well."""
        watch, Watch.current = Watch.current, None
        if watch is not None:
            watch._ended.set()
            watch._thread.join()
            sys.excepthook = watch._hook

    def failed(self) -> bool:
        """Whether a rank has told of an error."""
        with contextlib.suppress(RuntimeError):
            return self._failure() is not None
        return False

    def settled(self, error: BaseException) -> BaseException:
        """What this rank fails with: its own error if it is the first one to fail, or else the first one's.

        Called in the main thread before anything that the error ends.
        """
        self._ending.set()
        if isinstance(error, OtherRankError) or self._own:
            return error
        if _is_lost(error) and self._failure(wait=LOOK / 2) is None:
            error = RankLostError(
                "another process of this training ended without a word, killed or short of memory (torchrun says "
                "which); the same command goes on after the last checkpoint"
            ).with_traceback(error.__traceback__)
        own: Failure = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "error": f"{type(error).__name__}: {error}"[:4000],
        }
        with contextlib.suppress(RuntimeError):  # the first host is gone: nobody there to be told
            first = json.loads(self.store.compare_set(_FAILURE, "", json.dumps(own)))
            self._own = first == own
            if not self._own:
                return self._others(first)
        return error

    def _others(self, failure: Failure) -> OtherRankError:
        where = f"rank {failure['rank']} of {self.world} on {failure['host']}"
        return OtherRankError(f"{where} failed: {failure['error']}")

    def _failure(self, wait: float = 0.0) -> Failure | None:
        """The first error that a rank has told, None if there is none within so many seconds."""
        end = time.monotonic() + wait
        while True:
            if self.store.check([_FAILURE]):
                return json.loads(self.store.get(_FAILURE))
            if time.monotonic() >= end:
                return None
            time.sleep(LOOK / 10)

    def _look(self) -> None:
        while not self._ended.wait(LOOK):
            try:
                failure = self._failure()
            except RuntimeError:  # DistError: the host with the store is gone
                failure = {"rank": 0, "host": os.environ["MASTER_ADDR"], "error": "its host is not reached"}
            if failure is None or failure["rank"] == self.rank:
                continue
            if torch.cuda.is_available():
                self._abort()
            if not self._ending.wait(GRACE):
                self._end(self._others(failure))
            return

    def _abort(self) -> None:
        """Have the main thread not wait on the GPU for a rank that is gone."""
        with contextlib.suppress(RuntimeError, ValueError, AttributeError):
            default = torch.distributed.distributed_c10d._get_default_group()
            default._get_backend(torch.device("cuda")).abort()

    def _end(self, error: OtherRankError) -> None:
        """End a process whose main thread waits for something that may never come."""
        try:
            if self.close_run is not None:
                self.close_run(error)
            self._closed()
        finally:
            sys.stderr.flush()
            os._exit(1)

    def _closed(self) -> None:
        """On rank 0 say that the run is closed, on others wait until it is."""
        with contextlib.suppress(RuntimeError):
            if self.rank == 0:
                self.store.set(_CLOSED, "1")
                return
            # Over gloo a rank that waits for this one learns from its end that it is gone, over NCCL it does not.
            if not torch.cuda.is_available() and self._own:
                return
            end = time.monotonic() + CLOSING
            while not self.store.check([_CLOSED]) and time.monotonic() < end:
                time.sleep(LOOK / 10)

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, Exception):
            self._hook(kind, error, trace)
            return
        settled = self.settled(error)
        # The rank that failed says why.
        if not _is_another_ranks(error) and not isinstance(settled, OtherRankError):
            self._hook(type(settled), settled, settled.__traceback__)
            sys.stderr.flush()
        self._closed()


class _Run(Protocol):
    def ignore_sigterm(self) -> None: ...

    def fail(self, error: BaseException) -> None: ...


@contextlib.contextmanager
def failing_together(run: _Run) -> Iterator[None]:
    """Within, an error is that of the rank that failed first, for the MLflow run to say so; entered on every rank.

    Args:
        run: `Tracking`, which is to be left only after this.

    Raises:
        OtherRankError: another rank failed first.
        RankLostError: another rank is gone and nobody said why.
    """
    watch = Watch.current
    if watch is None:
        yield
        return
    watch.close_run = run.fail

    def unless_failing(number: int, frame: FrameType | None) -> None:
        # torchrun sends it to all when one has failed: the error itself is on its way to here.
        if not watch.failed():
            sigterm.pass_on(frame)

    sigterm = SignalHandler(signal.SIGTERM, unless_failing).set()
    try:
        yield
        # After an error it stays until `run` is left, which sets what was before it.
        sigterm.restore()
    except BaseException as error:
        # Also torchrun's SIGTERM: it sends it to all when one has failed.
        if isinstance(error, Exception) or watch.failed():
            if watch.rank == 0:
                run.ignore_sigterm()
            settled = watch.settled(error)
            if settled is not error:
                raise settled from error
        raise
    finally:
        watch.close_run = None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those behind it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_another_ranks(error: BaseException) -> bool:
    """Whether another rank's error is behind this one."""
    return any(isinstance(one, OtherRankError) for one in _chain(error))


def _is_lost(error: BaseException) -> bool:
    """Whether a collective failed since another rank is gone; gloo has no class of its own for that."""
    return any(
        isinstance(one, torch.distributed.DistError)
        or (isinstance(one, RuntimeError) and ("gloo" in str(one) or "NCCL" in str(one)))
        for one in _chain(error)
    )
