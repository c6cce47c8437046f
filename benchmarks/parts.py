"""Running commands one after another within a time limit, each with its output in a file and a line in a summary."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

GRACE = 10.0
"""Seconds that a part has to end by itself after its limit; as many are reserved for the summary."""
_END = re.compile(r"^PART ended: (?P<exit>.+) after (?P<seconds>\d+) s$", re.MULTILINE)


class Part(NamedTuple):
    """A command with its name and seconds.

    Attributes:
        least: minimum number of seconds left for which it is started.
        limit: number of seconds after which it is ended.
    """

    name: str
    command: list[str]
    least: float
    limit: float


class Outcome(NamedTuple):
    """The state of a part according to its output file."""

    exit: str
    seconds: str
    results: list[str]


def run_all(parts: Sequence[Part], chosen: Iterable[str], folder: Path, seconds: float) -> int:
    """Run the chosen parts in order while there is time left.

    The summary is written before and after each part, from the output files of all parts in `folder`, also those of
    earlier calls. If this process is killed, no result is therefore lost.

    Returns:
        The number of parts that were chosen and did not end with exit status 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + seconds
    wanted, failed = set(chosen), 0
    with _stoppable():
        for part in parts:
            if part.name not in wanted:
                continue
            left = until - time.monotonic() - GRACE
            if left < part.least:
                failed += 1
                print(f"{part.name}: not run, {left:.0f} of {part.least:.0f} s left", flush=True)
                continue
            path = folder / f"{part.name}.txt"
            path.write_text(f"$ {' '.join(part.command)}\n", encoding="utf-8")
            summarise(parts, folder)
            try:
                failed += _run(part, path, min(left, part.limit)) != "0"
            finally:
                summarise(parts, folder)
    print(summarise(parts, folder))
    return failed


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM end the running part and this process, as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(part: Part, path: Path, limit: float) -> str:
    """Exit status of the part according to its output file."""
    started, status = time.monotonic(), "interrupted"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with path.open("a", encoding="utf-8") as file:
        # A separate session, so that the child processes of the part can be ended with it.
        process = subprocess.Popen(
            part.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
            encoding="utf-8",
        )
        assert process.stdout is not None
        reader = threading.Thread(target=_copy, args=(process.stdout, file, part.name), daemon=True)
        reader.start()
        try:
            status = str(process.wait(limit))
        except subprocess.TimeoutExpired:
            status = f"stopped at its limit of {limit:.0f} s"
        finally:
            _end(process)
            reader.join(GRACE)
            file.write(f"\nPART ended: {status} after {time.monotonic() - started:.0f} s\n")
    return status


def _copy(source: IO[str], file: IO[str], name: str) -> None:
    for line in source:
        file.write(line)
        file.flush()
        print(f"[{name}] {line}", end="", flush=True)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(GRACE / 2)
        except subprocess.TimeoutExpired:
            continue


def outcome(path: Path) -> Outcome:
    """The state of a part, read from its output file."""
    if not path.is_file():
        return Outcome("not run", "", [])
    text = path.read_text(errors="replace", encoding="utf-8")
    results = [line for line in text.splitlines() if line.startswith("RESULT ")]
    ends = list(_END.finditer(text))
    if not ends:
        return Outcome("running or killed", "", results)
    return Outcome(ends[-1]["exit"], ends[-1]["seconds"], results)


def summarise(parts: Sequence[Part], folder: Path) -> str:
    """Write `summary.md` about the parts in `folder`; returns its text."""
    rows = {part.name: outcome(folder / f"{part.name}.txt") for part in parts}
    lines = ["| part | seconds | exit | figures |", "| --- | ---: | --- | ---: |"]
    lines += [f"| {name} | {row.seconds} | {row.exit} | {len(row.results)} |" for name, row in rows.items()]
    for name, row in rows.items():
        if row.results:
            lines += ["", f"## {name}", "", "```", *row.results, "```"]
    missing = [name for name, row in rows.items() if row.exit != "0"]
    if missing:
        lines += ["", f"To go on: `--only {' '.join(missing)}`"]
    text = "\n".join(lines) + "\n"
    whole = folder / ".summary.md"
    whole.write_text(text, encoding="utf-8")
    whole.replace(folder / "summary.md")
    return text


def python(module: str, *words: object) -> list[str]:
    """The command that runs a module of this repository."""
    return [sys.executable, "-m", module, *map(str, words)]
