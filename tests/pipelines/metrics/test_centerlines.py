"""clDice against what a tube of a known length must give."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipelines.metrics.centerlines import centerline_metrics, cldice, require_structures
from transforms.errors import SettingError


def tube(length, radius=3, dims=3, start=10, size=100):
    """A straight round tube along the first axis, of whole voxels."""
    shape = (size, *[21] * (dims - 1))
    across = np.indices(shape)[1:] - 10
    mask = (across**2).sum(0) <= radius**2
    mask[:start] = mask[start + length :] = False
    return mask


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("radius", [1, 2, 4])
def test_of_half_a_tube_precision_is_whole_and_sensitivity_half(dims, radius):
    half, whole = tube(40, radius, dims), tube(80, radius, dims)
    # 2 * 1 * 0.5 / 1.5; a skeleton is shorter than its tube by about a radius on each side.
    assert cldice(half, whole) == pytest.approx(2 / 3, abs=0.02 + 0.01 * radius)
    assert cldice(half, whole) == pytest.approx(cldice(whole, half))


@pytest.mark.parametrize("dims", [2, 3])
def test_width_does_not_matter(dims):
    thick, thin = tube(80, 6, dims), tube(80, 3, dims)
    dice = 2 * (thick & thin).sum() / (thick.sum() + thin.sum())
    assert dice < 0.75
    assert cldice(thin, thick) == pytest.approx(1.0, abs=0.08)


def test_a_lost_thin_vessel_weighs_as_much_as_a_thick_one():
    reference = np.zeros((100, 40), bool)
    reference[10:90, 5:18] = reference[10:90, 30] = True
    prediction = reference & (np.arange(40) < 20)
    assert 2 * prediction.sum() / (prediction.sum() + reference.sum()) > 0.95
    assert cldice(prediction, reference) == pytest.approx(2 / 3, abs=0.04)


def test_empty_masks():
    empty, full = np.zeros((9, 9), bool), tube(9, 1, 2, 0, 9)
    assert math.isnan(cldice(empty, empty))
    assert cldice(full, empty) == cldice(empty, full) == 0.0
    apart = np.roll(full, 6, 1)
    assert cldice(full, apart) == 0.0


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.bool_, st.tuples(*[st.integers(1, 12)] * 2)))
def test_a_mask_is_like_itself(mask):
    found = cldice(mask, mask)
    assert found == 1.0 if mask.any() else math.isnan(found)


def test_only_what_is_wanted_is_measured_and_what_is_ignored_is_background():
    reference = np.zeros((40, 20), np.uint8)
    reference[5:35, 4:7], reference[5:35, 13:16] = 1, 2
    prediction = reference.copy()
    prediction[20:] = 0
    names = ["artery", "vein"]
    found = centerline_metrics(prediction, reference, names, ["vein"])["cldice"]
    assert math.isnan(found["artery"])
    assert found["vein"] == pytest.approx(2 / 3, abs=0.05)
    reference[20:] = 3
    assert centerline_metrics(prediction, reference, names, names, ignore=3)["cldice"] == {
        "artery": 1.0,
        "vein": 1.0,
    }
    regions = {"vessel": [1, 2]}
    assert centerline_metrics(prediction, prediction, names, ["vessel"], regions)["cldice"] == {"vessel": 1.0}


def test_one_name_and_none_are_understood():
    assert require_structures("vein", ["artery", "vein"]) == ["vein"]
    assert require_structures(None, ["artery", "vein"]) == []
    with pytest.raises(SettingError, match="centerlines names 'nerve'"):
        require_structures("nerve", ["artery", "vein"])


def test_an_unknown_structure_is_named():
    with pytest.raises(SettingError, match="centerlines names 'nerve'; choose among artery, vein"):
        require_structures(["artery", "nerve"], ["artery", "vein"])
