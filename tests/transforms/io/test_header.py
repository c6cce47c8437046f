"""Voxel sizes that no scanner makes."""

from pathlib import Path

import numpy as np
import pytest

from tests import dicom_phantom as ph
from transforms.errors import ImageError
from transforms.io.header import Header, check_spacing


def header(spacing, shape=(512, 512, 120)):
    return Header(shape, 1, np.diag([*spacing, 1.0]))


@pytest.mark.parametrize(
    ("spacing", "shape", "unit"),
    [
        ((0.0007, 0.0007, 0.005), (512, 512, 120), "metres"),
        ((0.008, 0.008, 0.008), (48, 48, 48), "metres"),
        ((0.7, 0.7, 0.005), (512, 512, 120), "metres"),
        ((0.0009, 0.0009, 0.003), (512, 512, 900), "metres"),
        ((700, 700, 5000), (512, 512, 120), "micrometres"),
        ((300, 300, 300), (96, 96, 96), "micrometres"),
        ((0.7, 0.7, 5000), (512, 512, 120), "micrometres"),
    ],
)
def test_metres_and_micrometres_are_refused_by_name(spacing, shape, unit):
    with pytest.raises(
        ImageError, match=rf"a\.nii: voxels of .* mm .* cannot come from a scanner; .* in {unit}\."
    ):
        check_spacing(Path("a.nii"), header(spacing, shape))


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((0.7, 0.7, 5), (512, 512, 120)),
        ((0.02, 0.02, 0.02), (900, 900, 900)),
        ((0.005, 0.005, 0.005), (2000, 2000, 2000)),
        ((30, 30, 60), (16, 16, 8)),
        ((0.7, 0.7, 5000), (512, 512, 1)),
        ((0.7, 0.7, 0.001), (512, 512, 1)),
        ((0.0001, 0.0001, 1), (512, 512)),
    ],
)
def test_what_is_merely_unusual_is_read(spacing, shape):
    wanted = header(spacing, shape)
    assert check_spacing(Path("a.nii"), wanted) is wanted


def test_directions_do_not_matter():
    affine = np.eye(4)
    affine[:3, :3] = ph.rotation((20, 30, 40)) * (-700, 700, 5000)
    with pytest.raises(ImageError, match="voxels of 700 x 700 x 5000 mm"):
        check_spacing(Path("a.nii"), Header((512, 512, 120), 1, affine))
