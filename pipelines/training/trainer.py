"""The trainer: MONAI's SupervisedTrainer with a step of its own.

MONAI's step supports mixed precision only on CUDA and with a gradient scaler. This one supports a precision given by
name on any device, gradient clipping and accumulation, weight averaging, and stops when the loss is not finite.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch.nn.parallel import DistributedDataParallel

from pipelines.inference.memory_format import channels_last_format, lies_channels_last, place
from pipelines.inference.precision import AUTO, autocast, common_precision
from pipelines.training.handlers import keep_losses
from pipelines.training.thread_tuning import ThreadTuner
from pipelines.utils.modules import compile_regions, unwrapped
from transforms.augmentation.on_device import PatchBatch
from transforms.errors import UserError

logger = logging.getLogger(__name__)


class NonFiniteLossError(UserError, RuntimeError):
    """The loss became NaN or infinite; the message names the iteration and the cases of the batch."""


def prepare_patches(
    batch: PatchBatch, device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label of a batch on the device, as plain tensors (a compiled model refuses MetaTensor).

    If the batch is to be augmented on the device, this is done here, see `transforms.augmentation.on_device`.
    """
    pair = []
    for value in (batch["image"], batch["label"]):
        value = value.as_tensor() if isinstance(value, MetaTensor) else value
        pair.append(value.to(device, non_blocking=non_blocking, **kwargs))
    if "deferred" in batch:
        images, labels = batch["deferred"].apply(pair[0], pair[1])
        assert labels is not None
        return images, labels
    return pair[0], pair[1]


class SegTrainer(SupervisedTrainer):
    """One training iteration: precision, accumulation, clipping, schedule, weight averaging.

    Args:
        device, max_epochs, train_data_loader, network, optimizer, loss_function: as in MONAI's
            SupervisedTrainer. `loss_function` gets integer labels (B, 1, *spatial), and logits in float32, or in the
            precision of the network if it has a true attribute `any_precision`.
        precision: "fp32", "bf16", "fp16" or "auto", see `pipelines.inference.precision`; with fp16 the loss is scaled
            and steps that overflow are skipped. The attribute `precision` holds the value that "auto" was resolved to.
        lr_scheduler: stepped once per optimiser step; None keeps the learning rate constant.
        max_grad_norm: gradients are scaled down to this L2 norm; None only measures the norm.
        average: `torch.optim.swa_utils.AveragedModel` of `network`, updated after every optimiser step. Where other
            weights are put into the network between two runs, as in each round of a federated training, it begins
            anew with them.
        channels_last: keep weights and patches in the channels-last memory format; "auto" keeps the format of the
            weights and converts the patches to it. A network in DistributedDataParallel must be passed to `place`
            before it is wrapped.
        compile: use torch.compile, separately for each repeated block if the network lists them (`regions()`).
        compile_kwargs: options of torch.compile.
        check_interval: on CUDA the loss is checked for NaN only once in this number of iterations, since each check
            waits for the device; on a CPU it is checked in every iteration.

    Raises:
        NonFiniteLossError: from `run`, when the loss is NaN or infinite.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Any,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: Callable,
        precision: str = "fp32",
        lr_scheduler: Any | None = None,
        max_grad_norm: float | None = None,
        average: torch.nn.Module | None = None,
        channels_last: bool | str = False,
        compile: bool = False,
        compile_kwargs: dict | None = None,
        accumulation_steps: int = 1,
        check_interval: int = 10,
        train_handlers: Sequence | None = None,
        prepare_batch: Callable = prepare_patches,
        **kwargs: Any,
    ) -> None:
        device = torch.device(device)
        if channels_last == AUTO:
            channels_last = lies_channels_last(network)
        elif channels_last and not isinstance(network, DistributedDataParallel):
            place(network, device, channels_last)
        regional = compile and compile_regions(unwrapped(network), **(compile_kwargs or {}))
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function,
            prepare_batch=prepare_batch,
            train_handlers=train_handlers,
            compile=compile and not regional,
            compile_kwargs=compile_kwargs,
            accumulation_steps=accumulation_steps,
            non_blocking=device.type == "cuda",
            optim_set_to_none=True,
            decollate=False,
            **kwargs,
        )
        self.asked_precision = precision
        self.precision = common_precision(precision, device)
        self.lr_scheduler = lr_scheduler
        self.max_grad_norm = max_grad_norm
        self.average = average
        self.channels_last = bool(channels_last)
        self.check_interval = 1 if device.type == "cpu" else max(1, check_interval)
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.grad_norm: torch.Tensor | None = None
        self.threads = ThreadTuner(device)
        self._unchecked: list[tuple[int, torch.Tensor, Any]] = []
        self._left: list[int] | None = None
        self.add_event_handler(Events.STARTED, self._begin)
        keep_losses(self)

    def _begin(self) -> None:
        if self.average is not None and self._left is not None and self._left != self._versions():
            self.average.n_averaged.zero_()  # type: ignore[operator, union-attr]
        ended = self.lr_scheduler is not None and not any(self.lr_scheduler.get_last_lr())
        if ended and self.state.iteration:
            logger.warning(
                "the learning rate has fallen to zero, so that steps after %d change nothing; give as many epochs as "
                "all rounds of this training have together",
                self.state.iteration,
            )

    def _versions(self) -> list[int]:
        """A number of each parameter that grows when values are put into it."""
        return [parameter._version for parameter in self.network.parameters()]

    def _iteration(self, engine: SegTrainer, batchdata: PatchBatch) -> dict:  # type: ignore[override]
        with self.threads.step():
            return self._step_on(engine, batchdata)

    def _step_on(self, engine: SegTrainer, batchdata: PatchBatch) -> dict:
        inputs, targets = engine.prepare_batch(
            batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=channels_last_format(inputs))
        output = {Keys.IMAGE: inputs, Keys.LABEL: targets}
        engine.state.output = output
        first, last, window = self._accumulation(engine)
        engine.network.train()
        if first:
            engine.optimizer.zero_grad(set_to_none=True)
        shared = getattr(engine.network, "_orig_mod", engine.network)
        wait = isinstance(shared, DistributedDataParallel) and not last
        with shared.no_sync() if wait else contextlib.nullcontext():  # type: ignore[operator]
            with autocast(engine.state.device, self.precision):
                output[Keys.PRED] = engine.inferer(inputs, engine.network)
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            logits = output[Keys.PRED]
            if not getattr(engine.loss_function, "any_precision", False):
                logits = logits.float()
            loss = engine.loss_function(logits, targets).mean()
            output[Keys.LOSS] = loss
            engine.fire_event(IterationEvents.LOSS_COMPLETED)
            self._require_finite(engine, loss.detach(), batchdata)
            self.grad_scaler.scale(loss / window).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if last:
            self._step(engine)
        output[Keys.LOSS] = loss.detach()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _accumulation(self, engine: Engine) -> tuple[bool, bool, int]:
        """First and last iteration of an accumulation window, and the window's length."""
        length = engine.state.epoch_length or 1
        inside = (engine.state.iteration - 1) % length
        steps = self.accumulation_steps
        start = inside - inside % steps
        window = min(steps, length - start)
        return inside == start, inside == start + window - 1, window

    def _step(self, engine: SegTrainer) -> None:
        self.grad_scaler.unscale_(engine.optimizer)
        limit = self.max_grad_norm if self.max_grad_norm is not None else float("inf")
        self.grad_norm = torch.nn.utils.clip_grad_norm_(engine.network.parameters(), limit).detach()
        before = self.grad_scaler.get_scale()
        self.grad_scaler.step(engine.optimizer)
        self.grad_scaler.update()
        skipped = self.grad_scaler.is_enabled() and self.grad_scaler.get_scale() < before
        if self.lr_scheduler is not None and not skipped:
            self.lr_scheduler.step()
        if self.average is not None and not skipped:
            self.average.update_parameters(unwrapped(engine.network))  # type: ignore[operator]
            self._left = self._versions()

    def _require_finite(self, engine: Engine, loss: torch.Tensor, batch: PatchBatch) -> None:
        self._unchecked.append((engine.state.iteration, loss, batch.get("case", "unknown")))
        end = engine.state.iteration % (engine.state.epoch_length or 1) == 0
        if len(self._unchecked) < self.check_interval and not end:
            return
        pending, self._unchecked = self._unchecked, []
        for iteration, value, cases in pending:
            if not bool(torch.isfinite(value)):
                named = ", ".join(cases) if isinstance(cases, (list, tuple)) else str(cases)
                raise NonFiniteLossError(
                    f"the loss became {float(value)} at iteration {iteration} (epoch {engine.state.epoch}) on "
                    f"patches of the cases: {named}; check those images, or lower learning_rate, or train "
                    f"with --precision fp32"
                )
