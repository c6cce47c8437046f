"""Handlers of ignite's engines: validation every few epochs, and the progress display."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import ValidationHandler
from monai.utils.enums import CommonKeys as Keys
from tqdm import tqdm

from pipelines.distributed.collectives import mean_of_ranks
from pipelines.evaluation.validation import validate
from pipelines.utils.progress import Steps
from pipelines.utils.progress_times import Beyond, intervals
from pipelines.utils.ranks import rank
from transforms.errors import SettingError

logger = logging.getLogger(__name__)


class Validation(ValidationHandler):
    """Run the evaluator every `interval` epochs and after the last one, with the cases divided among the ranks.

    Afterwards `state.cases`, `state.confusion`, `state.failures` and `state.metrics` of the evaluator hold the
    results of all ranks, on every rank.

    Args:
        interval: epochs between validations; 0 never validates.
        validator: a `SegEvaluator`, or None where the dataset has no validation cases.
    """

    def __init__(self, interval: int, validator: Any | None = None) -> None:
        if interval < 0:
            raise SettingError(
                f"val_interval is {interval}; give the epochs between validations, or 0 for none"
            )
        super().__init__(interval=max(1, interval), validator=validator)
        self.off = interval == 0

    def attach(self, engine: Engine) -> None:
        if not self.off:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)
            engine.state.validation = self  # type: ignore[attr-defined]

    def due(self, epoch: int, epochs: int | None) -> bool:
        """Whether there is a validation after epoch `epoch` of `epochs`."""
        if self.off or self.validator is None:
            return False
        loader: Any = self.validator.data_loader
        if not len(loader):
            return False
        return epoch % self.interval == 0 or epoch == epochs

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch % self.interval != 0 and engine.state.epoch != engine.state.max_epochs:
            return
        if self.validator is not None:
            validate(self.validator, engine.state.epoch, label="validation")


class Progress:
    """Shows the progress of a training, and prints one line per epoch.

    In a terminal it is a bar with epoch, iteration and loss; elsewhere log lines, see `pipelines.utils.progress`.
    In a distributed training only rank 0 prints.

    Args:
        evaluator: its last mean Dice is shown in the line of the epoch.
    """

    def __init__(self, evaluator: Any | None = None) -> None:
        self.evaluator = evaluator
        self._steps: Steps | None = None
        # Seconds between the last step of an epoch and the next epoch, with (True) and without (False) a validation.
        self._gaps: dict[bool, list[float]] = {True: [], False: []}
        self._gap = False
        self._started = 0.0
        self._speaks = rank() == 0
        # An invalid setting of the intervals raises an error here, before the training starts.
        intervals()

    def attach(self, engine: Engine) -> None:
        keep_losses(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        if not self._speaks:
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(self, engine: Engine) -> None:
        total = (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
        done = min(engine.state.iteration, total)
        self._gaps, self._gap = {True: [], False: []}, False
        self._steps = Steps(total, "step", initial=done, beyond=lambda: self._beyond(engine)).__enter__()

    def _epoch_start(self, engine: Engine) -> None:
        self._started = time.monotonic()
        gap = None if self._steps is None else self._steps.resume()
        if gap is not None:
            self._gaps[self._gap].append(gap)

    def _iteration(self, engine: Engine) -> None:
        loss = engine.state.output[Keys.LOSS]  # type: ignore[index]
        if self._steps is None:
            return
        state = engine.state
        if state.iteration % (state.epoch_length or 1) == 0:
            self._gap = _validates(engine, state.epoch)
        self._steps.step()
        if state.iteration % (state.epoch_length or 1) == 0:
            self._steps.pause("validation and checkpoint" if self._gap else "checkpoint")
        bar = self._steps.bar
        # Reading a loss waits for the GPU, and the bar does not need the loss of every iteration.
        if bar is not None and (engine.state.iteration % 10 == 0 or loss.device.type == "cpu"):
            bar.set_description(f"epoch {engine.state.epoch}/{engine.state.max_epochs}")
            bar.set_postfix(loss=f"{float(loss):.3f}")

    def _beyond(self, engine: Engine) -> Beyond:
        """Estimate the time of the remaining validations and checkpoints from the mean of the last three."""
        assert self._steps is not None
        seconds, unknown = 0.0, 0
        within = self._steps.paused
        # The validation and checkpoint of the current epoch are not finished yet.
        first = engine.state.epoch
        for epoch in range(first, (engine.state.max_epochs or 0) + 1):
            kind = _validates(engine, epoch)
            known = self._gaps[kind][-3:]
            if known:
                mean = sum(known) / len(known)
                seconds += max(0.0, mean - within) if epoch == first else mean
            else:
                unknown += kind
        return Beyond(seconds, f"{unknown} validation{'s' * (unknown > 1)}" if unknown else "")

    def _epoch(self, engine: Engine) -> None:
        # Called on every rank, since the mean is over all ranks.
        losses = engine.state.losses  # type: ignore[attr-defined]
        mean = mean_loss(losses) if losses else float("nan")
        if not self._speaks:
            return
        seconds = time.monotonic() - self._started
        line = f"epoch {engine.state.epoch}/{engine.state.max_epochs}  loss {mean:.4f}  {seconds:.0f} s"
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            line += f"  validation Dice {self.evaluator.state.metrics['val_mean_dice']:.4f}"
        if self._steps is not None and self._steps.bar is not None:
            tqdm.write(line)
        else:
            logger.info(line)

    def _close(self, engine: Engine) -> None:
        if self._steps is not None:
            self._steps.__exit__()
            self._steps = None

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._close(engine)
        raise error


def _validates(engine: Engine, epoch: int) -> bool:
    validation = getattr(engine.state, "validation", None)
    return validation is not None and validation.due(epoch, engine.state.max_epochs)


def keep_losses(engine: Engine) -> None:
    """Collect in `engine.state.losses` the losses of the current epoch's iterations on this rank.

    A caller that starts the engine within an epoch first puts the losses of the earlier iterations there.
    """
    if engine.has_event_handler(_add_loss, Events.ITERATION_COMPLETED):
        return
    engine.add_event_handler(Events.EPOCH_STARTED, _begin_losses)
    engine.add_event_handler(Events.ITERATION_COMPLETED, _add_loss)


def _begin_losses(engine: Engine) -> None:
    state: Any = engine.state
    if state.iteration == (state.epoch - 1) * (state.epoch_length or 0):
        state.losses = []


def _add_loss(engine: Engine) -> None:
    state: Any = engine.state
    state.losses.append(state.output[Keys.LOSS])


def mean_loss(losses: Sequence[torch.Tensor]) -> float:
    """Mean of the losses of this rank's iterations, averaged over the ranks."""
    return float(mean_of_ranks(torch.stack(list(losses)).double().mean()))
