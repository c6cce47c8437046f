"""Sform, qform and pixdim: which place in space is read, what is said where they disagree, what a result carries."""

import logging

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from tests import dicom_phantom as ph
from transforms.errors import ImageError
from transforms.io.readers import read_header, read_image, read_label
from transforms.io.writers import forms_like, write_label, write_probabilities

SHAPE = (12, 10, 8)
SIZES = np.diag([4.0, 4.0, 8.0, 1.0])
FIELDS = ("sform_code", "qform_code", *(f"srow_{a}" for a in "xyz"), *(f"quatern_{a}" for a in "bcd"))
FIELDS += tuple(f"qoffset_{axis}" for axis in "xyz")


def write(path, sform=SIZES, qform=SIZES, codes=(1, 1), pixdim=None, shape=SHAPE):
    """A file with just these fields; nibabel's own saving would make them agree."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_qform(qform, codes[1])
    header.set_sform(sform, codes[0])
    header["sform_code"], header["qform_code"] = codes
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    header["magic"], header["vox_offset"] = b"n+1", 352
    array = np.arange(np.prod(shape), dtype="<i2").reshape(shape, order="F")
    path.write_bytes(header.binaryblock + bytes(4) + array.tobytes(order="F"))
    return path


def moved(shift=(0, 0, 0), degrees=0.0):
    affine = SIZES.copy()
    affine[:3, :3] = ph.rotation((0, 0, degrees)) @ affine[:3, :3]
    affine[:3, 3] = shift
    return affine


@pytest.mark.parametrize("read", [read_header, read_image, read_label])
@pytest.mark.parametrize(
    ("sform", "codes", "pixdim", "sizes"),
    [
        (np.eye(4), (1, 1), None, "1 x 1 x 1 mm and pixdim (with the qform) 4 x 4 x 8 mm"),
        (np.eye(4), (2, 1), None, "1 x 1 x 1 mm and pixdim (with the qform) 4 x 4 x 8 mm"),
        (np.eye(4), (1, 0), None, "1 x 1 x 1 mm and pixdim 4 x 4 x 8 mm"),
        (SIZES, (1, 1), (4, 8, 4), "4 x 4 x 8 mm and pixdim (with the qform) 4 x 8 x 4 mm"),
        (SIZES, (1, 1), (4.1, 4.1, 8.2), "4 x 4 x 8 mm and pixdim (with the qform) 4.1 x 4.1 x 8.2 mm"),
        (SIZES, (1, 0), (4, 4, 5), "4 x 4 x 8 mm and pixdim 4 x 4 x 5 mm"),
    ],
)
def test_voxel_sizes_that_disagree_are_refused_with_both(tmp_path, read, sform, codes, pixdim, sizes):
    path = write(tmp_path / "a.nii", sform=sform, codes=codes, pixdim=pixdim)
    with pytest.raises(ImageError, match=r"a\.nii: the sform gives voxels of") as told:
        read(path)
    assert sizes in str(told.value)


@pytest.mark.parametrize("pixdim", [(1, 1, 1), (0, 0, 0)])
def test_sizes_that_nobody_set_are_noticed(tmp_path, caplog, pixdim):
    path = write(tmp_path / "a.nii", codes=(1, 0), pixdim=pixdim)
    np.testing.assert_array_equal(read_header(path).affine, SIZES)
    assert "4 x 4 x 8 mm and pixdim" in caplog.text
    assert "which was never set; the sform is used" in caplog.text


@pytest.mark.parametrize(
    ("qform", "distance"),
    [
        (moved((3, 0, 0)), "3 mm (0.75 voxels)"),
        (moved((0, 0, -60)), "60 mm (7.5 voxels)"),
        (moved(degrees=5), "4.96 mm"),
        (moved(degrees=180), "113.7 mm"),
    ],
)
@pytest.mark.parametrize("code", [1, 2, 4])
def test_places_that_disagree_are_noticed_with_both(tmp_path, caplog, qform, distance, code):
    path = write(tmp_path / "a.nii", qform=qform, codes=(code, 1))
    np.testing.assert_array_equal(read_image(path).affine, SIZES)
    assert f"sform (code {code}) and qform (code 1) place the voxels up to {distance}" in caplog.text


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (0, 0, 180), (0.2, -0.1, 179.9), (12, -40, 95), (0.01, 0.02, 180)]
)
@pytest.mark.parametrize("digits", [3, 7])
def test_forms_that_differ_by_rounding_are_one(tmp_path, caplog, angles, digits):
    affine = np.eye(4)
    affine[:3, :3] = ph.rotation(angles) * (0.976562, 0.976562, 2.5)
    affine[:3, 3] = (-249.51, -180.3, 812.75)
    written = np.concatenate([affine[:, :3], np.round(affine[:, 3:], digits)], axis=1)
    shape = (512, 512, 3)
    path = write(tmp_path / "a.nii", sform=written, qform=affine, shape=shape)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(read_header(path).affine, written, atol=1e-4)
    assert caplog.text == ""


@pytest.mark.parametrize("distance", ["along", "between"])
def test_a_tilted_stack_may_state_either_distance_of_its_slices(tmp_path, caplog, distance):
    sheared = np.diag([0.8, 0.8, 5 * np.cos(np.deg2rad(20)), 1.0])
    sheared[1, 2] = 5 * np.sin(np.deg2rad(20))
    thick = 5 if distance == "along" else sheared[2, 2]
    path = write(tmp_path / "a.nii", sform=sheared, codes=(1, 0), pixdim=(0.8, 0.8, thick))
    np.testing.assert_allclose(read_header(path).affine, sheared, rtol=1e-6)
    assert caplog.text == ""


def itk_grid(path):
    image = sitk.ReadImage(str(path))
    return np.concatenate([image.GetSpacing(), image.GetOrigin(), image.GetDirection()])


@pytest.mark.parametrize(
    "form",
    [
        {"qform": moved((3, 5, 7), 10), "codes": (1, 1)},
        {"qform": moved((3, 5, 7), 10), "codes": (2, 1)},
        {"qform": moved((3, 5, 7), 10), "codes": (4, 2)},
        {"codes": (0, 1)},
        {"codes": (3, 0)},
        {"codes": (1, 0), "pixdim": (1, 1, 1)},
    ],
)
def test_a_result_carries_both_forms_of_its_input(tmp_path, form):
    source = write(tmp_path / "ct.nii", **form)
    label = MetaTensor(torch.ones(1, *SHAPE, dtype=torch.uint8), affine=read_image(source).affine)
    results = [
        write_label(tmp_path / "label.nii.gz", label, like=source),
        write_probabilities(
            tmp_path / "p.nii.gz", torch.zeros(2, *SHAPE), label.affine.numpy(), forms_like(source)
        ),
        write_label(tmp_path / "copy.nii.gz", read_label(source)),
    ]
    wanted = nib.load(source).header
    for path in results:
        got = nib.load(path).header
        for name in FIELDS:
            np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)
        np.testing.assert_array_equal(got["pixdim"][:4], wanted["pixdim"][:4])
    np.testing.assert_array_equal(itk_grid(results[0]), itk_grid(source))


def test_forms_of_another_grid_are_not_taken_over(tmp_path):
    source = write(tmp_path / "ct.nii")
    label = MetaTensor(torch.ones(1, *SHAPE, dtype=torch.uint8), affine=torch.as_tensor(moved((9, 9, 9))))
    path = write_label(tmp_path / "label.nii.gz", label, like=source)
    np.testing.assert_array_equal(nib.load(path).affine, moved((9, 9, 9)))
    np.testing.assert_allclose(itk_grid(path)[3:6], (-9, -9, 9))
