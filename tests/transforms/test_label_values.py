"""Counts and boxes, slab by slab, against counting at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from transforms import label_values as values
from transforms.errors import ImageError
from transforms.label_values import (
    bounding_boxes,
    check_label_values,
    stored_labels,
    structure_masks,
    value_counts,
)

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


def test_values_without_a_name_are_refused_with_advice():
    labels = {0: "background", 1: "liver"}
    check_label_values(np.array([0, 1]), labels, "l.nii")
    check_label_values([], labels, "l.nii")
    with pytest.raises(ImageError, match=r"^l\.nii: label value\(s\) -1, 7 are not among the classes 0 to 1"):
        check_label_values({0, 7, -1}, labels, "l.nii")
    with pytest.raises(ImageError, match="class ids start at 0"):
        check_label_values({0, 7, -1}, labels, "l.nii")
    with pytest.raises(ImageError, match="stored as 0 and 1"):
        check_label_values(np.array([0, 255], np.uint8), labels, "l.nii")


@pytest.mark.parametrize(
    ("numbers", "dtype"), [([0, 255], np.uint8), ([0, 256], np.uint16), ([0.0, 65535.0], np.uint16)]
)
def test_what_is_written_has_the_smallest_type_that_holds_it(numbers, dtype):
    stored = stored_labels("a.nii.gz", np.array(numbers))
    assert stored.dtype == dtype
    assert stored.tolist() == numbers


@pytest.mark.parametrize("numbers", [[-1, 0], [0, 65536], [0.0, 0.5], [0.0, np.nan]])
def test_what_is_no_class_id_is_not_written(numbers):
    with pytest.raises(
        ImageError, match=r"a\.nii\.gz: label values lie between .* whole numbers from 0 to 65535"
    ):
        stored_labels("a.nii.gz", np.array(numbers))


@given(data=st.data())
def test_masks_of_structures_are_those_of_the_whole_maps_cut_to_one_box(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=6))
    two = [data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 4))) for _ in range(2)]
    structures = {"one": [1], "several": [2, 3]}
    ignore = data.draw(st.sampled_from([None, 4]))
    counted = np.ones(shape, bool) if ignore is None else two[1] != ignore
    for name, masks in structure_masks(*two, structures, ignore):
        whole = [np.isin(labels, structures[name]) & counted for labels in two]
        if masks is None:
            assert not np.any(whole)
        else:
            box = ndimage.find_objects(np.any(whole, 0).astype(int))[0]
            for found, expected in zip(masks, whole, strict=True):
                np.testing.assert_array_equal(found, expected[box])
