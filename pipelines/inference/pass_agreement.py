"""Agreement of several passes over the same case: members of an ensemble, mirrored inputs, or both.

It is, per class, the Dice of all pairs of passes together. It is computed from the votes of each voxel, so that no pass
is kept: where n of P passes vote for a class, n (n - 1) / 2 pairs agree on it, and 2 sum n (n - 1) / 2 over (P - 1) sum n is
the Dice of all pairs together. A. G. Roy et al., Bayesian QuickNAT, NeuroImage 195, 2019, take the same agreement of
samples as a measure of quality. Each window counts with the weights with which it is blended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pipelines.inference.ensemble import Ensemble

__all__ = ["PassAgreement"]


class PassAgreement:
    """Listens to what a network answers and sums up the votes of its passes, window by window.

    Args:
        classes: number of classes, background included.
    """

    def __init__(self, classes: int) -> None:
        self._votes = torch.zeros(classes, dtype=torch.float64)
        self._pairs = torch.zeros_like(self._votes)
        self._passes = 0
        self._heard: list[torch.Tensor] = []
        self._turned: list[torch.Tensor] = []

    @contextlib.contextmanager
    def listening(self, network: torch.nn.Module) -> Iterator[None]:
        """Within this block every answer of the network is heard; of an ensemble that of each member."""
        members = network.networks if isinstance(network, Ensemble) else [network]
        hooks = [member.register_forward_hook(self._hear) for member in members]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hear(self, module: torch.nn.Module, given: Any, logits: torch.Tensor) -> None:
        self._heard.append(logits.detach().argmax(1))

    def begin(self) -> None:
        """Other windows come now; what was heard of some that did not come to their end is forgotten."""
        self._heard, self._turned = [], []

    def turn_back(self, axes: Sequence[int]) -> None:
        """What was heard since the last call is of windows that were flipped along these axes (N, classes, *window)."""
        self._turned += [votes.flip([axis - 1 for axis in axes]) for votes in self._heard]
        self._heard = []

    def end(self, weights: torch.Tensor) -> None:
        """All passes over these windows have been heard; nothing has changed where this raises an error.

        Args:
            weights: of the voxels of a window (*window).
        """
        passes = torch.stack(self._turned)
        weight = weights.to(passes.device).reshape(passes.shape[2:]).expand(passes.shape[1:])
        some = passes.amax(0) > 0
        votes = passes[:, some]
        counts = torch.zeros((votes.shape[1], len(self._votes)), device=votes.device)
        counts.scatter_add_(1, votes.T, torch.ones_like(votes.T, dtype=counts.dtype))
        weighted = counts * weight[some][:, None]
        voted, agreed = weighted.sum(0), (weighted * (counts - 1)).sum(0)
        self._votes += voted.cpu()
        self._pairs += agreed.cpu()
        self._passes = len(passes)
        self.begin()

    def result(self, names: Sequence[str]) -> dict[str, float | None]:
        """By the names of the foreground classes 1, 2, ...; None where no pass votes for one, or there is a single pass."""
        return {
            name: float(self._pairs[value] / ((self._passes - 1) * self._votes[value]))
            if self._passes > 1 and self._votes[value] > 0
            else None
            for value, name in enumerate(names, 1)
        }
