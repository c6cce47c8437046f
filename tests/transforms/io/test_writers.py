"""Label maps written and read back: same voxels, same place, whole or not at all."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from tests import dicom_phantom as ph
from transforms.io.readers import ImageError, read_label
from transforms.io.writers import write_label, write_probabilities

some = settings(max_examples=25)


def label_map(shape=(5, 4, 3), high=4, affine=None, dtype=torch.uint8) -> MetaTensor:
    values = torch.from_numpy(np.random.default_rng(0).integers(0, high + 1, (1, *shape)))
    values.view(-1)[0] = high
    return MetaTensor(
        values.to(dtype), affine=torch.eye(4, dtype=torch.float64) if affine is None else affine
    )


@given(
    angles=st.tuples(*(st.floats(-180, 180) for _ in range(3))),
    spacing=st.tuples(*(st.floats(0.3, 6) for _ in range(3))),
    flip=st.sampled_from([-1.0, 1.0]),
)
@some
def test_round_trip_on_any_grid(tmp_path, angles, spacing, flip):
    affine = np.eye(4)
    affine[:3, :3] = ph.rotation(angles) * np.asarray(spacing) * [flip, 1, 1]
    affine[:3, 3] = (-123.456, 7.25, 1009.5)
    label = label_map(affine=torch.from_numpy(affine))
    read = read_label(write_label(tmp_path / "a.nii.gz", label))
    np.testing.assert_array_equal(read.numpy(), label.numpy())
    np.testing.assert_allclose(read.affine, affine, atol=1e-4)
    header = nib.load(tmp_path / "a.nii.gz").header
    assert int(header["sform_code"]) == 1
    # float32 cannot hold a quaternion close to a half turn; readers that trust the qform must not get a wrong one.
    quaternion = nib.quaternions.mat2quat(ph.rotation(angles) * [flip, 1, flip])
    if abs(quaternion[0]) > 0.01:
        assert int(header["qform_code"]) == 1
    if header["qform_code"]:
        offset = (np.linalg.inv(affine) @ (header.get_qform() - affine) @ [4, 3, 2, 1])[:3]
        np.testing.assert_allclose(offset, 0, atol=0.01)
    lps = sitk.ReadImage(str(tmp_path / "a.nii.gz"))  # another reader finds the same corner
    far = lps.TransformIndexToPhysicalPoint((4, 3, 2))
    np.testing.assert_allclose(far, (ph.LPS @ affine @ [4, 3, 2, 1])[:3], atol=1e-3)


def test_affine_of_a_nifti_comes_back_bit_by_bit(tmp_path):
    affine = np.float32(np.random.default_rng(0).normal(size=(4, 4))).astype(np.float64)
    affine[3] = (0, 0, 0, 1)
    first = read_label(write_label(tmp_path / "a.nii.gz", label_map(affine=torch.from_numpy(affine))))
    second = read_label(write_label(tmp_path / "b.nii.gz", first))
    assert torch.equal(first.affine, torch.from_numpy(affine))
    assert torch.equal(first.affine, second.affine)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_sheared_affine_has_no_qform(tmp_path):
    affine = ph.Phantom(tilt=10).affine
    read = read_label(
        write_label(tmp_path / "a.nii.gz", label_map((12, 9, 7), affine=torch.from_numpy(affine)))
    )
    np.testing.assert_allclose(read.affine, affine, atol=1e-5)
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)


@pytest.mark.parametrize(
    ("high", "stored"), [(1, "uint8"), (255, "uint8"), (256, "uint16"), (65535, "uint16")]
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_stored_type(tmp_path, high, stored, dtype, name):
    label = label_map(high=high, dtype=dtype)
    path = write_label(tmp_path / name, label)
    assert nib.load(path).get_data_dtype() == stored
    np.testing.assert_array_equal(read_label(path).numpy(), label.numpy())


@pytest.mark.parametrize("high", [3, 300])
def test_two_dimensions(tmp_path, high):
    label = label_map((5, 4), high=high, dtype=torch.int32)
    for name in ("a.png", "a.nii.gz"):
        read = read_label(write_label(tmp_path / name, label))
        assert tuple(read.shape) == (1, 5, 4)
        np.testing.assert_array_equal(read.numpy(), label.numpy())


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("a.nii.gz", label_map(dtype=torch.int32) - 1, "between -1 and 3; they must be whole numbers"),
        ("a.nii.gz", label_map(high=65536, dtype=torch.int32), "from 0 to 65535"),
        ("a.nii.gz", label_map(dtype=torch.float32) * 0.5, "whole numbers"),
        ("a.nii.gz", label_map(dtype=torch.float32) * float("nan"), "whole numbers"),
        ("a.nii.gz", label_map().repeat(2, 1, 1, 1), r"shape \(1, X, Y\)"),
        ("a.nii.gz", label_map().as_tensor(), "has no affine"),
        ("a.nii.gz", label_map(affine=torch.zeros(4, 4, dtype=torch.float64)), "not an invertible"),
        ("a.png", label_map(), "a PNG holds a 2D label map"),
        ("a.jpg", label_map((5, 4)), r"written as \.nii\.gz, \.nii or \.png"),
    ],
)
def test_refused(tmp_path, name, label, message):
    with pytest.raises(ImageError, match=message):
        write_label(tmp_path / "out" / name, label)
    assert not list(tmp_path.rglob("*.*"))


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    path = write_label(tmp_path / "a.nii.gz", label_map())
    before = path.read_bytes()

    def full(*_args):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)  # the last step; everything before it has been written
    with pytest.raises(OSError, match="no space"):
        write_label(path, label_map(high=9))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_probabilities_lie_on_the_grid(tmp_path):
    affine = np.array([[0, -1.2, 0, 7], [0.9, 0, 0, 8], [0, 0, 2.5, -900], [0, 0, 0, 1.0]])
    given = torch.softmax(torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)), 0)
    path = write_probabilities(tmp_path / "p.nii.gz", given, affine)
    image = nib.load(path)
    assert image.shape == (4, 5, 6, 3)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.moveaxis(image.get_fdata(dtype=np.float32), -1, 0), given.numpy())
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    other = sitk.ReadImage(str(path))
    assert other.GetSize() == (4, 5, 6, 3)
    np.testing.assert_allclose(np.array(other.GetOrigin()[:3]) * [-1, -1, 1], affine[:3, 3], atol=1e-5)
    np.testing.assert_allclose(other.GetSpacing()[:3], np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-5)


def test_a_picture_has_a_third_axis_of_one(tmp_path):
    path = write_probabilities(tmp_path / "p.nii.gz", torch.ones(2, 4, 5) / 2, np.eye(4))
    assert nib.load(path).shape == (4, 5, 1, 2)
