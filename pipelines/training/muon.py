"""Muon: an optimiser whose steps change every direction of a convolution's weights by the same amount."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["Muon"]

LEAST_CHANNELS = 8
"""Of the input and of the output of a convolution whose weights are a matrix."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al.): small singular values grow fast, and end between 0.7 and 1.2."""
ITERATIONS = (2, 3)
"""Five in all; the Gram matrix is computed anew after the first two, as its rounding errors grow with each of them."""


class Muon(torch.optim.AdamW):
    """Muon for the weights of convolutions, AdamW for all other parameters.

    AdamW divides the change of each weight by its own size. Muon [1]_ takes the weights of a convolution as a matrix of
    output channels x (input channels x kernel), and replaces the moving average of the gradient by the nearest matrix
    whose singular values are all about one, so that directions which the gradient rarely shows are learned as fast as
    its strongest. The result is scaled such that its root mean square is 0.2, about that of AdamW's steps, with whose
    learning rates and weight decay it is used [2]_.

    Biases, normalisation and 1x1 convolutions, which the heads are, keep AdamW, and so does a convolution with fewer than
    eight input or output channels: the first one, and depthwise ones. So do convolutions with more than `largest`
    output channels, whose arithmetic grows with channels times weights and on a processor would take longer than the
    rest of a step.

    Args:
        params, lr, betas, eps, weight_decay, fused: as in `torch.optim.AdamW`; the rate and the decay are those of both.
        momentum: decay of Muon's moving average of the gradient; the step looks ahead by Nesterov's rule.
        largest: rows of the largest matrix, the shorter side being the rows.

    References:
        .. [1] K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks",
           https://kellerjordan.github.io/posts/muon, 2024.
        .. [2] J. Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, 2025, section 2.2.

    Examples:
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Conv2d(16, 2, 1))
        >>> optimizer = Muon(network.parameters(), lr=0.004)
        >>> network(torch.ones(1, 8, 5, 5)).square().sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.95,
        largest: int = 128,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool | None = None,
    ) -> None:
        self.momentum, self.largest = momentum, largest
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
        # With fused AdamW a gradient scaler would leave it to `step` to skip gradients that overflowed.
        self._step_supports_amp_scaling = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        # AdamW's own requires of every parameter what AdamW keeps of it.
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both optimisers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients: dict[torch.Tensor, torch.Tensor] = {}
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.grad is not None and is_matrix(p, self.largest)]
            self._step_matrices(matrices, group["lr"], group["weight_decay"])
            gradients |= {p: p.grad for p in matrices}
        # AdamW leaves out what has no gradient.
        for parameter in gradients:
            parameter.grad = None
        super().step()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        return loss

    def _step_matrices(self, parameters: Sequence[torch.Tensor], rate: float, decay: float) -> None:
        same: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for parameter in parameters:
            same.setdefault(tuple(parameter.shape), []).append(parameter)
        for shape, members in same.items():
            directions = orthogonal(torch.stack([_matrix(self._direction(p)) for p in members]))
            size = 0.2 * math.sqrt(max(shape[0], math.prod(shape[1:])))
            for parameter, direction in zip(members, directions, strict=True):
                parameter.mul_(1 - rate * decay)
                parameter.add_(_like(direction, parameter), alpha=-rate * size)

    def _direction(self, parameter: torch.Tensor) -> torch.Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        # AdamW's name for the same average, so that an unfinished training can go on with the other optimiser.
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
        average = state["exp_avg"].lerp_(gradient, 1 - self.momentum)
        return gradient.lerp(average, self.momentum)


def is_matrix(parameter: torch.Tensor, largest: int) -> bool:
    """Whether a parameter is the weights of a convolution that Muon takes for a matrix of at most so many rows."""
    return (
        parameter.ndim > 3
        and min(parameter.shape[:2]) >= LEAST_CHANNELS
        and math.prod(parameter.shape[2:]) > 1
        and min(parameter.shape[0], math.prod(parameter.shape[1:])) <= largest
    )


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The matrices with the same singular vectors, and singular values of about one.

    The iteration multiplies a matrix by polynomials of its Gram matrix. That is the smaller one, so all factors are
    gathered there before they are multiplied with the matrix itself.

    Args:
        matrices: (N, rows, columns).

    Returns:
        float32 of the same shape.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices.float()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-12)
    linear, cubic, quintic = NEWTON_SCHULZ
    identity = torch.eye(x.shape[1], device=x.device)
    for iterations in ITERATIONS:
        gram, factor = x @ x.mT, identity
        for _ in range(iterations):
            polynomial = linear * identity + cubic * gram + quintic * (gram @ gram)
            factor = polynomial @ factor
            gram = polynomial @ gram @ polynomial
        x = factor @ x
    return x


def _matrix(weights: torch.Tensor) -> torch.Tensor:
    """Weights (out, in, *kernel) as (out, kernel * in): a view where they lie channels-last."""
    return weights.movedim(1, -1).flatten(1)


def _like(matrix: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The inverse of `_matrix`."""
    return matrix.view(weights.movedim(1, -1).shape).movedim(-1, 1)
