from pipelines.planning.rules.typical import count, times, typical
from tests.pipelines.planning.generated import MR, case, dataset, structure


def test_the_typical_image_is_the_median_of_the_cases() -> None:
    cases = [case(f"c{n}", (n, 50, 40), (1, 1, 2), {}) for n in (30, 90, 60)]
    image = typical(dataset(cases), cropped=False)
    assert image.shape == (60, 50, 40)
    assert image.size == (60, 50, 80)
    assert image.on_grid((2.0, 2.0, 4.0)) == (30, 25, 20)
    assert image.dims == 3


def test_air_that_is_cut_away_leaves_the_patient_with_a_margin() -> None:
    one = case("c", (100, 100, 100), (2, 2, 2), {}, [MR], body=(100, 190, 200))
    assert typical(dataset([one]), cropped=True).size == (120, 200, 200)


def test_a_structure_is_as_large_as_one_of_its_parts() -> None:
    one = structure((40, 40, 40), (1, 1, 1), filled=1.0)
    spots = structure((40, 40, 40), (1, 1, 1), components=8, filled=1.0)
    sheet = structure((40, 40, 2), (1, 1, 1), filled=1.0)
    absent = {**one, "voxels": 0, "extent": [], "centre": []}
    classes = {"1": one, "2": spots, "3": sheet, "4": absent}
    image = typical(dataset([case("c", (64, 64, 64), (1, 1, 1), classes)]), cropped=False)
    assert [round(s.size, 6) for s in image.structures] == [40, 20, 2]
    assert image.classes == 5


def test_a_tree_is_as_large_as_its_branches_are_thick() -> None:
    """Vessels of a photograph: 75,000 pixels in one part, with an outline as if they were 6 pixels wide."""
    tree = {**structure((900, 900), (1, 1)), "voxels": 75_000, "surface": 25_000.0}
    image = typical(dataset([case("c", (999, 960), (1, 1), {"1": tree})]), cropped=False)
    assert 6 <= image.structures[0].size <= 12


def test_volumes_of_one_slice_are_flat_and_volumes_may_be_taken_so() -> None:
    slices = dataset([case("c", (64, 64, 1), (1, 1, 5), {"1": structure((9, 9, 5), (1, 1, 5))})])
    assert typical(slices, cropped=False).dims == 2
    volume = dataset([case("c", (64, 64, 9), (1, 1, 5), {})])
    flat = typical(volume, cropped=False, flat=True)
    assert flat.dims == 2
    assert flat.dataset_on_grid((2, 1)) == 32 * 64 * 9
    assert typical(volume, cropped=False).dataset_on_grid((2, 1, 5)) == 32 * 64 * 9
    assert typical(slices, cropped=False).dataset_on_grid((1, 1)) == 64 * 64


def test_words() -> None:
    assert times((1.0, 0.7, 10)) == "1 x 0.7 x 10"
    assert count(1, "case") == "1 case"
    assert count(0, "case") == "0 cases"
