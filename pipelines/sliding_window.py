"""A whole volume through a network that sees patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer


class SlidingWindow(Inferer):
    """Logits of a whole volume from overlapping windows, blended with Gaussian weights.

    A window of two axes on a volume of three goes through it axial slice by slice.

    Args:
        roi_size: window, the patch size of the training.
        sw_batch_size: windows per forward pass.
        overlap: share of a window that its neighbour covers too, 0 to below 1.
        mode: "gaussian" or "constant" weights.
        padding_value: what the network sees outside a volume smaller than the window (air).
        kwargs: anything else that MONAI's SlidingWindowInferer takes.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 4,
        overlap: float = 0.5,
        mode: str = "gaussian",
        padding_value: float = -1.0,
        **kwargs: Any,
    ) -> None:
        self.roi_size = tuple(int(n) for n in roi_size)
        self.options: dict[str, Any] = dict(
            sw_batch_size=sw_batch_size, overlap=overlap, mode=mode, cval=padding_value, **kwargs
        )

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """(B, C, *spatial) to logits (B, classes, *spatial) in float32."""
        inferer: Inferer
        if len(self.roi_size) == 2 and inputs.ndim == 5:
            inferer = SliceInferer(roi_size=self.roi_size, spatial_dim=2, **self.options)
        else:
            inferer = SlidingWindowInferer(roi_size=self.roi_size, **self.options)
        # Sums of half-precision windows change labels; the accumulator is always float32.
        logits = inferer(inputs, lambda window: network(window, *args, **kwargs).float())
        assert isinstance(logits, torch.Tensor)
        return logits
