"""The current state of a case's files (sizes and modification times), which determines its entry in the patch store."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.data.cases import CaseItem, Options, image_paths, reading, segment_names
from pipelines.data.stored_case import StoreError
from pipelines.utils.file_names import is_device
from transforms.utils.files import (
    sha256_of,
)
from transforms.utils.walk import files_below


class CaseState(NamedTuple):
    """One case with its files, and the name of the entry that belongs to their current state."""

    case: str
    images: tuple[str, ...]
    label: str | None
    entry: str
    options: Options


def _is_dicom(label: str) -> bool:
    if label.lower().endswith((".nii", ".nii.gz")):
        return False  # the usual case, without the slow import below
    from transforms.io.header import image_suffix

    return image_suffix(label) == ""


def case_state(item: CaseItem, names: Mapping[int, str] | None = None) -> CaseState:
    if "image" not in item:
        raise StoreError(f'the case {dict(item)} has no "image"; add the path of its image.')
    images = tuple(os.path.abspath(path) for path in image_paths(item))
    label = os.path.abspath(item["label"]) if item.get("label") else None
    case = str(item.get("case") or re.sub(r"\.(nii\.gz|[^.]+)$", "", os.path.basename(images[0])))
    options: Options = {**reading(item)}
    names = segment_names(item, names)
    if label is not None and names is not None and _is_dicom(label):
        options["names"] = {
            str(k): v for k, v in names.items()
        }  # the class ids of a DICOM label, and of masks, depend on them
    if label is not None and "ignore" in item:
        options["ignore"] = item["ignore"]
    stated = f"\n{json.dumps(options, sort_keys=True)}" if options else ""
    # What is said of one file is the same as when there was no more than one: entries of earlier stores stay valid.
    paths = text_digest("\n".join([case, *images, f"{label}{stated}"]))[:12]
    state = "\n".join(_state(path, case) for path in (*images, label) if path is not None)
    name = re.sub(r"[^A-Za-z0-9_.]", "_", case).lstrip(".")[:80]
    name = f"_{name}" if is_device(name) else name
    return CaseState(case, images, label, f"{name}-{paths}-{text_digest(state)[:16]}", options)


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
    """The files of a folder that its digest covers: those that are read, and hidden ones."""
    return sorted(str(path) for path in files_below(folder, hidden=True, dangling=False))


def image_digest(paths: Sequence[str]) -> str:
    """SHA-256 of an image's content: of its file or folder, of several over their digests in order."""
    digests = [content_digest(path) for path in paths]
    return digests[0] if len(digests) == 1 else text_digest("\n".join(digests))


def content_digest(path: str) -> str:
    """SHA-256 of a file's content; for a folder, of the digests of its files, independent of names but for masks."""
    if os.path.isdir(path):
        from transforms.io.masks import is_mask_folder

        inside = {name: content_digest(name) for name in _files(path)}
        if is_mask_folder(path):  # its names say which class a mask is of
            named = (f"{os.path.relpath(name, path)} {digest}" for name, digest in inside.items())
            return text_digest("\n".join(named))
        return text_digest("\n".join(sorted(inside.values())))
    digests = [sha256_of(path), *(sha256_of(other) for other in _others(path))]
    return digests[0] if len(digests) == 1 else text_digest("\n".join(digests))


def _others(path: str) -> list[Path]:
    """The other files of the same image, such as the voxel data (.img) of a header (.hdr)."""
    if path.lower().endswith((".nii", ".nii.gz")):
        return []  # the usual case, without the slow import below
    from transforms.io.image_files import image_files

    return image_files(path)[1:]


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
