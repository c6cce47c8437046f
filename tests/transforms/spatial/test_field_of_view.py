"""The round field of view of a photograph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.io.pictures import read_picture
from transforms.spatial.field_of_view import round_field


def disc(shape, centre, radius):
    x, y = np.ogrid[: shape[0], : shape[1]]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2


def ellipse(shape, radii):
    x, y = np.ogrid[: shape[0], : shape[1]]
    return ((x - shape[0] / 2) / radii[0]) ** 2 + ((y - shape[1] / 2) / radii[1]) ** 2 < 1


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(90, 120), st.integers(90, 120)),
    share=st.floats(0.4, 0.48),
    light=st.floats(20, 4000),
    dark=st.floats(0, 5),
    seed=st.integers(0, 99),
)
def test_a_noisy_disc_is_found_to_a_pixel(size, share, light, dark, seed):
    wanted = disc(size, (size[0] / 2, size[1] / 2), share * min(size))
    random = np.random.default_rng(seed)
    texture = random.uniform(0.4, 1.0, size) * light
    picture = np.where(wanted, texture, dark) + random.normal(0, 0.01 * light, size)
    # Dark structures, some of which are no brighter than the surround.
    picture[size[0] // 2 - 4 : size[0] // 2 + 4, size[1] // 2] = dark
    found = round_field(np.stack([picture, 0.3 * picture, np.zeros(size)]))
    assert found is not None
    edge = disc(size, (size[0] / 2, size[1] / 2), share * min(size) + 2) & ~disc(
        size, (size[0] / 2, size[1] / 2), share * min(size) - 3
    )
    assert not (found ^ wanted)[~edge].any()


def test_a_field_that_is_cut_off_above_and_below_is_one():
    wanted = disc((200, 160), (100, 80), 90)
    found = round_field(np.where(wanted, 120.0, 2.0)[None])
    assert found is not None
    assert (found ^ wanted).mean() < 0.005


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(np.random.default_rng(0).uniform(50, 200, (90, 90)), id="all of it shows something"),
        pytest.param(np.zeros((90, 90)), id="black"),
        pytest.param(disc((90, 90), (30, 30), 10) * 200.0, id="a bright cell"),
        pytest.param(
            np.max([disc((90, 90), (x, y), 16) for x in (20, 45, 70) for y in (20, 45, 70)], 0) * 200.0,
            id="bright cells",
        ),
        pytest.param(ellipse((90, 90), (42, 34)) * 200.0, id="an oval body"),
        pytest.param(np.pad(np.ones((70, 70)), 10) * 200.0, id="a square"),
        pytest.param(~disc((90, 90), (45, 45), 40) * 200.0, id="a dark disc"),
        pytest.param(
            np.maximum(disc((90, 90), (45, 45), 44), np.arange(90) < 20) * 200.0, id="light in two corners"
        ),
    ],
)
def test_what_is_no_field_is_none(picture):
    assert round_field(picture[None]) is None


def test_fundus_photographs(shared_data):
    for path in sorted((shared_data / "chase" / "images").iterdir()):
        found = round_field(read_picture(path)[0])
        assert found is not None, path
        assert 0.64 < found.mean() < 0.70, path
        vessels = read_picture(shared_data / "chase" / "labels" / f"{path.stem}.png", label=True)[0][0] > 0
        assert (vessels & ~found).sum() < 0.01 * vessels.sum(), path
