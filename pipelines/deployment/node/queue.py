"""The queue of a node on disk: what came in, what is to be segmented, what is to be delivered.

A series is one folder, and the folder that it lies in says how far it has come:

    receiving/   instances that are being written
    incoming/    series of which more may come
    jobs/        whole series, to be segmented in the order of their names
    outbox/      segmented series, to be delivered
    aside/       series that cannot be segmented or delivered, each with `why.txt`
    done/        for each delivered series the UIDs of its images, for some days

Each step is one rename, so a process that is killed at any moment leaves every series in one of these places, and the
next one goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.deployment.node.instances import Instance
from pipelines.deployment.node.job import IMAGES, REASON, Job, size_of
from pipelines.utils.json_files import JsonError, read_json
from pipelines.utils.locks import Lock
from transforms.errors import UserError
from transforms.utils.files import put_in_place, replacing, require_folder, sync_folder

__all__ = ["Queue", "QueueError", "QueueFullError", "key_of"]

_FOLDERS = ("receiving", "incoming", "jobs", "outbox", "aside", "done")
_REMEMBERED = 7 * 86400.0
"""Seconds for which the UIDs of a delivered series are kept."""
_ASIDE_SHARE = 4
"""Series that were set aside may fill this part of the queue, a quarter; the oldest go first."""
FREE = 64 << 20
"""Bytes that stay free on the disk."""


class QueueError(UserError, OSError):
    """The queue cannot be used; the message says why and what to do."""


class QueueFullError(UserError, OSError):
    """There is no room for another image."""


@dataclass
class _Arriving:
    """A series of which more may come: when the last image came (monotonic seconds), and over which associations."""

    last: float
    open: set[int] = field(default_factory=set)
    released: bool = False


class Queue:
    """The queue of a node. All methods may be called from any thread.

    Args:
        folder: made where it does not exist; one process at a time works on it.
        largest: bytes that it may hold; then no image is taken until there is room.
        silence: seconds without a new image after which a series is whole.
        after_release: the same once the association that sent it was released.
        clock: monotonic seconds.

    Raises:
        QueueError: another process works on the folder.
        FolderError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        largest: int,
        silence: float = 30.0,
        after_release: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = require_folder(Path(folder).absolute(), "the queue", "name another folder with --queue")
        self.largest, self.silence, self.after_release, self._clock = largest, silence, after_release, clock
        self._file = Lock(self.folder / ".lock")
        if not self._file.take():
            raise QueueError(
                f"another node works on the queue {self.folder}; end it, or name another folder with --queue"
            )
        for name in _FOLDERS:
            (self.folder / name).mkdir(exist_ok=True)
        # What a killed process was writing or removing.
        shutil.rmtree(self.folder / "receiving")
        (self.folder / "receiving").mkdir()
        self._forget()
        self.changed = threading.Condition()
        self._working: Job | None = None
        now = clock()
        for path in (self.folder / "incoming").iterdir():
            if not _holds_images(path):  # killed before its first image was in place
                shutil.rmtree(path)
        self._arriving = {path.name: _Arriving(now) for path in (self.folder / "incoming").iterdir()}
        self._used = size_of(self.folder)

    def close(self) -> None:
        """Let another process have the folder."""
        self._file.release()

    # --- images come in ----------------------------------------------------------------------------------------------

    def store(self, image: Instance, content: bytes, association: int) -> bool:
        """Keep an image; when this returns it is on the disk. Returns whether it is the first of its series.

        Args:
            image: its UIDs, each checked to be one.
            content: the whole file.
            association: number of the association that sent it.

        Raises:
            QueueFullError: the queue holds as much as it may, or the disk is full.
        """
        with self.changed:
            if self._used + len(content) > self.largest:
                raise QueueFullError(f"the queue holds its {self.largest / 1e9:.3g} GB (--max-disk)")
            if shutil.disk_usage(self.folder).free < len(content) + FREE:
                raise QueueFullError(f"the disk of {self.folder} is full")
            self._used += len(content)
        key = key_of(image.study, image.series)
        written = self.folder / "receiving" / f"{uuid.uuid4().hex}.dcm"
        with replacing(written) as temporary:
            temporary.write_bytes(content)
        with self.changed:
            home = self.folder / "incoming" / key / IMAGES / image.series
            home.mkdir(parents=True, exist_ok=True)
            put_in_place(written, home / f"{image.instance}.dcm")
            first = key not in self._arriving
            for made in (home, *(home.parents[:3] if first else ())):
                sync_folder(made)
            series = self._arriving.setdefault(key, _Arriving(0.0))
            series.last, series.released = self._clock(), False
            series.open.add(association)
            self.changed.notify_all()
        return first

    def left(self, association: int, released: bool) -> None:
        """An association is over; `released` as it should be, not broken off."""
        with self.changed:
            for series in self._arriving.values():
                if association in series.open:
                    series.open.discard(association)
                    series.released = released and not series.open
            self.changed.notify_all()

    def complete(self) -> list[Job]:
        """Make jobs of the series that are whole by now; returns the new ones."""
        with self.changed:
            now, found = self._clock(), []
            for key, series in sorted(self._arriving.items(), key=lambda item: item[1].last):
                if now - series.last >= (self.after_release if series.released else self.silence):
                    job = self._queued(key)
                    found += [job] if job is not None else []
            return found

    def _queued(self, key: str) -> Job | None:
        """The job of a whole series; None if it has to wait for, or became part of, an earlier one."""
        incoming = self.folder / "incoming" / key
        same = [job for job in [*self.jobs(), *self.outbox()] if job.key == key]
        if any(job == self._working or job.folder.parent.name == "outbox" for job in same):
            return None
        arrived = Job(incoming)
        if same:
            for image in arrived.images.iterdir():
                put_in_place(image, same[0].images / image.name)
            shutil.rmtree(incoming)
            del self._arriving[key]
            return None
        target = self.folder / "jobs" / f"{self._number()}-{key}"
        missing = set(self._known(key)) - set(arrived.instances)
        put_in_place(incoming, target)
        sync_folder(target.parent)
        del self._arriving[key]
        job = Job(target)
        if missing:
            self.set_aside(
                job,
                f"{len(job.instances)} of its images came after the series was segmented without them; send the whole"
                " series again, or wait longer for it with --silence and --after-release.",
            )
            return None
        return job

    def _number(self) -> str:
        """A name for a job that sorts after those before it."""
        stamp, count = time.strftime("%Y%m%d-%H%M%S"), 0
        there = {
            path.name.rpartition("-")[0] for name in _FOLDERS[2:] for path in (self.folder / name).iterdir()
        }
        while f"{stamp}-{count:03d}" in there:
            count += 1
        return f"{stamp}-{count:03d}"

    # --- jobs --------------------------------------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """Series to be segmented, the oldest first."""
        return self._in("jobs")

    def outbox(self) -> list[Job]:
        """Series to be delivered, the oldest first."""
        return self._in("outbox")

    def aside(self) -> list[Job]:
        """Series that cannot be segmented or delivered, the oldest first."""
        return self._in("aside")

    def _in(self, name: str) -> list[Job]:
        return [Job(path) for path in sorted((self.folder / name).iterdir()) if _holds_images(path)]

    def take(self) -> Job | None:
        """The job to segment now, which gets no more images; None if there is none."""
        with self.changed:
            waiting = self.jobs()
            self._working = waiting[0] if waiting else None
            return self._working

    def segmented(self, job: Job) -> None:
        """A job has its results."""
        self._move(job, "outbox")

    def delivered(self, job: Job) -> None:
        """The results of a job are where they belong; its folder is removed."""
        with self.changed:
            known = self.folder / "done" / f"{job.name}-{job.key}"
            with replacing(known) as temporary:
                temporary.write_text(json.dumps(job.instances), encoding="utf-8")
            # Under another name first: a part of a folder would be sent again as if it were whole.
            gone = self.folder / "receiving" / f"{uuid.uuid4().hex}.done"
            put_in_place(job.folder, gone)
            shutil.rmtree(gone)
            self._used = size_of(self.folder)
            self.changed.notify_all()

    def set_aside(self, job: Job, reason: str) -> None:
        """A job cannot be done; it stops nothing else and stays where a person finds it.

        Args:
            job: the job.
            reason: a sentence.
        """
        (job.folder / REASON).write_text(f"{reason}\n", encoding="utf-8")
        self._move(job, "aside")
        with self.changed:
            rest = self.aside()
            while len(rest) > 1 and sum(job.size() for job in rest) > self.largest / _ASIDE_SHARE:
                shutil.rmtree(rest.pop(0).folder)
            self._used = size_of(self.folder)

    def _move(self, job: Job, name: str) -> None:
        with self.changed:
            put_in_place(job.folder, self.folder / name / job.folder.name)
            sync_folder(self.folder / name)
            if self._working == job:
                self._working = None
            self._used = size_of(self.folder)
            self.changed.notify_all()

    # --- what was delivered before -----------------------------------------------------------------------------------

    def _known(self, key: str) -> list[str]:
        """The UIDs of the images with which a series was last segmented; none if that was long ago."""
        found = sorted((self.folder / "done").glob(f"*-{key}"))
        with contextlib.suppress(OSError, JsonError):
            if found:
                return list(map(str, read_json(found[-1])))
        return []

    def _forget(self) -> None:
        for path in (self.folder / "done").iterdir():
            if time.time() - path.stat().st_mtime > _REMEMBERED:
                path.unlink()


def _holds_images(folder: Path) -> bool:
    return any(path.is_file() for path in (folder / IMAGES).glob("*/*"))


def key_of(study: str, series: str) -> str:
    """The name of a series in the queue: short, equal for equal UIDs, and no path whatever they are.

    Examples:
        >>> key_of("1.2", "../3")
        'e6102f93bafce490'
    """
    return hashlib.sha256(f"{study}/{series}".encode()).hexdigest()[:16]
