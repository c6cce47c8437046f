"""Dice + cross-entropy over deep-supervision heads, against MONAI's loss per head."""

import pytest
import torch
from monai.losses import DiceCELoss

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
