"""Stopping a training whose validation Dice no longer grows.

ignite's EarlyStopping (0.5.5) promises something else: NaN is progress there, and every value after it, so that the
Dice 0.5, 0.6, NaN, NaN, NaN, 0.55, 0.55, 0.55 did not end a training with patience 3. It also counts in a state of its
own, which checkpoints written until now do not hold, where ours counts the validations that a checkpoint lists.
"""

from __future__ import annotations

from collections.abc import Iterable

from transforms.errors import SettingError


class StoppingError(SettingError):
    """The knobs of early stopping ask for something that cannot be."""


class EarlyStopping:
    """Stop after `patience` validations in a row without a better mean Dice.

    A validation is better if its Dice exceeds the best one before by more than `min_delta`. The answer follows
    from the Dice of all validations so far and from nothing else, so a resumed training counts on.

    Args:
        patience: validations without progress; None never stops.
        min_delta: what counts as progress, in Dice.

    Raises:
        StoppingError: patience is below 1 or min_delta below 0.
    """

    def __init__(self, patience: int | None = None, min_delta: float = 0.0) -> None:
        if patience is not None and patience < 1:
            raise StoppingError(
                f"patience is {patience}; give a number of validations from 1, or '$None' to train all epochs"
            )
        if not min_delta >= 0:
            raise StoppingError(f"min_delta is {min_delta}; give the Dice that counts as progress, 0 or more")
        self.patience = patience
        self.min_delta = float(min_delta)

    def waited(self, dice: Iterable[float]) -> int:
        """Validations since the last progress, given the mean Dice of each in order; NaN is no progress."""
        best, count = float("-inf"), 0
        for value in dice:
            if value > best + self.min_delta:
                best, count = value, 0
            else:
                count += 1
        return count

    def reached(self, dice: Iterable[float]) -> bool:
        """Whether a training with these validations is to stop."""
        return self.patience is not None and self.waited(dice) >= self.patience
