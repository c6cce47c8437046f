"""Which case the DICOM files of a folder belong to, by their headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from transforms.dicom.headers import frames_of, holds_dicom
from transforms.dicom.volumes import is_localizer
from transforms.errors import ImageError
from transforms.utils.threads import parallel


class DicomFile(NamedTuple):
    """The header values that decide which case a DICOM file belongs to; empty if the header is damaged."""

    modality: str
    study: str
    series: str
    localizer: bool


def dicom_files(files: Sequence[Path]) -> list[DicomFile]:
    """The header values of those files that are DICOM."""
    return [found for found in parallel(_dicom_file, files) if found is not None]


def _dicom_file(path: Path) -> DicomFile | None:
    try:
        frames = frames_of(path)
    except ImageError:
        return (
            DicomFile("", "", "", False) if holds_dicom(path) else None
        )  # the reader reports the damaged file
    if not frames:
        return None
    modality, study, series = (
        frames[0].text(keyword) for keyword in ("Modality", "StudyInstanceUID", "SeriesInstanceUID")
    )
    return DicomFile(modality, study, series, is_localizer(frames[0]))


def localizer_folders(slices: Mapping[Path, Sequence[DicomFile]]) -> set[Path]:
    """The folders that hold only localizers of a study whose other images lie in other folders."""
    found: dict[Path, str] = {}
    studies: set[str] = set()
    for folder, files in slices.items():
        study = files[0].study if files else ""
        if files and all(file.localizer for file in files):
            found[folder] = study
        else:
            studies.add(study)
    return {folder for folder, study in found.items() if study and study in studies}


def folders_of_one_series(slices: Mapping[Path, Sequence[DicomFile]]) -> dict[Path, set[Path]]:
    """The folders that share a CT series with another folder, each mapped to its group of folders."""
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


def is_one_study(slices: Mapping[Path, Sequence[DicomFile]]) -> bool:
    """Whether all files with a header are of one study."""
    studies = {files[0].study for files in slices.values() if files}
    return len(studies) == 1 and "" not in studies
