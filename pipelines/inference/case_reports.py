"""The report `<case>.json` of each predicted case, by which a later prediction finds the cases that are done."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from pipelines.data.cases import Reading
from pipelines.metrics.confidence import Estimates
from pipelines.metrics.summary import Scores
from pipelines.metrics.volumes import Volume
from pipelines.utils.json_files import JsonError, read_json
from transforms.io.image_files import image_files
from transforms.utils.files import replacing
from transforms.utils.image_paths import MOST_FILES
from transforms.utils.walk import files_below

if TYPE_CHECKING:
    from typing import NotRequired

FORMAT_VERSION = 1


class Fingerprint(TypedDict):
    """Data by which a change of a file or folder is detected, see `fingerprint`.

    Attributes:
        path: of several files the first.
        channels: of an image in several files, all of them.
        files: how many there are, those in a folder or beside a header included.
        digest: over their names, sizes and times.
    """

    path: str
    channels: NotRequired[list[str]]
    files: int
    digest: str


class ReportedInput(Reading):
    """The image of a case; only its path if it could not be read."""

    path: str
    channels: NotRequired[list[str]]
    files: NotRequired[int]
    digest: NotRequired[str]


class Request(TypedDict):
    """Everything that determines the results of a case.

    Attributes:
        input: the image, and how it is read.
        reference: the reference label map.
        models: SHA-256 of the weights of each model.
        labels: names of the classes by class id (as text).
        settings: see `pipelines.inference.prediction_settings.settings_of`.
    """

    input: ReportedInput
    reference: Fingerprint | None
    models: list[str]
    labels: dict[str, str]
    settings: dict[str, Any]


class Failure(TypedDict):
    """Why a case failed; with a traceback if the error is not one that the user can correct."""

    error: str
    traceback: NotRequired[str]


class CaseReport(TypedDict):
    """The content of `<case>.json`, the report of the prediction of a case.

    Attributes:
        segbundles: `FORMAT_VERSION`.
        case: id of the case.
        run: id of the prediction run that wrote the report.
        notices: warnings while the image was read.
        versions: software versions.
        computed: device, and the engine and precision that "auto" was resolved to.
        volumes: volumes of the structures by name.
        confidence: expected Dice of the structures by name; None if the structure is absent.
        surface_entropy: mean entropy of the probabilities at the surface of the structures, in bits.
        pass_agreement: agreement of several passes on the structures.
        metrics: metrics of a case with a reference label.
        seconds: duration of each step.
        finished: date and time of the end.
        outputs: size in bytes of each written file by name.
        error, traceback: see `Failure`.
        input, reference, models, labels, settings: see `Request`.
    """

    segbundles: NotRequired[int]
    case: str
    status: Literal["done", "failed"]
    run: str
    notices: list[str]
    input: ReportedInput
    versions: dict[str, str]
    computed: dict[str, str]
    reference: NotRequired[Fingerprint | None]
    models: NotRequired[list[str]]
    labels: NotRequired[dict[str, str]]
    settings: NotRequired[dict[str, Any]]
    volumes: NotRequired[dict[str, Volume]]
    confidence: NotRequired[dict[str, float | None]]
    surface_entropy: NotRequired[dict[str, float | None]]
    pass_agreement: NotRequired[dict[str, float | None]]
    metrics: NotRequired[Scores | None]
    seconds: NotRequired[dict[str, float]]
    finished: NotRequired[str]
    outputs: NotRequired[dict[str, int]]
    error: NotRequired[str]
    traceback: NotRequired[str]


def estimates_of(report: CaseReport) -> Estimates:
    """What the network says of its own result; nothing where it was not asked."""
    found: Estimates = {}
    if "confidence" in report and "surface_entropy" in report:
        found = {"confidence": report["confidence"], "surface_entropy": report["surface_entropy"]}
    if "pass_agreement" in report:
        found["pass_agreement"] = report["pass_agreement"]
    return found


def read_reports(folder: Path) -> dict[str, CaseReport]:
    """The reports of earlier predictions in a folder, by case; other files are ignored."""
    names = sorted(folder.glob("[!.]*.json")) if folder.is_dir() else []
    found = [read_report(path) for path in names]
    return {str(report["case"]): report for report in found if report is not None}


def read_report(path: Path) -> CaseReport | None:
    """The report of a case; None if the file is missing or is not a report."""
    try:
        report = read_json(path)
    except (OSError, JsonError):
        return None
    ours = isinstance(report, dict) and report.get("segbundles") == FORMAT_VERSION
    return cast(CaseReport, report) if ours else None


def write_report(folder: Path, report: CaseReport) -> CaseReport:
    """Write the report of a case to a folder and return its full content."""
    whole: CaseReport = {"segbundles": FORMAT_VERSION, **report}
    write_json_file(folder / f"{report['case']}.json", whole)
    return whole


def write_json_file(path: Path, content: Mapping[str, object]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def fingerprint(
    path: str | os.PathLike | Sequence[str | os.PathLike], without: Path | None = None
) -> Fingerprint:
    """Path, number of files, and digest over names, sizes and times of an input, by which a change is detected.

    Args:
        path: a file or folder, or all those that hold the channels of an image.
        without: a folder below `path` to ignore (the output folder).
    """
    if not isinstance(path, (str, os.PathLike)):
        parts = [fingerprint(each, without) for each in path]
        if len(parts) == 1:
            return parts[0]
        digest = hashlib.sha256(json.dumps([part["digest"] for part in parts]).encode()).hexdigest()
        return {
            "path": parts[0]["path"],
            "channels": [part["path"] for part in parts],
            "files": sum(part["files"] for part in parts),
            "digest": digest,
        }
    path = Path(os.path.abspath(path))
    rows: list[tuple[str, int, int]] = []
    if path.is_dir():
        unlisted: list[OSError] = []
        files = files_below(path, hidden=True, without=without, onerror=unlisted.append)
        # A folder with more files is refused with an error when it is read.
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


def is_done(report: CaseReport | None, wanted: Request, folder: Path, names: Iterable[str]) -> bool:
    """Whether by its report a case was predicted exactly as requested, and its files still exist."""
    if report is None or report["status"] != "done":
        return False
    if any(report.get(key) != value for key, value in wanted.items()):
        return False
    sizes = report["outputs"]
    return set(names) <= set(sizes) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
    )
