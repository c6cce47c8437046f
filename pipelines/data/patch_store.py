"""The patch store: every case preprocessed once, on disk, readable by the region.

A store is a folder of entries, one a case, under the digest of the parameters that made them::

    <root>/<parameters>/<case>-<paths>-<input>/
        image.b2nd      int16 codes (C, X, Y, Z), blosc2
        label.b2nd      uint8 or uint16 class ids (X, Y, Z), blosc2; absent without a label
        positions.npy   uint16 voxel indices (N, dims) of foreground, class after class
        meta.json       shape, geometry, intensity, voxels per class, digests of the input's content

An entry's name says all there is to know about its validity, so that opening a store is one listing of the
folder and one `stat` per file of the cohort; nothing of an entry is read before a patch is. Entries appear
by a rename and are never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import re
import shutil
import socket
import stat
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import blosc2
import numpy as np
import psutil
import torch

from pipelines.data.cohort import missing_foreground
from pipelines.utils.cores import available_cores
from pipelines.utils.file_names import is_device
from pipelines.utils.locks import waiting_for
from pipelines.utils.logs import warnings_of
from pipelines.utils.progress import Steps
from transforms.utils.files import NO_ROOM, FolderError, require_folder, sha256_of, sync_folder, unwritable
from transforms.utils.placing import put_in_place
from transforms.utils.walk import files_below

__all__ = ["PatchStore", "StoreError", "StoredCase", "reading"]

logger = logging.getLogger(__name__)

FORMAT = 2
MAX_POSITIONS = 10_000
"""Foreground positions kept per class and case."""

MAX_REMARKS = 20
"""Notices of single images that are repeated when a training starts."""

CHUNKS = {3: (64, 64, 64), 2: (256, 256)}
BLOCKS = {3: (32, 32, 8), 2: (64, 64)}
"""Chunks are what the file's index lists, blocks are what is decompressed; thin along z so that a 2D network
reads axial slices without unpacking 31 neighbours, at no cost to 3D patches (docs/patches.md)."""

_TEMPORARY = ".tmp-"
_ANOTHER = "name another folder with --store_dir"
_MOST_ON_WINDOWS = 61
"""Processes that a `ProcessPoolExecutor` can have there."""


class StoreError(ValueError):
    """The patch store cannot be built or read; the message lists every case concerned."""


class StoredCase:
    """One preprocessed case of a store: a handle of a few hundred bytes; the arrays stay on disk.

    Attributes
    ----------
    id : str
        Case id.
    shape : tuple of int
        (C, X, Y, Z) of the image, (C, X, Y) in 2D.
    classes : dict of int to int
        Voxels per label value present, background included; empty without a label.
    geometry, intensity : dict
        What `Preprocess` recorded: plain JSON types.
    notices : list of str
        What was noticed when the image was read and prepared.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any]) -> None:
        self.path = path
        self.id: str = meta["case"]
        self.shape: tuple[int, ...] = tuple(meta["shape"])
        self.classes: dict[int, int] = {int(k): v for k, v in meta["classes"].items()}
        self.geometry: dict[str, Any] = meta["geometry"]
        self.intensity: dict[str, Any] = meta["intensity"]
        self.sha256: dict[str, str] = meta["sha256"]
        self.notices: list[str] = meta.get("notices", [])
        self._positions: dict[int, tuple[int, int]] = {int(k): tuple(v) for k, v in meta["positions"].items()}

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """(X, Y, Z), or (X, Y) in 2D."""
        return self.shape[1:]

    @property
    def has_label(self) -> bool:
        """Whether the case has a label map."""
        return bool(self.classes)

    @property
    def foreground(self) -> tuple[int, ...]:
        """The label values present other than 0, ascending."""
        return tuple(self._positions)

    def num_positions(self, label: int) -> int:
        """How many foreground positions of a class are stored: all of its voxels, at most `MAX_POSITIONS`."""
        return self._positions[label][1]

    def position(self, label: int, k: int) -> tuple[int, ...]:
        """The `k`-th stored voxel index of a class; reads some bytes of one file."""
        offset, count = self._positions[label]
        if not 0 <= k < count:
            raise IndexError(f"case {self.id} stores {count} positions of class {label}, got index {k}")
        return tuple(int(i) for i in self._open_positions()[offset + k])

    def positions(self, label: int) -> np.ndarray:
        """Stored voxel indices of a class, (N, dims) int64; empty when the class is absent."""
        if label not in self._positions:
            return np.empty((0, len(self.spatial_shape)), np.int64)
        offset, count = self._positions[label]
        return self._open_positions()[offset : offset + count].astype(np.int64)

    def read(self, region: Sequence[slice]) -> np.ndarray:
        """Image codes of a region, int16 (C, ...).

        Parameters
        ----------
        region : sequence of slice
            One slice per spatial axis, inside the volume, step 1.
        """
        return self._read("image.b2nd", (slice(0, self.shape[0]), *region))

    def read_label(self, region: Sequence[slice]) -> np.ndarray:
        """Label values of a region, uint8 or uint16, without a channel axis."""
        if not self.has_label:
            raise StoreError(
                f"case {self.id} was stored without a label: name its label file in the dataset."
            )
        return self._read("label.b2nd", tuple(region))

    def _read(self, name: str, region: tuple[slice, ...]) -> np.ndarray:
        path = self.path / name
        try:
            # opened anew for every patch: 0.2 ms, and no handle or mapping outlives it
            return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})[region]
        except (FileNotFoundError, RuntimeError) as error:
            raise StoreError(
                f"the stored arrays of case {self.id} cannot be read ({path}: {error}): either its source changed "
                "and another process rebuilt it, or the store was damaged; delete the folder if it still exists "
                "and start again."
            ) from error

    def _open_positions(self) -> np.ndarray:
        return np.load(self.path / "positions.npy", mmap_mode="r")


class _Source(NamedTuple):
    """One case as the user names it, and the name its entry must have."""

    case: str
    image: str
    label: str | None
    entry: str
    options: dict[str, Any]


class PatchStore:
    """Preprocessed cases on disk, built once and read by the region.

    Constructing a store looks what is there; `build` makes what is missing. An entry is reused while the
    preprocessing parameters, the files' paths, sizes and modification times stay the same; when one of a
    case's files changes, that case alone is built again and the superseded entry removed.

    Parameters
    ----------
    root : path
        Folder of the store; created by `build`. Several datasets and parameter sets may share it.
    preprocess : Preprocess
        The definition of preprocessing: `parameters()`, `image(path)`, `label(path, geometry)`.
    data : sequence of dict
        Cases: "image", optionally "label" (paths), "case" (id; default: the image's file name), and "series" and
        "allow" (how to read a DICOM image).
    labels : iterable of int or mapping, optional
        The label values that the dataset names; other values in a label map are an error of that case. A mapping
        to their names where labels are DICOM SEG or RTSTRUCT.
    num_workers : int, optional
        Processes that build; default: one per available core, at most 8; 0 or 1 builds in this process.
    progress : bool
        Show a progress bar while building.

    Raises
    ------
    StoreError
        If a file does not exist (every one is listed), or `root` is one.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        preprocess: Any,
        data: Sequence[Mapping[str, Any]],
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
        self.folder = self.root / _digest(json.dumps(parameters, sort_keys=True))[:16]
        self._data: Sequence[Mapping[str, Any]] | None = data
        # one flat array instead of 100,000 objects: forked workers share it, no reference count dirties it
        self._entries: np.ndarray = np.empty(0, "S1")
        self._cases: OrderedDict[int, StoredCase] = OrderedDict()
        self._scan()

    def __len__(self) -> int:
        return len(self._entries)

    def __getstate__(self) -> dict[str, Any]:
        # a worker only reads: it needs neither the cohort's list nor its parent's handles
        return self.__dict__ | {"_data": None, "_cases": OrderedDict()}

    @property
    def complete(self) -> bool:
        """Whether every case was on disk when last looked."""
        return not self._missing

    def case(self, index: int) -> StoredCase:
        """The case at a position of `data`; the last 64 handles are kept, of which none holds an array."""
        case = self._cases.get(index)
        if case is None:
            path = self._path(index)
            case = StoredCase(path, _read_meta(path))
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

        It is the same on two machines that hold the same files, wherever these lie. Reads each entry's
        meta.json once.
        """
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode())
        for entry in self._entries:
            meta = _read_meta(self.folder / entry.decode())
            content = [meta["case"], meta["sha256"], *([meta["options"]] if meta.get("options") else [])]
            digest.update(json.dumps(content, sort_keys=True).encode())
        return digest.hexdigest()

    def remarks(self, training: bool = True) -> list[str]:
        """What was noticed of single images when they were prepared, and what all cases lack for a training.

        Reads each entry's meta.json once.

        Args:
            training: whether the cases are to be trained on, and so have to have foreground.
        """
        cases = [StoredCase(path, _read_meta(path)) for path in map(self._path, range(len(self)))]
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

        Processes that build the same store at once take turns: each case is built by one of them, and what
        a killed build left behind is removed by the next.

        Raises
        ------
        StoreError
            After everything buildable was built: one error that lists each broken case and its reason. At
            once when the disk is full or the store cannot be written to.
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

    # -- what is there -------------------------------------------------------------------------------------

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
        missing: list[_Source] = []
        broken: list[str] = []
        queued: set[str] = set()
        for item in self._data:
            try:
                source = _source(item, self.names)
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
        """Delete what killed builds left, but nothing that a build beyond our lock may be writing."""
        host = _TEMPORARY + _host() + "-"
        for item in os.scandir(self.folder):
            if not item.name.startswith(_TEMPORARY):
                continue
            with contextlib.suppress(FileNotFoundError):
                if item.name.startswith(host):
                    dead = not _is_alive(int(item.name.removeprefix(host).split("-")[0]))
                else:  # on a network disk: another machine's process
                    dead = time.time() - item.stat().st_mtime > 86_400
                if dead:
                    shutil.rmtree(item.path, ignore_errors=True)

    def _remove_superseded(self) -> None:
        """Delete entries made from an earlier state of files whose present state is stored."""
        present = os.listdir(self.folder)
        current = {e.decode() for e in self._entries}.intersection(present)
        stored = {e.rpartition("-")[0] for e in current}
        for name in present:
            if not name.startswith(_TEMPORARY) and name not in current and name.rpartition("-")[0] in stored:
                trash = self.folder / _temporary_name()
                # on Windows one that is being read stays where it is, for the next build
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    os.rename(self.folder / name, trash)
                shutil.rmtree(trash, ignore_errors=True)

    # -- building ------------------------------------------------------------------------------------------

    def _build_missing(self) -> None:
        missing = self._missing
        if not missing:
            return
        # a worker needs seconds to import torch and MONAI: it pays from two cases a worker
        enough = min(8, available_cores(), len(missing) // 2)
        workers = self.num_workers if self.num_workers is not None else enough
        workers = min(workers, len(missing), _MOST_ON_WINDOWS if os.name == "nt" else len(missing))
        logger.info(f"preprocessing {len(missing)} of {len(self)} cases into {self.folder}")
        failed: list[tuple[_Source, str]] = []
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

    def _run(self, sources: list[_Source], workers: int) -> Iterator[tuple[_Source, str | None]]:
        """Build each source, yielding it and the reason of its failure, or None."""
        job = _Job(self.folder, self.preprocess, self.labels, self.names)
        if workers <= 1:
            for source in sources:
                yield source, _outcome(job, source, self.folder)
            return
        # forking a process that holds torch's thread pools can hang; a spawned one starts clean
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(job,),
        )
        try:
            queue = iter(sources)
            running: dict[Future[str | None], _Source] = {}
            while True:
                # few jobs ahead, so that a full disk or Ctrl-C ends the build soon
                for source in itertools.islice(queue, 2 * workers - len(running)):
                    running[pool.submit(_work, source)] = source
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    reason = future.result()
                    yield running.pop(future), reason
        except BrokenProcessPool as error:
            raise StoreError(
                "a process that was preprocessing died, most likely for lack of memory, on one of the cases "
                f"{', '.join(sorted(s.case for s in running.values()))}. The finished ones stay in {self.folder}: "
                "run again with fewer num_workers. (A script that builds with several workers must start its "
                "work under `if __name__ == '__main__':`.)"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Job(NamedTuple):
    """What a building process needs to know once."""

    folder: Path
    preprocess: Any
    labels: list[int] | None
    names: dict[int, str] | None


_job: _Job


def _start_worker(job: _Job) -> None:
    global _job
    _job = job
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def die_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    # when the building process is killed its workers would wait for it for ever
    threading.Thread(target=die_with_parent, daemon=True).start()


def _work(source: _Source) -> str | None:
    return _outcome(_job, source, _job.folder)


def _outcome(job: _Job, source: _Source, folder: Path) -> str | None:
    """Build one case; the reason if it is broken. A full disk is not the case's fault and is raised."""
    try:
        _build_case(job, source)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StoreError(
                f"no room to store case {source.case} in {folder} ({error.strerror}): free some space or choose "
                "another folder for the store, and start again; the cases already stored are kept."
            ) from None
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return None


def _build_case(job: _Job, source: _Source) -> None:
    temporary = job.folder / _temporary_name()
    temporary.mkdir()
    try:
        _write_entry(job, source, temporary)
        try:
            put_in_place(temporary, job.folder / source.entry)
        except OSError:
            # built meanwhile by a process that our lock does not reach: what is in place is as good
            if not (job.folder / source.entry / "meta.json").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_entry(job: _Job, source: _Source, folder: Path) -> None:
    sha256 = {"image": _content_digest(source.image)}
    with warnings_of("transforms", "pipelines") as notices:
        prepared = job.preprocess.image(source.image, **reading(source.options))
    codes = np.ascontiguousarray(prepared.codes)
    if codes.dtype != np.int16 or codes.ndim not in (3, 4):
        raise StoreError(
            f"preprocessing gave {codes.dtype} of shape {codes.shape}; a store takes int16 (C, ...)"
        )
    spatial = codes.shape[1:]
    _write_array(folder / "image.b2nd", codes, (1, *CHUNKS[len(spatial)]), (1, *BLOCKS[len(spatial)]))
    counts: dict[int, int] = {}
    positions: dict[int, np.ndarray] = {}
    if source.label is not None:
        sha256["label"] = _content_digest(source.label)
        named: tuple[Any, ...] = (job.labels,)
        if "names" in source.options:
            named = (job.names, source.image)
        label = np.ascontiguousarray(job.preprocess.label(source.label, prepared.geometry, *named))
        if label.shape != spatial or label.dtype not in (np.uint8, np.uint16):
            raise StoreError(
                f"the label {source.label} was prepared to {label.dtype} {label.shape}, its image to {spatial}: "
                "a store takes uint8 or uint16 on the image's grid."
            )
        counts, positions = _class_positions(label)
        _write_array(folder / "label.b2nd", label, CHUNKS[len(spatial)], BLOCKS[len(spatial)])
    table = [np.empty((0, len(spatial)), np.uint16), *positions.values()]
    _write_bytes(folder / "positions.npy", lambda file: np.save(file, np.concatenate(table)))
    offsets = np.cumsum([0, *(len(p) for p in positions.values())])
    meta = {
        "format": FORMAT,
        "case": source.case,
        "image": source.image,
        "label": source.label,
        "sha256": sha256,
        "options": source.options,
        "shape": list(codes.shape),
        "classes": counts,
        "positions": {c: [int(o), len(p)] for (c, p), o in zip(positions.items(), offsets, strict=False)},
        "geometry": prepared.geometry.to_dict(),
        "intensity": prepared.intensity,
        "notices": notices,
    }
    text = json.dumps(meta, default=_plain).encode()
    _write_bytes(folder / "meta.json", lambda file: file.write(text))
    sync_folder(folder)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} in a case's geometry or intensity is not JSON")


def _class_positions(label: np.ndarray) -> tuple[dict[int, int], dict[int, np.ndarray]]:
    """Voxels per value present, and per foreground value up to `MAX_POSITIONS` voxel indices in C order."""
    flat = label.reshape(-1)
    where = np.flatnonzero(flat)
    values = flat[where]
    present = np.bincount(values, minlength=1)
    counts = {int(c): int(present[c]) for c in np.flatnonzero(present)}
    positions = {}
    for value, count in counts.items():
        index = where[values == value]
        if count > MAX_POSITIONS:
            index = index[np.random.default_rng(value).choice(count, MAX_POSITIONS, replace=False)]
            index.sort()
        positions[value] = np.stack(np.unravel_index(index, label.shape), 1).astype(np.uint16)
    if len(where) < flat.size:
        counts = {0: flat.size - len(where), **counts}
    return counts, positions


def _write_array(path: Path, array: np.ndarray, chunks: Sequence[int], blocks: Sequence[int]) -> None:
    chunks = tuple(min(c, max(1, s)) for c, s in zip(chunks, array.shape, strict=True))
    blocks = tuple(min(b, c) for b, c in zip(blocks, chunks, strict=True))
    # against zstd with byte shuffling: patches in half the time, for a tenth more disk
    cparams = {
        "codec": blosc2.Codec.LZ4,
        "clevel": 5,
        "filters": [blosc2.Filter.BITSHUFFLE],
        "nthreads": 1,
    }
    frame = blosc2.asarray(array, chunks=chunks, blocks=blocks, cparams=cparams).to_cframe()
    # by Python's own write: a full disk is then an OSError, where blosc2's reports are unspecific
    _write_bytes(path, lambda file: file.write(frame))


def _write_bytes(path: Path, write: Any) -> None:
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


# -- names and digests -------------------------------------------------------------------------------------


def reading(item: Mapping[str, Any]) -> dict[str, Any]:
    """How the image of an item is to be read beside its path: "series" and "allow", each only where it is set."""
    return {key: item[key] for key in ("series", "allow") if item.get(key)}


def _is_dicom(label: str) -> bool:
    if label.lower().endswith((".nii", ".nii.gz")):
        return False  # the usual case, without importing what reads images
    from transforms.io.header import image_suffix

    return image_suffix(label) == ""


def _source(item: Mapping[str, Any], names: Mapping[int, str] | None = None) -> _Source:
    if "image" not in item:
        raise StoreError(f'a case without "image": {dict(item)}')
    image = os.path.abspath(item["image"])
    label = os.path.abspath(item["label"]) if item.get("label") else None
    case = str(item.get("case") or re.sub(r"\.(nii\.gz|[^.]+)$", "", os.path.basename(image)))
    options = reading(item)
    if label is not None and names is not None and _is_dicom(label):
        options["names"] = {str(k): v for k, v in names.items()}  # of a DICOM label they decide the class ids
    stated = f"\n{json.dumps(options, sort_keys=True)}" if options else ""
    paths = _digest(f"{case}\n{image}\n{label}{stated}")[:12]
    state = _state(image, case) if label is None else f"{_state(image, case)}\n{_state(label, case)}"
    name = re.sub(r"[^A-Za-z0-9_.]", "_", case).lstrip(".")[:80]
    name = f"_{name}" if is_device(name) else name
    return _Source(case, image, label, f"{name}-{paths}-{_digest(state)[:16]}", options)


def _state(path: str, case: str) -> str:
    """Size and modification time of a file, or of all files of a folder."""
    try:
        info = os.stat(path)
        if not stat.S_ISDIR(info.st_mode):
            text = f"{info.st_size} {info.st_mtime_ns}"
            for other in _others(path):
                info = os.stat(other)
                text += f"\n{other.name} {info.st_size} {info.st_mtime_ns}"
            return text
        return "\n".join(
            f"{os.path.relpath(name, path)} {(info := os.stat(name)).st_size} {info.st_mtime_ns}"
            for name in _files(path)
        )
    except OSError as error:
        raise StoreError(f"{case}: {path}: {error.strerror}") from error


def _files(folder: str) -> list[str]:
    """What a folder's digests cover: the files that are read of it, and hidden ones."""
    return sorted(str(path) for path in files_below(folder, hidden=True, dangling=False))


def _content_digest(path: str) -> str:
    """SHA-256 of a file's bytes; of a folder, over its files' digests, independent of their names."""
    if os.path.isdir(path):
        return _digest("\n".join(sorted(_content_digest(name) for name in _files(path))))
    digests = [sha256_of(path), *(sha256_of(other) for other in _others(path))]
    return digests[0] if len(digests) == 1 else _digest("\n".join(digests))


def _others(path: str) -> list[Path]:
    """The files beside the one that is named that belong to the same image, such as the voxels of a header."""
    if path.lower().endswith((".nii", ".nii.gz")):
        return []  # the usual case, without importing what reads images
    from transforms.io.image_files import image_files

    return image_files(path)[1:]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32]


def _temporary_name() -> str:
    return f"{_TEMPORARY}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return False  # we are only about to build: what bears our number is of an earlier process
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # of another user, on macOS
        return True


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / "meta.json").read_bytes())
    except FileNotFoundError:
        raise StoreError(
            f"{path} is not in the store: build the store first; if it was there, its source changed and "
            "another process rebuilt it, so start again."
        ) from None


def _listing(lines: Sequence[str], what: str) -> str:
    cases = "1 case" if len(lines) == 1 else f"{len(lines)} cases"
    return f"{cases} {what}:\n" + "\n".join(f"  {line}" for line in lines)


@contextlib.contextmanager
def _build_lock(folder: Path) -> Iterator[None]:
    """One build at a time on this folder; a killed holder releases it."""

    def busy() -> None:
        logger.info("waiting for another process that is building %s", folder)

    def unlocked(error: OSError) -> None:
        # entries appear by rename: without a lock a case may be built twice, never wrongly
        logger.warning("%s cannot be locked (%s): building without a lock", folder, error.strerror or error)

    with contextlib.ExitStack() as stack:
        with Steps(None, "waiting for another process that is building the patch store"):
            stack.enter_context(waiting_for(folder / ".lock", busy=busy, unlocked=unlocked))
        yield
