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
from pipelines.tracking.runs import PENDING, close_gone
from pipelines.utils.passwords import hidden
from pipelines.utils.processes import alive

logger = logging.getLogger(__name__)

# Seconds that a start waits for MLflow to open the run; on a busy machine, creating a new database takes long.
START_SECONDS, START_SECONDS_FILE = 10.0, 120.0
LONGEST_PAUSE = 60.0


class Busy(Exception):
    """Another process is delivering a journal that must be delivered first."""


class Shipping:
    """Delivers a journal while it is written.

    Args:
        journal: of this process.
        uri: tracking URI.
        interval: seconds between deliveries.
    """

    def __init__(self, journal: Journal, uri: str, interval: float) -> None:
        self.journal = journal
        self.uri = uri
        self.interval = interval
        self._client: Any = None
        self._delivery: Delivery | None = None
        self._others: list[Journal] | None = None
        self._failures = 0
        self._next = 0.0
        self._fatal: TrackingError | None = None
        self._starting = True
        self._stopping = False
        self._warned = False
        self._news = threading.Condition()
        # Guarded by the condition: number of the last request to the thread, and of the last one that it completed.
        self._asked = 0
        self._answered = -1
        self._complete = False
        self._thread = threading.Thread(target=self._run, name="mlflow-delivery", daemon=True)

    @property
    def run_id(self) -> str | None:
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
        with self._news:
            self._news.wait_for(lambda: self._answered >= 0, seconds)
            fatal, self._starting = self._fatal, False
            if self._answered < 0:
                self._tell("does not answer")
        if fatal is not None:
            self.stop()
            raise fatal

    def wait(self, seconds: float) -> bool:
        """Wait until the whole journal is delivered; returns whether it is.

        Gives up after `seconds`, or after three attempts in a row, one to two seconds apart, that delivered nothing.
        """
        deadline = time.monotonic() + seconds
        vain, before = 0, self.pending
        while vain < 3:
            with self._news:
                self._asked += 1
                asked = self._asked
                self._news.notify_all()
                left = deadline - time.monotonic()
                self._news.wait_for(partial(self._has_answered, asked), max(0.0, left))
                if self._answered >= asked and self._complete:
                    return True
            if time.monotonic() >= deadline or self._stopping:
                return False
            vain = vain + 1 if self.pending >= before else 0
            before = self.pending
            if vain < 3:
                time.sleep(min(float(vain), max(0.0, deadline - time.monotonic())))
        return False

    def wait_for_others(self, seconds: float) -> None:
        """Wait until the journals of earlier processes are processed, or until an error."""
        with self._news:
            self._news.wait_for(lambda: self._others is None or self._failures > 0, max(0.0, seconds))

    def stop(self) -> None:
        """End the thread; one that hangs in a call is left behind."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
        self._thread.join(2.0)

    # The thread.

    def _run(self) -> None:
        while not self._stopping:
            with self._news:
                asked = self._asked
            complete = self._attempt(asked > self._answered and self._answered >= 0)
            with self._news:
                self._answered, self._complete = asked, complete
                self._news.notify_all()
                if self._asked == asked and not self._stopping:
                    self._news.wait_for(partial(self._has_news, asked), self._pause())

    def _has_answered(self, asked: int) -> bool:
        return self._answered >= asked

    def _has_news(self, asked: int) -> bool:
        return self._stopping or self._asked > asked

    def _pause(self) -> float:
        if self._failures:
            return min(LONGEST_PAUSE, 2.0 ** min(self._failures - 1, 10)) * random.uniform(0.8, 1.2)
        return 0.0 if self._others is not None else max(0.0, self._next - time.monotonic())

    def _attempt(self, asked: bool) -> bool:
        """Run the next step; returns whether the whole journal is delivered now."""
        try:
            complete = self._once(asked)
        except Exception as error:
            logger.debug("delivery failed: %s", hidden("".join(traceback.format_exception(error))))
            self._failures += 1
            if timed_out(error):
                wait_longer()
            if isinstance(error, TrackingError) and self._starting:
                self._fatal = error
            elif not isinstance(error, Busy) and (self._starting or self._failures > 1):
                # A single failed request is not worth a warning.
                self._tell(first_line(error))
            return False
        if self._warned:
            logger.warning("MLflow at %s is there again; it gets all that was kept", hidden(self.uri))
            self._warned = False
        self._failures = 0
        return complete

    def _tell(self, what: str) -> None:
        if not self._warned:
            logger.warning(
                "MLflow at %s cannot be reached (%s); the work goes on and the run is kept in %s meanwhile",
                hidden(self.uri),
                what,
                self.journal.folder,
            )
        self._warned = True

    def _once(self, asked: bool) -> bool:
        if self._client is None:
            self._client = connect(self.uri)
        if self._delivery is None:
            delivery = Delivery(self.journal, self._client, strict=self._starting)
            self._first_parts(delivery.head)
            delivery.open()
            self._delivery = delivery
            self._others = journals(self.journal.folder.parent)
            self._next = time.monotonic() + self.interval
            if not asked:
                return False
        due = asked or time.monotonic() >= self._next
        if due:
            self._delivery.advance()
            self._next = time.monotonic() + self.interval
        if self._others is not None and not asked:
            self._tidy(self._others)
        return due

    def _tidy(self, others: list[Journal]) -> None:
        """Process one journal of an earlier process, or, after all of them, close open runs without a journal."""
        assert self._delivery is not None
        if others:
            other = others.pop(0)
            if other.folder != self.journal.folder:
                try:
                    self._one_other(other)
                except TrackingError as error:
                    logger.warning("the journal %s cannot be delivered: %s", other.folder, error)
            return
        self._others = None
        experiment = self._client.get_run(self.run_id).info.experiment_id
        close_gone(self._client, experiment, self._delivery.head["work"], but=self.run_id or "")

    def _first_parts(self, head: Head) -> None:
        """Deliver the journals of earlier processes of a continued run, since their records come first."""
        wanted = head.get("continue")
        if wanted is None:
            return
        for journal in journals(self.journal.folder.parent):
            first = journal.head()
            if journal.folder == self.journal.folder or first is None or not self._is_ours(first):
                continue
            names = (journal.progress().get("run_id"), first.get("continue"), PENDING + first["key"])
            if wanted not in names:
                continue
            if not _taken(journal):
                if alive(json.loads(first["process"])):
                    continue  # opening the run then finds that another process is writing it
                raise Busy(f"{journal.folder} is being delivered")
            self._one_other(journal, goes_on=True)

    def _is_ours(self, head: Head) -> bool:
        """Whether a journal is for the same store, judged by the address without its password."""
        return hidden(str(head.get("uri"))) == hidden(self.uri)

    def _one_other(self, journal: Journal, goes_on: bool = False) -> None:
        """Deliver the journal of a process that has ended."""
        head = journal.head()
        if (head is not None and not self._is_ours(head)) or not (goes_on or _taken(journal)):
            return
        try:
            if head is None:  # the process ended before it wrote the first line
                journal.remove()
                return
            delivery = Delivery(journal, self._client)
            delivery.open()
            delivery.advance()
            ours = self._delivery is not None and delivery.run_id == self._delivery.run_id
            if not (delivery.ended or goes_on or ours):
                if self._delivery is None or head["work"] != self._delivery.head["work"]:
                    return  # of another training, whose next start continues or closes the run
                delivery.abandon()
            journal.remove()
        finally:
            journal.release()


def _taken(journal: Journal) -> bool:
    """Whether this process has locked the journal; False on a file system without locks."""
    try:
        return journal.take()
    except OSError:
        return False
