"""Finding the cases at a path: a file, a DICOM folder, a folder of either, or a dataset."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.data.cases import SPLITS, CaseItem, Reading, first_image, numbered_id
from pipelines.data.channel_files import by_case, numbered
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.dicom_inputs import (
    dicom_files,
    folders_of_one_series,
    is_one_study,
    localizer_folders,
)
from pipelines.data.missing_files import may_be_an_image, reason_lost
from pipelines.data.subject_folders import holds_subjects
from pipelines.utils.file_names import readable
from pipelines.utils.progress import Steps
from transforms.dicom.files import DICOM_ENDINGS
from transforms.dicom.headers import holds_dicom
from transforms.dicom.stack import checked_names
from transforms.errors import ImageError, UserError
from transforms.io.header import PICTURE_SUFFIXES, image_suffix, names_image
from transforms.utils.image_paths import bounded, check_path
from transforms.utils.walk import files_below, leads_nowhere

logger = logging.getLogger(__name__)

_SKIPPED = {"DICOMDIR", "THUMBS.DB"}
_WHAT = "give a NIfTI/NRRD file, a folder of DICOM slices, a folder of either, or a dataset.json"


class InputError(UserError, ValueError):
    """The input does not contain images to predict; the message states what to give instead."""


def find_inputs(
    path: str | os.PathLike | Sequence[str | os.PathLike] | None,
    split: str | None = None,
    series: str | int | None = None,
    allow: Sequence[str] | str | None = None,
    output: str | os.PathLike | None = None,
    labels: Mapping[int, str] | None = None,
    channels: int = 1,
    anonymous: bool = False,
) -> list[CaseItem]:
    """The cases at `path`; the cases of a dataset have labels.

    - A `dataset.json`, or a folder with one (or with `imagesTr` and `labelsTr`): its cases, with labels.
    - A file: one case.
    - A folder: each image file in it is a case, and so is each subfolder that holds DICOM slices (at any depth)
      or one image file. If DICOM slices lie directly in the folder, or one series is spread over its subfolders,
      the whole folder is one case. For a model of several channels, `case_0000.nii.gz`, `case_0001.nii.gz` and so on
      are one case.
    - A list of files or DICOM folders: one case, with its channels in this order.

    Hidden files, files of other kinds and the folder `output` are ignored.

    Args:
        split: only this split of a dataset: "training", "validation" or "test".
        series: which series of a DICOM folder is read.
        allow: irregularities that the DICOM reader may accept; a list, or text with commas.
        output: folder of the results; it may lie in the input folder and is then not searched.
        labels: class id to class name of the model; a dataset with other classes is predicted without its labels.
        channels: number of channels of the model's input.
        anonymous: name the cases by their number in this list.

    Raises:
        InputError: `path` does not exist or has no images, `allow` holds an unknown name, or two images would
            write the same result.
        DatasetError: the dataset's description is broken.

    Examples:
        >>> import nibabel as nib, numpy as np
        >>> nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)), "patient_1.nii.gz")
        >>> find_inputs("patient_1.nii.gz")
        [{'image': 'patient_1.nii.gz', 'case': 'patient_1'}]
    """
    if not path:
        raise InputError("name the CT to segment: --input FILE_OR_DICOM_FOLDER")
    if split is not None and split not in SPLITS:
        raise InputError(f"there is no split '{split}'; choose one of {', '.join(SPLITS)}")
    cases: list[CaseItem]
    paths = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(each) for each in path]
    for path in paths:
        try:
            check_path(path)
        except ImageError as error:
            raise InputError(str(error)) from None
        if not path.exists():
            raise InputError(f"{path} does not exist; {_WHAT}")
    path = paths[0]
    allow = allowed(allow)
    if len(paths) > 1:
        if split is not None:
            raise InputError(f"{path} is not a dataset, so it has no split '{split}'; give a dataset.json")
        part = numbered(case_id(path))
        cases = [{"image": [str(each) for each in paths], "case": part[0] if part else case_id(path)}]
    elif is_dataset(path):
        # Images are not checked here: a broken one fails when it is read and does not stop the others.
        dataset = load_dataset(path, check=False, validation_fraction=0)
        wanted = SPLITS if split is None else (split,)
        cases = [case for name in wanted for case in dataset.as_dicts(name)]
        if not cases:
            raise InputError(f"{path} has no cases{'' if split is None else f' in its {split} split'}")
        if labels is not None and dataset.labels != dict(labels):
            logger.warning(
                "%s: the classes of the dataset %s differ from those of the model %s, so its labels are not used and"
                " nothing is evaluated",
                path,
                dataset.labels,
                dict(labels),
            )
            for case in cases:
                case.pop("label", None)
    elif split is not None:
        raise InputError(f"{path} is not a dataset, so it has no split '{split}'; give a dataset.json")
    elif path.is_file():
        cases = [{"image": str(path), "case": case_id(path)}]
    else:
        with Steps(None, f"looking for images in {path}"):
            cases = _folder(path, series, Path(output) if output else None, channels)
    twice = [n for n, count in Counter(case["case"].casefold() for case in cases).items() if count > 1]
    if twice:
        first, second = [first_image(case) for case in cases if case["case"].casefold() == twice[0]][:2]
        raise InputError(
            f"{first} and {second} have the same case id '{case_id(Path(first))}'; rename one of them"
        )
    asked: Reading = {}
    if series:
        asked["series"] = series
    if allow:
        asked["allow"] = allow
    numbers = [
        numbered_id(number) if anonymous else case["case"] for number, case in enumerate(cases, start=1)
    ]
    return [{**case, "case": name, **asked} for case, name in zip(cases, numbers, strict=True)]


def is_dataset(path: Path) -> bool:
    """Whether a path is a dataset: a dataset.json, a folder with one or with imagesTr and labelsTr, or of subjects."""
    if path.is_file():
        return path.name == "dataset.json"
    if (path / "dataset.json").is_file() or all((path / n).is_dir() for n in ("imagesTr", "labelsTr")):
        return True
    return holds_subjects(path)


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether an image is read as DICOM: a folder, or a file without the suffix of another image format."""
    return os.path.isdir(path) or not image_suffix(str(path))


def named(names: Sequence[str] | str | None) -> list[str]:
    """A list of names from a list or a comma-separated text."""
    if isinstance(names, str):
        names = names.split(",")
    return [name.strip() for name in names or [] if name.strip()]


def allowed(names: Sequence[str] | str | None) -> list[str]:
    """The names of irregularities that the DICOM reader may accept.

    Raises:
        InputError: a name is unknown; checked at the start, so that a typing error does not fail every case.
    """
    try:
        checked_names(named(names))
    except ImageError as error:
        raise InputError(str(error)) from None
    return named(names)


def case_id(path: Path) -> str:
    """The id of a case: the name of its file without suffix, or of its folder."""
    # The name of a link is used, not that of its target: data managers link to files whose names are digests.
    name = readable(Path(os.path.abspath(path)).name)
    if path.is_dir():
        return name
    suffix = image_suffix(path) or next((s for s in (".dcm", ".dicom") if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def _folder(path: Path, series: str | int | None, output: Path | None, channels: int) -> list[CaseItem]:
    skip = os.path.realpath(output) if output is not None else None
    try:
        entries = [e for e in sorted(path.iterdir()) if e.name[0] != "." and os.path.realpath(e) != skip]
    except OSError as error:
        raise InputError(f"{path} cannot be listed ({error.strerror}); {_WHAT}") from error
    folders = [e for e in entries if e.is_dir()]
    files = [e for e in entries if e.is_file() or leads_nowhere(e)]
    cases = _cases([e for e in files if names_image(e)], channels)
    others = [e for e in files if not image_suffix(e) and e.name.upper() not in _SKIPPED]
    strange = [e for e in entries if image_suffix(e) and e not in files]
    cases += [_case(e, why) for e in strange if (why := _unreadable(e))]
    # Unknown files beside images are ignored. A folder of unknown files only goes to the reader, which reports
    # what is wrong with them.
    if any(holds_dicom(e) for e in others) or (others and not cases and not folders):
        if cases:
            _require_slices(path, cases, others)
        return [_case(path)]
    cases += [lost for e in others if (lost := _unusable(e)) is not None]
    unlisted: list[OSError] = []
    crowded: dict[Path, str] = {}
    inside = {folder: _listed(folder, skip, unlisted, crowded) for folder in folders}
    slices = {folder: dicom_files(files) for folder, files in inside.items()}
    shared = folders_of_one_series(slices)
    whole = [folder for folder in folders if slices[folder]]
    if (
        shared
        and set(shared) == set(whole)
        and not cases
        and not any(image_suffix(file) for folder in folders if not slices[folder] for file in inside[folder])
        and len({id(group) for group in shared.values()}) == 1
    ):
        return [_case(path)]
    if series and not cases and len(whole) > 1 and is_one_study(slices):
        return [_case(path)]  # the reader chooses the series among all of the study
    images_here = bool(cases)
    closed = {Path(error.filename): error for error in unlisted}
    scouts = localizer_folders(slices)
    # Exports with a DICOMDIR often include a viewer, whose folders are not cases.
    exported = any(e.name.upper() == "DICOMDIR" for e in entries)
    for folder in folders:
        images = [file for file in inside[folder] if names_image(file)]
        if folder in crowded:
            cases.append(_case(folder, crowded[folder]))
        elif folder in shared:
            others_of = sorted(other.name for other in shared[folder] if other != folder)
            cases.append(
                _case(
                    folder,
                    f"{folder}: a series lies partly here and partly in {', '.join(others_of)}; put the slices of one "
                    "series into one folder",
                )
            )
        elif shut := next((at for at in closed if at == folder or folder in at.parents), None):
            cases.append(_case(folder, f"{shut}: cannot be listed ({closed[shut].strerror})"))
        elif folder in scouts and not any(_unusable(file) or _is_volume(file) for file in inside[folder]):
            logger.warning(
                "%s: ignored, it holds only localizers of a study whose CT is in another folder", folder
            )
        elif not slices[folder] and not images and any(_unusable(file) for file in inside[folder]):
            cases.append(_case(folder))  # the reader reports what is wrong
        elif exported and whole and not slices[folder] and not images:
            logger.info("%s: ignored, it holds no DICOM slices", folder)
        elif slices[folder] or (not images and not images_here and inside[folder]):
            cases.append(_case(folder))
        elif images and len(found := _cases(images, channels)) == 1:
            cases.append({**found[0], "case": readable(folder.name)})
        elif images:
            shown = ", ".join(str(image.relative_to(folder)) for image in images[:3])
            cases.append(
                _case(
                    folder,
                    f"{folder}: {len(images)} image files in the folder of one case ({shown}); keep one, or put all "
                    "images directly into the input folder",
                )
            )
        elif not images_here:
            cases.append(_case(folder, f"{folder} is empty: neither DICOM slices nor an image file"))
    if not cases:
        raise InputError(f"{path} is empty; {_WHAT}")
    return cases


def _cases(images: Sequence[Path], channels: int) -> list[CaseItem]:
    """The cases of image files side by side."""
    found: list[CaseItem] = []
    for name, files, problem in by_case(images, channels):
        lost = next((case for file in files if (case := _unusable(file)) is not None), None)
        if not name:
            found.append(lost or _case(files[0]))
            continue
        together: CaseItem = {"image": [str(file) for file in files], "case": readable(name)}
        if lost is not None and "problem" in lost:
            problem = lost["problem"]
        if problem:
            together["problem"] = problem
        found.append(together)
    return found


def _unreadable(path: Path) -> str:
    """Why a path that exists cannot be an image; "" if it may be one."""
    try:
        check_path(path)
    except ImageError as error:
        return str(error)
    return ""


def _case(path: Path, problem: str = "") -> CaseItem:
    """The case at a path, with the reason why its image cannot be read if that is known."""
    found: CaseItem = {"image": str(path), "case": case_id(path)}
    if problem:
        found["problem"] = problem
    return found


def _unusable(path: Path) -> CaseItem | None:
    """A failing case if the file should be an image but cannot be read as one; otherwise None."""
    if may_be_an_image(path):
        return _case(path, f"{path}: {reason_lost(path)}")
    if path.name.lower().endswith(DICOM_ENDINGS) and not holds_dicom(path):
        return _case(path)  # empty or without a preamble: the reader reports what is wrong
    return None


def _is_volume(path: Path) -> bool:
    return names_image(path) and image_suffix(path) not in PICTURE_SUFFIXES


def _listed(folder: Path, skip: str | None, unlisted: list[OSError], crowded: dict[Path, str]) -> list[Path]:
    """The files below a folder, sorted by name, without hidden ones.

    The error of each subfolder that cannot be listed is appended to `unlisted`. If there are too many files for one
    case, the reason is stored in `crowded` and no files are returned.
    """
    try:
        found = sorted(bounded(files_below(folder, without=skip, onerror=unlisted.append), folder))
    except ImageError as error:
        crowded[folder] = str(error)
        return []
    return [file for file in found if file.name.upper() not in _SKIPPED]


def _require_slices(path: Path, images: Sequence[CaseItem], others: Sequence[Path]) -> None:
    """Log that image files beside a DICOM series (its pictures, conversions or results) are ignored.

    Raises:
        InputError: there are more image files than DICOM files; the folder may be a cohort with a stray DICOM file.
    """
    files = sum(file.modality not in ("SEG", "RTSTRUCT") for file in dicom_files(others))
    first = Path(first_image(images[0])).name
    if len(images) > files:
        raise InputError(
            f"{path} holds both {len(images)} image files (such as {first}) and {files} DICOM slices; give one of them "
            "as input, or put each case into its own folder"
        )
    logger.warning(
        "%s: read as a DICOM series; %d image file(s) beside its slices are ignored, such as %s",
        path,
        len(images),
        first,
    )
