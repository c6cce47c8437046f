"""The windows, weights and results of MONAI's sliding window, a row of windows at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import SliceInferer, SlidingWindowInferer

from pipelines.inference.sliding_window import InferenceMemoryError, SlidingWindow

SETTINGS = settings(max_examples=60, derandomize=True)


def network(classes, dims=3, seed=0, channels=1):
    """Convolutions whose padding makes a voxel's logits depend on where in the window it lies."""
    torch.manual_seed(seed)
    conv = torch.nn.Conv3d if dims == 3 else torch.nn.Conv2d
    return torch.nn.Sequential(
        conv(channels, 6, 5, padding=2), torch.nn.ReLU(), conv(6, classes, 3, padding=1)
    ).requires_grad_(False)


def volume(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def settings_of_a_window(draw):
    dims = draw(st.sampled_from([2, 3]))
    shape = draw(st.lists(st.integers(1, 26 if dims == 3 else 40), min_size=dims, max_size=dims))
    roi = draw(st.lists(st.integers(3, 12), min_size=dims, max_size=dims))
    overlap = draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9]))
    mode = draw(st.sampled_from(["gaussian", "constant"]))
    size = draw(st.integers(1, 5))
    return shape, roi, overlap, mode, size


@SETTINGS
@given(settings_of_a_window(), st.integers(1, 3), st.integers(1, 2), st.booleans())
def test_logits_are_those_of_monai(options, classes, batch, channels_last):
    shape, roi, overlap, mode, size = options
    net = network(classes, len(shape))
    if channels_last:
        net = net.to(memory_format=torch.channels_last_3d if len(shape) == 3 else torch.channels_last)
    image = volume(batch, 1, *shape)
    with torch.inference_mode():
        ours = SlidingWindow(roi, size, overlap, mode, cval=-1.0)(image, net)
        monai = SlidingWindowInferer(roi, size, overlap, mode, cval=-1.0)(image, net)
    torch.testing.assert_close(ours, monai, atol=2e-5, rtol=2e-5)


@SETTINGS
@given(settings_of_a_window(), st.integers(0, 2), st.booleans())
def test_rows_along_any_axis_are_the_volume(options, axis, normalise):
    shape, roi, overlap, mode, size = options
    axis = min(axis, len(shape) - 1)
    net, image = network(3, len(shape)), volume(1, 1, *shape)
    window = SlidingWindow(roi, size, overlap, mode)
    with torch.inference_mode():
        whole = window(image, net)[0]
        parts = [rows.clone() for rows in window.rows(image, net, axis, normalise)]
    rows = torch.cat(parts, axis + 1)
    if normalise:
        torch.testing.assert_close(rows, whole, atol=2e-5, rtol=2e-5)
    else:
        best = whole.gather(0, rows.argmax(0)[None])[0]
        torch.testing.assert_close(best, whole.max(0).values, atol=2e-5, rtol=2e-5)
    assert all(part.shape[axis + 1] <= max(roi[axis], 1) for part in parts)


@pytest.mark.parametrize("padding_mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize("sigma", [0.125, (0.1, 0.2, 0.3)])
def test_the_other_arguments_are_those_of_monai(padding_mode, sigma):
    net, image = network(2), volume(1, 1, 9, 20, 7)
    options = dict(overlap=(0.5, 0.25, 0.6), mode="gaussian", sigma_scale=sigma, padding_mode=padding_mode)
    ours = SlidingWindow((10, 8, 0), 2, cval=0.0, **options)(image, net)
    monai = SlidingWindowInferer((10, 8, 0), 2, **options)(image, net)
    torch.testing.assert_close(ours, monai, atol=2e-5, rtol=2e-5)


def test_a_window_of_two_axes_goes_slice_by_slice():
    net, image = network(2, 2), volume(1, 1, 20, 17, 5)
    options = dict(overlap=0.5, mode="gaussian")
    ours = SlidingWindow((8, 12), 3, **options)(image, net)
    monai = SliceInferer(roi_size=(8, 12), spatial_dim=2, sw_batch_size=3, **options)(image, net)
    torch.testing.assert_close(ours, monai, atol=2e-5, rtol=2e-5)
    for axis in range(3):
        parts = [rows.clone() for rows in SlidingWindow((8, 12), 3, **options).rows(image, net, axis)]
        torch.testing.assert_close(torch.cat(parts, axis + 1), monai[0], atol=2e-5, rtol=2e-5)


def test_networks_whose_weights_want_gradients_leave_none():
    net, image = network(2).requires_grad_(True), volume(1, 1, 20, 9, 9)
    assert not SlidingWindow((8, 8, 8))(image, net).requires_grad


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match=r"no volume in a batch of shape \(0, 1, 9, 9, 9\)"):
        SlidingWindow((4, 4, 4))(volume(0, 1, 9, 9, 9), lambda x: x)


def test_mirroring_averages_all_flips():
    net, image = network(3), volume(1, 1, 16, 16, 16)
    flips = [(), (2,), (4,), (2, 4)]
    expected = torch.stack([net(image.flip(f)).flip(f) for f in flips]).mean(0)
    ours = SlidingWindow((16, 16, 16), mirror_axes=(0, 2))(image, net)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"mirror_axes \(3,\) must be axes 0 to 2"):
        SlidingWindow((16, 16, 16), mirror_axes=(3,))(image, net)


def test_half_precision_is_summed_in_float32():
    net, image = network(2).bfloat16(), volume(1, 1, 20, 20, 20).bfloat16()
    logits = SlidingWindow((8, 8, 8), 1, 0.75)(image, net)
    assert logits.dtype == torch.float32
    exact = SlidingWindow((8, 8, 8), 1, 0.75)(image, lambda x: net(x).float())
    assert torch.equal(logits, exact)


def test_meta_tensors_and_further_arguments_pass():
    image = MetaTensor(volume(1, 1, 9, 9, 9))
    logits = SlidingWindow((4, 4, 4))(image, lambda x, gain, shift: x * gain + shift, 2.0, shift=1.0)
    torch.testing.assert_close(logits.as_tensor(), image.as_tensor() * 2 + 1)


def test_meta_data_stay_as_with_monai():
    image = MetaTensor(volume(2, 1, 9, 9, 9), affine=torch.diag(torch.tensor([1.0, 2, 3, 1])))
    image.meta["case"] = "one"
    net = network(2)
    ours, monai = (w((4, 4, 4))(image, net) for w in (SlidingWindow, SlidingWindowInferer))
    assert isinstance(ours, MetaTensor)
    assert torch.equal(ours.affine, monai.affine)
    assert ours.meta.keys() == monai.meta.keys()
    assert ours.meta["case"] == "one"
    assert not isinstance(SlidingWindow((4, 4, 4))(image.as_tensor(), net), MetaTensor)


def test_no_more_than_a_row_of_windows_is_held():
    """The sums of 40 classes over a long volume would be 40 x 8 x 8 x 400 values."""
    image = volume(1, 1, 400, 8, 8)
    held = []
    for rows in SlidingWindow((8, 8, 8), 1).rows(image, lambda x: x.expand(-1, 40, -1, -1, -1)):
        held.append(rows.untyped_storage().nbytes())
    assert max(held) <= 40 * 8 * 8 * 8 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(roi_size=(4, 4, 4), overlap=1.0), "give a fraction of the window"),
        (dict(roi_size=(4, 4, 4), overlap=(0.5, -0.1, 0.5)), "give a fraction of the window"),
        (
            dict(roi_size=(4, 4, 4), sw_batch_size=0),
            "sw_batch_size is 0; give a number of windows, 1 or more",
        ),
        (dict(roi_size=(4, 4, 4), mode="mean"), "mode is 'mean'; give 'gaussian' or 'constant'"),
        (dict(roi_size=(4, 4)), r"window of 2 axes \(4, 4\) does not fit an image of 1 axes"),
        (dict(roi_size=4, overlap=(0.5, 0.5)), "one number, or one per axis"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    image = volume(1, 1, 9) if "fit" in message else volume(1, 1, 9, 9, 9)
    with pytest.raises(ValueError, match=message):
        SlidingWindow(**options)(image, lambda x: x)


def test_a_network_that_returns_something_else_is_refused():
    image = volume(1, 1, 9, 9, 9)
    with pytest.raises(ValueError, match=r"window's size \(4, 4, 4\), not \(1, 1, 2, 2, 2\)"):
        SlidingWindow((4, 4, 4))(image, lambda x: x[..., ::2, ::2, ::2])
    with pytest.raises(ValueError, match="not list"):
        SlidingWindow((4, 4, 4))(image, lambda x: [x])


def test_a_full_device_gets_fewer_windows_and_then_a_clear_word():
    image, sizes = volume(1, 1, 20, 20, 20), []

    def limited(limit):
        def run(x):
            sizes.append(len(x))
            if len(x) > limit:
                raise torch.OutOfMemoryError("out of memory")
            return x * 2

        return run

    logits = SlidingWindow((8, 8, 8), 8)(image, limited(3))
    torch.testing.assert_close(logits, image * 2)
    assert sizes[:4] == [8, 4, 2, 2]
    assert max(sizes[2:]) == 2
    with pytest.raises(InferenceMemoryError, match=r"single window of \(8, 8, 8\) voxels does not fit"):
        SlidingWindow((8, 8, 8), 8)(image, limited(0))
