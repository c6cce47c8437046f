"""The background thread that delivers the journal of the current run, and journals of earlier processes, to MLflow."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import traceback
from functools import partial
from typing import Any

from pipelines.tracking.client import TrackingError, connect, first_line, timed_out, wait_longer
from pipelines.tracking.delivery import Delivery
from pipelines.tracking.journal import Journal, journals, sqlite_file
from pipelines.tracking.records import Head
from pipelines.tracking.runs import PENDING, close_abandoned
from pipelines.utils.passwords import hidden
from pipelines.utils.processes import alive

logger = logging.getLogger(__name__)

# Seconds that a start waits for MLflow to open the run; on a busy machine, creating a new database takes long.
START_SECONDS, START_SECONDS_FILE = 10.0, 120.0
LONGEST_PAUSE = 60.0


class Busy(Exception):
    """Another process is delivering a journal that must be delivered first."""


class Shipping:
    """Delivers a journal to MLflow in a background thread while the training writes it.

    Args:
        journal: the journal of this process.
        uri: tracking URI.
        interval: seconds between deliveries.
    """

    def __init__(self, journal: Journal, uri: str, interval: float) -> None:
        self.journal = journal
        self.uri = uri
        self.interval = interval
        self._client: Any = None
        self._delivery: Delivery | None = None
        self._other_journals: list[Journal] | None = None
        self._failures = 0
        self._next_delivery = 0.0
        self._settings_error: TrackingError | None = None
        self._starting = True
        self._stopping = False
        self._warned = False
        self._condition = threading.Condition()
        # Guarded by the condition: the number of the last request to the thread, and of the last one that it completed.
        self._requested = 0
        self._completed = -1
        self._all_delivered = False
        self._thread = threading.Thread(target=self._run, name="mlflow-delivery", daemon=True)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the run is open."""
        return self._delivery.run_id if self._delivery is not None else None

    @property
    def experiment(self) -> str | None:
        """Name of the run's experiment, if it was read from MLflow."""
        return self._delivery.experiment if self._delivery is not None else None

    @property
    def pending(self) -> int:
        """Bytes of the journal that MLflow does not have."""
        return self._delivery.pending if self._delivery is not None else self.journal.size

    def start(self) -> None:
        """Start the thread, and wait for a limited time until the run is open.

        Raises:
            TrackingError: the run cannot be opened with these settings.
        """
        self._thread.start()
        seconds = START_SECONDS if sqlite_file(self.uri) is None else START_SECONDS_FILE
        with self._condition:
            self._condition.wait_for(lambda: self._completed >= 0, seconds)
            error, self._starting = self._settings_error, False
            if self._completed < 0:
                self._warn("does not answer")
        if error is not None:
            self.stop()
            raise error

    def wait(self, seconds: float) -> bool:
        """Wait until the whole journal is delivered; returns whether it is.

        Gives up after `seconds`, or after three attempts in a row, one to two seconds apart, that delivered nothing.
        """
        deadline = time.monotonic() + seconds
        failed, pending_before = 0, self.pending
        while failed < 3:
            with self._condition:
                self._requested += 1
                requested = self._requested
                self._condition.notify_all()
                left = deadline - time.monotonic()
                self._condition.wait_for(partial(self._has_completed, requested), max(0.0, left))
                if self._completed >= requested and self._all_delivered:
                    return True
            if time.monotonic() >= deadline or self._stopping:
                return False
            failed = failed + 1 if self.pending >= pending_before else 0
            pending_before = self.pending
            if failed < 3:
                time.sleep(min(float(failed), max(0.0, deadline - time.monotonic())))
        return False

    def wait_for_others(self, seconds: float) -> None:
        """Wait until the journals of earlier processes are processed, an attempt fails, or the time is over."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._other_journals is None or self._failures > 0, max(0.0, seconds)
            )

    def stop(self) -> None:
        """End the thread; if it does not end within two seconds, it is left running in the background."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._thread.join(2.0)

    # The thread.

    def _run(self) -> None:
        while not self._stopping:
            with self._condition:
                requested = self._requested
            complete = self._attempt(requested > self._completed and self._completed >= 0)
            with self._condition:
                self._completed, self._all_delivered = requested, complete
                self._condition.notify_all()
                if self._requested == requested and not self._stopping:
                    self._condition.wait_for(partial(self._must_wake, requested), self._pause())

    def _has_completed(self, requested: int) -> bool:
        return self._completed >= requested

    def _must_wake(self, requested: int) -> bool:
        return self._stopping or self._requested > requested

    def _pause(self) -> float:
        if self._failures:
            return min(LONGEST_PAUSE, 2.0 ** min(self._failures - 1, 10)) * random.uniform(0.8, 1.2)
        return 0.0 if self._other_journals is not None else max(0.0, self._next_delivery - time.monotonic())

    def _attempt(self, requested: bool) -> bool:
        """Do the next step; returns whether the whole journal is delivered now, False after an error."""
        try:
            complete = self._next_step(requested)
        except Exception as error:
            logger.debug("delivery failed: %s", hidden("".join(traceback.format_exception(error))))
            self._failures += 1
            if timed_out(error):
                wait_longer()
            if isinstance(error, TrackingError) and self._starting:
                self._settings_error = error
            elif not isinstance(error, Busy) and (self._starting or self._failures > 1):
                # A single failed request is not worth a warning.
                self._warn(first_line(error))
            return False
        if self._warned:
            logger.warning(
                "MLflow at %s can be reached again; the records kept in the journal are sent now",
                hidden(self.uri),
            )
            self._warned = False
        self._failures = 0
        return complete

    def _warn(self, problem: str) -> None:
        if not self._warned:
            logger.warning(
                "MLflow at %s cannot be reached (%s); until it can, the run continues and its records are kept in %s",
                hidden(self.uri),
                problem,
                self.journal.folder,
            )
        self._warned = True

    def _next_step(self, requested: bool) -> bool:
        if self._client is None:
            self._client = connect(self.uri)
        if self._delivery is None:
            delivery = Delivery(self.journal, self._client, strict=self._starting)
            self._deliver_earlier(delivery.head)
            delivery.open()
            self._delivery = delivery
            self._other_journals = journals(self.journal.folder.parent)
            self._next_delivery = time.monotonic() + self.interval
            if not requested:
                return False
        due = requested or time.monotonic() >= self._next_delivery
        if due:
            self._delivery.advance()
            self._next_delivery = time.monotonic() + self.interval
        if self._other_journals is not None and not requested:
            self._process_next(self._other_journals)
        return due

    def _process_next(self, others: list[Journal]) -> None:
        """Process one journal of an earlier process, or, after all of them, close open runs without a journal."""
        assert self._delivery is not None
        if others:
            other = others.pop(0)
            if other.folder != self.journal.folder:
                try:
                    self._deliver_other(other)
                except TrackingError as error:
                    logger.warning("the journal %s cannot be delivered: %s", other.folder, error)
            return
        self._other_journals = None
        experiment = self._client.get_run(self.run_id).info.experiment_id
        close_abandoned(self._client, experiment, self._delivery.head["work"], except_run=self.run_id or "")

    def _deliver_earlier(self, head: Head) -> None:
        """Deliver the journals of earlier processes that wrote the continued run, since their records come first."""
        run_id = head.get("continue")
        if run_id is None:
            return
        for journal in journals(self.journal.folder.parent):
            first = journal.head()
            if journal.folder == self.journal.folder or first is None or not self._is_same_store(first):
                continue
            names = (journal.progress().get("run_id"), first.get("continue"), PENDING + first["key"])
            if run_id not in names:
                continue
            if not _try_lock(journal):
                if alive(json.loads(first["process"])):
                    continue  # the run is in use, which `Delivery.open` finds out and reports
                raise Busy(f"{journal.folder} is being delivered")
            self._deliver_other(journal, continued=True)

    def _is_same_store(self, head: Head) -> bool:
        """Whether a journal is for the same store; its address is compared without the password."""
        return hidden(str(head.get("uri"))) == hidden(self.uri)

    def _deliver_other(self, journal: Journal, continued: bool = False) -> None:
        """Deliver the journal of a process that has ended.

        Args:
            journal: the journal; it is unlocked at the end.
            continued: whether it belongs to the run that this process continues; it is then locked already.
        """
        head = journal.head()
        if (head is not None and not self._is_same_store(head)) or not (continued or _try_lock(journal)):
            return
        try:
            if head is None:  # the process ended before it wrote the first line
                journal.remove()
                return
            delivery = Delivery(journal, self._client)
            delivery.open()
            delivery.advance()
            same_run = self._delivery is not None and delivery.run_id == self._delivery.run_id
            if not (delivery.ended or continued or same_run):
                if self._delivery is None or head["work"] != self._delivery.head["work"]:
                    return  # another training's run, which its next start continues or closes
                delivery.abandon()
            journal.remove()
        finally:
            journal.release()


def _try_lock(journal: Journal) -> bool:
    """Lock a journal for this process; False if another process has locked it or the file system does not support locks."""
    try:
        return journal.take()
    except OSError:
        return False
