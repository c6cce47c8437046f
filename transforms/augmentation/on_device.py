"""Augmentation of patches on the device: the items that a loader's worker sends, and their processing after the copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch.utils.data import default_collate

from transforms.augmentation.variation import Variation
from transforms.errors import SettingError
from transforms.intensity import IntensityRecord

if TYPE_CHECKING:
    from typing import NotRequired

__all__ = ["AugmentationPlaceError", "DeferredPatches", "augments_on_device", "collate_deferred"]

PLACES = ("auto", "device", "workers")


class PatchItem(TypedDict):
    """A patch before its augmentation.

    Attributes:
        image: float32 (C, *size), or int16 codes where the device will augment it.
        label: classes (1, *size), of a case with a label.
        case: id of the case that it is cut from.
    """

    image: torch.Tensor
    label: NotRequired[torch.Tensor]
    case: str


class DeferredItem(PatchItem):
    """A patch to be augmented on the device, with the necessary data: see `DeferredPatches`."""

    intensity: IntensityRecord
    variation: Variation


class PatchBatch(TypedDict):
    """Patches as a loader gives them: images (B, C, *size), labels (B, 1, *size), cases.

    With "deferred" they are still to be augmented, and images and labels are flat: see `DeferredPatches`.
    """

    image: torch.Tensor
    label: NotRequired[torch.Tensor]
    case: list[str]
    deferred: NotRequired[DeferredPatches]


class AugmentationPlaceError(SettingError):
    """The place of augmentation is unknown, or the augmentation cannot run there."""


@dataclass(frozen=True)
class DeferredPatches:
    """The remaining steps for the patches of a batch: conversion of codes to values, cropping, augmentation.

    Patches are read with different margins around them. They are concatenated into one flat tensor for the images and
    one for the labels, so that no unused voxel is copied.

    Args:
        sources: shape of each patch as it was read, (C, *source).
        intensities: of each patch, what `normalise` needs to know of its case.
        variations: of each patch.
        normalise: `Preprocess.normalise`.
    """

    sources: tuple[tuple[int, ...], ...]
    intensities: tuple[IntensityRecord, ...]
    variations: tuple[Variation, ...]
    normalise: Callable[[torch.Tensor, IntensityRecord], torch.Tensor]

    def apply(
        self, codes: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the augmented batch, on the device of the flat tensors, without synchronising with it.

        Args:
            codes: int16 (voxels and channels of all patches).
            labels: uint8 or int32 (voxels of all patches); None without labels.

        Returns:
            Images float32 (B, C, *size) and labels (B, 1, *size).
        """
        size, channels = self.variations[0].size, self.sources[0][0]
        images = torch.empty(len(self.sources), channels, *size, device=codes.device)
        classes = None if labels is None else labels.new_empty(len(self.sources), 1, *size)
        first = 0
        for place, (source, variation) in enumerate(zip(self.sources, self.variations, strict=True)):
            voxels = math.prod(source[1:])
            part = codes.narrow(0, first * channels, voxels * channels).view(source)
            label = None if labels is None else labels.narrow(0, first, voxels).view(1, *source[1:])
            image, label = variation.apply(self.normalise(part, self.intensities[place]), label)
            images[place] = image
            if classes is not None and label is not None:
                classes[place] = label
            first += voxels
        return images, classes


def collate_deferred(
    items: Sequence[DeferredItem],
    normalise: Callable[[torch.Tensor, IntensityRecord], torch.Tensor],
) -> PatchBatch:
    """A batch of patches that are still to be augmented."""
    batch: PatchBatch = {
        "image": torch.cat([item["image"].reshape(-1) for item in items]),
        "case": default_collate([item["case"] for item in items]),
        "deferred": DeferredPatches(
            tuple(tuple(item["image"].shape) for item in items),
            tuple(item["intensity"] for item in items),
            tuple(item["variation"] for item in items),
            normalise,
        ),
    }
    if "label" in items[0]:
        batch["label"] = torch.cat([item["label"].reshape(-1) for item in items])
    return batch


def augments_on_device(place: str, device: torch.device | str | None, transform: Any) -> bool:
    """Whether patches are augmented on the device.

    Args:
        place: "device", "workers", or "auto": on the device if that is a GPU and the augmentation can be.
        device: where the network is trained; None: not known, so the workers augment.
        transform: the augmentation.

    Raises:
        AugmentationPlaceError: the place is unknown, or it is "device" and the augmentation cannot be split.
    """
    if place not in PLACES:
        raise AugmentationPlaceError(
            f"augment_on is {place!r}; give 'auto', 'device' or 'workers', the places where patches can be augmented"
        )
    possible = hasattr(transform, "draw")
    if place == "device" and transform is not None and not possible:
        raise AugmentationPlaceError(
            f"augment_on is 'device', but {type(transform).__name__} cannot be drawn in a worker and applied on the device as "
            "PatchAugmentation can; give 'workers'"
        )
    if place == "auto":
        return possible and device is not None and torch.device(device).type == "cuda"
    return possible and place == "device"
