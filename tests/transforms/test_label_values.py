"""Counts and boxes, slab by slab, against counting at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from transforms import label_values as values
from transforms.label_values import bounding_boxes, value_counts

maps = hnp.arrays(np.uint16, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6), elements=st.integers(0, 9))


@settings(max_examples=100)
@given(array=maps, axes=st.permutations(range(4)), slab=st.integers(1, 40))
def test_slabs_change_nothing(array, axes, slab):
    array = array.transpose([axis for axis in axes if axis < array.ndim])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_SLAB_VOXELS", slab)
        counts, boxes = value_counts(array, 3), bounding_boxes(array)
    expected = np.bincount(array.reshape(-1), minlength=3)
    np.testing.assert_array_equal(counts, expected)
    found = ndimage.find_objects(array.astype(int))
    assert boxes == {value: box for value, box in enumerate(found, start=1) if box is not None}
