"""Recurrent convolutions and the residual unit made of them.

Alom et al., "Recurrent Residual Convolutional Neural Network based on U-Net (R2U-Net) for Medical Image
Segmentation", arXiv 1802.06955 (equations 1-4, figures 2-4)."""

from __future__ import annotations

import torch
from torch import nn

from .convolution import make_conv
from .errors import NetworkError
from .layers import (
    GROUP_NORM,
    RELU,
    NormAct,
    Recomputed,
    keeps_statistics,
    make_dropout,
    outer_act,
)


class RecurrentConv(nn.Module):
    r"""Recurrent convolutional layer, unfolded for ``num_steps`` steps.

    With a forward kernel :math:`w_f`, a recurrent kernel :math:`w_r` and :math:`\phi` = norm, then activation:

    .. math::
        h_0 = \phi(w_f * x), \qquad h_k = \phi(w_f * x + w_r * h_{k-1}), \quad k = 1 \dots t

    (arXiv 1802.06955, equations 1 and 2). ``recurrence="tied"`` has one kernel, :math:`w_r = w_f`, for which
    :math:`h_k = \phi(w * (x + h_{k-1}))`. In both forms :math:`w_f * x` is computed once and the sum
    :math:`x + h` is never stored.

    A norm with running statistics (batch norm) is kept once per step: the steps differ in distribution, and
    statistics that mix them make evaluation mode disagree with training mode. Norms without a state are shared,
    so that the number of parameters does not depend on ``num_steps``.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and of the output.
        num_steps: the paper's t, number of recurrent steps after the first application; 0 is a plain layer.
        recurrence: ``"tied"`` or ``"separate"`` (the paper's two kernels).
        norm: MONAI norm; ``None`` for a bias alone.
        act: MONAI activation.
        dropout: probability of dropping a channel of the layer's output.

    Raises:
        NetworkError: if ``num_steps`` is negative or ``recurrence`` is neither form.
    """

    __constants__ = ("shared_norm", "num_steps", "tied")

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        num_steps: int = 2,
        recurrence: str = "tied",
        norm: str | tuple | None = GROUP_NORM,
        act: str | tuple | None = RELU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_steps < 0:
            raise NetworkError(f"num_steps is the number of recurrent steps, 0 or more; got {num_steps}.")
        if recurrence not in ("tied", "separate"):
            raise NetworkError(f'recurrence is "tied" or "separate"; got {recurrence!r}.')
        self.num_steps = num_steps
        self.tied = recurrence == "tied" or num_steps == 0
        self.conv = make_conv(spatial_dims, channels, channels)
        self.recurrent = nn.Identity() if self.tied else make_conv(spatial_dims, channels, channels)
        self.norm = NormAct(norm, act, spatial_dims, channels)
        self.shared_norm = not keeps_statistics(self.norm)
        copies = 0 if self.shared_norm else num_steps
        self.step_norms = nn.ModuleList([NormAct(norm, act, spatial_dims, channels) for _ in range(copies)])
        self.act = outer_act(act)
        self.dropout = make_dropout(dropout, spatial_dims)

    def recur(self, h: torch.Tensor) -> torch.Tensor:
        if self.tied:
            return self.conv(h)
        return self.recurrent(h)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, *spatial)`` to the same shape."""
        wx = self.conv(x)
        h = self.act(self.norm(wx))
        if self.shared_norm:
            for _ in range(self.num_steps):
                # No convolution's backward pass needs its own output, so the sum can take its place.
                h = self.act(self.norm(self.recur(h).add_(wx)))
        else:
            for norm in self.step_norms:
                h = self.act(norm(wx + self.recur(h)))
        return self.dropout(h)


class RecurrentResidualUnit(Recomputed):
    r"""Two recurrent layers in sequence and the residual sum around them.

    .. math:: x_{l+1} = x_l + \gamma \, F(x_l)

    (arXiv 1802.06955, equation 4, figure 4d) with a learned scale :math:`\gamma` per channel, which the paper
    does not have (:math:`\gamma = 1`). A small start, such as 0.1, keeps the gradients of the unrolled
    branch well conditioned (layer scale, Touvron et al., arXiv 2103.17239).

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and of the output.
        num_steps: recurrent steps of each layer.
        residual: without it the unit is the pair of layers alone (RU-Net, figure 4b).
        recurrence: ``"tied"`` or ``"separate"``.
        norm: MONAI norm.
        act: MONAI activation.
        dropout: probability of dropping a channel after each layer.
        layer_scale: initial value of :math:`\gamma`; ``None`` fixes it at 1.
        checkpointing: recompute the unit in the backward pass.
    """

    __constants__ = ("residual", "scaled", "checkpointing")

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        num_steps: int = 2,
        residual: bool = True,
        recurrence: str = "tied",
        norm: str | tuple | None = GROUP_NORM,
        act: str | tuple | None = RELU,
        dropout: float = 0.0,
        layer_scale: float | None = 0.1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.residual = residual
        self.scaled = residual and layer_scale is not None
        self.layers = nn.Sequential(
            *(
                RecurrentConv(spatial_dims, channels, num_steps, recurrence, norm, act, dropout)
                for _ in range(2)
            )
        )
        if self.scaled:
            self.scale = nn.Parameter(torch.full((1, channels, *(1,) * spatial_dims), layer_scale or 0.0))

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, *spatial)`` to the same shape."""
        h = self.layers(x)
        if self.scaled:
            # A scale in float32 would raise the sum, and all that is kept of it, to float32.
            return torch.addcmul(x, h, self.scale.to(h.dtype))
        if self.residual:
            return x + h
        return h
