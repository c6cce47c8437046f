"""The journal of a run: everything that is logged is written to disk before it is sent to MLflow.

A spool is a folder of journals, one per process that wrote a run:

    mlflow_spool/
        20261123-015318-3f2a91bc/
            journal.jsonl     one record per line, the first one identifies the run; append-only
            files/000003/...  files that records refer to: artifacts and pictures
            delivered.json    progress of the delivery to MLflow
            refused.jsonl     records that MLflow refused or that were lost on a full disk, with the reason
            end.json          the end of the run, if the disk had no space for it in the journal
            reserve           disk space reserved for the two files above
            head.jsonl        the first line, if only refused records are left
            lock              locked by the process that writes or delivers

A journal is removed when all its records are delivered and none was refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipelines.tracking.records import Delivered, Head, Record
from pipelines.tracking.refused import FILE as REFUSED
from pipelines.tracking.refused import Refused
from pipelines.utils.locks import Lock
from transforms.utils.files import link_or_copy, replacing, try_folder

logger = logging.getLogger(__name__)

FOLDER = "mlflow_spool"
VARIABLE = "SEGBUNDLES_SPOOL"
JOURNAL, HEAD, DELIVERED = "journal.jsonl", "head.jsonl", "delivered.json"
FILES, LOCK, END, RESERVE = "files", "lock", "end.json", "reserve"
# Copying a larger file would delay a training, so it is linked; the file must later be replaced, not rewritten.
LINKED = 8 << 20
_RESERVED = 1 << 16


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite tracking URI, absolute; None for any other store."""
    prefix = "sqlite:///"
    return Path(uri[len(prefix) :].partition("?")[0]).absolute() if uri.startswith(prefix) else None


def spool_folder(uri: str) -> Path:
    """The folder for journals of a tracking URI: SEGBUNDLES_SPOOL, beside a SQLite file, or the working directory."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).absolute()
    database = sqlite_file(uri)
    return (database.parent if database is not None else Path.cwd()) / FOLDER


class Journal:
    """The records that one process writes for one run.

    Args:
        folder: folder of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock(folder / LOCK)
        self._handle: int | None = None
        # Bytes that a full disk has no space for; the next record is appended to them, so that lines stay complete.
        self._waiting = b""
        self._refused = Refused(folder)
        self._warned = False
        self._count = 0
        self._writing = threading.Lock()

    @classmethod
    def create(cls, root: Path, head: Head) -> Journal:
        """Create and lock a new journal of this process whose first record is `head`.

        Raises:
            OSError: the folder cannot be created.
        """
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{head['key'][:8]}-{secrets.token_hex(2)}"
        for attempt in range(3):
            try:
                root.mkdir(parents=True, exist_ok=True)
                (root / name).mkdir(mode=0o700)
                break
            except FileNotFoundError:  # meanwhile another process removed the root, which was empty
                if attempt == 2:
                    raise
        journal = cls(root / name)
        with contextlib.suppress(OSError):  # without locks, other processes do not touch the journal
            journal.take()
        journal._handle = os.open(
            journal.folder / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o600
        )
        journal.append(head)
        with contextlib.suppress(OSError):  # the disk may be full already
            (journal.folder / RESERVE).write_bytes(os.urandom(_RESERVED))
        return journal

    # Writing, by the process that created the journal.

    def append(self, record: Record | Head) -> None:
        """Write a record. If the disk is full, warn once and try again with the next record."""
        line = json.dumps(record, default=str).encode() + b"\n"
        with self._writing:
            self._waiting += line
            self._push()

    def _push(self) -> None:
        if self._handle is None:
            return
        try:
            while self._waiting:
                written = os.write(self._handle, self._waiting)
                self._waiting = self._waiting[written:]
        except OSError as error:
            if not self._warned:
                logger.warning(
                    "records of the run cannot be written to %s (%s); they are kept in memory until this is possible",
                    self.folder,
                    error,
                )
            self._warned = True

    def secure(self) -> None:
        """Flush all records to the disk, so that they survive a power failure."""
        with self._writing:
            self._push()
            if self._handle is not None:
                with contextlib.suppress(OSError):  # not every file system supports it
                    os.fsync(self._handle)

    @property
    def unwritten(self) -> int:
        """Number of bytes that could not be written to the disk yet."""
        return len(self._waiting)

    def give_up(self, end: Record) -> None:
        """Write as many records as fit on the disk, and the number of those lost, before the process ends.

        Args:
            end: the record of the run's end, for which disk space was reserved.
        """
        reserve = self.folder / RESERVE
        with contextlib.suppress(OSError):
            os.truncate(reserve, _RESERVED // 4)
        self._refused.write()
        with contextlib.suppress(OSError):
            (self.folder / END).write_text(json.dumps(end), encoding="utf-8")
        with self._writing:
            self._push()
            if not self._waiting:
                return
            # The last record is the end of the run, which is written above, so it is not lost.
            count = self._waiting.count(b"\n") - 1
            self._waiting = b""
        reserve.unlink(missing_ok=True)
        if count:
            self.refuse(
                {"op": "records", "count": count, "lost": True},
                "the disk was still full at the end of the run",
            )

    def end(self) -> Record | None:
        """The record of the run's end, if the disk had no space for it in the journal."""
        try:
            return json.loads((self.folder / END).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def place(self, name: str) -> Path:
        """The path for a new file called `name`, in a new folder that holds only this file."""
        with self._writing:
            self._count += 1
            folder = self.folder / FILES / f"{self._count:06d}"
        folder.mkdir(parents=True)
        return folder / name

    def keep(self, source: str | os.PathLike) -> str:
        """Store a file in the journal as it is now; returns its path within the journal.

        Raises:
            FileNotFoundError: there is no such file.
        """
        target = self.place(Path(source).name)
        try:
            self._keep(Path(source), target)
        except OSError:
            shutil.rmtree(target.parent, ignore_errors=True)
            raise
        return target.relative_to(self.folder).as_posix()

    def _keep(self, source: Path, target: Path) -> None:
        if source.stat().st_size >= LINKED:
            link_or_copy(source, target)
        else:
            shutil.copyfile(source, target)

    # Reading, by the process that has the lock.

    def take(self) -> bool:
        """Lock the journal for this process; False if another process has locked it.

        Raises:
            OSError: the journal was removed, or the file system does not support locks.
        """
        return self._lock.take()

    def release(self) -> None:
        """Unlock the journal for other processes; this process cannot write to it any more."""
        self._close()
        self._lock.release()

    def _close(self) -> None:
        with self._writing:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    @property
    def size(self) -> int:
        """Number of bytes in the journal, including those that this process still has in memory."""
        with self._writing:
            try:
                return (self.folder / JOURNAL).stat().st_size + len(self._waiting)
            except OSError:
                return len(self._waiting)

    def head(self) -> Head | None:
        """The first record; None if the process ended before it was written."""
        for record, _ in self.records(0):
            return cast(Head, record)
        return None

    def records(self, start: int) -> Iterator[tuple[Record, int]]:
        """Yield the complete records from byte `start` on, each with the offset of its end.

        An incomplete last line of a killed process and damaged lines are skipped. Records that the disk had no space
        for are included if this process has them in memory.
        """
        try:
            stream = (self.folder / JOURNAL).open("rb")
        except FileNotFoundError:
            return
        with stream:
            end = start
            for line in self._lines(stream, start):
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                try:
                    record = json.loads(line)
                except ValueError:
                    logger.warning("a damaged line of %s is skipped", self.folder / JOURNAL)
                    continue
                if isinstance(record, dict):
                    yield cast(Record, record), end

    def _lines(self, stream: BinaryIO, start: int) -> Iterator[bytes]:
        with self._writing:
            size, waiting = os.fstat(stream.fileno()).st_size, self._waiting
        incomplete = b""
        left = size - start
        stream.seek(start)
        while left > 0:
            line = stream.readline(left)
            left -= len(line)
            if not line.endswith(b"\n"):
                incomplete = line
                break
            yield line
        yield from (incomplete + waiting[max(0, start - size) :]).splitlines(True)

    def progress(self) -> Delivered:
        """The values of the last `set_progress`; an "offset" of 0 if there are none."""
        try:
            return json.loads((self.folder / DELIVERED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"offset": 0}

    def set_progress(self, **values: Any) -> None:
        """Save atomically how much of the journal is delivered, see `pipelines.tracking.records.Delivered`."""
        # If the disk is full, nothing is saved; the records are then sent again, which has no effect.
        with contextlib.suppress(OSError), replacing(self.folder / DELIVERED, synced=False) as temporary:
            temporary.write_text(json.dumps(values), encoding="utf-8")

    def refuse(self, record: Record, reason: str) -> None:
        """Store a record that MLflow refused, or that is lost (then its "lost" is true), with the reason."""
        self._refused.add(record, reason)

    def missing(self) -> list[Record]:
        """All refused and lost records, each with its reason under "refused"."""
        return self._refused.all()

    @property
    def refused(self) -> int:
        """Number of refused and lost records."""
        return len(self.missing())

    def retry_refused(self) -> None:
        """Append the refused records to the journal, so that they are sent again."""
        if not self.take():
            return
        try:
            path = self.folder / (JOURNAL if (self.folder / JOURNAL).is_file() else HEAD)
            lines = b"".join(line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n"))
            if path.name == HEAD:
                self.set_progress(**{**self.progress(), "offset": len(lines)})
            with replacing(self.folder / JOURNAL) as temporary:
                temporary.write_bytes(lines + (self.folder / REFUSED).read_bytes())
            (self.folder / REFUSED).unlink()
            (self.folder / HEAD).unlink(missing_ok=True)
        finally:
            self.release()

    def drop_file(self, record: Record) -> None:
        """Remove the file of a delivered record."""
        if "file" in record:
            shutil.rmtree((self.folder / record["file"]).parent, ignore_errors=True)

    def remove(self) -> None:
        """Remove and unlock the journal; its refused and lost records are kept."""
        # Windows cannot remove an open file.
        self._close()
        (self.folder / RESERVE).unlink(missing_ok=True)
        if self.refused:
            with (self.folder / JOURNAL).open("rb") as stream, replacing(self.folder / HEAD) as temporary:
                temporary.write_bytes(stream.readline())
            (self.folder / JOURNAL).unlink()
            (self.folder / END).unlink(missing_ok=True)
            self._refused.write()
            self.release()
            return
        root = self.folder.parent
        # Renamed first, so that no process tries to deliver a partly removed journal.
        renamed = self.folder.with_name(f".{self.folder.name}")
        try:
            self.folder.replace(renamed)
        except OSError:
            # Windows cannot rename a folder that contains an open file, such as the lock.
            self.release()
            with contextlib.suppress(OSError):
                self.folder.replace(renamed)
        self.release()
        shutil.rmtree(renamed, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds other journals
            root.rmdir()


def journals(root: Path) -> list[Journal]:
    """The journals of a spool, oldest first, including those of running processes."""
    if not root.is_dir():
        return []
    found = sorted(root.iterdir())
    for path in found:
        if path.name.startswith("."):  # a journal that was not removed completely
            shutil.rmtree(path, ignore_errors=True)
    return [Journal(path) for path in found if path.name[0] != "." and (path / JOURNAL).is_file()]


def with_refused(root: Path) -> list[Journal]:
    """The journals with refused or lost records, oldest first."""
    if not root.is_dir():
        return []
    return [Journal(path) for path in sorted(root.iterdir()) if (path / REFUSED).is_file()]


def usable_folder(uri: str) -> Path:
    """`spool_folder`, or a folder for temporary files if that one cannot be written."""
    root = spool_folder(uri)
    try:
        try_folder(root)
        return root
    except OSError as error:
        other = Path(tempfile.gettempdir()) / f"{FOLDER}-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
        logger.warning(
            "%s cannot be written (%s); the journal of the run is written to %s", root, error, other
        )
        return other


def milliseconds() -> int:
    """The current time as MLflow stores it: milliseconds since 1970."""
    return time.time_ns() // 1_000_000
