"""One grid in another order of axes, and grids that are others."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import dicom_phantom as ph
from transforms.io.grids import grid_difference, turn_between, turned_affine
from transforms.io.header import Header

SHAPE = (5, 4, 3)


def oblique(angles=(10, -50, 33), spacing=(0.7, 1.3, 5.0)):
    affine = np.eye(4)
    affine[:3, :3] = ph.rotation(angles) * spacing
    affine[:3, 3] = (12, -300, 77)
    return affine


@settings(max_examples=60)
@given(
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
)
def test_every_order_of_the_axes_is_found_without_loss(axes, flips, angles):
    array = np.arange(60).reshape(1, *SHAPE)
    wanted = Header(SHAPE, 1, oblique(angles))
    given = Header(tuple(SHAPE[a] for a in axes), 1, turned_affine(wanted.affine, SHAPE, axes, flips))
    stored = array.transpose(0, *(axis + 1 for axis in axes))[
        (slice(None), *(slice(None, None, -1 if flip else 1) for flip in flips))
    ]
    turn = turn_between(given, wanted)
    np.testing.assert_array_equal(turn.apply(stored), array)
    assert turn.keeps == (list(axes) == [0, 1, 2] and not any(flips))


def test_a_flat_image_turns_in_its_plane():
    wanted = Header((5, 4), 1, np.diag([0.5, 0.7, 1, 1]))
    given = Header((4, 5), 1, turned_affine(np.diag([0.5, 0.7, -1, 1]), (5, 4), (1, 0), (True, False)))
    array = np.arange(20).reshape(5, 4)
    np.testing.assert_array_equal(turn_between(given, wanted).apply(array.T[::-1]), array)


@pytest.mark.parametrize(
    "affine",
    [
        oblique() + np.array([[0, 0, 0, 0.5]] + [[0] * 4] * 3),
        oblique(spacing=(0.7, 1.3, 5.4)),
        oblique(angles=(10, -50, 35)),
        oblique() @ np.diag([-1, 1, 1, 1]),
        oblique() @ np.diag([2, 1, 1, 1]),
    ],
)
def test_other_voxels_are_not_the_same_in_any_order(affine):
    wanted, given = Header(SHAPE, 1, oblique()), Header(SHAPE, 1, affine)
    assert turn_between(given, wanted) is None
    assert grid_difference(wanted, given) != ""
    for other in itertools.permutations(SHAPE):
        if other != SHAPE:
            assert turn_between(Header(other, 1, oblique()), wanted) is None
