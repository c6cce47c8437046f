"""The files of one predicted case: the label map, its DICOM forms, probabilities and a picture."""

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

FORMATS = {"nii.gz": ".nii.gz", "seg": ".seg.dcm", "rtstruct": ".rtstruct.dcm"}


@dataclass(frozen=True)
class OutputPlan:
    """What is written for each case of a prediction.

    Attributes:
        folder: where it goes.
        formats: keys of `FORMATS`.
        labels: class id to name, background included.
        probabilities, preview: whether they are written too.
        regions: name to the class ids that make it up: what DICOM files and volumes are of, where there are any.
        ct: the images, or their first channels, are in HU.
    """

    folder: Path
    labels: dict[int, str]
    formats: list[str]
    probabilities: bool
    preview: bool
    ct: bool
    regions: dict[str, tuple[int, ...]]

    def names(self, case: CaseItem) -> list[str]:
        """File names of a case's results; its report `<case>.json` comes on top."""
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
        """Why a case cannot be written as asked for, "" where it can."""
        wanted = [name for name in self.formats if name != "nii.gz"]
        if wanted and not is_dicom(first_image(case)):
            return (
                f"{first_image(case)} is not DICOM, so there is no series that a result as '{wanted[0]}' could refer to; "
                f"leave out the format '{wanted[0]}', or give the DICOM folder"
            )
        return ""


def unwritable(outputs: OutputPlan, case: CaseItem, series: Series | None) -> dict[str, str]:
    """Formats that cannot be written for a case, by what its headers lack, and why; found without a label map.

    Args:
        series: what the image was read from; None for one that is not DICOM.

    Raises:
        ImageError: none of the formats asked for can be written.
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
    """Make the files of a case in a folder, the label map first; returns why some could not be made.

    Args:
        series: what the image was read from; None for one that is not DICOM.
        image: as it was read, where a preview is wanted.
        labels: (1, *file shape).
        probabilities: (classes, *file shape), where they are wanted.
        report: its volumes are shown in the picture.
        left_out: formats that cannot be written, and why.

    Raises:
        OSError: no room, or no right to write.
    """

    def label_map() -> None:
        target = folder / outputs.names(case)[outputs.formats.index("nii.gz")]
        write_label(target, labels, like=first_image(case))

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
    steps += [partial(dicom, name, write) for name, write in _dicom_writers(outputs).items()]
    steps += [maps] if outputs.probabilities else []
    steps += [picture] if outputs.preview else []
    failures: list[Exception] = []
    for step in steps:
        try:
            step()
        except OSError:
            raise
        except Exception as error:  # whatever is wrong with one file must not cost the others
            failures.append(error)
    return failures


def failed(case: CaseItem, failures: Sequence[Exception]) -> Failure:
    """What a report says of files that could not be made."""
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
