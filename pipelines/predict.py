"""CT in, label map out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.engines import SegEvaluator
from pipelines.files import replacing
from transforms.errors import ImageError
from transforms.readers import PICTURE_SUFFIXES, image_suffix
from transforms.writers import write_label

logger = logging.getLogger(__name__)


class PredictionError(ValueError):
    """Nothing can be predicted from the input named, or some cases of it failed."""


def find_inputs(path: str | os.PathLike | None) -> list[dict[str, str]]:
    """The images at `path` as cases {"image", "case"}.

    A file is one image. A folder is: the images in it, one case each; or else one DICOM series; or else its
    subfolders, a DICOM series each.

    Raises:
        PredictionError: there is nothing at `path`, or two images would write the same result.
    """
    if not path:
        raise PredictionError("name the CT to segment: --input FILE_OR_DICOM_FOLDER")
    path = Path(path)
    if path.is_file():
        found = [path]
    elif path.is_dir():
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        found = [e for e in entries if e.is_file() and image_suffix(e)]
        if not found:
            found = [path] if any(e.is_file() for e in entries) else [e for e in entries if e.is_dir()]
    else:
        raise PredictionError(f"{path} does not exist; give a NIfTI/NRRD file or a folder of DICOM slices")
    if not found:
        raise PredictionError(f"{path} is empty; give a NIfTI/NRRD file or a folder of DICOM slices")
    cases = [{"image": str(image), "case": _case_id(image)} for image in found]
    names = [case["case"] for case in cases]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise PredictionError(f"two images in {path} are called '{doubles[0]}'; rename one of them")
    return cases


class Prediction:
    """Segments every case of a dataset and writes label maps on the cases' own grids.

    Each case becomes `<output>/<case>.nii.gz` (a PNG for a 2D picture) with the names of the labels in
    `<output>/labels.json`. A case that cannot be read does not stop the others.

    Args:
        evaluator: its network, inferer and preprocessing do the work; its data loader gives the dataset.
        labels: class id to name.
        output: folder for the label maps.
    """

    def __init__(self, evaluator: SegEvaluator, labels: Mapping[int, str], output: str | os.PathLike) -> None:
        self.evaluator = evaluator
        self.labels = dict(labels)
        self.output = Path(output)

    def run(self) -> list[Path]:
        """Predict; returns the files written.

        Raises:
            PredictionError: at the end, naming every case that failed and why.
        """
        dataset: Any = self.evaluator.data_loader.dataset  # type: ignore[union-attr]
        for case in dataset.data:
            if self._target(case["case"], case["image"]).resolve() == Path(case["image"]).resolve():
                raise PredictionError(
                    f"the result would replace the image {case['image']}; choose another --output"
                )
        written: list[Path] = []
        failed: list[str] = []
        for index in range(len(dataset)):
            try:
                item = dataset[index]
            except ImageError as error:
                failed.append(str(error))
                logger.error("%s", error)
                continue
            labels = self.evaluator.predict(item)
            written.append(write_label(self._target(item["case"], item["path"]), labels))
            print(f"{item['path']} -> {written[-1]}")
        if written:
            with replacing(self.output / "labels.json") as temporary:
                names = {str(value): name for value, name in sorted(self.labels.items())}
                temporary.write_text(json.dumps(names, indent=2) + "\n")
        if failed:
            total = len(dataset)
            raise PredictionError(f"{len(failed)} of {total} cases could not be read: " + "; ".join(failed))
        return written

    def _target(self, case: str, image: str) -> Path:
        return self.output / f"{case}{'.png' if image_suffix(image) in PICTURE_SUFFIXES else '.nii.gz'}"


def _case_id(path: Path) -> str:
    # A link names its case itself: stores of large files link to names that are digests.
    name = Path(os.path.abspath(path)).name
    return name[: len(name) - len(image_suffix(path))] if path.is_file() else name
