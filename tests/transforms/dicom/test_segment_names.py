"""Names of segments to the classes of a dataset."""

import logging

import numpy as np

import tests.dicom_label_files as lf
from tests.dicom_label_files import grid
from tests.transforms.dicom.seg_frames import NAMES, by_segment
from transforms.dicom.labels import read_dicom_label
from transforms.dicom.segment_names import plain_name


def test_names_that_the_dataset_lacks_are_noticed_once(tmp_path, ct, caplog):
    array, frames, cosines, spacing = by_segment(ct)
    path = lf.seg_file(
        tmp_path / "a.dcm", {1: "Left lung", 2: "tumour bed", 3: "cord"}, frames, cosines, spacing
    )
    with caplog.at_level(logging.WARNING):
        read = read_dicom_label(path, grid(ct), NAMES)
    np.testing.assert_array_equal(read, array == 1)
    assert len(caplog.records) == 1
    assert "'tumour bed', 'cord' not named in dataset.json" in caplog.text
    assert "no segment is named Tumor, spinal_cord" in caplog.text


def test_plain_names():
    assert plain_name("  Spinal_Cord ") == plain_name("spinal - cord") == plain_name("SPINAL  CORD")
    assert plain_name("spinalcord") != plain_name("spinal cord")
