"""Building one entry of a patch store: preprocessed, compressed, and renamed to its final place when complete."""

from __future__ import annotations

import json
import os
import re
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import blosc2
import numpy as np
import torch

from pipelines.data.case_state import CaseState, content_digest, image_digest
from pipelines.data.cases import reading
from pipelines.data.stored_case import StoreError
from pipelines.utils.logs import warnings_of
from pipelines.utils.worker_processes import end_with_parent
from transforms.label_values import counts_of
from transforms.utils.files import NO_ROOM, new_folder, sync_folder

FORMAT = 2
MAX_POSITIONS = 10_000
"""Maximum number of foreground positions stored per class and case."""

CHUNKS = {3: (64, 64, 64), 2: (256, 256)}
BLOCKS = {3: (32, 32, 8), 2: (64, 64)}
"""Voxels of a chunk (a unit of the file's index) and of a block (the smallest unit that is decompressed). Blocks are
thin along z so that a 2D network reads an axial slice without decompressing 31 neighbours; 3D patches are read as
fast as with cubic blocks (docs/patches.md)."""

TEMPORARY = ".tmp-"


class Job(NamedTuple):
    """What all cases of a build have in common; sent to each worker process once."""

    folder: Path
    preprocess: Any
    labels: list[int] | None
    names: dict[int, str] | None


_job: Job


def start_worker(job: Job) -> None:
    global _job
    _job = job
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    end_with_parent()


def build_in_worker(source: CaseState) -> str | None:
    return outcome_of(_job, source, _job.folder)


def outcome_of(job: Job, source: CaseState, folder: Path) -> str | None:
    """Build one case; return the reason if the case is broken, else None.

    Raises:
        StoreError: the disk is full, which concerns all cases.
    """
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


def _build_case(job: Job, source: CaseState) -> None:
    with new_folder(job.folder / temporary_name(), job.folder / source.entry, "meta.json") as temporary:
        _write_entry(job, source, temporary)


def _write_entry(job: Job, source: CaseState, folder: Path) -> None:
    image = list(source.images) if len(source.images) > 1 else source.images[0]
    sha256 = {"image": image_digest(source.images)}
    with warnings_of("transforms", "pipelines") as notices:
        prepared = job.preprocess.image(image, **reading(source.options))
    codes = np.ascontiguousarray(prepared.codes)
    if codes.dtype != np.int16 or codes.ndim not in (3, 4):
        raise StoreError(
            f"{source.images[0]}: preprocessing returned {codes.dtype} of shape {codes.shape}; a store needs int16 of shape"
            " (C, X, Y) or (C, X, Y, Z)."
        )
    spatial = codes.shape[1:]
    _write_array(folder / "image.b2nd", codes, (1, *CHUNKS[len(spatial)]), (1, *BLOCKS[len(spatial)]))
    counts: dict[int, int] = {}
    positions: dict[int, np.ndarray] = {}
    if source.label is not None:
        sha256["label"] = content_digest(source.label)
        ignore = source.options.get("ignore")
        marked = [] if ignore is None else [ignore]
        named: tuple[Any, ...] = (None if job.labels is None else [*job.labels, *marked],)
        if "names" in source.options:
            named = ({int(value): name for value, name in source.options["names"].items()}, image)
        label = np.ascontiguousarray(job.preprocess.label(source.label, prepared.geometry, *named))
        if label.shape != spatial or label.dtype not in (np.uint8, np.uint16):
            raise StoreError(
                f"{source.label}: preprocessing returned a label of {label.dtype} and shape {label.shape} for an image of"
                f" shape {spatial}; a store needs uint8 or uint16 of the image's shape."
            )
        counts, positions = _class_positions(label, ignore)
        _write_array(folder / "label.b2nd", label, CHUNKS[len(spatial)], BLOCKS[len(spatial)])
    table = [np.empty((0, len(spatial)), np.uint16), *positions.values()]
    _write_bytes(folder / "positions.npy", lambda file: np.save(file, np.concatenate(table)))
    offsets = np.cumsum([0, *(len(p) for p in positions.values())])
    meta = {
        "format": FORMAT,
        "case": source.case,
        "image": image,
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
    raise TypeError(
        f"{type(value).__name__} {value!r} in the geometry or intensity of a case cannot be written as JSON"
    )


def _class_positions(
    label: np.ndarray, ignore: int | None = None
) -> tuple[dict[int, int], dict[int, np.ndarray]]:
    """Number of voxels of each value present, and for each foreground value up to `MAX_POSITIONS` voxel indices.

    The indices are in C order. For a label map with voxels to ignore there are none of those, but also indices of
    annotated background.
    """
    flat = label.reshape(-1)
    if ignore is not None and (flat == ignore).any():
        return _annotated_positions(label, ignore)
    where = np.flatnonzero(flat)
    values = flat[where]
    present = np.bincount(values, minlength=1)
    counts = {int(c): int(present[c]) for c in np.flatnonzero(present)}
    positions = {}
    for value in counts:
        positions[value] = _kept_positions(where[values == value], value, label.shape)
    if len(where) < flat.size:
        counts = {0: flat.size - len(where), **counts}
    return counts, positions


def _annotated_positions(label: np.ndarray, ignore: int) -> tuple[dict[int, int], dict[int, np.ndarray]]:
    flat = label.reshape(-1)
    counts = counts_of(label)
    positions = {}
    for value in counts:
        if value != ignore:
            index = np.flatnonzero(flat == value)
            positions[value] = _kept_positions(index, value, label.shape)
    return counts, positions


def _kept_positions(index: np.ndarray, value: int, shape: tuple[int, ...]) -> np.ndarray:
    """Voxel indices of flat positions in C order, `MAX_POSITIONS` of them at most."""
    if len(index) > MAX_POSITIONS:
        index = index[np.random.default_rng(value).choice(len(index), MAX_POSITIONS, replace=False)]
        index.sort()
    return np.stack(np.unravel_index(index, shape), 1).astype(np.uint16)


def _write_array(path: Path, array: np.ndarray, chunks: Sequence[int], blocks: Sequence[int]) -> None:
    chunks = tuple(min(c, max(1, s)) for c, s in zip(chunks, array.shape, strict=True))
    blocks = tuple(min(b, c) for b, c in zip(blocks, chunks, strict=True))
    # Compared with zstd and byte shuffling, patches are read in half the time and files are a tenth larger.
    cparams = {
        "codec": blosc2.Codec.LZ4,
        "clevel": 5,
        "filters": [blosc2.Filter.BITSHUFFLE],
        "nthreads": 1,
    }
    frame = blosc2.asarray(array, chunks=chunks, blocks=blocks, cparams=cparams).to_cframe()
    # Written by Python, which reports a full disk as an OSError; the errors of blosc2 do not state the cause.
    _write_bytes(path, lambda file: file.write(frame))


def _write_bytes(path: Path, write: Any) -> None:
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def host_name() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32]


def temporary_name() -> str:
    return f"{TEMPORARY}{host_name()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
