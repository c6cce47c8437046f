import pytest

from pipelines.planning.records import PlannedValue
from pipelines.planning.rules import spacing
from pipelines.planning.rules.typical import typical
from tests.pipelines.planning.generated import DATASETS, case, dataset, uniform


def test_each_axis_has_its_median() -> None:
    cases = [case(f"c{n}", (100, 100, 90), (n / 10, 1.0, 1.2), {}) for n in (8, 9, 12)]
    value, reason = spacing.full_spacing(dataset(cases))
    assert value == [0.9, 1.0, 1.2]
    assert reason == "0.9 x 1 x 1.2 mm: the median of the 3 cases"


@pytest.mark.parametrize(("slices", "expected"), [(20, 3.0), (300, 6.0)])
def test_a_coarse_axis_of_few_slices_keeps_those_of_most_images(slices: int, expected: float) -> None:
    """3 mm in one of eleven cases, 6 mm in the others: the 10th percentile is 3 mm."""
    cases = [case(f"c{n}", (256, 256, slices), (0.8, 0.8, 3.0 if n < 2 else 6.0), {}) for n in range(11)]
    assert spacing.full_spacing(dataset(cases)).value == [0.8, 0.8, expected]


def test_a_coarse_axis_gets_no_finer_than_the_others() -> None:
    cases = [case(f"c{n}", (256, 256, 20), (1, 1, 0.4 if n < 3 else 6.0), {}) for n in range(11)]
    assert spacing.full_spacing(dataset(cases)).value == [1.0, 1.0, 1.0]


def test_a_spacing_that_all_cases_have_is_kept_to_six_digits() -> None:
    value, reason = spacing.full_spacing(dataset([case("c", (9, 9, 9), (0.78125, 0.78125, 2.5), {})] * 2))
    assert value == [0.78125, 0.78125, 2.5]
    assert "all 2 cases" in reason


def test_coarser_spacings_have_more_cubic_voxels_and_keep_the_coarse_axis() -> None:
    image = typical(uniform((400, 400, 40), (0.8, 0.8, 5.0), [(90, 90, 90)]), cropped=False)
    found = spacing.coarser([0.8, 0.8, 5.0], image, without_unit=False)
    assert found[0] == [0.8, 0.8, 5.0]
    assert [1.6, 1.6, 5.0] in found
    assert found == sorted(found)
    assert all(s[2] >= 5.0 for s in found)


def test_the_smallest_structure_keeps_four_voxels_across() -> None:
    image = typical(uniform((200, 200, 200), (1, 1, 1), [(80, 80, 80), (8, 8, 8)]), cropped=False)
    small = min(s.size for s in image.structures)
    found = spacing.coarser([1.0, 1.0, 1.0], image, without_unit=False)
    assert len(found) > 1
    assert all(small / max(s) >= 4 for s in found)


@pytest.mark.parametrize("name", ["3 voxels", "microscopy", "tiny"])
def test_what_has_no_voxel_to_lose_stays(name: str) -> None:
    found = DATASETS[name]
    full = spacing.full_spacing(found).value
    image = typical(found, cropped=False)
    assert spacing.coarser(full, image, spacing.is_without_unit(found)) == [full]


def test_slices_are_made_coarser_within_their_plane_only() -> None:
    image = typical(uniform((800, 800, 50), (0.5, 0.5, 4.0), [(90, 90, 90)]), cropped=False, flat=True)
    found = spacing.coarser([0.5, 0.5, 4.0], image, without_unit=False)
    assert [1.0, 1.0, 4.0] in found
    assert all(s[2] == 4.0 for s in found)


def test_the_reason_names_what_decided() -> None:
    image = typical(uniform((400, 400, 400), (1, 1, 1), [(80, 80, 80)]), cropped=False)
    own = PlannedValue([1.0, 1.0, 1.0], "own")
    assert spacing.reason(own, [1.0, 1.0, 1.0], image, 60) == "own"
    coarser = spacing.reason(own, [2.0, 2.0, 2.0], image, 600)
    assert "2 x 2 x 2 mm" in coarser
    assert "10 minutes" in coarser
    assert "class 1" in coarser
