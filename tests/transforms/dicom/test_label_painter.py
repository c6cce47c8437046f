"""Frames onto the grid of their CT, or refused with the distance."""

import numpy as np
import pytest

import tests.dicom_label_files as lf
import tests.dicom_phantom as ph
from tests.dicom_label_files import grid
from tests.dicom_phantom import LPS
from tests.transforms.dicom.seg_frames import NAMES, SEGMENTS, by_segment
from transforms.dicom.labels import read_dicom_label
from transforms.io.readers import ImageError


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_off_the_grid_is_refused_with_the_distance(tmp_path, ct, axis):
    array, frames, cosines, spacing = by_segment(ct)
    step = (LPS @ ct.affine)[:3, axis]
    shifted = [(s, p + 0.3 * step, f) for s, p, f in frames]
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, shifted, cosines, spacing)
    distance = 0.3 * np.linalg.norm(step)
    with pytest.raises(ImageError, match=rf"up to {distance:.3g} mm off"):
        read_dicom_label(path, grid(ct), NAMES)
    within = [(s, p + 0.04 * step, f) for s, p, f in frames]
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, within, cosines, spacing)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)


def test_another_pixel_size_or_direction_is_refused(tmp_path, ct):
    _, frames, cosines, spacing = by_segment(ct)
    for change in (
        (cosines, (spacing[0] * 2, spacing[1] * 2)),
        ((ph.rotation((0, 0, 30)) @ cosines.reshape(2, 3).T).T.ravel(), spacing),
    ):
        path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, frames, *change)
        with pytest.raises(ImageError, match=r"does not lie on the voxels of the CT: .* mm off"):
            read_dicom_label(path, grid(ct), NAMES)


def test_segments_outside_of_the_ct_are_refused_and_empty_borders_are_not(tmp_path, ct):
    array, frames, cosines, spacing = by_segment(ct)
    step = (LPS @ ct.affine)[:3, 2]
    path = lf.seg_file(
        tmp_path / "a.dcm", SEGMENTS, [(s, p + 2 * step, f) for s, p, f in frames], cosines, spacing
    )
    with pytest.raises(
        ImageError, match=r"\d+ pixels of frame \d+ lie outside of the CT, .*7 planes .*index [78]"
    ):
        read_dicom_label(path, grid(ct), NAMES)
    wide = [(s, p - (LPS @ ct.affine)[:3, 0], np.pad(f, ((0, 3), (1, 2)))) for s, p, f in frames]
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, wide, cosines, spacing)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)


def test_one_place_shown_twice_is_refused_unless_it_is_the_same(tmp_path, ct):
    array, frames, cosines, spacing = by_segment(ct)
    first = next(frame for frame in frames if frame[2].any())
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, [*frames, first], cosines, spacing)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)
    other = (first[0], first[1], 1 - first[2])
    path = lf.seg_file(tmp_path / "a.dcm", SEGMENTS, [*frames, other], cosines, spacing)
    with pytest.raises(ImageError, match="another frame shows it differently"):
        read_dicom_label(path, grid(ct), NAMES)
