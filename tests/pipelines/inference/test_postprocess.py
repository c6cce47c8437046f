"""Cleaning of label maps: what it may change, and what never."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import MetaTensor
from scipy import ndimage

from pipelines.inference.postprocess import Postprocess, PostprocessError, parameters

NAMES = {0: "background", 1: "lung", 2: "liver", 3: "bone"}
maps = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.integers(0, 3))
steps = st.builds(
    Postprocess,
    largest_component=st.sets(st.sampled_from(["lung", "liver", "bone"])).map(list),
    fill_holes=st.sets(st.sampled_from(["lung", "liver", "all"])).map(list),
    min_volume_ml=st.dictionaries(st.sampled_from(["lung", "bone", "all"]), st.floats(0, 0.01)),
)


def label(array, spacing=(1, 1, 1)):
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array))[None], affine=affine)


def run(process, array, spacing=(1, 1, 1)):
    return process(label(array, spacing), NAMES)[0].numpy()


@settings(max_examples=150)
@given(array=maps, process=steps)
def test_twice_is_once_and_classes_keep_out_of_each_other(array, process):
    before = array.copy()
    once = run(process, array)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(run(process, once), once)
    assert once.dtype == array.dtype
    assert set(np.unique(once)) <= set(np.unique(array)) | {0}
    changed = once != array
    # A voxel goes to background or comes from it (or was removed and then filled), never from class to class.
    removed = Postprocess(process.largest_component, (), process.min_volume_ml)
    between = run(removed, array)
    assert (between[between != array] == 0).all()
    assert (between[once != between] == 0).all()
    asked = {*process.largest_component, *process.fill_holes, *process.min_volume_ml}
    if "all" not in asked:
        for value, name in NAMES.items():
            if value and name not in asked:
                assert not (changed & (array == value)).any()
                assert not (changed & (once == value)).any()


@settings(max_examples=50)
@given(array=maps)
def test_one_component_stays_and_it_is_the_largest(array):
    once = run(Postprocess(largest_component="all"), array)
    for value in range(1, 4):
        parts, _ = ndimage.label(array == value, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())[1:]
        left, count = ndimage.label(once == value, np.ones((3, 3, 3)))
        assert count == min(1, len(sizes))
        assert (left > 0).sum() == max(sizes, default=0)


@settings(max_examples=50)
@given(array=maps)
def test_holes_in_a_box_are_holes_in_the_volume(array):
    """The bounding box that makes it fast changes nothing."""
    expected = array.copy()
    for value in range(1, 4):
        expected[ndimage.binary_fill_holes(expected == value) & (expected == 0)] = value
    np.testing.assert_array_equal(run(Postprocess(fill_holes=["all"]), array), expected)


def test_off_gives_back_the_very_same_map():
    given_map = label(np.ones((2, 2, 2), np.uint8))
    process = Postprocess()
    assert process.off
    assert process(given_map, NAMES) is given_map
    assert parameters(process) == parameters(None) == {}
    assert Postprocess(min_volume_ml=0).off


def test_a_hole_with_another_class_in_it():
    array = np.ones((7, 7, 7), np.uint8)
    array[1:6, 1:6, 1:6] = 0
    array[3, 3, 3] = 2
    filled = run(Postprocess(fill_holes=["lung"]), array)
    assert (filled == 2).sum() == 1
    assert (filled == 1).sum() == 7**3 - 1


def test_an_open_cavity_is_no_hole():
    array = np.ones((5, 5, 5), np.uint8)
    array[2, 2, 2:] = 0
    np.testing.assert_array_equal(run(Postprocess(fill_holes="all"), array), array)


def test_volumes_count_in_millilitres_of_the_grid():
    array = np.zeros((12, 4, 4), np.uint8)
    array[0:2, 0, 0] = 1  # 2 voxels
    array[4:9, 0, 0] = 1  # 5 voxels
    array[11, 3, 3] = 2
    spacing = (2.0, 2.5, 4.0)  # 0.02 ml a voxel
    for limit, left in ((0.04, 7), (0.041, 5), (0.1, 5), (0.11, 0)):
        assert (run(Postprocess(min_volume_ml={"lung": limit}), array, spacing) == 1).sum() == left
    assert (run(Postprocess(min_volume_ml=0.03), array, spacing) == 2).sum() == 0
    both = run(Postprocess(min_volume_ml={"all": 0.03, "liver": 0}), array, spacing)
    assert (both == 2).sum() == 1


def test_a_tilted_grid_has_the_volume_of_its_determinant():
    array = np.zeros((4, 4, 4), np.uint8)
    array[1, 1, 1] = 1
    affine = torch.eye(4, dtype=torch.float64)
    affine[1, 2] = 5.0  # a shear: columns are longer, voxels are not larger
    tilted = MetaTensor(torch.from_numpy(array)[None], affine=affine)
    assert Postprocess(min_volume_ml=0.001)(tilted, NAMES).sum() == 1
    assert Postprocess(min_volume_ml=0.0011)(tilted, NAMES).sum() == 0


def test_many_classes_keep_their_type():
    array = np.zeros((3, 3, 3), np.uint16)
    array[0, 0, 0] = 300
    names = {value: str(value) for value in range(301)}
    cleaned = Postprocess(largest_component="all")(label(array), names)
    assert cleaned.dtype == torch.uint16
    np.testing.assert_array_equal(cleaned[0].numpy(), array)


def test_pictures_have_components_but_no_volume():
    picture = np.zeros((5, 5), np.uint8)
    picture[0, 0] = 1
    picture[2:4, 2:4] = 1
    assert run(Postprocess(largest_component="lung"), picture).sum() == 4
    with pytest.raises(PostprocessError, match="2D image has no volume"):
        run(Postprocess(min_volume_ml=1), picture)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"fill_holes": "spleen"},
            "'spleen', which the model does not have; its classes are lung, liver, bone",
        ),
        ({"largest_component": ["background"]}, "'background'"),
        ({"min_volume_ml": {"lungs": 1}}, "'lungs'"),
    ],
)
def test_an_unknown_class_is_named(options, said):
    with pytest.raises(PostprocessError, match=said):
        Postprocess(**options).require_names(NAMES)


@pytest.mark.parametrize("volume", [-1, float("nan"), float("inf"), {"lung": "much"}])
def test_an_impossible_volume_is_refused(volume):
    with pytest.raises(PostprocessError, match="min_volume_ml is"):
        Postprocess(min_volume_ml=volume)
