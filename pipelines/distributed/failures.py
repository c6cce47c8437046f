"""Ending all ranks soon after one of them fails, with the error of the rank that failed first.

Otherwise the other ranks wait for the failed one until a time limit of minutes, or fail with an error of the network
("Connection closed by peer"), and rank 0 cannot log the cause to the MLflow run. Therefore a failing rank writes its
error to torchrun's key-value store, which a thread of each rank checks regularly.
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
"""Seconds between two checks for an error of another rank."""
GRACE = 10.0
"""Seconds that a rank has to end by itself after another one has failed; then it is ended, as it may wait forever."""
CLOSING = 25.0
"""Seconds that ranks wait for rank 0 to close the MLflow run; torchrun kills all ranks 30 s after the first has ended."""
_FAILURE, _CLOSED = "failure", "closed"


class OtherRankError(UserError, RuntimeError):
    """Another process of this training failed; the message states which one and why."""


class RankLostError(UserError, RuntimeError):
    """Another process of this training ended without reporting an error."""


class Failure(TypedDict):
    """The error that a failing rank reports to the others: its rank, its host, and the message."""

    rank: int
    host: str
    error: str


class Watch:
    """Checks for errors of other ranks and reports those of this one; each process has one, made by `start`.

    Args:
        store: key-value store that all ranks can access, empty at the start.
        rank, world: rank of this process and number of processes.
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
        """Start to check; from here on an uncaught error of this process is reported to the others."""
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        if world == 1 or address is None or port is None:
            return
        client = torch.distributed.TCPStore(
            address, int(port), is_master=False, timeout=timedelta(seconds=30), wait_for_workers=False
        )
        # After a restart by torchrun the store still holds the errors of the previous attempt.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        watch = Watch(torch.distributed.PrefixStore(f"segbundles/{attempt}", client), rank, world)
        watch._hook, sys.excepthook = sys.excepthook, watch._uncaught
        watch._thread.start()
        Watch.current = watch

    @staticmethod
    def stop() -> None:
        """Stop to check, because this process ends without an error."""
        watch, Watch.current = Watch.current, None
        if watch is not None:
            watch._ended.set()
            watch._thread.join()
            sys.excepthook = watch._hook

    def failed(self) -> bool:
        """Whether a rank has reported an error."""
        with contextlib.suppress(RuntimeError):
            return self._failure() is not None
        return False

    def settled(self, error: BaseException) -> BaseException:
        """The error that this rank must raise: its own if it failed first, otherwise that of the first one.

        Must be called in the main thread, before anything is closed because of the error.
        """
        self._ending.set()
        if isinstance(error, OtherRankError) or self._own:
            return error
        if _is_lost(error) and self._failure(wait=LOOK / 2) is None:
            error = RankLostError(
                "another process of this training ended without reporting an error; it was killed or memory ran out "
                "(torchrun's output names the process). Run the same command again to continue from the last checkpoint"
            ).with_traceback(error.__traceback__)
        own: Failure = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "error": f"{type(error).__name__}: {error}"[:4000],
        }
        with contextlib.suppress(RuntimeError):  # the host with the store is not reachable
            first = json.loads(self.store.compare_set(_FAILURE, "", json.dumps(own)))
            self._own = first == own
            if not self._own:
                return self._others(first)
        return error

    def _others(self, failure: Failure) -> OtherRankError:
        where = f"rank {failure['rank']} of {self.world} on {failure['host']}"
        return OtherRankError(f"{where} failed: {failure['error']}")

    def _failure(self, wait: float = 0.0) -> Failure | None:
        """The first error that a rank has reported; None if there is none within `wait` seconds."""
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
                failure = {
                    "rank": 0,
                    "host": os.environ["MASTER_ADDR"],
                    "error": "its host cannot be reached",
                }
            if failure is None or failure["rank"] == self.rank:
                continue
            if torch.cuda.is_available():
                self._abort()
            if not self._ending.wait(GRACE):
                self._end(self._others(failure))
            return

    def _abort(self) -> None:
        """Abort NCCL's collectives, so that the main thread does not wait on the GPU for a rank that has ended."""
        with contextlib.suppress(RuntimeError, ValueError, AttributeError):
            default = torch.distributed.distributed_c10d._get_default_group()
            default._get_backend(torch.device("cuda")).abort()

    def _end(self, error: OtherRankError) -> None:
        """End this process although its main thread still waits for another rank."""
        try:
            if self.close_run is not None:
                self.close_run(error)
            self._closed()
        finally:
            sys.stderr.flush()
            os._exit(1)

    def _closed(self) -> None:
        """On rank 0 announce that the MLflow run is closed; on other ranks wait for this."""
        with contextlib.suppress(RuntimeError):
            if self.rank == 0:
                self.store.set(_CLOSED, "1")
                return
            # With gloo, other ranks notice only that this one has ended, so it must not wait; NCCL does not notice it.
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
        # Only the rank that failed first prints its error.
        if not _is_another_ranks(error) and not isinstance(settled, OtherRankError):
            self._hook(type(settled), settled, settled.__traceback__)
            sys.stderr.flush()
        self._closed()


class _Run(Protocol):
    def ignore_sigterm(self) -> None: ...

    def fail(self, error: BaseException) -> None: ...


@contextlib.contextmanager
def failing_together(run: _Run) -> Iterator[None]:
    """Replace an error raised inside by that of the rank that failed first, so that the MLflow run records it.

    Must be entered on every rank.

    Args:
        run: `Tracking`, whose context must be outside of this one.

    Raises:
        OtherRankError: another rank failed first.
        RankLostError: another rank has ended without reporting an error.
    """
    watch = Watch.current
    if watch is None:
        yield
        return
    watch.close_run = run.fail

    def unless_failing(number: int, frame: FrameType | None) -> None:
        # torchrun sends SIGTERM to all ranks when one has failed; it is then ignored, as the error itself follows.
        if not watch.failed():
            sigterm.pass_on(frame)

    sigterm = SignalHandler(signal.SIGTERM, unless_failing).set()
    try:
        yield
        # After an error the handler stays until `run` is left, which restores the previous one.
        sigterm.restore()
    except BaseException as error:
        # Includes the exception raised by torchrun's SIGTERM, which it sends to all ranks when one has failed.
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
    """The error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_another_ranks(error: BaseException) -> bool:
    """Whether another rank's error is among the causes."""
    return any(isinstance(one, OtherRankError) for one in _chain(error))


def _is_lost(error: BaseException) -> bool:
    """Whether a collective failed because another rank has ended; gloo has no exception class for this."""
    return any(
        isinstance(one, torch.distributed.DistError)
        or (isinstance(one, RuntimeError) and ("gloo" in str(one) or "NCCL" in str(one)))
        for one in _chain(error)
    )
