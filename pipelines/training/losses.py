"""Dice + cross-entropy in one pass, also for a stack of deep-supervision heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    With regions the Dice is that of the regions, whose probability is the sum of those of their classes, while the
    cross-entropy stays that of the classes, which exclude one another (region-based training as for BraTS: Isensee
    et al., nnU-Net for Brain Tumor Segmentation, BrainLes 2020, there with a sigmoid for each region).

    Args:
        include_background: whether class 0 has a Dice term (it always is in the cross-entropy).
        batch_dice: compute one Dice over all patches of the batch instead of one per patch. It varies less for small
            structures. Under torchrun each rank computes it over its own part of the batch, so the result differs
            from that of one process.
        dice_weight, ce_weight: weights of the two terms.
        smooth: added to numerator and denominator, so that Dice is defined for a patch without the structure.
        regions: name to the classes that make it up, such as `Dataset.regions`; they may overlap. None or empty: every
            class has a Dice term of its own.
        ignore: value in the label of voxels that nobody has annotated: they take no part in either term, and where
            there are no others the loss is 0. It must not be a class.

    Raises:
        SettingError: a region has no classes.

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
        regions: Mapping[str, Sequence[int]] | None = None,
        ignore: int | None = None,
    ) -> None:
        super().__init__()
        self.regions = {name: tuple(int(c) for c in classes) for name, classes in (regions or {}).items()}
        empty = [name for name, classes in self.regions.items() if not classes]
        if empty:
            raise SettingError(f"the region '{empty[0]}' has no classes; name the values that make it up.")
        self.ignore = ignore
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
            SettingError: the shapes do not match, there is only one class, the logits lack a class of a region, or
                have one of the value to ignore.
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
        if self.ignore is not None and 0 <= self.ignore < heads[0].shape[1]:
            raise SettingError(
                f"the loss is to ignore the value {self.ignore}, which is one of the {heads[0].shape[1]} classes of the"
                " network; it must be another."
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
        members = self._members(logits)
        found = _Sums.apply(logits.flatten(2), target.flatten(1), members, self.ignore)
        entropy, overlap, volume, reference, counted = found
        sums = [overlap, volume, reference]
        if not self.include_background and members is None:
            sums = [s[:, 1:] for s in sums]
        if self.batch_dice:
            sums = [s.sum(0) for s in sums]
        overlap, volume, reference = sums
        dice = (2 * overlap + self.smooth) / (volume + reference + self.smooth)
        voxels = target.numel() if self.ignore is None else counted.clamp_min(1)
        return self.dice_weight * (1 - dice).mean() + self.ce_weight * entropy / voxels

    def _members(self, logits: torch.Tensor) -> list[list[int]] | None:
        """The classes that make up each structure with a Dice term; None: each makes up one."""
        if not self.regions:
            return None
        classes = logits.shape[1]
        for name, values in self.regions.items():
            if not 0 <= min(values) <= max(values) < classes:
                raise SettingError(
                    f"the region '{name}' is made up of the classes {list(values)}, but the network gives {classes},"
                    f" 0 to {classes - 1}."
                )
        background = [[0]] if self.include_background else []
        return [*background, *(sorted(set(values)) for values in self.regions.values())]


class _Sums(torch.autograd.Function):
    """The sums in Dice and cross-entropy of logits ``(B, C, N)`` and classes ``(B, N)``, computed block by block.

    ``members`` are the classes of each region, None if each class is a region. Returns the sum of the cross-entropy over
    all voxels; three sums of shape ``(B, R)``: the probability over the voxels of the region, the probability over all
    voxels, and the number of voxels of the region; and the number of voxels that count.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        target: torch.Tensor,
        members: list[list[int]] | None,
        ignore: int | None,
    ) -> tuple[torch.Tensor, ...]:
        batch, classes, _ = logits.shape
        kind = _precise(logits)
        regions = classes if members is None else len(members)
        entropy, counted = logits.new_zeros((2,), dtype=kind).unbind()
        overlap, volume, reference = logits.new_zeros((3, batch, regions), dtype=kind)
        for part in _parts(logits):
            labels, counts = _annotated(target[:, None, part], ignore)
            log = torch.log_softmax(logits[:, :, part].to(kind), 1)
            own = log.gather(1, labels.long())
            entropy -= (own if counts is None else own * counts).sum()
            probability = log.exp_()
            if counts is not None:
                probability *= counts
                counted += counts.sum()
            if members is not None:
                probability = _united(probability, members)
            volume += probability.sum(2)
            right = _right(labels, classes, members, counts)
            reference += right.sum(2)
            overlap += (probability * right).sum(2)
        ctx.save_for_backward(logits, target)
        ctx.members, ctx.ignore = members, ignore
        ctx.mark_non_differentiable(reference, counted)
        return entropy, overlap, volume, reference, counted

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, entropy: torch.Tensor, overlap: torch.Tensor, volume: torch.Tensor, *_: Any
    ) -> tuple[torch.Tensor, None, None, None]:
        logits, target = ctx.saved_tensors
        members: list[list[int]] | None = ctx.members
        kind = _precise(logits)
        classes = logits.shape[1]
        result = torch.empty_like(logits)
        for part in _parts(logits):
            probability = torch.softmax(logits[:, :, part].to(kind), 1)
            labels, counts = _annotated(target[:, None, part], ctx.ignore)
            right = _right(labels, classes, members, counts)
            # The gradient of the Dice term: first by the probabilities, then through the softmax.
            slope = torch.addcmul(volume[..., None], overlap[..., None], right.to(kind))
            if members is not None:
                slope = _united(
                    slope, [[r for r, row in enumerate(members) if c in row] for c in range(classes)]
                )
            slope *= probability
            slope -= probability * slope.sum(1, keepdim=True)
            own = right if members is None else _right(labels, classes)
            slope += entropy * probability.sub_(own.to(kind))
            result[:, :, part] = slope if counts is None else slope.mul_(counts)
        return result, None, None, None


def _annotated(labels: torch.Tensor, ignore: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Classes, background where nobody has annotated, and where somebody has; None for everywhere."""
    if ignore is None:
        return labels, None
    counts = labels != ignore
    return labels * counts, counts


def _precise(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _right(
    labels: torch.Tensor,
    classes: int,
    members: list[list[int]] | None = None,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Whether a voxel is of a class, or of a region, and counts: bool ``(B, R, n)``."""
    right = labels == torch.arange(classes, device=labels.device)[:, None]
    if members is not None:
        right = _united(right, members) > 0
    return right if counts is None else right & counts


def _united(values: torch.Tensor, members: list[list[int]]) -> torch.Tensor:
    """The sums ``(B, R, n)`` of some of the values ``(B, C, n)`` each, in their own precision.

    Not a product of matrices, which autocast and TF32 would round.
    """
    return torch.stack([values[:, row].sum(1) for row in members], 1)


def _parts(logits: torch.Tensor) -> list[slice]:
    """Blocks of voxels small enough to fit in the cache of a CPU, or to limit the memory use on a GPU."""
    batch, classes, count = logits.shape
    values = 2**17 if logits.device.type == "cpu" else 2**26
    step = max(1, values // (batch * classes))
    return [slice(start, start + step) for start in range(0, count, step)]
