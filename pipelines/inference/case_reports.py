"""The report that a prediction leaves beside each case, and what it says about going on."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.utils.json_files import JsonError, read_json
from transforms.io.image_files import image_files
from transforms.utils.files import replacing
from transforms.utils.image_paths import MOST_FILES
from transforms.utils.walk import files_below

FORMAT_VERSION = 1


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """The reports of earlier predictions in a folder, by case; other files are passed over."""
    names = sorted(folder.glob("[!.]*.json")) if folder.is_dir() else []
    found = [read_report(path) for path in names]
    return {str(report["case"]): report for report in found if report is not None}


def read_report(path: Path) -> dict[str, Any] | None:
    """The report of a case; None where the file is missing or something else."""
    try:
        report = read_json(path)
    except (OSError, JsonError):
        return None
    return report if isinstance(report, dict) and report.get("segbundles") == FORMAT_VERSION else None


def write_report_file(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return dict(content)


def fingerprint(path: str | os.PathLike, without: Path | None = None) -> dict[str, Any]:
    """What shows that an input is still the same: path, number of files, digest over names, sizes and times.

    Args:
        without: a folder in it that does not belong to it (where results go).
    """
    path = Path(os.path.abspath(path))
    rows: list[tuple[str, int, int]] = []
    if path.is_dir():
        unlisted: list[OSError] = []
        files = files_below(path, hidden=True, without=without, onerror=unlisted.append)
        # Of more files no image can be made: reading it says so.
        rows += [_row(file, path) for file in itertools.islice(files, MOST_FILES)]
        rows += [(f"{error.filename}: {error.strerror}", -1, 0) for error in unlisted]
    else:
        rows += [_row(file, file.parent) for file in image_files(path)]
    digest = hashlib.sha256(json.dumps(sorted(rows)).encode("utf-8", "surrogateescape")).hexdigest()
    return {"path": str(path), "files": len(rows), "digest": digest}


def _row(path: Path, root: Path) -> tuple[str, int, int]:
    try:
        state = path.stat()
    except OSError:
        return path.relative_to(root).as_posix(), -1, 0
    return path.relative_to(root).as_posix(), state.st_size, state.st_mtime_ns


def is_done(
    report: Mapping[str, Any] | None, wanted: Mapping[str, Any], folder: Path, names: Iterable[str]
) -> bool:
    """Whether a report says that a case was predicted just as wanted and its files are still there."""
    if report is None or report["status"] != "done":
        return False
    if any(report.get(key) != value for key, value in wanted.items()):
        return False
    sizes = report["outputs"]
    return set(names) <= set(sizes) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
    )
