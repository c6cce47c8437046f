import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from networks.strides import strides_for
from pipelines.planning.rules import patches
from pipelines.planning.rules.typical import typical
from tests.pipelines.planning.generated import DATASETS, uniform


@given(
    st.lists(st.integers(1, 300), min_size=2, max_size=3),
    st.lists(st.floats(0.1, 20), min_size=3, max_size=3),
    st.integers(1, 6),
)
def test_sizes_that_fit_can_be_halved_as_the_networks_do(
    size: list[int], spacing: list[float], levels: int
) -> None:
    patch = [patches.rounded(n, levels) for n in size]
    strides = strides_for(patch, spacing, levels)
    for axis, voxels in enumerate(patch):
        assert voxels % math.prod(stride[axis] for stride in strides) == 0


@pytest.mark.parametrize(("voxels", "fits"), [(35, False), (36, False), (40, True), (7, True), (9, False)])
def test_fits(voxels: int, fits: bool) -> None:
    assert patches.fits(voxels, 5) is fits


def test_fewer_levels_take_more_sizes() -> None:
    assert patches.fits(36, 2)
    assert not patches.fits(36, 3)


def test_rounding_goes_to_the_nearest_and_up_where_asked() -> None:
    assert patches.rounded(35, 5) == 32
    assert patches.rounded_up(35, 5) == 40
    assert patches.rounded(30, 5) == 32


def test_a_small_image_has_a_patch_that_holds_it_and_smaller_ones() -> None:
    image = typical(DATASETS["tiny"], cropped=False)
    found = patches.patch_sizes(image, (1.0, 1.0, 1.0))
    assert found[0] == (40, 56, 40)
    assert (32, 32, 32) in found


def test_an_image_of_a_few_voxels_has_one_patch() -> None:
    image = typical(uniform((14, 12, 10), (1.0, 1.0, 1.0), [(5, 5, 5)]), cropped=False)
    assert patches.patch_sizes(image, (1.0, 1.0, 1.0)) == [(14, 12, 10)]


def test_patches_are_as_long_along_every_axis_in_millimetres_and_no_longer_than_the_image() -> None:
    image = typical(uniform((512, 512, 60), (0.8, 0.8, 5.0), [(90, 90, 90)]), cropped=False)
    found = patches.patch_sizes(image, (0.8, 0.8, 5.0))
    assert found[0] == (512, 512, 64)
    volumes = [math.prod(patch) for patch in found]
    assert volumes == sorted(volumes, reverse=True)
    small = found[-1]
    assert small[0] * 0.8 == pytest.approx(small[2] * 5.0, rel=0.35)


def test_levels_end_where_the_longest_axis_has_4_to_7_voxels() -> None:
    assert patches.levels_of((40, 56, 40)) == 3
    assert patches.levels_of((128, 128, 16)) == 5
    assert patches.levels_of((512, 512)) == 5
    assert patches.levels_of((6, 6, 6)) == 1


def test_channels_double_up_to_a_limit() -> None:
    assert patches.features_of(32, 5, 3) == (32, 64, 128, 256, 320, 320)
    assert patches.features_of(32, 5, 2) == (32, 64, 128, 256, 512, 512)
    assert patches.features_of(8, 3, 3) == (8, 16, 32, 64)


def test_few_patches_are_single_steps_and_many_are_shared_out() -> None:
    image = typical(DATASETS["tiny"], cropped=False)
    sizes = [patches.batch_of(n, 40 * 56 * 40, image, (1.0, 1.0, 1.0)) for n in (100, 1500, 6000, 10**6)]
    assert sizes == [1, 1, 2, 4]  # 4 patches are 5% of 160 cases


def test_a_step_sees_no_more_than_a_twentieth_of_the_dataset() -> None:
    one = typical(DATASETS["one case"], cropped=False)
    assert patches.batch_of(10**6, 128 * 128 * 64, one, (1.0, 1.0, 2.0)) == 2
