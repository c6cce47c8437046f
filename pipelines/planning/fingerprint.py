"""What a dataset looks like: every training case read once, and again only where its files have changed.

The fingerprints of cases lie beside the patch store, one small file each::

    <store_dir>/fingerprints/<case>-<paths>-<input>.json

under the name that the case's entry in the store has, which says the state of its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pipelines.data.case_state import CaseState, case_state
from pipelines.data.cases import CaseItem, Dataset, DatasetError
from pipelines.data.stored_case import StoreError
from pipelines.planning.case_fingerprint import Job, look_in_worker, outcome_of, start_worker
from pipelines.planning.laterality import left_right_pairs
from pipelines.planning.records import FORMAT, CaseFingerprint, Fingerprint
from pipelines.utils.json_files import JsonError, read_json
from pipelines.utils.progress import Steps
from pipelines.utils.worker_processes import WorkerDiedError, in_processes, worker_count
from transforms.utils.files import FolderError, replacing, require_folder, unwritable

__all__ = ["FOLDER", "fingerprint"]

FOLDER = "fingerprints"
"""Folder of the cached fingerprints below that of the patch store."""

_START = 4.0
"""Seconds until processes of their own have begun: what is done sooner is done without."""
_ANOTHER = "name another folder with --store_dir"


def fingerprint(
    data: Dataset, store_dir: str | os.PathLike[str], num_workers: int | None = None
) -> Fingerprint:
    """Look at the labelled cases of a dataset's training list.

    Cases are read by several processes, one case at a time each, and a case whose files are as they were is not read
    again. Processes that do this for the same folder at once do the same work and never harm one another.

    Args:
        data: the dataset.
        store_dir: folder of the patch store.
        num_workers: processes that read; default: one per available core, at most 8, unless all is read within seconds
            anyway; 0 or 1 reads in this process.

    Raises:
        DatasetError: after every case was looked at: one error that lists each that cannot be read, and why.
        FolderError: `store_dir` cannot be written to.
    """
    items = [item for item in data.as_dicts("training") if item.get("label")]
    if not items:
        raise DatasetError(data.root, ["no training case has a label; name labels in dataset.json."])
    job = Job(data.labels, data.channels)
    folder = require_folder(
        Path(os.path.abspath(store_dir)) / FOLDER, "the fingerprints of the cases", _ANOTHER
    )
    states = _states(data, items)
    try:
        known = ((at, _cached(folder, state, job)) for at, state in enumerate(states))
        found = {at: case for at, case in known if case is not None}
        missing = [at for at in range(len(items)) if at not in found]
        try:
            found |= _look(data, job, items, missing, folder, states, num_workers)
        finally:
            _remove_superseded(folder, states)
    except OSError as error:
        if isinstance(error, FolderError):
            raise
        raise unwritable(folder, "the fingerprints of the cases", _ANOTHER, error) from error
    cases = [found[at] for at in range(len(items))]
    record: dict[str, Any] = {
        "format": FORMAT,
        "name": data.name,
        "labels": {str(value): name for value, name in sorted(data.labels.items())},
        "channel_names": data.channel_names,
        "cases": cases,
        "pairs": left_right_pairs(data.labels, cases),
    }
    return cast(Fingerprint, record | {"digest": _digest(record)})


def _states(data: Dataset, items: list[CaseItem]) -> list[CaseState]:
    states, problems = [], []
    for item in items:
        try:
            states.append(case_state(item, data.labels))
        except StoreError as error:
            problems.append(str(error))
    if problems:
        raise DatasetError(data.root, problems)
    return states


# -- reading cases -----------------------------------------------------------------------------------------


def _look(
    data: Dataset,
    job: Job,
    items: list[CaseItem],
    missing: list[int],
    folder: Path,
    states: list[CaseState],
    num_workers: int | None,
) -> dict[int, CaseFingerprint]:
    """Read the missing cases and keep what was found."""
    found: dict[int, CaseFingerprint] = {}
    problems: dict[int, str] = {}
    warm_up = max(1, worker_count(num_workers, len(missing)))
    with (
        Steps(len(missing), "case", "looking at", warm_up=warm_up, delay=1.0, leave=False) as steps,
        contextlib.closing(_outcomes(job, [(at, items[at]) for at in missing], num_workers)) as outcomes,
    ):
        for at, outcome in outcomes:
            steps.step()
            if isinstance(outcome, str):
                problems[at] = f"case {items[at]['case']!r}: {outcome}"
            else:
                found[at] = outcome
                _keep(folder, states[at], job, outcome)
    if problems:
        raise DatasetError(data.root, [problems[at] for at in sorted(problems)])
    return found


def _outcomes(
    job: Job, cases: Sequence[tuple[int, CaseItem]], num_workers: int | None
) -> Generator[tuple[int, CaseFingerprint | str], None, None]:
    """The fingerprint of each case, or why there is none."""
    left, taken = len(cases), math.inf
    # The first case may have to import what reads it; the next ones tell how long the rest takes.
    while left and (
        worker_count(num_workers, left) < 2
        or (num_workers is None and (left > len(cases) - 2 or left * taken < _START))
    ):
        at, item = cases[-left]
        started = time.monotonic()
        yield at, outcome_of(job, item)
        taken = time.monotonic() - started
        left -= 1
    if not left:
        return
    workers = worker_count(num_workers, left)
    try:
        for (at, _), outcome in in_processes(look_in_worker, cases[-left:], workers, start_worker, job):
            yield at, outcome
    except WorkerDiedError as error:
        names = ", ".join(sorted(item["case"] for _, item in error.items))
        raise DatasetError(
            "the training cases",
            [
                f"a process that was reading died, most likely for lack of memory, on one of the cases {names}. What was"
                " found of the others is kept: run again with fewer num_workers. (A script that reads with several"
                " workers must start its work under `if __name__ == '__main__':`.)"
            ],
        ) from error


# -- kept fingerprints -------------------------------------------------------------------------------------


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _cached(folder: Path, state: CaseState, job: Job) -> CaseFingerprint | None:
    """What was found of a case in its present state; None where that is not known, or its file was damaged."""
    try:
        content = read_json(folder / f"{state.entry}.json")
    except (FileNotFoundError, JsonError):
        return None
    if not isinstance(content, dict) or content.get("parameters") != job.parameters:
        return None
    found = content.get("case")
    if not isinstance(found, dict) or content.get("digest") != _digest(found):
        return None
    return cast(CaseFingerprint, found)


def _keep(folder: Path, state: CaseState, job: Job, found: CaseFingerprint) -> None:
    content = {"parameters": job.parameters, "digest": _digest(found), "case": found}
    with replacing(folder / f"{state.entry}.json", synced=False) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _remove_superseded(folder: Path, states: list[CaseState]) -> None:
    """Delete what was found of an earlier state of files whose present state is known."""
    present = {path.stem for path in folder.glob("*.json")}
    current = {state.entry for state in states} & present
    known = {entry.rpartition("-")[0] for entry in current}
    for entry in present - current:
        if entry.rpartition("-")[0] in known:
            (folder / f"{entry}.json").unlink(missing_ok=True)
