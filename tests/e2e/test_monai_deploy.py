"""MONAI Deploy runs a packaged bundle: the application of examples/, DICOM in, DICOM SEG out."""

import os
import subprocess
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import torch

from tests import dicom_phantom as ph
from tests.conftest import REPOSITORY
from tests.e2e.clients import APPS, client
from tests.e2e.commands import Workplace
from transforms.io.readers import read_label
from transforms.preprocess import Preprocess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

# Attributes of type 2, without which Deploy's writer ends.
ASKED_FOR = [
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
]
NEEDS = [f"monai-deploy-app-sdk=={APPS['monai-deploy-app-sdk']}"]


def write_series(folder: Path, image: Path) -> None:
    """A CT in DICOM with the voxels of a file."""
    values = np.asarray(nib.load(image).dataobj)
    phantom = ph.Phantom(values.shape, (8.0, 8.0, 8.0), signed=True)
    slices = phantom.slices()
    for index, each in enumerate(slices):
        ph.set_pixels(each, (values[:, :, index].T.astype(np.int32) + 1024) & 0xFFFF)
        for name in ASKED_FOR:
            setattr(each, name, getattr(each, name, ""))
    ph.write_series(folder, slices)


def test_the_example_gives_the_labels_of_a_prediction(
    packaged: Path, lungs_like: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    python = client("monai_deploy", packaged, tmp_path_factory.mktemp("clients"), NEEDS)
    write_series(tmp_path / "ct", lungs_like / "images" / "validation_0.nii.gz")
    words = [str(python), "-W", "ignore", str(REPOSITORY / "examples" / "monai_deploy" / "app.py")]
    words += ["--input", str(tmp_path / "ct"), "--output", str(tmp_path / "seg"), "--model", str(packaged)]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, encoding="utf-8", env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (path,) = (tmp_path / "seg").glob("*.dcm")
    written = hd.seg.segread(path)
    names = [written.get_segment_description(number).SegmentLabel for number in written.segment_numbers]
    assert names == ["left_lung", "right_lung"]

    place = Workplace(tmp_path / "predicted")
    words = ["-m", "pipelines", "predict", str(tmp_path / "ct"), "--bundle", "bundles/r2unet", "-o"]
    place.run([*words, str(place.root / "own"), "--model", str(packaged / "models" / "model.pt")])
    expected = read_label(place.root / "own" / "ct.nii.gz")
    geometry = Preprocess().image(tmp_path / "ct").geometry
    labels = {0: "background", 1: "left_lung", 2: "right_lung"}
    found = Preprocess().label(path, geometry, labels, tmp_path / "ct")
    own = Preprocess().label_volume(torch.as_tensor(expected.as_tensor()), geometry)
    assert (found == own).mean() > 0.99
    assert np.unique(own).size > 1
