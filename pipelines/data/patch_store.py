"""The patch store: every case preprocessed once and stored on disk, from which single regions can be read.

A store is a folder with one entry per case, below the digest of the preprocessing parameters::

    <root>/<parameters>/<case>-<paths>-<input>/
        image.b2nd      int16 codes (C, X, Y, Z), blosc2
        label.b2nd      uint8 or uint16 class ids (X, Y, Z), blosc2; absent without a label
        positions.npy   uint16 voxel indices (N, dims) of foreground, grouped by class
        meta.json       shape, geometry, intensity, voxels per class, digests of the input's content

The name of an entry alone determines whether it is valid. Opening a store therefore takes one listing of the
folder and one `stat` per file of the cohort; the entries are opened only when patches are read. An entry is
written to a temporary folder, renamed when complete, and never changed afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pipelines.data.case_state import CaseState, case_state, text_digest
from pipelines.data.cases import CaseItem, reading
from pipelines.data.cohort import missing_foreground
from pipelines.data.patch_build import (
    FORMAT,
    TEMPORARY,
    Job,
    build_in_worker,
    host_name,
    outcome_of,
    start_worker,
    temporary_name,
)
from pipelines.data.stored_case import StoredCase, StoreError, read_meta
from pipelines.utils.locks import waiting_for
from pipelines.utils.progress import Steps
from pipelines.utils.worker_processes import WorkerDiedError, in_processes, worker_count
from transforms.utils.files import (
    FolderError,
    require_folder,
    unwritable,
)

__all__ = ["PatchStore", "StoreError", "StoredCase", "reading"]

logger = logging.getLogger(__name__)

MAX_REMARKS = 20
"""Maximum number of notices about single images that are logged when a training starts."""

_ANOTHER = "name another folder with --store_dir"


class PatchStore:
    """Preprocessed cases on disk, built once, from which single regions can be read.

    The constructor finds out which cases are stored; `build` preprocesses those that are missing. An entry is
    reused while the preprocessing parameters and the paths, sizes and modification times of the files stay the
    same. If a file of a case changes, only that case is built again and its outdated entry removed.

    Args:
        root: folder of the store; created by `build`. Several datasets and parameter sets may share it.
        preprocess: object with the methods `parameters()`, `image(path)` and `label(path, geometry)`, such as
            `Preprocess`.
        data: cases: "image", optionally "label" (paths), "case" (id; default: the image's file name),
            and "series" and "allow" (how to read a DICOM image).
        labels: the label values that the dataset defines; any other value in a label map is an error of
            that case. For labels in DICOM SEG, RTSTRUCT or folders of masks, a mapping from values to class names.
        num_workers: number of processes for building; default: one per available core, at most 8. With 0 or 1
            the cases are built in this process.
        progress: show a progress bar while building.

    Raises:
        StoreError: if files do not exist (the message lists all of them), or if `root` is a file.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        preprocess: Any,
        data: Sequence[CaseItem],
        labels: Iterable[int] | Mapping[int, str] | None = None,
        num_workers: int | None = None,
        progress: bool = True,
    ) -> None:
        if not data:
            raise StoreError("the list of cases is empty: name at least one image.")
        self.root = Path(os.path.abspath(root))
        self.preprocess = preprocess
        self.labels = None if labels is None else sorted(int(v) for v in labels)
        self.names = dict(labels) if isinstance(labels, Mapping) else None
        self.num_workers = num_workers
        self.progress = progress
        parameters = {"format": FORMAT, "labels": self.labels, "preprocess": preprocess.parameters()}
        self.parameters = json.loads(json.dumps(parameters, sort_keys=True))
        self.folder = self.root / text_digest(json.dumps(parameters, sort_keys=True))[:16]
        self._data: Sequence[CaseItem] | None = data
        # One flat array instead of 100,000 objects: forked workers share its memory, because no reference counts
        # are written to it.
        self._entries: np.ndarray = np.empty(0, "S1")
        self._cases: OrderedDict[int, StoredCase] = OrderedDict()
        self._scan()

    def __len__(self) -> int:
        return len(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        # Loader workers only read patches: they need neither the list of cases nor the cached handles.
        return self.__dict__ | {"_data": None, "_cases": OrderedDict()}

    @property
    def complete(self) -> bool:
        """Whether every case was on disk when the folder was last listed."""
        return not self._missing

    def case(self, index: int) -> StoredCase:
        """The case at a position of `data`; the last 64 handles are cached (none of them holds an array)."""
        case = self._cases.get(index)
        if case is None:
            path = self._path(index)
            case = StoredCase(path, read_meta(path))
            self._cases[index] = case
            if len(self._cases) > 64:
                self._cases.popitem(last=False)
        return case

    def _path(self, index: int) -> Path:
        return self.folder / self._entries[index].decode()

    def __iter__(self) -> Iterator[StoredCase]:
        return (self.case(i) for i in range(len(self)))

    def digest(self) -> str:
        """SHA-256 over the parameters and the content of every input file.

        It does not depend on the paths: two machines with the same files have the same digest. Reads each
        entry's meta.json once.
        """
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode())
        for entry in self._entries:
            meta = read_meta(self.folder / entry.decode())
            content = [meta["case"], meta["sha256"], *([meta["options"]] if meta.get("options") else [])]
            digest.update(json.dumps(content, sort_keys=True).encode())
        return digest.hexdigest()

    def remarks(self, training: bool = True) -> list[str]:
        """Notices about single images from preprocessing, and about foreground that the cohort lacks for a training.

        Reads each entry's meta.json once.

        Args:
            training: whether the cases are used for training and therefore need foreground.
        """
        cases = [StoredCase(path, read_meta(path)) for path in map(self._path, range(len(self)))]
        found = [f"case {case.id}: {notice}" for case in cases for notice in case.notices]
        if len(found) > MAX_REMARKS:
            found[MAX_REMARKS:] = [f"... and {len(found) - MAX_REMARKS} more notices, see `check`"]
        if not training:
            return found
        labelled = {case.id: case.foreground for case in cases if case.has_label}
        names = self.names or {value: f"class {value}" for value in self.labels or ()}
        return found + missing_foreground(labelled, names)

    def build(self) -> PatchStore:
        """Preprocess the cases that are missing; returns the store itself.

        A lock allows only one process at a time to build a store, so that each case is built once. The next
        build removes temporary folders of a build that was killed.

        Raises:
            StoreError: some cases are broken: raised after all others were built, with the reason for each.
                Raised immediately if the disk is full or the store cannot be written to.
        """
        if self._missing:
            if self._data is None:
                raise RuntimeError("a store that was sent to a worker process can read but not build")
            try:
                require_folder(self.folder, "the patch store", _ANOTHER)
                with _build_lock(self.folder):
                    self._remove_leftovers()
                    self._scan()
                    try:
                        self._build_missing()
                    finally:
                        self._remove_superseded()
            except FolderError as error:
                raise StoreError(str(error)) from error
            except OSError as error:
                raise StoreError(str(unwritable(self.folder, "the patch store", _ANOTHER, error))) from error
            with contextlib.suppress(OSError):
                (self.folder / "parameters.json").write_text(
                    json.dumps(self.parameters, indent=1), encoding="utf-8"
                )
        return self

    # -- stored and missing entries ------------------------------------------------------------------------

    def _scan(self) -> None:
        assert self._data is not None
        try:
            present = set(os.listdir(self.folder))
        except FileNotFoundError:
            present = set()
        except OSError as error:
            place = self.root if self.root.is_file() else self.folder
            raise StoreError(str(unwritable(place, "the patch store", _ANOTHER, error))) from error
        entries: list[str] = []
        missing: list[CaseState] = []
        broken: list[str] = []
        queued: set[str] = set()
        for item in self._data:
            try:
                source = case_state(item, self.names)
            except StoreError as error:
                broken.append(str(error))
                continue
            entries.append(source.entry)
            if source.entry not in present and source.entry not in queued:
                queued.add(source.entry)
                missing.append(source)
        if broken:
            raise StoreError(_listing(broken, "cannot be found"))
        self._entries = np.array([e.encode() for e in entries])
        self._missing = missing
        self._cases.clear()

    def _remove_leftovers(self) -> None:
        """Delete temporary folders of killed builds, except those that another build may still be writing.

        Where the folder cannot be locked, or on a network disk, another build may run at the same time.
        """
        host = TEMPORARY + host_name() + "-"
        for item in os.scandir(self.folder):
            if not item.name.startswith(TEMPORARY):
                continue
            with contextlib.suppress(FileNotFoundError):
                if item.name.startswith(host):
                    dead = not _is_alive(int(item.name.removeprefix(host).split("-")[0]))
                else:  # a process of another machine, on a network disk: only the age can be checked
                    dead = time.time() - item.stat().st_mtime > 86_400
                if dead:
                    shutil.rmtree(item.path, ignore_errors=True)

    def _remove_superseded(self) -> None:
        """Delete entries made from earlier versions of files if their current version is stored."""
        present = os.listdir(self.folder)
        current = {e.decode() for e in self._entries}.intersection(present)
        stored = {e.rpartition("-")[0] for e in current}
        for name in present:
            if not name.startswith(TEMPORARY) and name not in current and name.rpartition("-")[0] in stored:
                trash = self.folder / temporary_name()
                # Windows does not rename an entry that is being read; the next build removes it.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    os.rename(self.folder / name, trash)
                shutil.rmtree(trash, ignore_errors=True)

    # -- building ------------------------------------------------------------------------------------------

    def _build_missing(self) -> None:
        missing = self._missing
        if not missing:
            return
        workers = worker_count(self.num_workers, len(missing))
        logger.info(f"preprocessing {len(missing)} of {len(self)} cases into {self.folder}")
        failed: list[tuple[CaseState, str]] = []
        done: set[str] = set()
        with Steps(
            len(missing), "case", "preprocessing", warm_up=max(1, workers), quiet=not self.progress
        ) as steps:
            for source, reason in self._run(missing, workers):
                steps.step()
                if reason is None:
                    done.add(source.entry)
                else:
                    failed.append((source, reason))
        self._missing = [s for s in missing if s.entry not in done]
        if failed:
            lines = [f"{source.case}: {reason}" for source, reason in failed]
            raise StoreError(_listing(lines, "cannot be preprocessed"))

    def _run(self, sources: list[CaseState], workers: int) -> Iterator[tuple[CaseState, str | None]]:
        """Build each case and yield it with the reason for its failure, or None."""
        job = Job(self.folder, self.preprocess, self.labels, self.names)
        if workers <= 1:
            for source in sources:
                yield source, outcome_of(job, source, self.folder)
            return
        try:
            yield from in_processes(build_in_worker, sources, workers, start_worker, job)
        except WorkerDiedError as error:
            raise StoreError(
                "a preprocessing process was killed, most likely because memory ran out, on one of the cases "
                f"{', '.join(sorted(s.case for s in error.items))}. The finished cases are kept in {self.folder}: "
                "run again with a smaller num_workers. (A script that builds with several workers must start its "
                "work under `if __name__ == '__main__':`.)"
            ) from error


# -- names and digests -------------------------------------------------------------------------------------


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return False  # This process has not built anything yet: an earlier one had the same process id.
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # raised on macOS for processes of other users
        return True


def _listing(lines: Sequence[str], what: str) -> str:
    cases = "1 case" if len(lines) == 1 else f"{len(lines)} cases"
    return f"{cases} {what}:\n" + "\n".join(f"  {line}" for line in lines)


@contextlib.contextmanager
def _build_lock(folder: Path) -> Iterator[None]:
    """Allow one build at a time in this folder; the lock is released if its process is killed."""

    def busy() -> None:
        logger.info("waiting for another process that is building %s", folder)

    def unlocked(error: OSError) -> None:
        # Entries are renamed when complete: without a lock a case may be built twice, but never wrongly.
        logger.warning("%s cannot be locked (%s): building without a lock", folder, error.strerror or error)

    with contextlib.ExitStack() as stack:
        with Steps(None, "waiting for another process that is building the patch store"):
            stack.enter_context(waiting_for(folder / ".lock", busy=busy, unlocked=unlocked))
        yield
