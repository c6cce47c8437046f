"""What a path names: the cases of a file, of DICOM folders, of a folder of either, or of a dataset."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.data.cases import SPLITS, CaseItem, Reading, first_image
from pipelines.data.channel_files import by_case, numbered
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.missing_files import may_be_an_image, reason_lost
from pipelines.utils.file_names import readable
from pipelines.utils.progress import Steps
from transforms.dicom.files import DICOM_ENDINGS
from transforms.dicom.headers import frames_of, holds_dicom
from transforms.dicom.stack import checked_names
from transforms.dicom.volumes import is_localizer
from transforms.errors import ImageError, UserError
from transforms.io.header import PICTURE_SUFFIXES, image_suffix, names_image
from transforms.utils.image_paths import bounded, check_path
from transforms.utils.threads import parallel
from transforms.utils.walk import files_below, leads_nowhere

logger = logging.getLogger(__name__)

_SKIPPED = {"DICOMDIR", "THUMBS.DB"}
_WHAT = "give a NIfTI/NRRD file, a folder of DICOM slices, a folder of either, or a dataset.json"


class _DicomFile(NamedTuple):
    """What tells DICOM files from one another before they are read; texts are empty where the header is damaged."""

    modality: str
    study: str
    series: str
    localizer: bool


class InputError(UserError, ValueError):
    """Nothing can be predicted from the input named; the message says what to give instead."""


def find_inputs(
    path: str | os.PathLike | Sequence[str | os.PathLike] | None,
    split: str | None = None,
    series: str | int | None = None,
    allow: Sequence[str] | str | None = None,
    output: str | os.PathLike | None = None,
    labels: Mapping[int, str] | None = None,
    channels: int = 1,
) -> list[CaseItem]:
    """The cases at `path`; those of a dataset with their labels.

    - A `dataset.json`, or a folder with one (or with `imagesTr` and `labelsTr`): its cases, with labels.
    - A file: one case.
    - A folder: each image file in it is a case, and so is each subfolder that holds DICOM slices (at any depth)
      or one image file. DICOM slices right in the folder make the whole folder one case, and so does a series
      that lies in several of its subfolders. For a model of several channels, `case_0000.nii.gz`, `case_0001.nii.gz`
      and so on are one case.
    - A list of files or DICOM folders: one case, whose channels they hold in this order.

    Hidden files, files of other kinds and the folder `output` are passed over.

    Args:
        split: only this split of a dataset: "training", "validation" or "test".
        series: which series of a DICOM folder, handed on to the reader.
        allow: irregularities that the DICOM reader may accept; a list, or text with commas.
        output: where results go; it may lie in the input and is no case.
        labels: class id to name of the model; a dataset with others is predicted but cannot be evaluated.
        channels: that the model takes.

    Raises:
        InputError: there is nothing at `path`, `allow` holds an unknown name, or two images would write the same result.
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
            raise InputError(f"{path} is no dataset, so it has no split '{split}'; give a dataset.json")
        part = numbered(case_id(path))
        cases = [{"image": [str(each) for each in paths], "case": part[0] if part else case_id(path)}]
    elif is_dataset(path):
        # Broken images are found one by one when they are read, so that they do not stop the others.
        dataset = load_dataset(path, check=False, validation_fraction=0)
        wanted = SPLITS if split is None else (split,)
        cases = [case for name in wanted for case in dataset.as_dicts(name)]
        if not cases:
            raise InputError(f"{path} has no cases{'' if split is None else f' in its {split} split'}")
        if labels is not None and dataset.labels != dict(labels):
            logger.warning(
                "%s: its classes %s are not the model's %s, so its labels are not used and nothing is evaluated",
                path,
                dataset.labels,
                dict(labels),
            )
            for case in cases:
                case.pop("label", None)
    elif split is not None:
        raise InputError(f"{path} is no dataset, so it has no split '{split}'; give a dataset.json")
    elif path.is_file():
        cases = [{"image": str(path), "case": case_id(path)}]
    else:
        with Steps(None, f"looking for images in {path}"):
            cases = _folder(path, series, Path(output) if output else None, channels)
    twice = [n for n, count in Counter(case["case"].casefold() for case in cases).items() if count > 1]
    if twice:
        first, second = [first_image(case) for case in cases if case["case"].casefold() == twice[0]][:2]
        raise InputError(f"{first} and {second} are both called '{case_id(Path(first))}'; rename one of them")
    asked: Reading = {}
    if series:
        asked["series"] = series
    if allow:
        asked["allow"] = allow
    return [{**case, **asked} for case in cases]


def is_dataset(path: Path) -> bool:
    """Whether a path names a dataset: a dataset.json, or a folder with one or with imagesTr and labelsTr."""
    if path.is_file():
        return path.name == "dataset.json"
    return (path / "dataset.json").is_file() or all((path / n).is_dir() for n in ("imagesTr", "labelsTr"))


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a case's image is read as DICOM: a folder, or a file of no other known kind."""
    return os.path.isdir(path) or not image_suffix(str(path))


def named(names: Sequence[str] | str | None) -> list[str]:
    """A list of names from a list, or from text with commas."""
    if isinstance(names, str):
        names = names.split(",")
    return [name.strip() for name in names or [] if name.strip()]


def allowed(names: Sequence[str] | str | None) -> list[str]:
    """The names of irregularities that the DICOM reader may accept.

    Raises:
        InputError: one is unknown, so that a slip of the pen costs no cohort.
    """
    try:
        checked_names(named(names))
    except ImageError as error:
        raise InputError(str(error)) from None
    return named(names)


def case_id(path: Path) -> str:
    """A case's name: its file's without ending, or its folder's."""
    # A link names its case itself: stores of large files link to names that are digests.
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
    # Text files beside images are no slices; a folder of nothing but unknown files is for the reader to judge.
    if any(holds_dicom(e) for e in others) or (others and not cases and not folders):
        if cases:
            _require_slices(path, cases, others)
        return [_case(path)]
    cases += [lost for e in others if (lost := _lost(e)) is not None]
    unlisted: list[OSError] = []
    crowded: dict[Path, str] = {}
    inside = {folder: _listed(folder, skip, unlisted, crowded) for folder in folders}
    slices = {folder: _dicom_files(files) for folder, files in inside.items()}
    shared = _sharing(slices)
    whole = [folder for folder in folders if slices[folder]]
    if (
        shared
        and set(shared) == set(whole)
        and not cases
        and not any(image_suffix(file) for folder in folders if not slices[folder] for file in inside[folder])
        and len({id(group) for group in shared.values()}) == 1
    ):
        return [_case(path)]
    if series and not cases and len(whole) > 1 and _one_study(slices):
        return [_case(path)]  # the reader picks the series out of all that the study has
    images_here = bool(cases)
    closed = {Path(error.filename): error for error in unlisted}
    scouts = _scouts(slices)
    exported = any(e.name.upper() == "DICOMDIR" for e in entries)  # its viewer's folders are no cases
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
        elif folder in scouts and not any(_lost(file) or _is_volume(file) for file in inside[folder]):
            logger.warning("%s: passed over, nothing but localizers beside the CT of this study", folder)
        elif not slices[folder] and not images and any(_lost(file) for file in inside[folder]):
            cases.append(_case(folder))  # the reader says what is the matter
        elif exported and whole and not slices[folder] and not images:
            logger.info("%s: passed over, no DICOM slices", folder)
        elif slices[folder] or (not images and not images_here and inside[folder]):
            cases.append(_case(folder))
        elif images and len(found := _cases(images, channels)) == 1:
            cases.append({**found[0], "case": readable(folder.name)})
        elif images:
            shown = ", ".join(str(image.relative_to(folder)) for image in images[:3])
            cases.append(
                _case(
                    folder,
                    f"{folder}: {len(images)} image files in one case ({shown}); keep one, or put all images side by "
                    "side into one folder",
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
        lost = next((case for file in files if (case := _lost(file)) is not None), None)
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
    """Why something that is there can be no image, "" where it may be one."""
    try:
        check_path(path)
    except ImageError as error:
        return str(error)
    return ""


def _case(path: Path, problem: str = "") -> CaseItem:
    """The case at a path, and why its image cannot be read where that is known."""
    found: CaseItem = {"image": str(path), "case": case_id(path)}
    if problem:
        found["problem"] = problem
    return found


def _lost(path: Path) -> CaseItem | None:
    """The case that fails of a file that ought to be an image; None for one that is a case, or none, as it stands."""
    if may_be_an_image(path):
        return _case(path, f"{path}: {reason_lost(path)}")
    if path.name.lower().endswith(DICOM_ENDINGS) and not holds_dicom(path):
        return _case(path)  # empty or without a preamble: for the reader to judge
    return None


def _is_volume(path: Path) -> bool:
    return names_image(path) and image_suffix(path) not in PICTURE_SUFFIXES


def _listed(folder: Path, skip: str | None, unlisted: list[OSError], crowded: dict[Path, str]) -> list[Path]:
    """The files below a folder but for hidden ones, by name.

    Why a folder in it cannot be listed goes into `unlisted`; why none is given, for they are too many for one case,
    into `crowded`.
    """
    try:
        found = sorted(bounded(files_below(folder, without=skip, onerror=unlisted.append), folder))
    except ImageError as error:
        crowded[folder] = str(error)
        return []
    return [file for file in found if file.name.upper() not in _SKIPPED]


def _require_slices(path: Path, images: Sequence[CaseItem], others: Sequence[Path]) -> None:
    """Pass over image files beside a DICOM series: pictures of it, conversions, results.

    Raises:
        InputError: there are more of them than DICOM files, so that it may be a cohort with a stray one.
    """
    files = sum(file.modality not in ("SEG", "RTSTRUCT") for file in _dicom_files(others))
    first = Path(first_image(images[0])).name
    if len(images) > files:
        raise InputError(
            f"{path} holds {len(images)} image files (such as {first}) and {files} DICOM slices side by side; give one "
            "of them, or put them into folders of their own"
        )
    logger.warning(
        "%s: a DICOM series; %d image file(s) beside its slices are passed over, such as %s",
        path,
        len(images),
        first,
    )


def _dicom_files(files: Sequence[Path]) -> list[_DicomFile]:
    """What the DICOM files among others are."""
    return [found for found in parallel(_dicom_file, files) if found is not None]


def _dicom_file(path: Path) -> _DicomFile | None:
    try:
        frames = frames_of(path)
    except ImageError:
        return _DicomFile("", "", "", False) if holds_dicom(path) else None  # the reader will name the file
    if not frames:
        return None
    modality, study, series = (
        frames[0].text(keyword) for keyword in ("Modality", "StudyInstanceUID", "SeriesInstanceUID")
    )
    return _DicomFile(modality, study, series, is_localizer(frames[0]))


def _scouts(slices: Mapping[Path, Sequence[_DicomFile]]) -> set[Path]:
    """The folders with nothing but localizers of a study whose other images lie in other folders."""
    found: dict[Path, str] = {}
    studies: set[str] = set()
    for folder, files in slices.items():
        study = files[0].study if files else ""
        if files and all(file.localizer for file in files):
            found[folder] = study
        else:
            studies.add(study)
    return {folder for folder, study in found.items() if study and study in studies}


def _sharing(slices: Mapping[Path, Sequence[_DicomFile]]) -> dict[Path, set[Path]]:
    """The folders that hold a part of a CT series of which another folder holds the rest, each with its group."""
    homes: dict[str, set[Path]] = defaultdict(set)
    for folder, files in slices.items():
        for uid in {file.series for file in files if file.modality == "CT"} - {""}:
            homes[uid].add(folder)
    groups: dict[Path, set[Path]] = {}
    for parts in homes.values():
        if len(parts) > 1:
            joined = set(parts).union(*(groups.get(folder, set()) for folder in parts))
            for folder in joined:
                groups[folder] = joined
    return groups


def _one_study(slices: Mapping[Path, Sequence[_DicomFile]]) -> bool:
    studies = {files[0].study for files in slices.values() if files}
    return len(studies) == 1 and "" not in studies
