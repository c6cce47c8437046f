"""Codes in the store and what the network sees of them."""

import numpy as np
import pytest
import torch

from transforms.errors import ImageError, SettingError
from transforms.intensity import (
    CTWindow,
    NoNormalization,
    PerChannel,
    RescaleTo01,
    RGBTo01,
    ZScore,
    intensity_for,
    intensity_from,
)


def test_the_window_maps_its_ends_to_one():
    window = CTWindow(-160, 240)
    codes, record = window.encode(torch.tensor([[-2000.0, -160.0, 40.0, 240.0, 3000.0]]))
    assert codes.dtype == torch.int16
    assert codes.tolist() == [[-160, -160, 40, 240, 240]]
    assert record == {}
    decoded = window.decode(codes, record)
    assert decoded.dtype == torch.float32
    assert decoded.tolist() == [[-1.0, -1.0, 0.0, 1.0, 1.0]]
    assert window.padding(record) == [-160]


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
    assert score.padding(record) == [min(record["padding"])] == [int(codes.min())]


def test_z_score_of_constant_and_extreme_images_stays_finite():
    score = ZScore()
    codes, record = score.encode(torch.full((1, 4, 4), 7.0))
    assert codes.unique().tolist() == [0]
    assert np.isfinite([record["mean"], record["deviation"]]).all()
    spike = torch.randn(1, 100, 100)
    spike[0, 0, 0] = 1e9
    codes, _ = score.encode(spike)
    assert int(codes.max()) == 32000, "a wild voxel is clipped and does not wrap around"


def test_the_other_words_of_nnunet_are_what_it_does():
    """Its RescaleTo01, RGBTo01 and NoNormalization, to half a step of the codes."""
    image = torch.from_numpy(np.random.default_rng(0).uniform(3, 250, (2, 20, 20)).astype(np.float32))
    shifted = image - image.amin((1, 2), keepdim=True)
    for scheme, expected, error in (
        (RescaleTo01(), shifted / shifted.amax((1, 2), keepdim=True), 1 / 65_000),
        (RGBTo01(), image / 255, 1 / 65_000),
        (NoNormalization(), image, 250 / 130_000),
    ):
        codes, record = scheme.encode(scheme.clip(image))
        assert codes.dtype == torch.int16
        decoded = scheme.decode(codes, record)
        assert float((decoded - expected).abs().max()) <= error
        padding = torch.tensor(scheme.padding(record), dtype=torch.int16).expand(2)[:, None, None]
        floor = 0 if isinstance(scheme, RGBTo01) else decoded.amin((1, 2))
        assert torch.equal(scheme.decode(padding, record).flatten(), torch.zeros(2) + floor)
    codes, record = NoNormalization().encode(torch.full((1, 3, 3), 7.0))
    assert NoNormalization().decode(codes, record).unique().tolist() == [7.0]
    assert RescaleTo01().encode(torch.full((1, 3, 3), 7.0))[0].unique().tolist() == [0]


def test_pictures_of_more_than_8_bits_are_no_rgb_to_0_1():
    with pytest.raises(ImageError, match=r"values run from 0 to 4000, but .* choose rescale_to_0_1"):
        RGBTo01().clip(torch.tensor([[0, 4000]]))


def test_each_channel_has_its_own_way_and_padding():
    image = torch.stack([torch.linspace(-2000, 2000, 100), torch.linspace(10, 20, 100)]).reshape(2, 10, 10)
    mixed = intensity_for(["CT", "T1"], (-160, 240), 2)
    codes, record = mixed.encode(mixed.clip(image))
    decoded = mixed.decode(codes, record)
    for channel, scheme in enumerate((CTWindow(-160, 240), ZScore())):
        part, alone = scheme.encode(scheme.clip(image[channel : channel + 1]))
        assert torch.equal(codes[channel], part[0])
        assert torch.equal(decoded[channel], scheme.decode(part, alone)[0])
        assert mixed.padding(record)[channel] == scheme.padding(alone)[0]
    again = intensity_from(mixed.parameters())
    assert again.parameters() == mixed.parameters()


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        (["zScore", "RGB_to_0_1"], [ZScore, RGBTo01]),
        (["NONORM", "rescale_TO_0_1"], [NoNormalization, RescaleTo01]),
        (["FLAIR", "ct"], [ZScore, CTWindow]),
        ("zscore", [ZScore, ZScore]),
    ],
)
def test_words_are_read_as_nnunet_reads_them(words, kinds):
    found = intensity_for(words, (-1000, 1000), 2)
    assert isinstance(found, PerChannel)
    assert [type(scheme) for scheme in found.schemes] == kinds


@pytest.mark.parametrize(
    ("words", "window", "message"),
    [
        (["CT", "CT"], (-1, 1), r"images have 1 channel"),
        ([], (-1, 1), r"images have 1 channel"),
        ([None], (-1, 1), r"give one of CT, zscore"),
        (["CT"], None, r"names a CT, but window is null"),
    ],
)
def test_words_that_fit_no_image(words, window, message):
    with pytest.raises(SettingError, match=message):
        intensity_for(words, window, 1)
