"""Distances between surfaces, against other implementations, against geometry, and in their symmetries."""

import json
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import (
    DiceMetric,
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from monai.networks.utils import one_hot
from scipy import ndimage
from scipy.spatial.distance import cdist

from pipelines.metrics.surfaces import require_tolerance, surface_distances, surface_metrics
from tests.pipelines import masks
from tests.pipelines.metrics.scored import NAMES, scored

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0), (2.5, 4.0, 1.0)]
SHEARED = np.array([[0.8, 0, 0.9, 4], [0, 0.8, -0.4, -7], [0, 0.1, 2.5, 30], [0, 0, 0, 1]])


def affine_of(spacing):
    return np.diag([*spacing, *[1.0] * (4 - len(spacing))])


def figures(found, tolerance=1.5):
    return np.array([found.hd95, found.mean, found.dice(tolerance)])


def pair(seed, shape=(26, 22, 18)):
    return masks.blob(seed, shape), masks.blob(seed + 100, shape)


@pytest.mark.parametrize("spacing", [*SPACINGS, (1.0, 2.0)])
@pytest.mark.parametrize("kind", ["blobs", "noise"])
def test_equal_to_the_surface_distance_package(spacing, kind):
    package = pytest.importorskip("surface_distance", reason="pip install surface-distance")
    for seed in range(3):
        shape = (26, 22, 18)[: len(spacing)]
        if kind == "noise":
            prediction, reference = (np.random.default_rng(seed + n).random(shape) > 0.6 for n in (0, 9))
        else:
            prediction, reference = pair(seed, shape)
        theirs = package.compute_surface_distances(reference, prediction, spacing)
        total, weighed = 0.0, 0.0
        for side, other in (("gt", "pred"), ("pred", "gt")):
            areas = theirs[f"surfel_areas_{side}"]
            total, weighed = total + areas.sum(), weighed + areas @ theirs[f"distances_{side}_to_{other}"]
        expected = [
            package.compute_robust_hausdorff(theirs, 95),
            weighed / total,
            package.compute_surface_dice_at_tolerance(theirs, 1.5),
        ]
        found = figures(surface_distances(prediction, reference, affine_of(spacing)))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("spacing", [*SPACINGS, (1.0, 2.0)])
def test_surface_dice_is_monais_with_subvoxels(spacing):
    for seed in range(3):
        prediction, reference = pair(seed, (26, 22, 18)[: len(spacing)])
        tensors = [torch.from_numpy(np.stack([~m, m]))[None].float() for m in (prediction, reference)]
        theirs = compute_surface_dice(*tensors, [1.5], spacing=spacing, use_subvoxels=True)
        ours = surface_distances(prediction, reference, affine_of(spacing)).dice(1.5)
        assert ours == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_of_border_voxels_differ_by_a_voxel_at_most(spacing):
    """MONAI measures between centres of border voxels; each has a surface element within half a diagonal."""
    diagonal = float(np.linalg.norm(spacing))
    for seed in range(3):
        prediction, reference = pair(seed)
        tensors = [torch.from_numpy(m)[None, None].float() for m in (prediction, reference)]
        options = {"include_background": True, "spacing": spacing}
        ours = surface_distances(prediction, reference, affine_of(spacing))
        largest = max(ours.prediction.max(), ours.reference.max())
        assert abs(largest - float(compute_hausdorff_distance(*tensors, **options))) <= diagonal
        theirs = float(compute_hausdorff_distance(*tensors, percentile=95, **options))
        assert abs(ours.hd95 - theirs) <= diagonal
        theirs = float(compute_average_surface_distance(*tensors, symmetric=True, **options))
        assert abs(ours.mean - theirs) <= diagonal / 2


@pytest.mark.parametrize("spacing", SPACINGS)
def test_hausdorff_distance_is_simpleitks_within_a_voxel(spacing):
    import SimpleITK as sitk

    # Neither holds the other, so the set distance of ITK is reached on the surfaces.
    prediction, reference = np.zeros((2, 24, 20, 16), bool)
    prediction[3:10, 4:12, 3:9] = True
    reference[8:18, 6:15, 5:13] = True
    images = [sitk.GetImageFromArray(m.T.astype(np.uint8)) for m in (prediction, reference)]
    for image in images:
        image.SetSpacing(spacing)
    measure = sitk.HausdorffDistanceImageFilter()
    measure.Execute(*images)
    ours = surface_distances(prediction, reference, affine_of(spacing))
    largest = max(ours.prediction.max(), ours.reference.max())
    assert abs(largest - measure.GetHausdorffDistance()) <= np.linalg.norm(spacing)


@pytest.mark.parametrize(
    "affine",
    [affine_of((0.8, 0.8, 2.5)), affine_of((1.0, 1.0, 1.0)), SHEARED],
    ids=["thick", "cubic", "sheared"],
)
def test_balls_have_the_area_and_the_distance_of_balls(affine):
    """Also on a sheared grid, whose voxels are no boxes: two balls about one point in millimetres."""
    half = np.ceil(28 / np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
    points = nib.affines.apply_affine(affine, np.stack(np.indices(2 * half + 1), -1))
    radius = np.linalg.norm(points - points[tuple(half)], axis=-1)
    found = surface_distances(radius < 12, radius < 20, affine)
    # A staircase is longer than what it follows, by 8% on cubes and by 20% on thick slices.
    assert 1 < found.prediction_areas.sum() / (4 * math.pi * 12**2) < 1.22
    assert 1 < found.reference_areas.sum() / (4 * math.pi * 20**2) < 1.22
    assert found.mean == pytest.approx(8, abs=0.8)
    assert found.hd95 == pytest.approx(8, abs=0.4)
    assert found.dice(10) == 1
    assert found.dice(5) == 0


def test_on_a_sheared_grid_distances_are_those_of_points_in_space():
    prediction, reference = pair(3, (14, 12, 10))
    found = surface_distances(prediction, reference, SHEARED)

    def elements(mask):
        padded = np.pad(mask, 1)
        counts = sum(np.roll(padded, s, (0, 1, 2)).astype(int) for s in np.ndindex(2, 2, 2))
        return nib.affines.apply_affine(SHEARED, np.argwhere((counts > 0) & (counts < 8)))

    apart = cdist(elements(prediction), elements(reference))
    np.testing.assert_allclose(np.sort(found.prediction), np.sort(apart.min(1)), atol=1e-9)
    np.testing.assert_allclose(np.sort(found.reference), np.sort(apart.min(0)), atol=1e-9)


def test_faces_of_a_sheared_block_have_their_areas():
    block = np.zeros((44, 44, 44), bool)
    block[2:42, 2:42, 2:42] = True
    found = surface_distances(block, block, SHEARED)
    a, b, c = SHEARED[:3, :3].T
    faces = sum(np.linalg.norm(np.cross(*edges)) for edges in ((a, b), (b, c), (a, c)))
    # The 40 x 40 faces without the cut-off edges.
    assert found.reference_areas.sum() == pytest.approx(2 * faces * 40**2, rel=0.03)
    assert found.mean == found.hd95 == 0
    assert found.dice(0.1) == 1


def test_empty_masks_have_no_distance():
    mask = masks.blob(1, (10, 10, 10))
    for prediction, reference in ((mask, mask & False), (mask & False, mask)):
        found = surface_distances(prediction, reference, np.eye(4))
        assert math.isnan(found.hd95)
        assert math.isnan(found.mean)
        assert found.dice(5) == 0
    found = surface_distances(mask & False, mask & False, np.eye(4))
    assert all(math.isnan(value) for value in (found.hd95, found.mean, found.dice(5)))


def test_masks_of_different_grids_are_refused():
    with pytest.raises(ValueError, match="two masks of 2 or 3 axes"):
        surface_distances(np.zeros((3, 3, 3), bool), np.zeros((3, 3, 4), bool), np.eye(4))
    with pytest.raises(ValueError, match="two masks of 2 or 3 axes"):
        surface_distances(np.zeros(3, bool), np.zeros(3, bool), np.eye(4))


spacings = st.tuples(*[st.floats(0.3, 5)] * 3)
seeds = st.integers(0, 10_000)
few = settings(max_examples=25)


@few
@given(seeds, spacings)
def test_prediction_and_reference_may_change_places(seed, spacing):
    a, b = pair(seed, (12, 11, 9))
    affine = affine_of(spacing)
    np.testing.assert_allclose(
        figures(surface_distances(a, b, affine)), figures(surface_distances(b, a, affine)), rtol=1e-9
    )


@few
@given(seeds, spacings, st.floats(0.1, 10))
def test_distances_grow_with_the_spacing(seed, spacing, factor):
    a, b = pair(seed, (12, 11, 9))
    small, large = (surface_distances(a, b, affine_of(np.multiply(spacing, f))) for f in (1, factor))
    assert large.hd95 == pytest.approx(small.hd95 * factor)
    assert large.mean == pytest.approx(small.mean * factor)
    assert large.dice(factor * 1.234567) == pytest.approx(small.dice(1.234567))


@few
@given(seeds, spacings, st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.integers(0, 3))
def test_the_order_and_direction_of_axes_do_not_matter(seed, spacing, order, flips, around):
    a, b = pair(seed, (12, 11, 9))
    reverse = [axis for axis in range(3) if flips[axis]]
    turned = [np.pad(np.flip(m, reverse).transpose(order), around) for m in (a, b)]
    affine = np.eye(4)
    affine[:3, :3] = affine_of(spacing)[:3, :3][:, list(order)]
    np.testing.assert_allclose(
        figures(surface_distances(*turned, affine)),
        figures(surface_distances(a, b, affine_of(spacing))),
        rtol=1e-6,
    )


@few
@given(st.integers(6, 12), st.integers(1, 3), st.integers(0, 2), spacings)
def test_a_block_moved_by_voxels_is_so_far_away(size, shift, axis, spacing):
    block = np.zeros((24, 24, 24), bool)
    block[4 : 4 + size, 4 : 4 + size, 4 : 4 + size] = True
    found = surface_distances(block, np.roll(block, shift, axis), affine_of(spacing))
    moved = shift * spacing[axis]
    assert max(found.prediction.max(), found.reference.max()) == pytest.approx(moved)
    assert found.mean < moved
    assert found.dice(moved) == 1


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_a_grown_structure_is_so_many_voxels_larger(iterations):
    block = np.zeros((40, 40, 40), bool)
    block[10:30, 10:30, 10:30] = True
    grown = ndimage.binary_dilation(block, iterations=iterations)
    found = surface_distances(grown, block, affine_of((0.5, 0.5, 0.5)))
    assert found.hd95 == pytest.approx(0.5 * iterations)


def test_surfaces_of_a_class_are_those_of_its_mask_wherever_it_lies():
    affine = np.diag([0.7, 0.9, 3.0, 1.0])
    prediction, reference = (masks.label_map(seed, (20, 18, 12), 4) for seed in (4, 5))
    found = surface_metrics(prediction, reference, NAMES, affine, {"liver": 1.0, "cyst": 2.0, "stone": 3.0})
    for value, name in enumerate(NAMES, start=1):
        whole = surface_distances(prediction == value, reference == value, affine)
        assert found["hd95_mm"][name] == pytest.approx(whole.hd95)
        assert found["msd_mm"][name] == pytest.approx(whole.mean)
        assert found["nsd"][name] == pytest.approx(whole.dice(float(value)))


@pytest.mark.parametrize(
    ("tolerance", "said"),
    [
        (0, "0 for the class 'liver'"),
        ("2", "'2' for"),
        (True, "True"),
        (math.inf, "inf"),
        ({"liver": 1}, "'cyst'"),
    ],
)
def test_a_tolerance_that_is_none_is_refused(tolerance, said):
    with pytest.raises(ValueError, match=said):
        require_tolerance(tolerance, NAMES)
    assert require_tolerance(1.5, NAMES) == 1.5


def test_real_contours_agree_with_monai(shared_data):
    import nibabel as nib

    description = json.loads((shared_data / "openkbp" / "dataset.json").read_text())
    names = [description["labels"][str(value)] for value in range(1, 5)]
    for entry in description["validation"][:2]:
        image = nib.load(shared_data / "openkbp" / entry["label"])
        reference = np.asarray(image.dataobj).astype(np.uint8)
        prediction = np.roll(reference, (1, 0, -1), (0, 1, 2))
        prediction[prediction == 3] = 0
        ours = scored(prediction, reference, names)
        hot = [one_hot(torch.from_numpy(x)[None, None], 5) for x in (prediction, reference)]
        theirs = DiceMetric(include_background=False, reduction="none")(*hot)[0]
        assert list(ours["dice"].values()) == pytest.approx(theirs.tolist(), abs=1e-6)
        surfaces = surface_metrics(prediction, reference, names, image.affine, 3.0)
        from monai.metrics import compute_surface_dice

        spacing = np.linalg.norm(image.affine[:3, :3], axis=0).tolist()
        expected = compute_surface_dice(*hot, [3.0] * 4, spacing=spacing, use_subvoxels=True)[0]
        present = [n for n in range(4) if hot[0][0, n + 1].any()]
        assert [surfaces["nsd"][names[n]] for n in present] == pytest.approx(
            [float(expected[n]) for n in present], abs=1e-5
        )
        assert math.isnan(surfaces["hd95_mm"][names[2]]), "missed"


def test_regions_and_ignored_voxels_have_the_surfaces_of_their_masks():
    random = np.random.default_rng(2)
    prediction, reference = (np.zeros((16, 15, 14), np.uint8) for _ in range(2))
    for array in (prediction, reference):
        for value in (1, 2, 3):
            start = random.integers(1, 5, 3) + value
            array[tuple(slice(a, b) for a, b in zip(start, (14, 13, 12), strict=True))] = value
    reference[:, 9:] = 4
    affine, regions = np.diag([1.0, 2.0, 3.0, 1.0]), {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    found = surface_metrics(prediction, reference, ["a", "b", "c"], affine, 2.0, regions, ignore=4)
    for name, members in regions.items():
        masks = [np.isin(x, members) & (reference != 4) for x in (prediction, reference)]
        wanted = surface_distances(*masks, affine)
        scores = found["hd95_mm"][name], found["msd_mm"][name], found["nsd"][name]
        assert scores == pytest.approx((wanted.hd95, wanted.mean, wanted.dice(2.0)))
        assert wanted.mean > 0
