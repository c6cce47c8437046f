"""When the files of a training are written, and what happens where they cannot be."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from pipelines.inference.model_card import Card
from pipelines.training.checkpoints import CheckpointNotWrittenError, Checkpoints, TrainingState
from pipelines.utils.modules import plain_network
from transforms.errors import SettingError

logger = logging.getLogger(__name__)


class SavingError(SettingError):
    """The knob of checkpoints by time has no meaning."""


class Saver:
    """Writes the best model and the state that counts on it, in this order.

    A disk that is full for a while does not end a training: the best weights wait in memory, and the next
    checkpoint tries again.

    Args:
        checkpoints: the files.
        minutes: between checkpoints within an epoch; None for none there.
        before: called before a state is written. Once it is, its iterations are not done again, so what they
            said must be safe.
        enabled: False (on all ranks but the first) writes nothing.

    Raises:
        SavingError: minutes are negative.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        minutes: float | None,
        before: Callable[[], None],
        enabled: bool = True,
    ) -> None:
        if minutes is not None and not minutes >= 0:
            raise SavingError(
                f"checkpoint_minutes is {minutes}; give a number from 0, or '$None' to write at the end of epochs alone"
            )
        self.checkpoints = checkpoints
        self.seconds = float("inf") if minutes is None else 60.0 * minutes
        self.before = before
        self.enabled = enabled
        self._model: tuple[dict[str, torch.Tensor], Card] | None = None
        self._written = time.monotonic()

    def start(self) -> None:
        """Count the time from now."""
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for a checkpoint within the epoch."""
        # The time of ranks that write nothing would run on: for them it would always be due.
        return self.enabled and time.monotonic() - self._written >= self.seconds

    def keep_model(self, network: torch.nn.Module, card: Card) -> None:
        """Have these weights as the best ones; `write`, called before they change, puts them on the disk."""
        weights = plain_network(network).state_dict()
        self._model = {name: value.detach().cpu() for name, value in weights.items()}, card

    def write(self, state: TrainingState, required: bool = False) -> None:
        """Write what there is to write.

        Args:
            required: what cannot be written is an error; else a warning.

        Raises:
            CheckpointNotWrittenError: see above.
        """
        if not self.enabled:
            return
        try:
            if self._model is not None:
                self.checkpoints.save_model(*self._model)
                self._model = None
            self.before()
            self.checkpoints.save(state)
        except CheckpointNotWrittenError as error:
            if required:
                raise
            logger.warning("%s. This training goes on and tries again at the next checkpoint", error)
            if self._model is not None:
                weights, card = self._model
                self._model = {name: value.clone() for name, value in weights.items()}, card
        self._written = time.monotonic()
