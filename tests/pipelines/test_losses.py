"""Dice + cross-entropy over deep-supervision heads, against MONAI's loss per head."""

import pytest
import torch
from monai.losses import DiceCELoss

from pipelines.losses import SegLoss


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
