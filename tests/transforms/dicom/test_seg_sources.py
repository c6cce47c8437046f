"""The images that a SEG refers to."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import EnhancedCTImageStorage

import tests.dicom_label_files as lf
from tests.dicom_label_files import grid, meta_tensor
from tests.dicom_phantom import LPS, write_series
from tests.transforms.dicom.seg_frames import NAMES
from transforms.dicom.headers import frames_of
from transforms.dicom.labels import read_dicom_label
from transforms.dicom.seg import write_seg
from transforms.dicom.series import Series, scan_series


def test_a_slice_without_a_file(tmp_path, ct):
    write_series(tmp_path / "ct", ct.slices())[2].unlink()
    source = scan_series(tmp_path / "ct", allow=["missing-slices"])
    assert source.sources[2] is None
    array = lf.label_map(ct.shape, ct.affine)
    path = write_seg(tmp_path / "a.dcm", meta_tensor(array, ct.affine), source, NAMES)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)


@pytest.mark.parametrize("shared", [True, False])
def test_enhanced_source(tmp_path, ct, shared):
    file = tmp_path / "enhanced.dcm"
    order = [3, 0, 6, 1, 5, 2, 4]  # slice of each frame
    lps = LPS @ ct.affine
    places = {
        "PlaneOrientationSequence": [lf.item(ImageOrientationPatient=list(ct.axes[:, :2].T.ravel()))],
        "PixelMeasuresSequence": [lf.item(PixelSpacing=[0.9, 0.8], SliceThickness=2.5)],
    }
    image = ct.slices()[0]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "PixelData"):
        delattr(image, keyword)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    image.NumberOfFrames = 7
    image.SharedFunctionalGroupsSequence = [lf.item(**(places if shared else {}))]
    image.PerFrameFunctionalGroupsSequence = [
        lf.item(
            PlanePositionSequence=[lf.item(ImagePositionPatient=list((lps @ [0, 0, index, 1])[:3]))],
            **({} if shared else places),
        )
        for index in order
    ]
    with pydicom.config.disable_value_validation():
        image.save_as(file, enforce_file_format=True)
    plan = tuple((order.index(index), order.index(index), 0.0) for index in range(7))
    source = Series(tmp_path, ct.shape, ct.affine, tuple(frames_of(file)), plan)
    array = lf.label_map(ct.shape, ct.affine)
    path = write_seg(tmp_path / "a.dcm", meta_tensor(array, ct.affine), source, NAMES)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES, image=file), array)
    for groups in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        frame = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        position = np.asarray(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(position, (lps @ [0, 0, order[frame - 1], 1])[:3], atol=1e-6)
