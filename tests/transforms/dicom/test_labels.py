"""SEG and RTSTRUCT found and read as label maps."""

import numpy as np
import pytest
import torch

import tests.dicom_label_files as lf
from tests.dicom_label_files import grid
from tests.dicom_phantom import write_series
from tests.transforms.dicom.seg_frames import NAMES, SEGMENTS, by_segment
from transforms.dicom.labels import find_dicom_label
from transforms.io.readers import ImageError, read_label


def test_read_label_gives_a_meta_tensor_on_the_grid(tmp_path, ct):
    array, frames, cosines, spacing = by_segment(ct)
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, frames, cosines, spacing)
    label = read_label(path, grid(ct), NAMES)
    assert label.dtype == torch.uint8
    np.testing.assert_array_equal(label.numpy()[0], array)
    np.testing.assert_array_equal(label.affine.numpy(), ct.affine)
    with pytest.raises(ImageError, match=r"a\.dcm: .*needs the grid of its image and the names"):
        read_label(path)
    many = {**NAMES, **{index: f"class {index}" for index in range(4, 301)}}
    assert read_label(path, grid(ct), many).dtype == torch.uint16


def test_folder_with_one_label_and_other_things(tmp_path, ct):
    _, frames, cosines, spacing = by_segment(ct)
    folder = tmp_path / "case"
    write_series(folder, ct.slices())
    (folder / "readme.txt").write_text("nothing")
    with pytest.raises(ImageError, match="no DICOM SEG or RTSTRUCT in this folder"):
        find_dicom_label(folder)
    path = lf.seg_file(folder / "labels" / "a.dcm", SEGMENTS, frames, cosines, spacing)
    assert find_dicom_label(folder) == path
    lf.seg_file(folder / "b", SEGMENTS, frames, cosines, spacing)
    with pytest.raises(ImageError, match=r"2 DICOM label maps .*\(b \(SEG\), labels/a\.dcm \(SEG\)\)"):
        find_dicom_label(folder)
    with pytest.raises(
        ImageError, match=r"IM0000\.dcm: neither a DICOM SEG nor an RTSTRUCT \(CT Image Storage\)"
    ):
        find_dicom_label(folder / "IM0000.dcm")
