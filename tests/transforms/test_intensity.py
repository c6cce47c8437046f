"""Codes in the store and what the network sees of them."""

import numpy as np
import pytest
import torch

from transforms.intensity import CTWindow, ZScore


def test_the_window_maps_its_ends_to_one():
    window = CTWindow(-160, 240)
    codes, record = window.encode(torch.tensor([[-2000.0, -160.0, 40.0, 240.0, 3000.0]]))
    assert codes.dtype == torch.int16
    assert codes.tolist() == [[-160, -160, 40, 240, 240]]
    assert record == {}
    decoded = window.decode(codes, record)
    assert decoded.dtype == torch.float32
    assert decoded.tolist() == [[-1.0, -1.0, 0.0, 1.0, 1.0]]
    assert window.padding(record) == -160


def test_the_window_loses_half_a_unit_at_most_and_leaves_its_input():
    window = CTWindow(-1000, 1000)
    values = torch.linspace(-1000, 1000, 4001)[None]
    before = values.clone()
    codes, record = window.encode(values)
    assert torch.equal(values, before)
    assert float((window.decode(codes, record) - values / 1000).abs().max()) <= 0.5 / 1000 + 1e-6
    again = codes.clone()
    window.decode(codes, record)
    assert torch.equal(codes, again), "decoding must not write into the store's array"


@pytest.mark.parametrize("ends", [(0, 0), (10, -10), (-40000, 0), (0, 40000), (float("nan"), 1)])
def test_an_impossible_window_is_refused(ends):
    with pytest.raises(ValueError, match="must rise and fit"):
        CTWindow(*ends)


def test_z_score_is_that_of_numpy_over_the_foreground():
    random = np.random.default_rng(0)
    image = np.zeros((2, 20, 20), np.float32)
    image[:, 5:15, 5:15] = random.normal([[[50.0]], [[900.0]]], [[[3.0]], [[40.0]]], (2, 10, 10))
    score = ZScore()
    codes, record = score.encode(torch.from_numpy(image))
    decoded = score.decode(codes, record).numpy()
    for channel in range(2):
        inside = image[channel][image[channel] > 0]
        expected = (image[channel] - inside.mean()) / inside.std(ddof=1)
        np.testing.assert_allclose(decoded[channel], expected.clip(-32, 32), atol=0.5e-3 + 1e-5)
        assert record["mean"][channel] == pytest.approx(inside.mean(), rel=1e-5)
    assert score.padding(record) == min(record["padding"]) == int(codes.min())


def test_z_score_of_constant_and_extreme_images_stays_finite():
    score = ZScore()
    codes, record = score.encode(torch.full((1, 4, 4), 7.0))
    assert codes.unique().tolist() == [0]
    assert np.isfinite([record["mean"], record["deviation"]]).all()
    spike = torch.randn(1, 100, 100)
    spike[0, 0, 0] = 1e9
    codes, _ = score.encode(spike)
    assert int(codes.max()) == 32000, "a wild voxel is clipped and does not wrap around"
