import pytest

from pipelines.planning.rules import expectation
from pipelines.planning.rules.typical import typical
from tests.pipelines.planning.generated import DATASETS, uniform

ONE = (1.0, 1.0, 1.0)


def test_coarser_voxels_cost_more_the_smaller_a_structure_is() -> None:
    large, small = (
        typical(uniform((200, 200, 200), ONE, [(size,) * 3]), cropped=False) for size in (100, 10)
    )
    assert expectation.spacing_loss(large, ONE, ONE) == 0
    ratio = expectation.spacing_loss(small, ONE, (2, 2, 2)) / expectation.spacing_loss(large, ONE, (2, 2, 2))
    assert 9.9 < ratio < 10.1


def test_a_patch_that_shows_the_structures_with_their_surroundings_loses_nothing() -> None:
    image = typical(uniform((200, 200, 200), ONE, [(60, 60, 60)]), cropped=False)
    assert expectation.context_loss(image, ONE, (128, 128, 128)) == 0
    losses = [expectation.context_loss(image, ONE, (n, n, n)) for n in (16, 32, 64)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] > 0


def test_what_is_around_counts_more_the_fewer_cases_there_are() -> None:
    image = typical(uniform((200, 200, 200), ONE, [(100, 100, 100)]), cropped=False)
    many, some, one = (
        expectation.context_loss(image._replace(cases=cases), ONE, (100, 100, 100)) for cases in (10, 5, 1)
    )
    assert expectation.context_loss(image._replace(cases=1000), ONE, (100, 100, 100)) == many > 0
    assert (some, one) == pytest.approx((2 * many, 10 * many))
    nodule = typical(uniform((200, 200, 200), ONE, [(20, 20, 20)]), cropped=False)
    where = [expectation.context_loss(nodule._replace(cases=cases), ONE, (64, 64, 64)) for cases in (1, 1000)]
    assert where[0] == where[1] > 0


def test_a_patch_of_the_whole_image_is_always_the_same_one() -> None:
    image = typical(uniform((35, 50, 36), ONE, [(20, 20, 20)]), cropped=False)
    whole, nearly = (expectation.same_view_loss(image, ONE, size) for size in ((40, 56, 40), (40, 48, 40)))
    assert whole == expectation.SAME_VIEW_LOSS
    assert nearly == 0
    halved = expectation.same_view_loss(image, (2.0, 2.0, 2.0), (20, 28, 20))
    assert halved == whole
    assert expectation.grid_loss(image, ONE, ONE, (40, 56, 40)) == whole


def test_scattered_structures_need_no_patch_of_the_whole_image() -> None:
    spots = uniform((1000, 1000), (1.0, 1.0), [(900, 900)])
    for one in spots["cases"]:
        one["classes"]["1"]["components"] = 1000
    small = (320, 320)
    assert expectation.context_loss(typical(spots, cropped=False), (1.0, 1.0), small) == 0
    assert expectation.context_loss(typical(DATASETS["microscopy"], cropped=False), (1.0, 1.0), small) > 0
    beside = uniform((1000, 1000), (1.0, 1.0), [(900, 900), (300, 300)])
    for one in beside["cases"]:
        one["classes"]["1"]["components"] = 1000
    assert expectation.context_loss(typical(beside, cropped=False), (1.0, 1.0), small) > 0


def test_learning_halves_its_loss_with_four_times_the_patches() -> None:
    image = typical(uniform((200, 200, 200), ONE, [(60, 60, 60)]), cropped=False)

    def loss(size: int, patches: int) -> float:
        return expectation.learning_loss(image, size**3, patches) - expectation.FEW_STEPS / patches

    assert loss(64, 500) == pytest.approx(expectation.LEARNING_LOSS)
    assert loss(64, 2000) == pytest.approx(expectation.LEARNING_LOSS / 2)
    assert loss(128, 500) == pytest.approx(expectation.LEARNING_LOSS / 8**0.25)


def test_as_many_patches_are_worth_less_in_fewer_steps() -> None:
    image = typical(uniform((200, 200, 200), ONE, [(60, 60, 60)]), cropped=False)
    single, many = (expectation.learning_loss(image, 64**3, 600, batch) for batch in (1, 4))
    assert many - single == pytest.approx(3 * expectation.FEW_STEPS / 600)


def test_of_scattered_structures_a_larger_patch_shows_more() -> None:
    one_part = uniform((1000, 1000), (1.0, 1.0), [(900, 900)])
    spots = uniform((1000, 1000), (1.0, 1.0), [(900, 900)])
    for one in spots["cases"]:
        one["classes"]["1"]["components"] = 1000
    gains = []
    for found in (one_part, spots):
        image = typical(found, cropped=False)
        gains.append(
            expectation.learning_loss(image, 128**2, 500) / expectation.learning_loss(image, 512**2, 500)
        )
    assert 1 < gains[0] < gains[1]


def test_wider_networks_lose_less_above_all_with_many_classes() -> None:
    few = expectation.width_loss(8, 3) - expectation.width_loss(32, 3)
    many = expectation.width_loss(8, 105) - expectation.width_loss(32, 105)
    assert 0 < few < many
