"""How far passes agree, from votes, against the Dice of every two of them."""

import itertools

import pytest
import torch

from pipelines.inference.ensemble import Ensemble
from pipelines.inference.pass_agreement import PassAgreement
from pipelines.inference.sliding_window import SlidingWindow

NAMES = ["lung", "liver", "bone"]


class Own(torch.nn.Module):
    """Probabilities from the values and from where they lie in the window, so that a flip changes the answer."""

    def __init__(self, seed, shape):
        super().__init__()
        self.field = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))

    def forward(self, x):
        no = torch.full_like(x, -100.0)  # a class that nobody votes for
        return torch.cat([self.field[None] * 0.5 + torch.cat([x, -x, x * 0.5], 1), no], 1)


def mean_dice(passes, value):
    """Of all pairs together, as one label map."""
    both = total = 0
    for one, other in itertools.combinations(passes, 2):
        both += 2 * int(((one == value) & (other == value)).sum())
        total += int((one == value).sum() + (other == value).sum())
    return both / total


@pytest.mark.parametrize("mirror_axes", [(), (1,), (0, 2)])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("flat", [False, True])
def test_the_mean_dice_of_every_two_passes(members, mirror_axes, flat):
    roi = (8, 7) if flat else (8, 7, 6)
    if flat:
        mirror_axes = tuple(axis for axis in mirror_axes if axis < 2)
    networks = [Own(seed, roi) for seed in range(members)]
    network = Ensemble(networks) if members > 1 else networks[0]
    volume = torch.randn(1, 1, 8, 7, 6, generator=torch.Generator().manual_seed(9))
    window = SlidingWindow(roi, mode="constant", mirror_axes=mirror_axes)
    found = PassAgreement(4)
    with found.listening(network):
        rows = list(window.rows(volume, network, agreement=found))
    result = found.result(NAMES)
    flips = [f for n in range(len(mirror_axes) + 1) for f in itertools.combinations(mirror_axes, n)]
    passes = []
    for member, flip in itertools.product(networks, flips):
        turned = volume.flip([axis + 2 for axis in flip])
        alone = SlidingWindow(roi, mode="constant")(turned, member)[0].argmax(0)
        passes.append(alone.flip(list(flip)))
    if len(passes) == 1:
        assert result == dict.fromkeys(NAMES)
    else:
        for value, name in ((1, "lung"), (2, "liver")):
            assert result[name] == pytest.approx(mean_dice(passes, value), rel=1e-5)
            assert 0.05 < result[name] < 0.9
        assert result["bone"] is None
    plain = torch.cat(list(window.rows(volume, network)), 1)
    assert torch.equal(torch.cat(rows, 1).sum(), plain.sum()), "who listens changes nothing"


def test_passes_that_are_the_same_agree_wholly():
    network = torch.nn.Conv3d(1, 4, 1)
    found = PassAgreement(4)
    with found.listening(network):
        window = SlidingWindow((6, 6, 6), mirror_axes=(0, 1))
        list(window.rows(torch.randn(1, 1, 9, 10, 11), network, agreement=found))
    values = [value for value in found.result(NAMES).values() if value is not None]
    assert values == [pytest.approx(1.0)] * len(values)
    assert values
    assert not network._forward_hooks


def test_windows_that_did_not_fit_are_not_counted():
    """A batch of windows that is too large comes again in smaller ones."""
    network = Own(0, (6, 6, 6))
    volume = torch.randn(1, 1, 6, 6, 12, generator=torch.Generator().manual_seed(9))
    tried = []

    class Small(torch.nn.Module):
        def forward(self, x):
            tried.append(len(x))
            # In the second pass, when the first has been heard already.
            if len(x) > 1 and len(tried) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return network(x)

    results = []
    for size, answering in ((3, Small()), (1, network)):
        found = PassAgreement(4)
        with found.listening(answering):
            window = SlidingWindow((6, 6, 6), sw_batch_size=size, mirror_axes=(2,))
            list(window.rows(volume, answering, agreement=found))
        results.append(found.result(NAMES))
    assert tried[:2] == [3, 3]
    assert results[0] == {name: None if x is None else pytest.approx(x) for name, x in results[1].items()}
