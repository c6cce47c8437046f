"""Dice + cross-entropy, also for a stack of deep-supervision heads."""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss


class SegLoss(torch.nn.Module):
    """Soft Dice plus cross-entropy on logits, summed over deep-supervision heads.

    Heads come stacked as (B, H, C, *spatial), the main output first; head h weighs 2**-h and the weights
    sum to one (Lee et al., Deeply-Supervised Nets, AISTATS 2015; the halving as in nnU-Net, Isensee et al.,
    Nature Methods 18, 2021). A plain (B, C, *spatial) prediction is one head.

    Args:
        include_background: whether class 0 has a Dice term (it always is in the cross-entropy).
        batch_dice: one Dice over all patches of the batch instead of one per patch. Steadier with small
            structures; under torchrun every rank then has its own, so a run no longer equals one process.
        dice_weight, ce_weight: weights of the two terms.
        smooth: added to numerator and denominator, so that a patch without a structure has a defined Dice.
    """

    def __init__(
        self,
        include_background: bool = False,
        batch_dice: bool = False,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        self.loss = DiceCELoss(
            include_background=include_background,
            to_onehot_y=True,
            softmax=True,
            batch=batch_dice,
            lambda_dice=dice_weight,
            lambda_ce=ce_weight,
            smooth_nr=smooth,
            smooth_dr=smooth,
        )

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss.

        Args:
            prediction: logits (B, C, *spatial) or (B, H, C, *spatial).
            target: integer classes (B, 1, *spatial).
        """
        target = target.long()
        if prediction.ndim == target.ndim:
            return self.loss(prediction, target)
        heads = prediction.unbind(1)
        weights = [0.5**index for index in range(len(heads))]
        total = sum(weights)
        losses = [
            weight / total * self.loss(head, target) for weight, head in zip(weights, heads, strict=True)
        ]
        return torch.stack(losses).sum()
