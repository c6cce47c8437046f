"""Dice + cross-entropy over deep-supervision heads, against MONAI's loss per head."""

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from pipelines.training import losses
from pipelines.training.losses import SegLoss


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4)])
@pytest.mark.parametrize(
    "options", [{}, {"include_background": True}, {"batch_dice": True}, {"dice_weight": 0.3}]
)
def test_heads_weigh_half_as_much_each(shape, options):
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(2, 3, 4, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 4, (2, 1, *shape), generator=generator, dtype=torch.uint8)
    monai = DiceCELoss(
        include_background=options.get("include_background", False),
        to_onehot_y=True,
        softmax=True,
        batch=options.get("batch_dice", False),
        lambda_dice=options.get("dice_weight", 1.0),
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )
    loss = SegLoss(**options)
    expected = sum(
        weight * monai(heads[:, h], target.long()) for h, weight in enumerate([4 / 7, 2 / 7, 1 / 7])
    )
    torch.testing.assert_close(loss(heads, target), expected)
    torch.testing.assert_close(loss(heads[:, 0], target), monai(heads[:, 0], target.long()))
    torch.testing.assert_close(loss(heads[:, :1], target), loss(heads[:, 0], target))
    loss(heads, target).backward()
    assert (heads.grad.abs().amax(dim=(0, 2, *range(3, heads.ndim))) > 0).all()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 8)])
def test_a_right_and_sure_prediction_has_no_loss(shape):
    target = torch.randint(0, 3, (2, 1, *shape))
    logits = torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1).float() * 100
    assert float(SegLoss()(logits, target)) == pytest.approx(0, abs=1e-4)
    assert float(SegLoss()(-logits, target)) > 10


def test_a_patch_without_any_structure_has_a_finite_loss():
    logits = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    loss = SegLoss()(logits, torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8))
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("classes", [2, 9])
def test_many_parts_of_a_channels_last_map_give_the_gradient_of_the_whole(monkeypatch, classes):
    """Parts that do not divide the voxels, on a map in the memory layout of the networks, against MONAI."""
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 5, 6, 7, dtype=torch.float64).contiguous(
        memory_format=torch.channels_last_3d
    )
    target = torch.randint(0, classes, (2, 1, 5, 6, 7), dtype=torch.uint8)
    monai = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    monkeypatch.setattr(losses, "_parts", lambda x: [slice(i, i + 13) for i in range(0, x.shape[2], 13)])
    found = []
    for loss, reference in ((SegLoss(), target), (monai, target.long())):
        x = logits.clone(memory_format=torch.preserve_format).requires_grad_()
        value = loss(x, reference)
        value.backward()
        found.append((value.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1])


def test_half_precision_logits_cost_no_copy_and_lose_nothing_in_the_sums():
    """A sum of 2**15 probabilities in bfloat16 would be off by percents."""
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 32, 32, 32).bfloat16()
    target = torch.randint(0, 4, (1, 1, 32, 32, 32), dtype=torch.uint8)
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    half = logits.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        value = SegLoss()(half, target)
    full = logits.float().requires_grad_()
    exact = SegLoss()(full, target)
    torch.testing.assert_close(value, exact)
    assert value.dtype == torch.float32
    value.backward()
    exact.backward()
    torch.testing.assert_close(half.grad.float(), full.grad, rtol=0.01, atol=1e-8)
    assert sum(kept.values()) < 1.2 * (half.nbytes + target.nbytes)


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        ((2, 3, 4, 4), (2, 1, 4, 5)),
        ((2, 3, 4, 4), (1, 1, 4, 4)),
        ((2, 3, 4, 4, 4), (2, 1, 4)),
        ((2, 1, 4, 4), (2, 1, 4, 4)),
    ],
)
def test_what_does_not_belong_together_is_refused(logits, target):
    with pytest.raises(ValueError, match=r"does not match|two classes"):
        SegLoss()(torch.zeros(logits), torch.zeros(target, dtype=torch.uint8))


REGIONS = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


def plain_loss(logits, target, regions, ignore, include_background=False, batch_dice=False):
    """The definition, written down without any care for time or memory."""
    classes = logits.shape[1]
    counts = (
        (target != ignore).to(logits.dtype)
        if ignore is not None
        else torch.ones_like(target, dtype=logits.dtype)
    )
    labels = target.long() * counts.long()
    probability = torch.softmax(logits, 1)
    truth = torch.nn.functional.one_hot(labels[:, 0], classes).movedim(-1, 1).to(logits.dtype)
    groups = list(regions.values()) if regions else [(c,) for c in range(1, classes)]
    groups = [(0,), *groups] if include_background else groups
    axes = ([0] if batch_dice else []) + list(range(2, logits.ndim - 1 + 1))
    dice = []
    for group in groups:
        p = probability[:, list(group)].sum(1, keepdim=True) * counts
        t = truth[:, list(group)].sum(1, keepdim=True) * counts
        hit, all_ = (p * t).sum(axes), (p + t).sum(axes)
        dice.append(1 - (2 * hit + 1e-5) / (all_ + 1e-5))
    entropy = -(torch.log_softmax(logits, 1) * truth).sum(1, keepdim=True) * counts
    return torch.stack(dice).mean() + entropy.sum() / counts.sum().clamp_min(1)


@pytest.mark.parametrize("regions", [None, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("ignore", [None, 4])
@pytest.mark.parametrize("options", [{}, {"include_background": True}, {"batch_dice": True}])
def test_regions_and_ignored_voxels_have_the_value_and_gradient_of_the_definition(
    monkeypatch, regions, ignore, options
):
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, 7, dtype=torch.float64)
    target = torch.randint(0, 4 if ignore is None else 5, (2, 1, 5, 6, 7), dtype=torch.uint8)
    monkeypatch.setattr(losses, "_parts", lambda x: [slice(i, i + 13) for i in range(0, x.shape[2], 13)])
    ours, plain = (logits.clone().requires_grad_() for _ in range(2))
    found = SegLoss(regions=regions, ignore=ignore, **options)(ours, target)
    wanted = plain_loss(plain, target, regions, ignore, **options)
    torch.testing.assert_close(found, wanted)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(ours.grad, plain.grad)
    if ignore is not None:
        assert not ours.grad[(target == ignore).expand_as(logits)].any()


def test_the_dice_of_regions_is_that_of_monai_on_summed_probabilities():
    torch.manual_seed(1)
    logits = torch.randn(2, 4, 6, 5, 4)
    target = torch.randint(0, 4, (2, 1, 6, 5, 4), dtype=torch.uint8)
    probability, groups = torch.softmax(logits, 1), [list(g) for g in REGIONS.values()]
    sums = torch.stack([probability[:, g].sum(1) for g in groups], 1)
    truth = torch.cat([torch.isin(target, torch.tensor(g)) for g in groups], 1)
    monai = DiceLoss(smooth_nr=1e-5, smooth_dr=1e-5)(sums, truth.float())
    torch.testing.assert_close(SegLoss(ce_weight=0.0, regions=REGIONS)(logits, target), monai)


@pytest.mark.parametrize("regions", [None, REGIONS], ids=["classes", "regions"])
def test_bfloat16_logits_under_autocast_lose_nothing(regions):
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 32, 32, 32).bfloat16()
    target = torch.randint(0, 5, (1, 1, 32, 32, 32), dtype=torch.uint8)
    half, full = logits.clone().requires_grad_(), logits.float().requires_grad_()
    loss = SegLoss(regions=regions, ignore=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, target)
    exact = loss(full, target)
    torch.testing.assert_close(value, exact)
    value.backward()
    exact.backward()
    torch.testing.assert_close(half.grad.float(), full.grad, rtol=0.01, atol=1e-8)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_patch_without_annotated_voxels_has_no_loss(stacked):
    logits = torch.randn((2, 3, 4, 4, 4, 4) if stacked else (2, 4, 4, 4, 4), requires_grad=True)
    target = torch.full((2, 1, 4, 4, 4), 4, dtype=torch.uint8)
    value = SegLoss(regions=REGIONS, ignore=4)(logits, target)
    value.backward()
    assert float(value.detach()) == 0
    assert not logits.grad.any()


def test_a_region_of_classes_that_the_network_lacks_is_refused():
    with pytest.raises(
        ValueError, match=r"region 'core' is made up of the classes \[2, 3\].* gives 3, 0 to 2"
    ):
        SegLoss(regions={"core": [2, 3]})(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="'core' has no classes"):
        SegLoss(regions={"core": []})
    with pytest.raises(ValueError, match="ignore the value 2, which is one of the 3 classes"):
        SegLoss(ignore=2)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
