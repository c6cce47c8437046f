"""How sure a network is, summed up piece by piece, against the definitions on whole volumes."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipelines.inference.confidence import Confidence

NAMES = ["lung", "liver", "bone"]


def volume(shape, seed=0, classes=4):
    """Smooth probabilities of all classes but the last, which is nowhere the largest."""
    random = np.random.default_rng(seed)
    logits = ndimage.gaussian_filter(random.normal(size=(classes, *shape)), (0, *[2] * len(shape)))
    logits *= 4 / logits.std()
    logits[-1] = logits.min() - 1
    return torch.softmax(torch.from_numpy(logits).float(), 0)


def pieces(probabilities, axis, steps):
    found, start = Confidence(len(probabilities), axis), 0
    for step in steps:
        part = probabilities.narrow(axis + 1, start, step)
        found.add(part, part.argmax(0).byte())
        start += step
    assert start == probabilities.shape[axis + 1]
    return found.result(NAMES)


def expected(probabilities):
    """The same with numpy and scipy from all voxels at once."""
    p, best = probabilities.numpy().astype(np.float64), probabilities.argmax(0).numpy()
    bits = -(p * np.log2(p)).sum(0)
    found = {}
    for value, name in enumerate(NAMES, 1):
        mask = best == value
        if mask.any():
            inner = ndimage.binary_erosion(mask, border_value=1)
            dice = 2 * p[value][mask].sum() / (p[value].sum() + mask.sum())
            found[name] = (dice, bits[mask & ~inner].mean())
    return found


@pytest.mark.parametrize("shape", [(24, 20, 16), (30, 26)])
def test_a_volume_in_pieces_has_the_figures_of_the_whole(shape):
    probabilities = volume(shape)
    wanted = expected(probabilities)
    assert sorted(wanted) == ["liver", "lung"]
    for axis in range(len(shape)):
        n = shape[axis]
        for steps in ([n], [1] * n, [3, 1, 1, n - 7, 2]):
            found = pieces(probabilities, axis, steps)
            for name, (dice, bits) in wanted.items():
                assert found.confidence[name] == pytest.approx(dice, rel=1e-5)
                assert found.surface_entropy[name] == pytest.approx(bits, rel=1e-5)
            assert found.confidence["bone"] is None
            assert found.surface_entropy["bone"] is None
            assert math.isnan(found.estimates()["confidence"]["bone"])


def test_golden_values():
    """Six voxels in a row: two of a class with 0.9, and a neighbour that keeps 0.4 of it."""
    foreground = torch.tensor([0.0, 0.4, 0.9, 0.9, 0.0, 0.0])[:, None]
    probabilities = torch.stack([1 - foreground, foreground])
    found = Confidence(2, 0)
    found.add(probabilities, (foreground > 0.5).byte())
    result = found.result(["lung"])
    # 2 * 1.8 / (2.2 + 2); -0.9 log2 0.9 - 0.1 log2 0.1
    assert result.confidence["lung"] == pytest.approx(3.6 / 4.2)
    assert result.surface_entropy["lung"] == pytest.approx(0.468996, abs=1e-6)
    assert found.result(["lung"], {"lung": 0.7}).confidence["lung"] == pytest.approx(0.6)
    assert found.result(["lung"], {"lung": 1.4}).confidence["lung"] == 1.0


def test_who_is_certain_is_wholly_confident():
    best = torch.zeros(8, 8, 8, dtype=torch.long)
    best[2:6, 2:6, 2:6] = 1
    probabilities = torch.nn.functional.one_hot(best, 4).movedim(-1, 0).float()
    found = pieces(probabilities, 2, [5, 3])
    assert (found.confidence["lung"], found.surface_entropy["lung"]) == (1.0, 0.0)


def test_nothing_is_counted_where_memory_ran_out():
    """Whoever sums the pieces tries such a piece again."""
    probabilities = volume((12, 12, 12))
    best = probabilities.argmax(0).byte()
    once, again = Confidence(4, 0), Confidence(4, 0)
    for start in (0, 6):
        part = probabilities[:, start : start + 6], best[start : start + 6]
        once.add(*part)
        with pytest.raises(IndexError):
            again.add(part[0][:, :, :3], part[1])
        again.add(*part)
    assert again.result(NAMES) == once.result(NAMES)
