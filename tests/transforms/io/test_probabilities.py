"""Probabilities written and read back by another reader."""

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch

from transforms.io.writers import write_probabilities


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
