"""Decides when the files of a training are written, and handles failed writes."""

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
    """The setting `checkpoint_minutes` is not valid."""


class Saver:
    """Writes the best model and then the checkpoint that refers to it.

    A disk that is full for some time does not end a training: the best weights are kept in memory, and the next
    checkpoint writes them.

    Args:
        checkpoints: the files.
        minutes: minutes between checkpoints within an epoch; None writes none within an epoch.
        before: called before a checkpoint is written. A resumed training does not repeat the iterations before the
            checkpoint, so their metrics must be on disk by then.
        enabled: False (on all ranks but the first) writes nothing.

    Raises:
        SavingError: `minutes` is negative.
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
                f"checkpoint_minutes is {minutes}; give a number, 0 or more, or '$None' to write checkpoints only at "
                "the end of epochs"
            )
        self.checkpoints = checkpoints
        self.seconds = float("inf") if minutes is None else 60.0 * minutes
        self.before = before
        self.enabled = enabled
        self._model: tuple[dict[str, torch.Tensor], Card] | None = None
        self._written = time.monotonic()

    def start(self) -> None:
        """Start counting the time to the next checkpoint."""
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether a checkpoint within the epoch should be written now."""
        # Ranks that write nothing never reset the time, so without `enabled` this would always be true for them.
        return self.enabled and time.monotonic() - self._written >= self.seconds

    def keep_model(self, network: torch.nn.Module, card: Card) -> None:
        """Keep these weights as the best ones. `write` must be called before the weights change."""
        weights = plain_network(network).state_dict()
        self._model = {name: value.detach().cpu() for name, value in weights.items()}, card

    def write(self, state: TrainingState, required: bool = False) -> None:
        """Write the best model, if it is new, and a checkpoint.

        Args:
            state: content of the checkpoint.
            required: whether a failed write is an error; otherwise it is only a warning.

        Raises:
            CheckpointNotWrittenError: a file cannot be written, and `required` is true.
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
            logger.warning("%s. This training continues and tries again at the next checkpoint", error)
            if self._model is not None:
                weights, card = self._model
                self._model = {name: value.clone() for name, value in weights.items()}, card
        self._written = time.monotonic()
