"""Windows for checks are those of a prediction."""

import pytest
import torch

from pipelines.data.inputs import InputError
from pipelines.inference.engines.sample_windows import CASES, PER_CASE, made_up_window, windows_of
from pipelines.inference.sliding_window import SlidingWindow
from tests.pipelines.small import LEVELS, write_ct, write_dataset


def test_windows_of_a_dataset_are_of_its_training_cases(oracle, tmp_path):
    folder = write_dataset(tmp_path, training=2, validation=1)
    windows = list(windows_of(oracle, folder))
    assert len(windows) == 2 * PER_CASE
    assert {tuple(window.shape) for window in windows} == {(1, 1, 12, 12, 12)}
    known = torch.tensor(LEVELS) / 1000.0
    values = torch.cat(windows).unique()
    assert values.numel() > 1
    assert (values[:, None] - known).abs().amin(1).max() < 1e-3
    assert not torch.equal(windows[0], windows[1])


def test_windows_of_many_images_are_of_some(oracle, tmp_path):
    for number in range(CASES + 2):
        write_ct(tmp_path, f"ct{number}")
    assert len(list(windows_of(oracle, tmp_path / "imagesTr"))) == CASES * PER_CASE
    with pytest.raises(InputError):
        list(windows_of(oracle, tmp_path / "absent"))


def test_a_small_volume_is_padded_and_a_flat_window_is_a_slice():
    window = SlidingWindow((12, 12, 12))
    (found,) = window.some_windows(torch.ones(1, 2, 5, 20, 12), 1, cval=[7.0, 8.0])
    assert found.shape == (1, 2, 12, 12, 12)
    assert found[0, 0, 0].unique().tolist() == [7.0]
    assert found[0, 1, -1].unique().tolist() == [8.0]
    flat = SlidingWindow((8, 8), mirror_axes=(0,), overlap=0.5)
    slices = flat.some_windows(torch.arange(3.0).expand(1, 1, 8, 12, 3), 2)
    assert [tuple(each.shape) for each in slices] == [(1, 1, 8, 8)] * 2
    assert [each.unique().tolist() for each in slices] == [[0.0], [2.0]]
    assert flat.passes(torch.zeros(1, 1, 8, 12, 3)) == 2 * 2 * 3


def test_a_made_up_window_is_the_same_each_time(oracle, r2unet):
    for trained in (oracle, r2unet):
        window = made_up_window(trained)
        assert window.shape == (1, trained.preprocess.channels, *trained.patch_size)
        assert torch.equal(window, made_up_window(trained))
        assert 0.3 < window.std() < 2
