"""The check of a dataset: what is read of each case, and what is wrong with it. No file is changed."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import pydicom

from pipelines.data.cases import (
    SPLITS,
    CaseItem,
    DatasetError,
    Reading,
    first_image,
    image_paths,
    reading,
    segment_names,
)
from pipelines.data.cohort import missing_foreground, stated_normalization
from pipelines.data.dataset_folder import describe, load_dataset
from pipelines.data.inputs import InputError, allowed, find_inputs, is_dataset, is_dicom
from pipelines.data.integrity import header_problems
from pipelines.data.label_names import IGNORE
from pipelines.utils.cores import available_cores
from pipelines.utils.logs import warnings_of
from pipelines.utils.progress import Steps
from transforms.dicom.labels import find_dicom_label
from transforms.dicom.series import read_series, scan_series
from transforms.errors import ImageError
from transforms.hounsfield import warn_unless_hounsfield
from transforms.io.header import NIFTI_SUFFIXES, Header, check_spacing, image_suffix, spacing_of
from transforms.io.masks import is_mask_folder
from transforms.io.readers import image_array, label_array, read_header
from transforms.label_values import check_label_values, counts_of
from transforms.utils.files import replacing, require_folder
from transforms.utils.sentences import few_of

_MOST_AT_ONCE, _MOST_NAMES = 4, 12


@dataclass
class CaseCheck:
    """The findings of the check for one case.

    Attributes:
        case, split: id, and list of the dataset ("" if the input is not a dataset).
        image, label: paths; a list if the image has several files; `label` is "" if there is none.
        kind, label_kind: "NIfTI", "NRRD", "DICOM series", "DICOM SEG" and so on.
        size: voxels along the axes of the file.
        spacing: millimetres along the axes of the file.
        orientation: directions of the axes of the file, such as "LPS"; "" for a 2D picture.
        series: SeriesDescription (0008,103E) of a DICOM series.
        files: number of DICOM files of the image, or of the files that hold its channels.
        classes: class name (or label value) to number of voxels in the label map.
        problems: reasons why the case is refused.
        notices: irregularities in spite of which the case is read.
    """

    case: str
    split: str
    image: str | list[str]
    label: str = ""
    kind: str = ""
    label_kind: str = ""
    size: list[int] = field(default_factory=list)
    spacing: list[float] = field(default_factory=list)
    orientation: str = ""
    series: str = ""
    files: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@dataclass
class DatasetCheck:
    """The findings for each case, and for the dataset as a whole."""

    path: str
    cases: list[CaseCheck]
    problems: list[str]
    notices: list[str]

    @property
    def refused(self) -> list[CaseCheck]:
        return [case for case in self.cases if case.problems]


class _Listed(NamedTuple):
    """A case to be checked: its split, and which channels are CT according to its dataset (None: it does not say)."""

    item: CaseItem
    split: str = ""
    ct: list[int] | None = None


class _Described(NamedTuple):
    """The content of a dataset's description, with the problems of the dataset and of single cases."""

    cases: list[_Listed]
    labels: dict[int, str]
    channels: int | None
    problems: list[str]
    notices: list[str]
    of_cases: dict[str, list[str]]


def check_input(
    path: Path,
    json_file: str | None = None,
    series: str | None = None,
    allow: Sequence[str] = (),
    voxels: bool = True,
) -> bool:
    """Check the input and print a table.

    Args:
        json_file: file for the findings as JSON; "-" prints them to standard output instead of the table.

    Returns:
        Whether anything is refused.
    """
    if json_file not in (None, "-"):
        require_folder(Path(str(json_file)).parent, "the findings", "name another file with --json")
    found = check(path, series, allow, voxels)
    if json_file is not None:
        text = json.dumps({**asdict(found), "refused": len(found.refused)}, indent=2) + "\n"
        if json_file == "-":
            sys.stdout.write(text)
        else:
            with replacing(json_file) as temporary:
                temporary.write_text(text, encoding="utf-8")
    if json_file != "-":
        print(table(found))
    return bool(found.refused or found.problems)


def check(
    path: Path, series: str | None = None, allow: Sequence[str] = (), voxels: bool = True
) -> DatasetCheck:
    """Check every case of a dataset, or of a folder of images or DICOM folders.

    Args:
        series, allow: options of the DICOM reader, for cases whose dataset does not state them.
        voxels: read every image and label map once, as a prediction or a training does, and count the classes.
            False reads only headers, so that damaged voxel data are not found.
    """
    asked: Reading = {"allow": allowed(allow)}
    if series:
        asked["series"] = series
    if is_dataset(path):
        described = _dataset(path)
    else:
        described = _Described([], {}, None, [], [], {})
        try:
            described.cases.extend(_Listed(item) for item in find_inputs(path, series=series, allow=allow))
        except InputError as error:
            described.problems.append(str(error))
    listed, labels = described.cases, described.labels

    def one(each: _Listed) -> CaseCheck:
        case, grid = _image(each, {**asked, **reading(each.item)}, described, voxels)
        if voxels and grid is not None:
            _classes(case, labels, grid, each.item)
        return case

    # Each worker holds a whole volume in memory.
    workers = max(2, min(_MOST_AT_ONCE, available_cores()))
    cases = []
    with Steps(len(listed), "case", "reading" if voxels else "checking", leave=False, delay=2.0) as steps:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="check")
        try:
            for case in pool.map(one, listed):
                cases.append(case)
                steps.step()
        finally:
            pool.shutdown(cancel_futures=True)
    foreground = _foreground(cases, labels) if voxels else []
    return DatasetCheck(str(path), cases, described.problems, described.notices + foreground)


def _dataset(path: Path) -> _Described:
    problems: list[str] = []
    try:
        _, dataset, described = describe(path, problems)
    except DatasetError as error:
        return _Described([], {}, None, list(error.problems), [], {})
    of_cases: dict[str, list[str]] = {}
    general = []
    known = {repr(item.case.id): item.case.id for item in described}
    for problem in (*problems, *header_problems(dataset)):
        found = re.match(r"""case ('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", problem)
        owner = known.get(found[1]) if found else None
        if owner is None:
            general.append(problem)
        else:
            of_cases.setdefault(owner, []).append(problem.partition(": ")[2])
    notices = []
    if not problems:
        try:
            load_dataset(path, check=False, validation_fraction=0.2)
        except DatasetError as error:
            notices = [f"for a training: {problem}" for problem in error.problems]
    words = stated_normalization(dataset)
    ct = None if words in (None, "CT") else [i for i, word in enumerate(words or ()) if word == "CT"]
    cases = [_Listed(item, split, ct) for split in SPLITS for item in dataset.as_dicts(split)]
    return _Described(cases, dataset.labels, dataset.channels, general, notices, of_cases)


def _image(
    listed: _Listed, asked: Reading, described: _Described, voxels: bool
) -> tuple[CaseCheck, Header | None]:
    """The findings of a case, and the header of its image (None if it cannot be read)."""
    item, channels, first = listed.item, described.channels, first_image(listed.item)
    found = CaseCheck(item["case"], listed.split, item["image"], item.get("label") or "")
    found.problems = list(described.of_cases.get(found.case, ()))
    found.kind = _kind(first)
    found.label_kind = _kind(found.label, label=True) if found.label else ""
    if item.get("problem"):
        found.problems.append(item["problem"])
        return found, None
    array = None
    try:
        with warnings_of("transforms", this_thread=True) as found.notices:
            if isinstance(item["image"], list):
                found.files = len(image_paths(item))
                header = read_header(item["image"], **asked)
                if voxels and not found.problems:
                    array = image_array(item["image"], **asked)[0]
            elif is_dicom(first):
                series = scan_series(first, **asked)
                header = check_spacing(Path(first), Header(series.shape, 1, series.affine))
                found.series, found.files = series.description, len(series.files)
                if voxels and not found.problems:
                    array = read_series(series)[0]
                elif series.lossy:
                    found.notices.append(
                        "compressed with loss: the values differ slightly from those of the scanner"
                    )
            else:
                header = read_header(first, channels=channels)
                if voxels and not found.problems:
                    array = image_array(first, channels=channels)[0]
            if array is not None and listed.ct != [] and len(header.shape) == 3:
                array = array.reshape(header.channels, *header.shape)
                warn_unless_hounsfield(array if listed.ct is None else array[listed.ct], first)
    except (ImageError, OSError) as error:
        if not found.problems:
            found.problems.append(str(error))
        return found, None
    except Exception as error:  # one case must not hide the others
        found.problems.append(f"{first}: {type(error).__name__}: {error}")
        return found, None
    dims = len(header.shape)
    found.size = list(header.shape)
    found.spacing = [round(value, 4) for value in spacing_of(header.affine, dims)]
    found.orientation = "".join(nib.aff2axcodes(header.affine)) if dims == 3 else ""
    return found, header


def _kind(path: str, label: bool = False) -> str:
    suffix = image_suffix(path)
    if suffix:
        return "NIfTI" if suffix in NIFTI_SUFFIXES else suffix.rpartition(".")[2].upper()
    if label and is_mask_folder(path):
        return "NIfTI masks"
    if not label:
        return "DICOM series" if os.path.isdir(path) else "DICOM"
    try:
        header = pydicom.dcmread(find_dicom_label(path), specific_tags=["Modality"], stop_before_pixels=True)
    except Exception:
        # Damaged bytes can raise any exception here; reading the label reports what is wrong.
        return "unknown"
    return f"DICOM {header.get('Modality', '')}"


def _classes(case: CaseCheck, labels: Mapping[int, str], grid: Header, item: CaseItem) -> None:
    """Count the classes of a case's label map; a value without a name is a problem."""
    if not case.label or case.problems:
        return
    try:
        # Masks, SEG and RTSTRUCT contain class names, whose ids the dataset defines; SEG and RTSTRUCT are resampled to
        # the image's grid.
        named_on_grid = (grid, segment_names(item, labels)) if is_dicom(case.label) else ()
        with warnings_of("transforms", this_thread=True) as notices:
            counts = counts_of(label_array(case.label, *named_on_grid)[0])
        case.notices += notices
        marked = {item["ignore"]: IGNORE} if "ignore" in item else {}
        names = {**labels, **marked}
        case.classes = {names.get(value, str(value)): count for value, count in counts.items()}
        if labels:
            check_label_values(counts, names, case.label)
    except (ImageError, OSError) as error:
        case.problems.append(str(error))
    except Exception as error:  # one case must not hide the others
        case.problems.append(f"{case.label}: {type(error).__name__}: {error}")


def _foreground(cases: Sequence[CaseCheck], labels: Mapping[int, str]) -> list[str]:
    """Sentences about foreground that the training cases lack as a whole."""
    training = [case for case in cases if case.split == "training" and case.label and not case.problems]
    ids = {name: value for value, name in labels.items()}
    present = {case.case: [ids[name] for name in case.classes if ids.get(name, 0) != 0] for case in training}
    return missing_foreground(present, labels)


def table(found: DatasetCheck) -> str:
    """One line per case with its findings below it, and a last line with the number of cases."""
    rows = [("case", "list", "size", "spacing (mm)", "axes", "image", "label", "classes")]
    below: list[list[str]] = [[]]
    for case in found.cases:
        image = case.kind + (f", {case.files} files" if case.files else "")
        image += f", {case.series}" if case.series else ""
        rows.append(
            (
                case.case,
                case.split,
                " x ".join(map(str, case.size)),
                " x ".join(f"{value:.4g}" for value in case.spacing),
                case.orientation,
                image,
                case.label_kind,
                few_of([name for name in case.classes if name != "background"], _MOST_NAMES),
            )
        )
        below.append([*(f"refused: {p}" for p in case.problems), *(f"notice: {n}" for n in case.notices)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row, notes in zip(rows, below, strict=True):
        lines.append("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        lines += ["    " + note.replace("\n", "\n      ") for note in notes]
    lines += [f"refused: {problem}" for problem in found.problems]
    lines += [f"notice: {notice}" for notice in found.notices]
    lines.append(f"{len(found.cases)} cases, {len(found.refused)} refused")
    return "\n".join(lines if found.cases else lines[1:])
