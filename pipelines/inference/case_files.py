"""Writes the files of one predicted case: label map, segmentations of viewers and DICOM, probability map and picture."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from pipelines.config.errors import problem, user_error
from pipelines.data.cases import CaseItem, first_image
from pipelines.data.inputs import is_dicom
from pipelines.inference.case_reports import CaseReport, Failure
from transforms.dicom.rehearsal import require_writable
from transforms.dicom.series import Series
from transforms.errors import ImageError
from transforms.io.header import PICTURE_SUFFIXES, image_suffix
from transforms.io.writers import forms_like, write_label

FORMATS = {
    "nii.gz": ".nii.gz",
    "seg.nrrd": ".seg.nrrd",
    "seg": ".seg.dcm",
    "rtstruct": ".rtstruct.dcm",
}
DICOM = ("seg", "rtstruct")
"""Formats that refer to the DICOM series of the image."""


@dataclass(frozen=True)
class OutputPlan:
    """The files to write for each case of a prediction.

    Attributes:
        folder: output folder.
        labels: names of the classes by class id, background included.
        formats: keys of `FORMATS`.
        labels: class id to name, background included.
        probabilities, preview: whether to write them too.
        ct: whether the images, or their first channels, are in HU.
        regions: name to the class ids that make it up; if there are any, DICOM files and volumes are of these.
    """

    folder: Path
    labels: dict[int, str]
    formats: list[str]
    probabilities: bool
    preview: bool
    ct: bool
    regions: dict[str, tuple[int, ...]]

    def names(self, case: CaseItem) -> list[str]:
        """Names of the output files of a case, without its report `<case>.json`."""
        flat = image_suffix(first_image(case)) in PICTURE_SUFFIXES
        names = [
            case["case"] + (".png" if flat and name == "nii.gz" else FORMATS[name]) for name in self.formats
        ]
        if self.probabilities:
            names.append(f"{case['case']}_probabilities.nii.gz")
        if self.preview:
            names.append(f"{case['case']}_preview.png")
        return names

    def refusal(self, case: CaseItem) -> str:
        """Why a case cannot be written in the requested formats; "" if it can."""
        wanted = [name for name in self.formats if name in DICOM]
        if "seg.nrrd" in self.formats and image_suffix(first_image(case)) in PICTURE_SUFFIXES:
            return (
                f"{first_image(case)} is a picture, which has no place in space as a 'seg.nrrd' file needs; leave out the "
                "format 'seg.nrrd'"
            )
        if wanted and not is_dicom(first_image(case)):
            return (
                f"{first_image(case)} is not DICOM, so there is no series that a '{wanted[0]}' file could refer to; "
                f"leave out the format '{wanted[0]}', or give the DICOM folder as input"
            )
        return ""


def unwritable(outputs: OutputPlan, case: CaseItem, series: Series | None) -> dict[str, str]:
    """Formats that cannot be written for a case because of missing header values, with the reasons.

    This is checked before the prediction, without a label map.

    Args:
        outputs: the files to write.
        case: the case.
        series: the DICOM series of the image; None if the image is not DICOM.

    Raises:
        ImageError: none of the requested formats can be written.
    """
    found: dict[str, str] = {}
    writers = _dicom_writers(outputs)
    if series is None:
        found = dict.fromkeys(writers, outputs.refusal(case))
    else:
        for name, write in writers.items():
            try:
                require_writable(
                    outputs.folder / f"{case['case']}{FORMATS[name]}", series, _classes(outputs), write
                )
            except ImageError as error:
                found[name] = str(error)
    if found and set(found) == set(outputs.formats):
        raise ImageError(next(iter(found.values())))
    return found


def write_files(
    outputs: OutputPlan,
    folder: Path,
    case: CaseItem,
    series: Series | None,
    image: MetaTensor | None,
    labels: MetaTensor,
    probabilities: torch.Tensor | None,
    report: CaseReport,
    left_out: Mapping[str, str],
) -> list[Exception]:
    """Write the files of a case to a folder, the label map first.

    Args:
        outputs: the files to write.
        folder: folder for the files.
        case: the case.
        series: the DICOM series of the image; None if the image is not DICOM.
        image: the original image, needed for a preview.
        labels: label map (1, *file shape).
        probabilities: probability map (classes, *file shape), if it is to be written.
        report: report of the case, whose volumes are shown in the picture.
        left_out: formats that cannot be written, with the reasons.

    Returns:
        The errors of the files that could not be written.

    Raises:
        OSError: the disk is full, or the folder is not writable.
    """

    def label_map() -> None:
        target = folder / outputs.names(case)[outputs.formats.index("nii.gz")]
        write_label(target, labels, like=first_image(case))

    def slicer() -> None:
        from transforms.io.seg_nrrd import write_seg_nrrd

        target = folder / f"{case['case']}{FORMATS['seg.nrrd']}"
        write_seg_nrrd(target, labels, outputs.labels, outputs.regions)

    def dicom(name: str, write: Callable[..., Any]) -> None:
        if name in left_out:
            raise ImageError(left_out[name])
        write(folder / f"{case['case']}{FORMATS[name]}", labels, series, _classes(outputs))

    def maps() -> None:
        from transforms.io.writers import write_probabilities

        assert probabilities is not None
        target = folder / f"{case['case']}_probabilities.nii.gz"
        forms = forms_like(first_image(case))
        write_probabilities(target, probabilities, labels.affine.cpu().numpy(), forms)

    def picture() -> None:
        from transforms.visualization.preview import draw_preview

        assert image is not None
        volumes = {name: found["ml"] for name, found in report["volumes"].items()}
        target = folder / f"{case['case']}_preview.png"
        draw_preview(target, image, labels, outputs.labels, volumes, title=case["case"], ct=outputs.ct)

    steps: list[Callable[[], None]] = [label_map] if "nii.gz" in outputs.formats else []
    steps += [slicer] if "seg.nrrd" in outputs.formats else []
    steps += [partial(dicom, name, write) for name, write in _dicom_writers(outputs).items()]
    steps += [maps] if outputs.probabilities else []
    steps += [picture] if outputs.preview else []
    failures: list[Exception] = []
    for step in steps:
        try:
            step()
        except OSError:
            raise
        except Exception as error:  # an error in one file must not prevent the others
            failures.append(error)
    return failures


def failed(case: CaseItem, failures: Sequence[Exception]) -> Failure:
    """The entries of a report about files that could not be written."""
    found: Failure = {
        "error": " ".join(dict.fromkeys(problem(error, first_image(case)) for error in failures))
    }
    strange = [error for error in failures if user_error(error) is None]
    if strange:
        found["traceback"] = "\n".join("".join(traceback.format_exception(error)) for error in strange)
    return found


def _dicom_writers(outputs: OutputPlan) -> dict[str, Callable[..., Any]]:
    writers: dict[str, Callable[..., Any]] = {}
    if "seg" in outputs.formats:
        from transforms.dicom.seg import write_seg

        writers["seg"] = partial(write_seg, regions=outputs.regions)
    if "rtstruct" in outputs.formats:
        from transforms.dicom.rtstruct_writer import write_rtstruct

        writers["rtstruct"] = partial(write_rtstruct, regions=outputs.regions)
    return writers


def _classes(outputs: OutputPlan) -> dict[int, str]:
    return {value: name for value, name in outputs.labels.items() if value != 0}
