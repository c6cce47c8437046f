"""MONAI Deploy runs a packaged bundle: the application of examples/, DICOM in, DICOM SEG out."""

import os
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY
from tests.e2e.clients import client, site_packages
from tests.e2e.commands import Workplace
from tests.pipelines.tiny_model import write_dicom
from transforms.io.readers import read_label
from transforms.preprocess import Preprocess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

NEEDS = ["monai-deploy-app-sdk==4.0.0"]


def test_the_example_gives_the_labels_of_a_prediction(
    packaged: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    python = client("monai_deploy", packaged, tmp_path_factory.mktemp("clients"), NEEDS)
    write_dicom(tmp_path / "ct")
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
