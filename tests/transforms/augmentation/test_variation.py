"""Drawing apart from applying: the same numbers, anywhere, and those that seeds have always meant."""

import pickle

import numpy as np
import pytest
import torch
from monai.transforms import (
    RandAdjustContrast,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
)

from transforms.augmentation.patch_augmentation import PatchAugmentation
from transforms.augmentation.variation import Variation

HALF = dict.fromkeys(PatchAugmentation.PROBABILITY, 0.5)


def patch(size, seed=0):
    random = np.random.default_rng(seed)
    image = torch.from_numpy(random.uniform(-1, 1, (1, *size)).astype(np.float32))
    return image, (image > 0.3).to(torch.uint8)


@pytest.mark.parametrize("size", [(14, 16, 12), (20, 22)])
def test_what_is_drawn_can_be_sent_and_applied_elsewhere(size):
    one, other = (PatchAugmentation(size, probability=HALF) for _ in range(2))
    for seed in range(20):
        for augment in (one, other):
            augment.set_random_state(seed)
        image, label = patch(one.source_size(), seed)
        assert other.source_size() == tuple(image.shape[1:])
        expected = one({"image": image, "label": label})
        sent = pickle.loads(pickle.dumps(other.draw()))
        assert isinstance(sent, Variation)
        assert len(pickle.dumps(sent)) < 2000
        found = sent.apply(image, label)
        assert torch.equal(found[0], expected["image"])
        assert torch.equal(found[1], expected["label"])


def test_nothing_drawn_by_one_patch_is_left_for_the_next():
    augment = PatchAugmentation((8, 8, 8), probability=dict.fromkeys(HALF, 1.0))
    augment.set_random_state(3)
    augment.source_size()
    first, second = augment.draw(), augment.draw()
    assert not np.array_equal(first.matrix, second.matrix)
    assert first.changes != second.changes


@pytest.mark.parametrize("size", [(13, 16, 12), (20, 22)])
def test_seeds_mean_what_monai_s_own_transforms_draw_from_them(size):
    """Without noise, whose values come from another generator, and inside the border, where blur differs."""
    augment = PatchAugmentation(
        size, (), noise=None, low_resolution=None, probability=HALF, rotation=None, scale=None
    )
    chain = [
        RandGaussianSmooth((0.5, 1.0), (0.5, 1.0), (0.5, 1.0), 0.5),
        RandScaleIntensity(0.25, 0.5),
        RandScaleIntensityFixedMean(0.5, 0.25, fixed_mean=True, preserve_range=True),
        RandAdjustContrast(0.5, (0.7, 1.5), invert_image=True, retain_stats=True),
        RandAdjustContrast(0.5, (0.7, 1.5), retain_stats=True),
    ]
    image, _ = patch(size)
    happened = set()
    for seed in range(60):
        augment.set_random_state(seed)
        augment.source_size()
        state = np.random.RandomState()
        state.set_state(augment.R.get_state())
        expected = image
        blurred = False
        for change in chain:
            change.set_random_state(state=state)
            expected = change(expected)
            if isinstance(change, RandGaussianSmooth) and change._do_transform:
                # what follows has the range and the mean of the whole image, which the border changes
                blurred = True
        drawn = augment.draw()
        assert augment.R.random() == state.random(), "as many numbers are drawn"
        assert blurred == ("blur" in dict(drawn.changes))
        happened |= {name for name, _ in drawn.changes}
        if not blurred:
            found, _ = drawn.apply(image)
            torch.testing.assert_close(found, expected.as_tensor(), atol=5e-5, rtol=1e-4)
        else:
            assert dict(drawn.changes)["blur"] == ((chain[0].x, chain[0].y, chain[0].z)[: len(size)],)
    assert happened == {"blur", "brightness", "contrast", "gamma"}


def test_on_a_gpu_only_the_values_of_the_noise_differ():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    for size in ((40, 36, 24), (64, 48)):
        augment = PatchAugmentation(size, noise=None, probability=HALF)
        for seed in range(20):
            augment.set_random_state(seed)
            image, label = patch(augment.source_size(), seed)
            variation = augment.draw()
            here = variation.apply(image, label)
            gpu = image.cuda(), label.cuda()
            torch.cuda.set_sync_debug_mode("error")
            try:
                there = variation.apply(*gpu)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            # white noise shows every rounding of a place: a thousandth of a voxel on a CPU
            assert float((there[0].cpu() - here[0]).abs().mean()) < 2e-3
            assert float((there[1].cpu() == here[1]).float().mean()) > 0.999
        noisy = Variation(size, changes=(("noise", (0.1, 5)),))
        image = torch.zeros(1, *size, device="cuda")
        noise, again = (noisy.apply(image)[0] for _ in range(2))
        assert torch.equal(noise, again)
        assert abs(float(noise.std()) - 0.1) < 5e-3
        assert abs(float(noise.mean())) < 5e-3
