"""A DICOM node: what comes in is queued, segmented in its turn, and delivered."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path

from pipelines.deployment.node.job import LOG, Job
from pipelines.deployment.node.listener import Listener
from pipelines.deployment.node.queue import Queue
from pipelines.deployment.node.sender import RefusedError, Sender, UnreachableError
from pipelines.deployment.node.worker import Worker, WorkerEndedError
from pipelines.utils.signals import terminating
from transforms.utils.files import put_in_place, sync_folder

logger = logging.getLogger(__name__)

MOST_STARTS = 3
"""So often a segmentation may begin and end by force before its series is set aside."""
_PAUSE = 0.5
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 600.0


class Node:
    """Listens, segments and delivers until it is told to stop.

    Args:
        queue: what came in and is not done yet.
        listener: takes images into the queue.
        worker: segments series.
        sender: sends results; None to keep them here.
        output: folder for results; None to send them only.
        quiet: name no UIDs and no files in the log.
        first_wait: seconds until a destination that is away is tried again; twice as long each time.
    """

    def __init__(
        self,
        queue: Queue,
        listener: Listener,
        worker: Worker,
        sender: Sender | None = None,
        output: str | os.PathLike | None = None,
        quiet: bool = False,
        first_wait: float = _FIRST_WAIT,
    ) -> None:
        self.queue, self.listener, self.worker, self.sender = queue, listener, worker, sender
        self.output = Path(output) if output is not None else None
        self.quiet, self.first_wait = quiet, first_wait
        self._stopping = threading.Event()

    def run(self, host: str, port: int) -> None:
        """Work until SIGTERM or Ctrl-C; what is not done then is done by the next node on the same queue.

        Raises:
            ModelRefusedError: the model cannot be used.
            ListenError: the address cannot be used.
        """
        delivering = threading.Thread(target=self._deliver, name="delivery", daemon=True)
        with terminating():
            try:
                # The model first: nobody sends to a node that cannot segment.
                self.worker.start()
                port = self.listener.start(host, port)
                logger.info("%s listens at %s:%d", self.listener.title, host, port)
                waiting = [len(jobs) for jobs in (self.queue.jobs(), self.queue.outbox(), self.queue.aside())]
                if any(waiting):
                    logger.info("in the queue: %d to segment, %d to deliver, %d set aside", *waiting)
                delivering.start()
                while True:
                    self._step()
            except SystemExit:
                logger.info("stopped; what is in %s is done after the next start", self.queue.folder)
            finally:
                self._stopping.set()
                self.listener.stop()
                self.worker.stop()
                if delivering.is_alive():
                    delivering.join(self.listener.limits.timeout)
                self.queue.close()

    def _step(self) -> None:
        for new in self.queue.complete():
            logger.info("%s is whole: %d images, job %s", self._named(new), len(new.instances), new.name)
        job = self.queue.take()
        if job is not None:
            self._segment(job)
        else:
            with self.queue.changed:
                self.queue.changed.wait(_PAUSE)

    def _named(self, job: Job) -> str:
        return "a series" if self.quiet else f"series {job.series}"

    # --- segmenting --------------------------------------------------------------------------------------------------

    def _segment(self, job: Job) -> None:
        starts = job.starts + 1
        # Before it begins: if it ends this process too, the next one knows.
        job.note_starts(starts)
        problem = ""
        try:
            problem = self.worker.segment(job.images, job.results, job.folder / LOG)
        except WorkerEndedError as error:
            problem = f"{error}, {starts} times." if starts >= MOST_STARTS else ""
            if not problem:
                logger.warning("job %s: %s; it is tried again", job.name, error)
                return
        except SystemExit:
            # The node was asked to stop, which is no fault of the series.
            job.note_starts(starts - 1)
            raise
        if problem:
            self._set_aside(job, problem)
            return
        self.queue.segmented(job)
        logger.info("job %s is segmented", job.name)

    def _set_aside(self, job: Job, problem: str) -> None:
        sentence = " ".join(problem.split())
        logger.warning("job %s is set aside: %s", job.name, "see its why.txt" if self.quiet else sentence)
        self.queue.set_aside(job, sentence)

    # --- delivering --------------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Deliver what is segmented; a destination that is away is tried again, after longer and longer waits."""
        wait = self.first_wait
        while not self._stopping.is_set():
            try:
                for job in self.queue.outbox():
                    if self._stopping.is_set():
                        return
                    self._deliver_one(job)
                    wait = self.first_wait
            except (UnreachableError, OSError) as error:
                logger.warning("%s; the results are kept, next try in %.0f s", error, wait)
                self._stopping.wait(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            with self.queue.changed:
                self.queue.changed.wait(_PAUSE)

    def _deliver_one(self, job: Job) -> None:
        if self.output is not None:
            place = _publish(job, self.output)
            logger.info("job %s is written to %s", job.name, place)
        if self.sender is not None:
            sent = set(job.sent)
            files = [path for path in sorted(job.results.glob("*.dcm")) if path.name not in sent]
            try:
                if files:
                    self.sender.send(files, lambda path: job.note_sent(path.name))
            except UnreachableError:
                raise
            except RefusedError as error:
                self._set_aside(job, f"{error}.")
                return
            except Exception as error:  # one result must not keep the others waiting
                self._set_aside(job, f"its results cannot be sent: {type(error).__name__}: {error}.")
                return
            logger.info("job %s is sent to %s", job.name, self.sender.destination)
        self.queue.delivered(job)


def _publish(job: Job, output: Path) -> Path:
    """Copy the results of a job into a folder of their own, which appears whole; does nothing if it is there."""
    target = output / job.name
    if not target.exists():
        part = output / f".{job.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(job.results, part, ignore=shutil.ignore_patterns(".*"))
        put_in_place(part, target)
        sync_folder(output)
    return target
