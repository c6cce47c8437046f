"""Dice + cross-entropy in one pass, also for a stack of deep-supervision heads."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from transforms.errors import SettingError


class SegLoss(torch.nn.Module):
    """Soft Dice plus cross-entropy on logits, summed over deep-supervision heads.

    Heads are stacked as (B, H, C, *spatial), the main output first. Head h has a weight proportional to 2**-h, and
    the weights sum to one (Lee et al., Deeply-Supervised Nets, AISTATS 2015; the halving as in nnU-Net, Isensee et
    al., Nature Methods 18, 2021). A plain (B, C, *spatial) prediction is one head.

    The values equal those of MONAI's DiceCELoss with softmax. To save memory, the reference is never converted to
    one-hot, and for the backward pass only the logits of each head and the label are kept.

    Args:
        include_background: whether class 0 has a Dice term (it always is in the cross-entropy).
        batch_dice: compute one Dice over all patches of the batch instead of one per patch. It varies less for small
            structures. Under torchrun each rank computes it over its own part of the batch, so the result differs
            from that of one process.
        dice_weight, ce_weight: weights of the two terms.
        smooth: added to numerator and denominator, so that Dice is defined for a patch without the structure.

    Examples:
        >>> logits = torch.zeros(2, 3, 8, 8, 8)
        >>> label = torch.zeros(2, 1, 8, 8, 8, dtype=torch.uint8)
        >>> SegLoss(dice_weight=0.0)(logits, label)  # the cross-entropy of three equal classes, log 3
        tensor(1.0986)
    """

    # Read by SegTrainer: logits of any precision are accepted, as the sums are in float32 or higher.
    any_precision = True

    def __init__(
        self,
        include_background: bool = False,
        batch_dice: bool = False,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        self.include_background = include_background
        self.batch_dice = batch_dice
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.smooth = smooth

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss.

        Args:
            prediction: logits (B, C, *spatial) or (B, H, C, *spatial).
            target: integer classes (B, 1, *spatial).

        Raises:
            SettingError: the shapes do not match, or there is only one class.
        """
        stacked = prediction.ndim == target.ndim + 1
        heads = prediction.unbind(1) if stacked else (prediction,)
        if heads[0].ndim != target.ndim or (len(target), *target.shape[2:]) != (
            len(prediction),
            *heads[0].shape[2:],
        ):
            raise SettingError(
                f"a label of shape {tuple(target.shape)} does not match logits of shape {tuple(prediction.shape)}; "
                "batch size and spatial size must be equal"
            )
        if heads[0].shape[1] < 2:
            raise SettingError(
                "the loss needs logits of two classes or more, the background being one of them"
            )
        weights = [0.5**index for index in range(len(heads))]
        losses = [
            weight / sum(weights) * self._of_head(head, target)
            for weight, head in zip(weights, heads, strict=True)
        ]
        return torch.stack(losses).sum() if stacked else losses[0]

    def _of_head(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        entropy, overlap, volume, reference = _Sums.apply(logits.flatten(2), target.flatten(1))
        sums = [overlap, volume, reference]
        if not self.include_background:
            sums = [s[:, 1:] for s in sums]
        if self.batch_dice:
            sums = [s.sum(0) for s in sums]
        overlap, volume, reference = sums
        dice = (2 * overlap + self.smooth) / (volume + reference + self.smooth)
        return self.dice_weight * (1 - dice).mean() + self.ce_weight * entropy / target.numel()


class _Sums(torch.autograd.Function):
    """The sums in Dice and cross-entropy of logits ``(B, C, N)`` and classes ``(B, N)``, computed block by block.

    Returns the sum of the cross-entropy over all voxels, and three sums of shape ``(B, C)``: the probability over the
    voxels of the class, the probability over all voxels, and the number of voxels of the class.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        batch, classes, _ = logits.shape
        kind = _precise(logits)
        entropy = logits.new_zeros((), dtype=kind)
        overlap, volume, reference = logits.new_zeros((3, batch, classes), dtype=kind)
        for part in _parts(logits):
            labels = target[:, None, part].long()
            log = torch.log_softmax(logits[:, :, part].to(kind), 1)
            entropy -= log.gather(1, labels).sum()
            probability = log.exp_()
            volume += probability.sum(2)
            right = _right(labels, classes)
            reference += right.sum(2)
            overlap += (probability * right).sum(2)
        ctx.save_for_backward(logits, target)
        ctx.mark_non_differentiable(reference)
        return entropy, overlap, volume, reference

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, entropy: torch.Tensor, overlap: torch.Tensor, volume: torch.Tensor, _: Any
    ) -> tuple[torch.Tensor, None]:
        logits, target = ctx.saved_tensors
        kind = _precise(logits)
        result = torch.empty_like(logits)
        for part in _parts(logits):
            probability = torch.softmax(logits[:, :, part].to(kind), 1)
            right = _right(target[:, None, part], logits.shape[1])
            # The gradient of the Dice term: first by the probabilities, then through the softmax.
            slope = torch.addcmul(volume[..., None], overlap[..., None], right.to(kind)).mul_(probability)
            slope -= probability * slope.sum(1, keepdim=True)
            slope += entropy * probability.sub_(right.to(kind))
            result[:, :, part] = slope
        return result, None


def _precise(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _right(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Whether each voxel belongs to each class: bool ``(B, C, n)``."""
    return labels == torch.arange(classes, device=labels.device)[:, None]


def _parts(logits: torch.Tensor) -> list[slice]:
    """Blocks of voxels small enough to fit in the cache of a CPU, or to limit the memory use on a GPU."""
    batch, classes, count = logits.shape
    values = 2**17 if logits.device.type == "cpu" else 2**26
    step = max(1, values // (batch * classes))
    return [slice(start, start + step) for start in range(0, count, step)]
