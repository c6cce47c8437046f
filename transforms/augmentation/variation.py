"""The random parameters of one patch, and their application: the deterministic part of augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from transforms.augmentation.intensity_changes import CHANGES
from transforms.augmentation.resample_patch import resample_patch
from transforms.errors import SettingError

__all__ = ["Variation"]


@dataclass(frozen=True)
class Variation:
    """How one patch differs from what was read; small enough to be sent along with it.

    Attributes:
        size: of the result.
        matrix: rotation and scale, see `resample_patch`; None for neither.
        changes: intensity changes in order: name and amounts, see
            `transforms.augmentation.intensity_changes.CHANGES`.
        flips: spatial axes that are flipped.
    """

    size: tuple[int, ...]
    matrix: np.ndarray | None = None
    changes: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    flips: tuple[int, ...] = ()

    @torch.no_grad()
    def apply(
        self, image: torch.Tensor, label: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the augmented patch, on the device of its tensors, without synchronising with it.

        Args:
            image: float32 (C, *source).
            label: integer (1, *source), or None.

        Returns:
            image: float32 (C, *size).
            label: (1, *size), of the label's type; None where there is none.

        Raises:
            SettingError: the patch has another size than the result, and nothing resamples it.
        """
        with torch.autocast(image.device.type, enabled=False):
            if self.matrix is not None:
                image, label = resample_patch(image, label, self.matrix, self.size)
            elif tuple(image.shape[1:]) != self.size:
                raise SettingError(f"expected a patch of {self.size}, got {tuple(image.shape[1:])}.")
            for name, amounts in self.changes:
                image = CHANGES[name](image, *amounts)
            if self.flips:
                axes = [1 + axis for axis in self.flips]
                image = torch.flip(image, axes)
                label = None if label is None else torch.flip(label, axes)
        return image.contiguous(), None if label is None else label.contiguous()
