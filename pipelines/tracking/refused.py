"""What of a run does not reach MLflow: refused by it, or lost on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

from pipelines.tracking.records import Record
from pipelines.utils.passwords import hidden

FILE = "refused.jsonl"
INCOMPLETE = "segbundles.incomplete"
"""Tag of a run of which something did not arrive; it says what and why."""
_LONGEST = 4900


class Refused:
    """The records of a journal that were put aside, each with its reason, one a line of a file.

    What a full disk does not let write down stays in memory and is tried again with the next one.

    Args:
        folder: of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._unwritten: list[Record] = []
        self._writing = threading.Lock()

    def add(self, record: Record, reason: str) -> None:
        """Put a record aside; "lost" is true in one that cannot be tried again."""
        with self._writing:
            self._unwritten.append({**record, "refused": reason})
            self._write()

    def write(self) -> None:
        """Try again to write down what the disk did not take."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        if not self._unwritten:
            return
        text = "".join(json.dumps(record, default=str) + "\n" for record in self._unwritten)
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(text)
            self._unwritten.clear()
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.path, before)

    def all(self) -> list[Record]:
        """All that was put aside, in this order, with the reason of each under "refused"."""
        with self._writing:
            try:
                lines = self.path.read_bytes().splitlines()
            except OSError:
                lines = []
            return [record for record in map(record_of, lines) if record is not None] + list(self._unwritten)


def record_of(line: bytes) -> Record | None:
    """The record in a line; None where it is torn or damaged."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return cast(Record, found) if isinstance(found, dict) else None


def named(record: Record) -> str:
    """What a record is about, for a person."""
    if "name" in record:
        return f"the version of {record['name']}" if record.get("op") == "register" else str(record["name"])
    if record.get("op") in ("metrics", "system"):
        return f"{', '.join(record['values'])} (step {record.get('step', 'of the machine')})"
    if record.get("op") == "records":
        return f"{record['count']} records"
    return str(record.get("key") or record.get("op"))


def told(records: Iterable[Record]) -> str:
    """All of them by name, in one line for each reason; a record that is there several times is told once."""
    reasons: dict[str, dict[str, None]] = {}
    for record in records:
        reasons.setdefault(str(record["refused"]), {})[named(record)] = None
    return "\n".join(f"{reason}: {', '.join(names)}" for reason, names in reasons.items())


def as_tag(records: Iterable[Record]) -> str:
    """`told`, cut to what a tag of MLflow's takes."""
    text = told(records)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... and more"


def incomplete(records: Iterable[Record], run: str, folder: Path) -> Iterator[str]:
    """Sentences that say all that a run lacks, and what can be done about it.

    Args:
        run: as a person knows it.
        folder: of its journal.
    """
    every = list(records)
    lost = [record for record in every if record.get("lost")]
    refused = [record for record in every if not record.get("lost")]
    if lost:
        yield (
            f"run {run} is incomplete: {len(lost)} parts of it are lost and will not arrive (its tag {INCOMPLETE} "
            f"says so): {_line(lost)}"
        )
    if refused:
        yield (
            f"MLflow refused {len(refused)} records of run {run}; they are kept in {folder} ({_line(refused)}); "
            f"after mending the cause: python -m pipelines sync {folder.parent} --refused"
        )


def _line(records: list[Record]) -> str:
    return "; ".join(told(records).split("\n"))


def undelivered(uri: str, run: str, size: int, folder: Path) -> str:
    """What is said at the end of a run whose journal of `size` bytes still waits in `folder`."""
    return (
        f"MLflow at {hidden(uri)} does not have all of run {run} yet: {size / 1e3:.1f} kB of records wait in {folder}; "
        f"the next training there delivers them, or: python -m pipelines sync {folder.parent}"
    )
