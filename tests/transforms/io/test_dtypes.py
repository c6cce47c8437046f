"""The smallest type that holds all values."""

import numpy as np
import pytest

from tests.transforms.io.written import SHAPE, nifti
from transforms.io.readers import read_label


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 255], "uint8"), ([0, 256], "uint16"), ([0, 65536], "int32"), ([-1, 1], "int32")],
)
@pytest.mark.parametrize("stored", ["int32", "float32"])
def test_labels_take_the_smallest_type(tmp_path, values, dtype, stored):
    array = np.zeros(SHAPE, stored)
    array[0, 0, 0], array[1, 1, 1] = values
    label = read_label(nifti(tmp_path / "a.nii.gz", array))
    assert str(label.dtype) == f"torch.{dtype}"
    np.testing.assert_array_equal(label.numpy()[0], array)
