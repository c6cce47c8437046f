"""MONAI Deploy runs a packaged bundle: the application of examples/, DICOM in, DICOM SEG out."""

from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import torch

from tests import dicom_phantom as ph
from tests.e2e.clients import client_of_page
from tests.e2e.commands import Workplace
from tests.e2e.page_commands import EXAMPLES, page_commands, run_commands
from transforms.dicom.source_images import REQUIRED
from transforms.io.readers import read_label
from transforms.preprocess import Preprocess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


def write_series(folder: Path, image: Path) -> None:
    """A CT in DICOM with the voxels of a file."""
    values = np.asarray(nib.load(image).dataobj)
    phantom = ph.Phantom(values.shape, (8.0, 8.0, 8.0), signed=True)
    slices = phantom.slices()
    for index, each in enumerate(slices):
        ph.set_pixels(each, (values[:, :, index].T.astype(np.int32) + 1024) & 0xFFFF)
        # Without these Deploy's writer ends.
        for name in REQUIRED:
            setattr(each, name, getattr(each, name, ""))
    ph.write_series(folder, slices)


def test_the_example_gives_the_labels_of_a_prediction(
    packaged: Path, lungs_like: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write_series(tmp_path / "ct", lungs_like / "images" / "validation_0.nii.gz")
    install, segment = page_commands(
        "use_a_model.md", "MONAI Deploy", {**EXAMPLES, "BUNDLE": packaged, "DICOM_FOLDER": tmp_path / "ct"}
    )
    python = client_of_page("monai_deploy", install, tmp_path_factory.mktemp("clients"))
    (tmp_path / "monai_deploy").symlink_to(python.parents[1])
    run_commands(segment, tmp_path)
    (path,) = (tmp_path / "seg").glob("*.dcm")
    written = hd.seg.segread(path)
    names = [written.get_segment_description(number).SegmentLabel for number in written.segment_numbers]
    assert names == ["left_lung", "right_lung"]

    place = Workplace(tmp_path / "predicted")
    expected = read_label(place.predict(tmp_path / "ct", packaged / "models" / "model.pt"))
    geometry = Preprocess().image(tmp_path / "ct").geometry
    labels = {0: "background", 1: "left_lung", 2: "right_lung"}
    found = Preprocess().label(path, geometry, labels, tmp_path / "ct")
    own = Preprocess().label_volume(torch.as_tensor(expected.as_tensor()), geometry)
    assert (found == own).mean() > 0.99
    assert np.unique(own).size > 1
