"""What a label file takes from the images that it is written for."""

import numpy as np
import pydicom
import pytest

import tests.dicom_label_files as lf
import tests.dicom_phantom as ph
from tests.dicom_label_files import grid, meta_tensor
from tests.dicom_phantom import write_series
from tests.transforms.dicom.seg_frames import NAMES
from transforms.dicom.labels import read_dicom_label
from transforms.dicom.rtstruct_writer import write_rtstruct
from transforms.dicom.seg import write_seg
from transforms.dicom.series import scan_series


def test_character_sets(tmp_path, ct):
    """The patient's name in the CT's Latin-1, a class in Japanese: both have to be legible."""
    slices = ph.changed(ct.slices(), None, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    write_series(tmp_path / "ct", slices)
    series = scan_series(tmp_path / "ct")
    names = {**NAMES, 1: "肝臓"}
    label = meta_tensor(lf.label_map(ct.shape, ct.affine), series.affine)
    dataset = pydicom.dcmread(write_seg(tmp_path / "a.dcm", label, series, names))
    assert dataset.PatientName == "Müller^Jörg"
    assert dataset.SegmentSequence[0].SegmentLabel == "肝臓"
    np.testing.assert_array_equal(read_dicom_label(tmp_path / "a.dcm", grid(ct), names), label.numpy()[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_patient_and_study_are_copied_letter_by_letter(tmp_path, ct, write):
    """Also what is against the standard: archives put together what is equal."""
    odd = {
        "PatientSex": "Male",
        "PatientBirthDate": "1960-01-01",
        "StudyDate": "20 May",
        "StudyTime": "25:00",
        "PatientName": "Doe",
        "PatientID": "x" * 70,
        "StudyDescription": "a study",
        "AccessionNumber": "7",
        "PatientAge": "064Y",
    }
    write_series(tmp_path / "ct", ph.changed(ct.slices(), None, **odd))
    series = scan_series(tmp_path / "ct")
    label = meta_tensor(lf.label_map(ct.shape, ct.affine), series.affine)
    dataset = pydicom.dcmread(write(tmp_path / "a.dcm", label, series, NAMES))
    for keyword, value in odd.items():
        assert str(dataset[keyword].value) == value
