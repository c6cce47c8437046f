from typing import Any

import pytest

from pipelines.planning.records import Fingerprint
from pipelines.planning.rules import sampling
from pipelines.planning.rules.typical import typical
from tests.pipelines.planning.generated import case, dataset, structure, uniform

ONE = (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("extent", "patch", "share"),
    [(60, 160, 0.0), (60, 64, 0.33), (5, 64, 0.5), (2, 32, 0.67)],
)
def test_the_rarer_a_random_patch_meets_a_class_the_more_are_centred_on_one(
    extent: float, patch: int, share: float
) -> None:
    image = typical(uniform((160, 160, 160), ONE, [(100, 100, 100), (extent,) * 3]), cropped=False)
    value, reason = sampling.foreground(image, (patch,) * 3, ONE)
    assert value == share
    assert ("class 2" in reason) is (share > 0)


@pytest.mark.parametrize(
    ("spacing", "smooth"),
    [
        ((1.0, 1.0, 1.0), 100.0),  # 4,000 voxels of the smaller class
        ((2.0, 2.0, 2.0), 50.0),
        ((5.0, 5.0, 5.0), 3.2),
    ],
)
def test_dice_is_smoothed_by_a_tenth_of_the_smallest_class_at_most(
    spacing: tuple[float, ...], smooth: float
) -> None:
    image = typical(uniform((160, 160, 160), ONE, [(100, 100, 100), (20, 20, 20)]), cropped=False)
    value, reason = sampling.dice_smooth(image, spacing)
    assert value == pytest.approx(smooth)
    assert ("class 2, the smallest class" in reason) is (smooth < 100)


def test_a_class_of_a_slice_is_as_small_as_its_slices() -> None:
    thick = uniform((160, 160, 20), (1.0, 1.0, 5.0), [(20, 20, 50)])
    (flat, whole) = (
        sampling.dice_smooth(typical(thick, cropped=False, flat=is_flat), (1.0, 1.0, 5.0)).value
        for is_flat in (True, False)
    )
    assert whole == pytest.approx(100.0)
    assert 15 < flat < 40


def lying(*centres: list[tuple[float, float, float]], **more: Any) -> Fingerprint:
    """Cases whose classes lie at these centres."""
    cases = []
    for number, places in enumerate(centres):
        classes = {str(n + 1): structure((9, 9, 9), ONE, place) for n, place in enumerate(places)}
        cases.append(case(f"c{number}", (64, 64, 64), ONE, classes))
    return dataset(cases, **more)


def test_a_pair_of_left_and_right_is_never_mirrored_across() -> None:
    found = lying(*[[(0.5, 0.5, 0.5)] * 2] * 3, pairs=[{"left": 1, "right": 2, "by": "name"}])
    value, reason = sampling.flip_axes(found, 3)
    assert value == [1, 2]
    assert "class 1 and class 2 are left and right" in reason


def test_classes_that_always_lie_the_same_way_round_are_not_mirrored_along_that_axis() -> None:
    found = lying(*[[(0.5, 0.6 + n / 100, 0.5), (0.5, 0.4, 0.5)] for n in range(6)])
    value, reason = sampling.flip_axes(found, 3)
    assert value == [0, 2]
    assert "not along A" in reason


def test_classes_that_lie_now_so_now_so_are_mirrored() -> None:
    found = lying(*[[(0.4 + n / 25, 0.5, 0.5), (0.5, 0.5, 0.5)] for n in range(6)])
    assert sampling.flip_axes(found, 3).value == [0, 1, 2]


def test_an_organ_on_one_side_of_the_body_is_not_mirrored_to_the_other() -> None:
    found = lying(*[[(0.3 + n / 100, 0.5, 0.5)] for n in range(6)])
    assert sampling.flip_axes(found, 3).value == [1, 2]


def test_a_few_cases_may_be_chance() -> None:
    assert sampling.flip_axes(lying(*[[(0.3, 0.5, 0.5)]] * 4), 3).value == [0, 1, 2]


def test_pictures_have_two_axes() -> None:
    found = uniform((64, 64), (1.0, 1.0), [(20, 20)])
    value, reason = sampling.flip_axes(found, 2)
    assert value == [0, 1]
    assert "X and Y" in reason


@pytest.mark.parametrize(
    ("sizes", "strength", "why"),
    [
        ([1.0], "strong", "one case shows little"),
        ([1.0] * 9, "strong", "9 cases show little"),
        ([1.0] * 10, "moderate", "all 10 cases are about equally large"),
        ([1.0] * 9 + [1.9], "moderate", "about equally large"),
        ([1.0] * 9 + [5.0], "strong", "some cases are 5 times as coarse as others along S"),
    ],
)
def test_patches_are_changed_more_where_scans_differ_or_are_few(
    sizes: list[float], strength: str, why: str
) -> None:
    classes = {"1": structure((9, 9, 9), ONE)}
    cases = [case(f"c{n}", (64, 64, 64), (1.0, 1.0, size), classes) for n, size in enumerate(sizes)]
    value, reason = sampling.augmentation(dataset(cases))
    assert value == strength
    assert why in reason
