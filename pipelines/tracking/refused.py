"""Records of a run that do not reach MLflow: refused by it, or lost on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

from pipelines.tracking.records import Record
from pipelines.utils.installed import COMMAND
from pipelines.utils.passwords import hidden

FILE = "refused.jsonl"
INCOMPLETE = "segbundles.incomplete"
"""Tag of an incomplete run; it lists the missing records and the reasons."""
# Slightly less than the 5000 characters to which the tag is cut when it is set.
_LONGEST = 4900


class Refused:
    """The refused and lost records of a journal, each with its reason, one per line of a file.

    Records that a full disk has no space for stay in memory and are written with the next one.

    Args:
        folder: folder of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._unwritten: list[Record] = []
        self._writing = threading.Lock()

    def add(self, record: Record, reason: str) -> None:
        """Add a record; the "lost" of a record that cannot be sent again is true."""
        with self._writing:
            self._unwritten.append({**record, "refused": reason})
            self._write()

    def write(self) -> None:
        """Try again to write the records that the disk had no space for."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        if not self._unwritten:
            return
        text = "".join(json.dumps(record, default=str) + "\n" for record in self._unwritten)
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(text)
            self._unwritten.clear()
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)

    def all(self) -> list[Record]:
        """All refused and lost records, oldest first; each has the reason under "refused"."""
        with self._writing:
            try:
                lines = self.path.read_bytes().splitlines()
            except OSError:
                lines = []
            return [record for record in map(record_of, lines) if record is not None] + list(self._unwritten)


def record_of(line: bytes) -> Record | None:
    """The record in a line; None if the line is incomplete or damaged."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return cast(Record, found) if isinstance(found, dict) else None


def named(record: Record) -> str:
    """A readable name of a record."""
    if "name" in record:
        return f"the version of {record['name']}" if record.get("op") == "register" else str(record["name"])
    if record.get("op") in ("metrics", "system"):
        step = f"step {record['step']}" if "step" in record else "system metrics"
        return f"{', '.join(record['values'])} ({step})"
    if record.get("op") == "records":
        return f"{record['count']} records"
    return str(record.get("key") or record.get("op"))


def grouped_by_reason(records: Iterable[Record]) -> str:
    """The names of the records, one line for each reason; equal names are listed once."""
    reasons: dict[str, dict[str, None]] = {}
    for record in records:
        reasons.setdefault(str(record["refused"]), {})[named(record)] = None
    return "\n".join(f"{reason}: {', '.join(names)}" for reason, names in reasons.items())


def as_tag(records: Iterable[Record]) -> str:
    """`grouped_by_reason`, cut to the length of a tag."""
    text = grouped_by_reason(records)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... and more"


def incomplete(records: Iterable[Record], run: str, folder: Path) -> Iterator[str]:
    """Yield messages that list the missing records of a run and say what to do.

    Args:
        records: the refused and lost records.
        run: name or id of the run.
        folder: folder of its journal.
    """
    missing = list(records)
    lost = [record for record in missing if record.get("lost")]
    refused = [record for record in missing if not record.get("lost")]
    if lost:
        yield (
            f"run {run} is incomplete: {len(lost)} parts of it are lost and cannot be sent later (its tag {INCOMPLETE} "
            f"lists them): {_on_one_line(lost)}"
        )
    if refused:
        yield (
            f"MLflow refused {len(refused)} records of run {run}; they are kept in {folder} ({_on_one_line(refused)}); "
            f"after correcting the cause, run: {COMMAND} sync {folder.parent} --refused"
        )


def _on_one_line(records: list[Record]) -> str:
    return "; ".join(grouped_by_reason(records).split("\n"))


def undelivered(uri: str, run: str, size: int, folder: Path) -> str:
    """The message at the end of a run whose journal is not delivered completely.

    Args:
        uri: tracking URI.
        run: name or id of the run.
        size: number of bytes that are not delivered yet.
        folder: folder of the journal.
    """
    return (
        f"MLflow at {hidden(uri)} does not have all records of run {run} yet: {size / 1e3:.1f} kB of records wait in "
        f"{folder}; the next training with this spool sends them, or run: {COMMAND} sync {folder.parent}"
    )
