"""The training step and the evaluation step, on MONAI's supervised engines.

MONAI's own trainer ties mixed precision to CUDA and to a gradient scaler; these engines take a precision by
name on any device, clip, accumulate, average weights, and stop on a loss that is not finite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch.nn.parallel import DistributedDataParallel

from pipelines.config.executed import problem
from pipelines.inference.memory_format import channels_last_format, lies_channels_last, place
from pipelines.inference.precision import AUTO, autocast, common_precision, resolve_precision
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.metrics.overlap import confusion_matrix, overlap_metrics, require_tolerance, surface_metrics
from pipelines.metrics.volumes import voxel_ml
from pipelines.training.thread_tuning import ThreadTuner
from pipelines.utils.modules import compile_regions
from transforms.preprocess import Preprocess, require_same_grid
from transforms.spatial.geometry import Geometry
from transforms.spatial.restore import Restorer, slab_axis


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the iteration and the cases of the batch."""


def prepare_patches(
    batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label of a batch on the device, as plain tensors (a compiled model refuses MetaTensor).

    Patches whose augmentation was left to the device are augmented there, see `transforms.augmentation.on_device`.
    """
    pair = []
    for key in (Keys.IMAGE, Keys.LABEL):
        value = batch[key]
        value = value.as_tensor() if isinstance(value, MetaTensor) else value
        pair.append(value.to(device, non_blocking=non_blocking, **kwargs))
    if "deferred" in batch:
        return batch["deferred"].apply(*pair)
    return pair[0], pair[1]


class SegTrainer(SupervisedTrainer):
    """One training iteration: precision, accumulation, clipping, schedule, weight averaging.

    Args:
        device, max_epochs, train_data_loader, network, optimizer, loss_function: as in MONAI's
            SupervisedTrainer. `loss_function` gets integer labels (B, 1, *spatial) and logits in float32,
            or as they are if it has a true attribute `any_precision`.
        precision: "fp32", "bf16", "fp16" or "auto", see `pipelines.inference.precision`; fp16 scales the loss and skips steps
            that overflow. The attribute of this name holds what "auto" has become.
        lr_scheduler: stepped once per optimiser step; None keeps the learning rate.
        max_grad_norm: gradients are scaled down to this L2 norm; None only measures it.
        average: `torch.optim.swa_utils.AveragedModel` of `network`, updated after every optimiser step.
        channels_last: keep weights and patches in channels-last memory; "auto" leaves the weights as they lie and
            brings the patches to them. A network in DistributedDataParallel must have been through `place`
            before it was wrapped.
        compile: torch.compile the network, by its repeated blocks where it names them (`regions()`).
        compile_kwargs: options of torch.compile.
        check_interval: on CUDA the loss is fetched to look for NaN once in so many iterations, since each
            look waits for the device; on a CPU it is looked at every time.

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

    def _iteration(self, engine: SegTrainer, batchdata: dict[str, Any]) -> dict:  # type: ignore[override]
        with self.threads.step():
            return self._step_on(engine, batchdata)

    def _step_on(self, engine: SegTrainer, batchdata: dict[str, Any]) -> dict:
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

    def _require_finite(self, engine: Engine, loss: torch.Tensor, batch: Mapping[str, Any]) -> None:
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
                    f"patches of the cases: {named}; look at those images, or lower learning_rate, or train "
                    f"with --precision fp32"
                )


class SegEvaluator(SupervisedEvaluator):
    """Sliding-window prediction of whole cases, and their metrics on the grid of each case's own file.

    The data loader gives one case at a time: "image" (1, C, *grid) float32, "label" (1, *file shape)
    integer classes, "geometry" (see `transforms.spatial.geometry.Geometry.to_dict`), "case", and optionally "padding"
    (what lies around the image, for the sliding window).

    After a run `state.cases` holds one record per case ({"case": id, "dice": {class name: value}, ...}, see
    `pipelines.metrics.overlap.overlap_metrics`) and `state.confusion` the voxels of all cases, int64 (classes, classes),
    row = reference, column = predicted. A class that neither the reference nor the prediction of a case has is
    NaN there and left out of means. With `go_on` set, a case that fails does not stop the others: `state.failures`
    says why, by case.

    Args:
        preprocess: the definition that made the images; brings predictions back.
        class_names: names of the foreground classes 1, 2, ... in order.
        precision: "fp32", "bf16", "fp16" or "auto" for the network's forward, see `pipelines.inference.precision`. The attribute
            of this name holds what "auto" has become.
        on_prediction: called with (item, MetaTensor label map) after each case, e.g. to save it.
        surface_tolerance: mm, of one class or all; adds the metrics of surfaces (docs/evaluation.md), which take
            longer than all others together. None leaves them out, as validations during a training do.
        on_score: called with (item, MetaTensor label map, record) after each case that has a label.

    Raises:
        ValueError: a tolerance is no positive number, or not given for every class.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: Any,
        network: torch.nn.Module,
        preprocess: Preprocess,
        class_names: Sequence[str],
        inferer: Inferer,
        precision: str = "fp32",
        on_prediction: Callable[[Mapping[str, Any], MetaTensor], None] | None = None,
        surface_tolerance: float | Mapping[str, float] | None = None,
        on_score: Callable[[Mapping[str, Any], MetaTensor, Mapping[str, Any]], None] | None = None,
        val_handlers: Sequence | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            device=torch.device(device),
            val_data_loader=val_data_loader,
            network=network,
            inferer=inferer,
            val_handlers=val_handlers,
            decollate=False,
            **kwargs,
        )
        self.preprocess = preprocess
        self.class_names = list(class_names)
        self.asked_precision = precision
        self.precision = resolve_precision(precision, device)
        self.on_prediction = on_prediction
        self.surface_tolerance = (
            None if surface_tolerance is None else require_tolerance(surface_tolerance, self.class_names)
        )
        self.on_score = on_score
        self.go_on = False
        self.forget()

    def forget(self) -> None:
        """Empty `state.cases`, `state.confusion` and `state.failures`."""
        classes = len(self.class_names) + 1
        self.state.cases = []
        self.state.failures = {}
        self.state.confusion = torch.zeros(classes, classes, dtype=torch.int64)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        self.forget()
        super().run(global_epoch)

    def predict(self, item: Mapping[str, Any]) -> MetaTensor:
        """Classes (1, *file shape) of one case on the grid of its file.

        Raises:
            ValueError: the network gives another number of classes than are named.
            NonFiniteError: its output is NaN or infinite somewhere.
            InferenceMemoryError: a single window does not fit the memory of the device.
        """
        return self._restored(item, probabilities=False)[0]

    def predict_with_probabilities(self, item: Mapping[str, Any]) -> tuple[MetaTensor, MetaTensor]:
        """Classes (1, *file shape) and probabilities float32 (classes, *file shape) of one case.

        The probabilities take the number of classes times the volume of the file. Raises as `predict` does.
        """
        labels, maps = self._restored(item, probabilities=True)
        assert maps is not None
        return labels, maps

    def score(self, item: Mapping[str, Any], labels: MetaTensor) -> dict[str, dict[str, float]]:
        """The metrics of a predicted case against its "label": {metric: {class name: value}}.

        See `pipelines.metrics.overlap`, `overlap_metrics` and, with a tolerance, `surface_metrics`.

        Raises:
            ImageError: the label does not lie on the grid of the image's file.
            ValueError: it holds other classes.
        """
        self._require_same_grid(item)
        return self._compared(labels, item["label"])[1]

    def _require_same_grid(self, item: Mapping[str, Any]) -> None:
        geometry = Geometry.from_dict(item["geometry"])
        require_same_grid(f"the label of case {item['case']}", item["label"], geometry)

    def _compared(
        self, labels: MetaTensor, reference: MetaTensor
    ) -> tuple[torch.Tensor, dict[str, dict[str, float]]]:
        prediction, truth = (x.as_tensor().cpu()[0] for x in (labels, reference))
        confusion = confusion_matrix(prediction, truth, len(self.class_names) + 1)
        affine = reference.affine.cpu().numpy()
        scores = overlap_metrics(confusion, self.class_names, voxel_ml(affine, truth.ndim))
        if self.surface_tolerance is not None:
            pair = prediction.numpy(), truth.numpy()
            scores |= surface_metrics(*pair, self.class_names, affine, self.surface_tolerance)
        return confusion, scores

    def _restored(self, item: Mapping[str, Any], probabilities: bool) -> tuple[MetaTensor, MetaTensor | None]:
        geometry = Geometry.from_dict(item["geometry"])
        classes = len(self.class_names) + 1
        restorer = Restorer(geometry, classes, slab_axis(geometry), probabilities)
        self.network.eval()
        with torch.inference_mode(), autocast(self.state.device, self.precision):
            for rows in self._rows(item, restorer.axis, restorer.needs_softmax):
                if len(rows) != classes:
                    hint = "; one channel for the foreground alone is not enough" if len(rows) == 1 else ""
                    raise ValueError(
                        f"the network gives {len(rows)} classes, but {classes} are named (background included): "
                        f"{', '.join(self.class_names)}{hint}"
                    )
                restorer.push_logits(rows)
        affine = torch.as_tensor(np.asarray(geometry.affine))
        maps = MetaTensor(restorer.probabilities(), affine=affine) if probabilities else None
        return MetaTensor(restorer.labels(), affine=affine), maps

    def _rows(self, item: Mapping[str, Any], axis: int, normalise: bool) -> Iterator[torch.Tensor]:
        if isinstance(self.inferer, SlidingWindow):
            # Around a volume smaller than the window the network sees what it saw in training.
            cval = item.get("padding")
            return self.inferer.rows(item["image"], self.network, axis, normalise, cval=cval)
        return iter(self.inferer(item["image"].to(self.state.device), self.network))

    def _iteration(self, engine: SegEvaluator, batchdata: Mapping[str, Any]) -> dict:  # type: ignore[override]
        if not self.go_on:
            return self._evaluate(engine, batchdata)
        try:
            if "problem" in batchdata:  # it could not be read, see `VolumeDataset`
                engine.state.failures[batchdata["case"]] = batchdata["problem"]
                return {}
            return self._evaluate(engine, batchdata)
        except Exception as error:  # whatever is wrong with one case must not cost the others
            engine.state.failures[batchdata["case"]] = problem(error, batchdata["case"])
            return {}

    def _evaluate(self, engine: SegEvaluator, batchdata: Mapping[str, Any]) -> dict:
        labels = self.predict(batchdata)
        if self.on_prediction is not None:
            self.on_prediction(batchdata, labels)
        output: dict[str, Any] = {Keys.IMAGE: batchdata["image"], Keys.PRED: labels}
        engine.state.output = output
        if "label" in batchdata:
            self._require_same_grid(batchdata)
            confusion, scores = self._compared(labels, batchdata["label"])
            record = {"case": batchdata["case"], **scores}
            if self.on_score is not None:
                self.on_score(batchdata, labels, record)
            engine.state.confusion += confusion
            engine.state.cases.append(record)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output


def unwrapped(network: torch.nn.Module) -> torch.nn.Module:
    """The network itself behind DistributedDataParallel and torch.compile."""
    while True:
        inner = network.module if isinstance(network, DistributedDataParallel) else network
        inner = getattr(inner, "_orig_mod", inner)
        if inner is network:
            return network
        network = inner


def averaged(network: torch.nn.Module, decay: float | None) -> torch.nn.Module | None:
    """An exponential moving average of the weights, or None without a decay.

    The decay rises with the number of steps, min(decay, (1 + n) / (10 + n)), so that the average forgets the
    random start of a short training too.
    """
    if decay is None:
        return None

    return _Average(unwrapped(network), decay)


class _Average(torch.optim.swa_utils.AveragedModel):
    """torch's own sends the count of steps to the GPU and waits for it at every step; here it stays on the host."""

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        super().__init__(network)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        count = int(self.n_averaged)
        # The first value is the network's own.
        weight = 1 - min(self.decay, (1 + count) / (10 + count)) if count else 1.0
        averages: list[torch.Tensor] = list(self.module.parameters())
        current = [p.to(a.device) for p, a in zip(model.parameters(), averages, strict=True)]
        torch._foreach_lerp_(averages, current, weight)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.n_averaged += 1
