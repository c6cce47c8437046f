"""Early stopping: ends a training whose validation Dice no longer improves.

ignite's EarlyStopping (0.5.5) is not used, for two reasons. It counts NaN, and every value after NaN, as an
improvement: the Dice 0.5, 0.6, NaN, NaN, NaN, 0.55, 0.55, 0.55 do not end a training with patience 3. And it needs a
state of its own, which existing checkpoints do not hold; here the validations listed in a checkpoint are enough.
"""

from __future__ import annotations

from collections.abc import Iterable

from transforms.errors import SettingError


class StoppingError(SettingError):
    """The settings of early stopping are not valid."""


class EarlyStopping:
    """Stop after `patience` validations in a row without a better mean Dice.

    A validation is better if its Dice exceeds the best earlier one by more than `min_delta`. The decision depends
    only on the Dice of all validations so far, so it is the same in a resumed training.

    Args:
        patience: number of validations without improvement; None never stops.
        min_delta: smallest increase of the mean Dice that counts as an improvement.

    Raises:
        StoppingError: patience is below 1 or min_delta below 0.
    """

    def __init__(self, patience: int | None = None, min_delta: float = 0.0) -> None:
        if patience is not None and patience < 1:
            raise StoppingError(
                f"patience is {patience}; give a number of validations, 1 or more, or '$None' to train all epochs"
            )
        if not min_delta >= 0:
            raise StoppingError(f"min_delta is {min_delta}; give an increase in Dice, 0 or more")
        self.patience = patience
        self.min_delta = float(min_delta)

    def waited(self, dice: Iterable[float]) -> int:
        """Number of validations since the last improvement, given their mean Dice in order; NaN is none."""
        best, count = float("-inf"), 0
        for value in dice:
            if value > best + self.min_delta:
                best, count = value, 0
            else:
                count += 1
        return count

    def reached(self, dice: Iterable[float]) -> bool:
        """Whether a training with these validations should stop."""
        return self.patience is not None and self.waited(dice) >= self.patience
