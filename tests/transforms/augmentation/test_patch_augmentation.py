"""Augmentation: exact where exactness is defined, bounded elsewhere, and never a label that was not there."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from transforms.augmentation.patch_augmentation import PatchAugmentation

NEVER = dict.fromkeys(PatchAugmentation.PROBABILITY, 0.0)
INTENSITY = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted")


class Largest(np.random.RandomState):
    """Draws the largest angle instead of a random one."""

    def __init__(self, sign):
        super().__init__(0)
        self.sign = sign

    def uniform(self, low=0.0, high=1.0, size=None):
        return high * self.sign


def smooth(size, seed=0):
    random = np.random.default_rng(seed)
    image = scipy.ndimage.gaussian_filter(random.normal(size=size), 2)
    image = torch.from_numpy(np.clip(image / np.abs(image).max(), -1, 1).astype(np.float32))[None]
    return {"image": image, "label": (image > 0.1).to(torch.uint8) * 3, "case": "a"}


def only(size, *changes, **options):
    return PatchAugmentation(size, probability=NEVER | dict.fromkeys(changes, 1.0), **options)


@pytest.mark.parametrize("size", [(20, 16, 12), (24, 18)])
def test_shapes_types_and_other_keys_stay(size):
    augment = PatchAugmentation(size)
    for seed in range(25):
        augment.set_random_state(seed)
        item = smooth(augment.source_size(), seed)
        result = augment(item)
        assert result["case"] == "a"
        assert type(result["image"]) is type(result["label"]) is torch.Tensor
        assert result["image"].shape == result["label"].shape == (1, *size)
        assert result["image"].dtype == torch.float32
        assert result["label"].dtype == torch.uint8
        assert result["image"].is_contiguous()
        assert result["label"].is_contiguous()
        assert set(result["label"].unique().tolist()) <= {0, 3}
        assert result["image"].isfinite().all()
        assert result["image"].abs().max() < 2


def test_nothing_is_done_with_all_probabilities_zero():
    item = smooth((12, 10, 8))
    result = only((12, 10, 8))(item)
    assert torch.equal(result["image"], item["image"])
    assert torch.equal(result["label"], item["label"])


def test_the_result_is_a_function_of_the_random_state():
    one, other = PatchAugmentation((16, 16, 16)), PatchAugmentation((16, 16, 16))
    for seed in range(20):
        results = []
        for augment in (one, other):
            augment.set_random_state(seed)
            results.append(augment(smooth(augment.source_size())))
        assert torch.equal(results[0]["image"], results[1]["image"])
        assert torch.equal(results[0]["label"], results[1]["label"])
        other(smooth((16, 16, 16)))
        other.source_size()  # drawn and not used: forgotten at the next seed


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("turns", [1, -1])
def test_a_quarter_turn_is_exact(axis, turns):
    angles = [0.0, 0.0, 0.0]
    angles[axis] = 90.0
    augment = only((15, 15, 15), "rotation", rotation=angles)
    augment.set_random_state(state=Largest(turns))
    item = smooth((15, 15, 15))
    size = augment.source_size()
    margin = [(s - 15) // 2 for s in size]
    padded = {
        k: torch.nn.functional.pad(item[k], [m for m in reversed(margin) for _ in "ab"])
        for k in ("image", "label")
    }
    result = augment(padded)
    plane = [1 + a for a in range(3) if a != axis]
    matches = [
        k for k in (1, 3) if torch.allclose(result["image"], torch.rot90(item["image"], k, plane), atol=1e-4)
    ]
    assert len(matches) == 1
    assert torch.equal(result["label"], torch.rot90(item["label"], matches[0], plane))


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 4.0), (0.7, 0.7, 0.7)])
@pytest.mark.parametrize("seed", range(4))
def test_affine_equals_scipy_and_needs_no_voxel_outside_of_what_it_asked_for(seed, spacing):
    size = (14, 17, 12)
    augment = only(size, "rotation", "scale", spacing=spacing)
    augment.set_random_state(seed)
    source = augment.source_size()
    assert all((s - p) % 2 == 0 and s >= p for s, p in zip(source, size, strict=True))
    item = smooth(source, seed)
    matrix = augment._matrix
    centre = (np.asarray(source) - 1) / 2
    offset = centre - matrix @ ((np.asarray(size) - 1) / 2)
    # scipy marks what it would have to invent
    expected = scipy.ndimage.affine_transform(
        item["image"][0].numpy(), matrix, offset, size, order=1, cval=np.nan, mode="constant"
    )
    assert np.isfinite(expected).all()
    result = augment(item)
    assert np.allclose(result["image"][0], expected, atol=1e-4)
    nearest = scipy.ndimage.affine_transform(item["label"][0].numpy(), matrix, offset, size, order=0)
    assert (result["label"][0].numpy() == nearest).mean() > 0.999


def test_rotation_is_rigid_in_space_when_spacing_is_given():
    spacing = np.array([1.0, 1.0, 5.0])
    augment = only((16, 16, 16), "rotation", spacing=spacing)
    for seed in range(10):
        augment.set_random_state(seed)
        augment.source_size()
        in_millimetres = np.diag(spacing) @ augment._matrix @ np.diag(1 / spacing)
        assert np.allclose(in_millimetres @ in_millimetres.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(in_millimetres) > 0


def test_scale_above_one_enlarges_within_its_bounds():
    augment = only((32, 32), "scale", scale=(2.0, 2.0))
    item = {"image": torch.zeros(1, 32, 32), "label": torch.zeros(1, 32, 32, dtype=torch.uint8)}
    item["label"][:, 12:20, 12:20] = 1
    assert augment.source_size() == (32, 32)
    assert int(augment(item)["label"].sum()) == 16 * 16
    drawn = only((32, 32), "scale")
    factors = []
    for seed in range(200):
        drawn.set_random_state(seed)
        drawn.source_size()
        factors.append(1 / drawn._matrix[0, 0])
    assert 0.7 <= min(factors) < 0.75
    assert 1.35 < max(factors) <= 1.4


def test_angles_stay_in_bounds():
    augment = only((16, 16), "rotation", rotation=20)
    angles = []
    for seed in range(200):
        augment.set_random_state(seed)
        augment.source_size()
        angles.append(np.rad2deg(np.arctan2(augment._matrix[1, 0], augment._matrix[0, 0])))
    assert -20 <= min(angles) < -18
    assert 18 < max(angles) <= 20


@pytest.mark.parametrize("axes", [(1, 2), (0,), ()])
def test_only_the_axes_that_may_be_flipped_are(axes):
    augment = PatchAugmentation((6, 6, 6), flip_axes=axes, probability=NEVER | {"flip": 0.5})
    ramp = torch.arange(216.0).reshape(1, 6, 6, 6)
    seen = set()
    for seed in range(60):
        augment.set_random_state(seed)
        result = augment({"image": ramp, "label": ramp.to(torch.uint8)})
        steps = [float(result["image"].diff(dim=a + 1).sign().mean()) for a in range(3)]
        assert torch.equal(result["label"], result["image"].to(torch.uint8))
        assert all(steps[a] == 1 for a in range(3) if a not in axes)
        seen.add(tuple(steps))
    assert len(seen) == 2 ** len(axes)


@pytest.mark.parametrize("change", INTENSITY)
@pytest.mark.parametrize("size", [(16, 14, 12), (20, 22)])
def test_intensity_changes_leave_the_label_alone(change, size):
    augment = only(size, change)
    item = smooth(size)
    before = {k: item[k].clone() for k in ("image", "label")}
    for seed in range(5):
        augment.set_random_state(seed)
        result = augment(item)
        assert not torch.equal(result["image"], item["image"])
        assert torch.equal(result["label"], item["label"])
        assert result["image"].isfinite().all()
        assert (result["image"] - item["image"]).abs().mean() < 0.3
    assert all(torch.equal(item[k], before[k]) for k in before), "the input is not changed"


def test_low_resolution_takes_every_choice_of_axes():
    """A stripe pattern along one axis changes where that axis is made coarser, and only there."""
    stripes = [
        torch.arange(16).remainder(2).float().reshape([16 if a == b else 1 for b in range(3)])
        for a in range(3)
    ]
    augment = only((16, 16, 16), "low_resolution", low_resolution=(0.4, 0.6))
    seen = set()
    for seed in range(80):
        changed = []
        for pattern in stripes:
            image = pattern.expand(1, 16, 16, 16).contiguous()
            augment.set_random_state(seed)
            changed.append(not torch.allclose(augment({"image": image})["image"], image, atol=1e-5))
        seen.add(tuple(changed))
    assert len(seen) == 7
    assert (False, False, False) not in seen


def test_intensity_bounds():
    item = smooth((24, 24, 24))
    ratios, deviations = [], []
    for seed in range(60):
        augment = only((24, 24, 24), "brightness").set_random_state(seed)
        ratios.append(float((augment(item)["image"] / item["image"]).median()))
        augment = only((24, 24, 24), "noise").set_random_state(seed)
        deviations.append(float((augment(item)["image"] - item["image"]).std()))
    assert 0.75 <= min(ratios) < 0.8
    assert 1.2 < max(ratios) <= 1.25
    assert 0.08 < max(deviations) < 0.102


@pytest.mark.parametrize("change", INTENSITY)
def test_a_patch_of_nothing_but_air_stays_finite(change):
    item = {
        "image": torch.full((1, 12, 12, 12), -1.0),
        "label": torch.zeros((1, 12, 12, 12), dtype=torch.uint8),
    }
    augment = only((12, 12, 12), change)
    for seed in range(5):
        augment.set_random_state(seed)
        assert augment(item)["image"].isfinite().all()


def test_several_channels_and_no_label():
    item = {"image": torch.rand(3, 16, 16, 16)}
    augment = PatchAugmentation((16, 16, 16), probability=dict.fromkeys(NEVER, 1.0))
    result = augment(item)
    assert set(result) == {"image"}
    assert result["image"].shape == (3, 16, 16, 16)


def test_changes_can_be_switched_off():
    off = dict.fromkeys(
        ("rotation", "scale", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma")
    )
    item = smooth((12, 12, 12))
    result = PatchAugmentation((12, 12, 12), (), **off, probability=dict.fromkeys(NEVER, 1.0))(item)
    assert torch.equal(result["image"], item["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": (8,)}, "2 or 3 numbers"),
        ({"strength": "weak"}, "one of strong, moderate, got 'weak'"),
        ({"flip_axes": (3,)}, "among the spatial axes 0..2"),
        ({"spacing": (1, 1)}, "3 positive numbers"),
        ({"spacing": (1, 1, -1)}, "3 positive numbers"),
        ({"scale": (0, 1)}, "ascending positive"),
        ({"rotation": (1, 2)}, "one angle or 3"),
        ({"probability": {"flipp": 1}}, r"unknown probability \['flipp'\]"),
    ],
)
def test_parameters_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        PatchAugmentation(**({"patch_size": (8, 8, 8)} | options))


def test_a_patch_of_another_size_is_refused():
    with pytest.raises(ValueError, match="expected a patch of"):
        only((8, 8, 8))(smooth((9, 8, 8)))


@pytest.mark.parametrize("change", ["noise", "blur", "low_resolution"])
def test_an_intensity_change_does_not_move_the_image_against_its_label(change):
    """A ramp keeps its mean position; half a voxel of shift in training is half a voxel of error for good."""
    size = (32, 32, 32)
    ramp = torch.linspace(-1, 1, 32)
    step = float(ramp[1] - ramp[0])
    image = (ramp[:, None, None] + ramp[None, :, None] + ramp[None, None, :])[None] / 3
    augment = only(size, change)
    shifts = []
    for seed in range(30):
        augment.set_random_state(seed)
        found = augment({"image": image.clone(), "label": torch.zeros(1, *size, dtype=torch.uint8)})["image"]
        inner = (slice(None), *[slice(6, -6)] * 3)
        shifts.append(float((found[inner] - image[inner]).mean()) / step)
    assert abs(np.mean(shifts)) < 0.03


def test_a_moderate_augmentation_resamples_fewer_patches():
    def resampled(strength):
        augment = PatchAugmentation((8, 8, 8), strength=strength).set_random_state(0)
        found = 0
        for _ in range(400):
            augment.source_size()
            found += augment.draw().matrix is not None
        return found / 400

    assert resampled("strong") == pytest.approx(1 - 0.5 * 0.3, abs=0.06)
    assert resampled("moderate") == pytest.approx(1 - 0.8 * 0.8, abs=0.08)


def test_probabilities_that_are_given_win_over_those_of_the_strength():
    augment = PatchAugmentation((8, 8, 8), strength="moderate", probability={"scale": 0.4})
    assert augment.probability == PatchAugmentation.STRENGTHS["moderate"] | {"scale": 0.4}
