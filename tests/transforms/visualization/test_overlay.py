"""Prediction against reference: both contours where they belong, on the planes that show the most."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from tests.transforms.visualization.test_preview import body, colour_at, stored
from transforms.utils.colours import colour_of
from transforms.visualization.overlay import draw_overlay, overlay_place, reference_colour
from transforms.visualization.planes import HEIGHT, SOFT_TISSUE

NAMES = {0: "background", 1: "right", 2: "front", 3: "top"}
STRAIGHT = (0, 1, 2), (False, False, False)
TOP, LEFT, SCALE = 54, 14, HEIGHT / 40
"""Where the axial plane of `body()` lies in the picture, and its pixels per mm."""


def axial(pixels):
    return pixels[TOP : TOP + HEIGHT, LEFT : LEFT + round(60 * SCALE)]


def shifted(label):
    """The prediction: class 1 reaches 2 voxels (4 mm) too far to the left of the patient."""
    wrong = label.copy()
    wrong[16:18, 10:22, 5:12] = 1
    return wrong


@settings(max_examples=20)
@given(axes=st.permutations(range(3)), flips=st.tuples(*[st.booleans()] * 3))
def test_the_picture_does_not_depend_on_how_the_file_is_stored(axes, flips):
    image, label = body()
    arrays = (image, shifted(label), label)
    expected = draw_overlay(*(stored(a, *STRAIGHT) for a in arrays), NAMES)
    found = draw_overlay(*(stored(a, axes, flips) for a in arrays), NAMES)
    np.testing.assert_array_equal(found, expected)


def test_contours_lie_where_the_structures_end():
    image, label = body()
    pixels = draw_overlay(*(stored(a, *STRAIGHT) for a in (image, shifted(label), label)), NAMES, "case 7")
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    for colour, left in ((colour_of(1), 16), (reference_colour(1), 18)):
        edge = colour_at(axial(pixels), colour)
        # Class 1 spans x `left`..28 (2 mm each) from the patient's left and y 10..22 from behind.
        np.testing.assert_allclose(edge.min(0), [(40 - 22) * SCALE, (30 - 28) * 2 * SCALE], atol=5)
        np.testing.assert_allclose(edge.max(0), [(40 - 10) * SCALE - 1, (30 - left) * 2 * SCALE - 1], atol=5)
    # Only lines are drawn: inside the grey of the image is left as it is.
    grey = 255 * (140 - SOFT_TISSUE[0]) / (SOFT_TISSUE[1] - SOFT_TISSUE[0])
    middle = axial(pixels)[round((40 - 16) * SCALE), round((30 - 23) * 2 * SCALE)]
    np.testing.assert_allclose(middle, grey, atol=1)


def test_the_reference_is_seen_where_both_agree():
    """Where both contours agree, solid and dashed alternate: each colours about half of the pixels."""
    image, label = (stored(array, *STRAIGHT) for array in body())
    pixels = axial(draw_overlay(image, label, label, NAMES))
    solid, dashed = (len(colour_at(pixels, f(1))) for f in (colour_of, reference_colour))
    assert solid > 300
    assert 0.6 < dashed / solid < 1.7


def test_planes_go_through_the_largest_structure_of_the_reference():
    image, label = body()
    far = np.zeros_like(label)
    far[2:8, 2:8, 15:19] = 3
    reference, prediction = stored(label, *STRAIGHT), stored(far, *STRAIGHT)
    place = overlay_place(prediction, reference)
    assert label[place] == 1
    nothing = stored(np.zeros_like(label), *STRAIGHT)
    found = overlay_place(prediction, nothing)
    assert far[found] == 3
    assert overlay_place(nothing, nothing) is None
    volume = stored(image, *STRAIGHT)
    np.testing.assert_array_equal(
        draw_overlay(volume, prediction, reference, NAMES),
        draw_overlay(volume, prediction, reference, NAMES, place=place),
    )
    assert len(colour_at(draw_overlay(volume, prediction, nothing, NAMES), colour_of(3))) > 300
    assert draw_overlay(volume, nothing, nothing, NAMES).max() == 255


def test_without_a_reference_there_is_the_prediction_alone():
    image, label = (stored(array, *STRAIGHT) for array in body())
    pixels = draw_overlay(image, label, None, NAMES)
    assert len(colour_at(axial(pixels), colour_of(1))) > 300
    assert len(colour_at(pixels, reference_colour(1))) == 0


@settings(max_examples=10)
@given(
    zoom=st.tuples(*[st.floats(0.4, 2.5)] * 3),
    tilt=st.floats(-0.2, 0.2),
    flip=st.booleans(),
)
def test_an_image_on_another_grid_lands_in_the_right_place(zoom, tilt, flip):
    """A linear field is exact under linear interpolation, on whatever grid it is kept."""
    _, label = body()
    labels = stored(label, *STRAIGHT)
    own = labels.affine.numpy()
    slope = np.array((3.0, -2.0, 1.5))

    def field(affine, shape):
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        return ((index @ affine[:3, :3].T + affine[:3, 3]) @ slope).astype(np.float32)

    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]]
    other = turn @ own @ np.diag([*zoom, 1.0])
    if flip:
        other = other @ np.diag([-1, 1, 1, 1])
    # Large enough to hold every voxel of the labels.
    corners = np.array(np.meshgrid(*[(-1, n) for n in label.shape], indexing="ij")).reshape(3, -1)
    inside = np.linalg.inv(other)[:3] @ own @ np.vstack([corners, np.ones(8)])
    low = np.floor(inside.min(1))
    other = other @ np.block([[np.eye(3), low[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
    shape = tuple(int(n) for n in np.ceil(inside.max(1)) - low + 2)
    direct = MetaTensor(torch.from_numpy(field(own, label.shape))[None], affine=labels.affine)
    kept = MetaTensor(torch.from_numpy(field(other, shape))[None], affine=torch.from_numpy(other))
    found, expected = (
        draw_overlay(image, labels, labels, NAMES, "x").astype(int) for image in (kept, direct)
    )
    # Rounding may move a grey by one.
    assert np.abs(found[TOP:] - expected[TOP:]).max() <= 2


def test_what_was_cut_off_the_image_is_air():
    image, label = body()
    volume, labels = stored(image, *STRAIGHT), stored(label, *STRAIGHT)
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([5.0, 6.0, 2.0], dtype=affine.dtype)
    part = MetaTensor(volume.as_tensor()[:, 5:, 6:, 2:], affine=affine)
    expected, found = (axial(draw_overlay(i, labels, labels, NAMES)) for i in (volume, part))
    # The patient's left is on the right of the picture: voxel columns 0 to 4, 2 mm each.
    gone = round(10 * SCALE)
    assert (found[:150, -gone + 14 :] == 0).all()
    np.testing.assert_array_equal(
        found[: -round(8 * SCALE), : -gone - 14], expected[: -round(8 * SCALE), : -gone - 14]
    )


@pytest.mark.parametrize("ct", [False, True])
def test_a_picture_is_one_plane(ct):
    values = np.tile(np.linspace(0, 255, 60), (80, 1)).astype(np.float32)
    reference, prediction = np.zeros((2, 80, 60), np.uint8)
    reference[:20], prediction[:30] = 1, 1
    tensors = [MetaTensor(torch.from_numpy(a)[None]) for a in (values, prediction, reference)]
    pixels = draw_overlay(*tensors, {0: "background", 1: "cell"}, ct=ct)[TOP : TOP + 420]
    scale = 420 / 60
    for colour, column in ((colour_of(1), 30), (reference_colour(1), 20)):
        edge = colour_at(pixels, colour)
        np.testing.assert_allclose(edge[:, 1].mean(), LEFT + column * scale, atol=1.5)


def test_the_legend_holds_every_class_with_a_dice():
    image, label = (stored(array, *STRAIGHT) for array in body())
    names = {0: "background", **{value: f"organ {value}" for value in range(1, 101)}}
    dice = {name: value / 100 for value, name in names.items() if value}
    few, many = (draw_overlay(image, label, label, names, dice=scores) for scores in (None, dice))
    assert len(few) < len(many) < 1000
    assert len(colour_at(many[few.shape[0] - 30 :], colour_of(9))) >= 100
    absent = draw_overlay(image, label, label, names, dice={"organ 50": float("nan"), "organ 51": None})
    assert len(absent) == len(few)
    np.testing.assert_array_equal(absent[-60:], few[-60:])


def test_labels_of_another_shape_are_refused():
    image, label = (stored(array, *STRAIGHT) for array in body())
    with pytest.raises(ValueError, match="differ in shape"):
        draw_overlay(image, label, label[:, 1:], NAMES)


def test_air_beside_the_body_is_left_out():
    image, label = body()
    wide = [((0, 0), (60, 70), (0, 0)), ((0, 0), (0, 0), (30, 0))]
    padded = [
        np.pad(np.pad(a, wide[0], constant_values=v), wide[1], constant_values=v)
        for a, v in ((image, -1000), (label, 0))
    ]
    image, label = (stored(a, *STRAIGHT) for a in padded)
    pixels = draw_overlay(image, label, label, NAMES)
    # The body is 36 mm from front to back and 10 mm of air stay on either side of it, if there are any.
    edge = colour_at(pixels[TOP : TOP + HEIGHT, LEFT : LEFT + 450], colour_of(1))
    np.testing.assert_allclose(edge.max(0)[0] - edge.min(0)[0], 12 * HEIGHT / 56, atol=3)
    # Labels in the air are never cut away.
    far = label.clone()
    far[0, 15, 1, 20] = 2
    assert len(colour_at(draw_overlay(image, far, label, NAMES, place=(15, 75, 40)), colour_of(2))) > 0
