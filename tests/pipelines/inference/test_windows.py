"""Windows of a plan through a network on a device whose memory may be too small."""

import weakref

import numpy as np
import pytest
import torch

from pipelines.inference.windows import Batches, InferenceMemoryError, Plan, blending_device, windows_at_once

OPTIONS = dict(padding_mode="constant", cval=0.0, mirror_axes=(), blending=None, progress=False, size=4)


def batches(network, **options):
    plan = Plan((20, 12, 8), (8, 8, 8), 0.5, "gaussian", 0.125, None)
    volume = torch.randn(1, 1, 20, 12, 8, generator=torch.Generator().manual_seed(0))
    return plan, volume, Batches(plan, volume, network, torch.device("cpu"), **{**OPTIONS, **options})


def assert_complete(plan, volume, made, ahead):
    made.ahead = ahead
    found = []
    for window, logits in made:
        x, y, z = window.start
        torch.testing.assert_close(logits, 2 * volume[0, :, x : x + 8, y : y + 8, z : z + 8])
        found.append(window)
        # As who blends does.
        del logits
    assert found == plan.windows


class Limited:
    """A network on a device that holds so many windows, those included that wait to be blended."""

    def __init__(self, room):
        self.room, self.sizes, self.held = room, [], []

    def __call__(self, x):
        waiting = sum(array().shape[0] for array in self.held if array() is not None)
        self.sizes.append((len(x), waiting))
        if len(x) + waiting > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        result = (x * 2).numpy()
        self.held.append(weakref.ref(result))
        return torch.from_numpy(result)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("room", [1, 2, 3, 5, 100])
def test_every_window_comes_once_and_in_order(room, ahead):
    network = Limited(room)
    assert_complete(*batches(network), ahead)
    if not ahead:
        assert {waiting for _, waiting in network.sizes} == {0}
    elif room == 100:
        # The first has nothing before it.
        assert all(waiting > 0 for _, waiting in network.sizes[1:])


def test_what_can_leave_the_device_leaves_it_before_the_end():
    network = Limited(0)
    plan, volume, made = batches(network)

    def make_room():
        network.room += 1
        return True

    made.make_room = make_room
    assert_complete(plan, volume, made, True)
    assert network.room == 1
    with pytest.raises(InferenceMemoryError, match=r"single window of \(8, 8, 8\) voxels") as caught:
        list(batches(Limited(0))[2])
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_are_the_networks_own():
    def broken(x):
        raise RuntimeError("expected 3 channels")

    with pytest.raises(RuntimeError, match="expected 3 channels"):
        list(batches(broken)[2])


def test_a_network_that_mixes_up_windows_is_refused():
    with pytest.raises(ValueError, match=r"not \(1, 1, 8, 8, 8\), for each of 4 windows"):
        list(batches(lambda x: x[:1])[2])
    with pytest.raises(ValueError, match="not ndarray"):
        list(batches(lambda x: np.zeros(3))[2])


def test_mirroring_changes_neither_input_nor_output_of_the_network():
    """One that returns its input, or a tensor that it keeps."""
    kept = torch.ones(1, 3, 8, 8, 8)
    _, volume, made = batches(lambda x: x, mirror_axes=(0, 1, 2), size=1)
    before = volume.clone()
    for window, logits in made:
        x, y, z = window.start
        torch.testing.assert_close(logits, before[0, :, x : x + 8, y : y + 8, z : z + 8])
    assert torch.equal(volume, before)
    for _, logits in batches(lambda x: kept, mirror_axes=(0, 1), size=1)[2]:
        assert torch.equal(logits, torch.ones(3, 8, 8, 8))
    assert torch.equal(kept, torch.ones_like(kept))


def test_gradients_are_not_kept():
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    for _, logits in batches(network)[2]:
        assert not logits.requires_grad


def test_batches_fill_what_the_sums_leave():
    assert windows_at_once(usable=1000, needed=100, row=9) == 7
    assert windows_at_once(usable=10_000, needed=100, row=9) == 18
    assert windows_at_once(usable=10**9, needed=100, row=900) == 32
    assert windows_at_once(usable=-500, needed=100, row=9) == 1
    assert windows_at_once(usable=500, needed=0, row=9) == 18
    assert blending_device(torch.device("cpu"), 10**15) == torch.device("cpu")


def test_a_plan_knows_its_rows():
    plan = Plan((20, 12, 8), (8, 8, 8), 0.5, "gaussian", 0.125, 1)
    assert plan.slab == (20, 8, 8)
    assert plan.row == 4
    assert [window.start[1] for window in plan.windows] == [0] * 4 + [4] * 4
