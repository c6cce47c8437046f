"""Runs a network over whole volumes: sliding window, resampling to the grid of the file, metrics of each case."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys

from pipelines.config.errors import problem
from pipelines.data.cases import UnreadableCase
from pipelines.inference.confidence import CaseConfidence, Confidence
from pipelines.inference.engines.engine import EAGER, Engine, Work
from pipelines.inference.ensemble import Ensemble
from pipelines.inference.pass_agreement import PassAgreement
from pipelines.inference.precision import AUTO, autocast, resolve_precision
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.metrics.centerlines import centerline_metrics, require_structures
from pipelines.metrics.overlap import confusion_matrix, overlap_metrics
from pipelines.metrics.pixels import pixel_histograms, pixel_scores
from pipelines.metrics.surfaces import require_tolerance, surface_metrics
from transforms.errors import SettingError
from transforms.label_values import structures_of
from transforms.preprocess import PreparedCase, Preprocess, require_same_grid
from transforms.spatial.geometry import Geometry, voxel_ml
from transforms.spatial.restore import Restorer, slab_axis

if TYPE_CHECKING:
    # Needed for types only; importing it loads scipy.stats, which is slow.
    from pipelines.metrics.summary import CaseMetrics, Scores


class Segmentation(NamedTuple):
    """A predicted case.

    Attributes:
        labels: classes (1, *file shape) on the grid of its file.
        probabilities: float32 (classes, *file shape); None where they were not asked for.
        confidence: how sure the network is of each class; None where that is switched off.
    """

    labels: MetaTensor
    probabilities: MetaTensor | None
    confidence: CaseConfidence | None


def annotated(item: PreparedCase) -> MetaTensor:
    """The label of a case with background where nobody has annotated, to be drawn."""
    label = item["label"]
    if "ignore" not in item:
        return label
    array = label.as_tensor()
    return MetaTensor(torch.where(array == item["ignore"], 0, array).to(array.dtype), affine=label.affine)


class SegEvaluator(SupervisedEvaluator):
    """Sliding-window prediction of whole cases, and their metrics on the grid of each case's own file.

    The data loader yields one case at a time, see `transforms.preprocess.PreparedCase`.

    After a run `state.cases` holds the `pipelines.metrics.summary.CaseMetrics` of each case, and `state.confusion` the
    voxel counts of all cases, int64 (classes, classes), row = reference, column = predicted. The metrics of a class
    that is in neither the reference nor the prediction of a case are NaN and are left out of means. If the attribute
    `go_on` is true, a case that fails does not stop the others, and `state.failures` holds the reason by case.
    Voxels of a label with the value that the item calls "ignore" are not counted.

    Args:
        preprocess: the preprocessing of the images; predictions are restored to the grid of the file with it.
        class_names: names of the foreground classes 1, 2, ... in order, which the network predicts.
        regions: name to the classes that make it up, such as `Dataset.regions`; if there are any, they are measured
            instead of the classes.
        precision: "fp32", "bf16", "fp16" or "auto" for the forward pass of the network, see
            `pipelines.inference.precision`. The attribute `precision` holds the value that "auto" was resolved to.
        on_prediction: called with (item, MetaTensor label map) after each case, e.g. to save it.
        surface_tolerance: tolerance in mm, one number or one per class; adds the surface metrics
            (docs/evaluation.md), which take longer than all others together. None leaves them out, as in
            validations during a training.
        centerlines: names of the structures whose clDice is measured, see `pipelines.metrics.centerlines`, or one
            name; "auto" measures all where the file is a 2D picture.
        on_score: called with (item, MetaTensor label map, record) after each case that has a label.
        confidence: also say how sure the network is of each class, see `pipelines.inference.confidence`.
        curves: also measure pixels, see `pipelines.metrics.pixels`: "auto" does where the file is a 2D picture. The
            probabilities of all classes on the grid of the file are then in memory. `state.histograms` holds the
            pixels of all cases, int64 (structures, 2, bins), or None.
        confidence_factors: what that is multiplied by, of a trained model its `confidence_factors`.
        engine: what computes the windows; None is torch. The attribute `computed` says which engine that was, and the
            precision in which it computes.

    Raises:
        SettingError: a tolerance is not a positive number, or is not given for every class; `centerlines` names an
            unknown structure.
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
        on_prediction: Callable[[PreparedCase, MetaTensor], None] | None = None,
        surface_tolerance: float | Mapping[str, float] | None = None,
        on_score: Callable[[PreparedCase, MetaTensor, CaseMetrics], None] | None = None,
        confidence: bool = True,
        confidence_factors: Mapping[str, float] | None = None,
        val_handlers: Sequence | None = None,
        regions: Mapping[str, Sequence[int]] | None = None,
        curves: bool | str = False,
        centerlines: Sequence[str] | str | None = None,
        engine: Engine | None = None,
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
        self.regions = dict(regions or {})
        self.structures = structures_of(dict(enumerate(self.class_names, start=1)), regions)
        self.asked_precision = precision
        self.precision = resolve_precision(precision, device)
        self.engine = engine
        self.on_prediction = on_prediction
        self.surface_tolerance = (
            None if surface_tolerance is None else require_tolerance(surface_tolerance, list(self.structures))
        )
        self.on_score = on_score
        self.confidence = confidence
        self.confidence_factors = confidence_factors
        if curves not in (True, False, AUTO):
            raise SettingError(f"curves is {curves!r}; give true, false or 'auto'")
        self.curves = curves
        self.centerlines = (
            AUTO if centerlines == AUTO else require_structures(centerlines, list(self.structures))
        )
        self.go_on = False
        self.reset()

    def reset(self) -> None:
        """Clear `state.cases`, `state.confusion`, `state.histograms` and `state.failures`."""
        classes = len(self.class_names) + 1
        self.state.cases = []
        self.state.failures = {}
        self.state.histograms = None
        self.state.confusion = torch.zeros(classes, classes, dtype=torch.int64)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Run over all cases of the loader.

        `state.metrics` then holds the `pipelines.metrics.summary.validation_metrics` of this process's cases, which is
        what MONAI's clients ask an evaluator for.
        """
        from pipelines.metrics.summary import summarise, validation_metrics

        self.reset()
        super().run(global_epoch)
        if self.state.cases:
            self.state.metrics = validation_metrics(summarise(self.state.cases, list(self.structures)))

    def predict(self, item: PreparedCase) -> MetaTensor:
        """Label map (1, *file shape) of one case on the grid of its file.

        Raises:
            SettingError: the number of output channels of the network is not the number of classes.
            NonFiniteError: the output of the network contains NaN or infinity.
            InferenceMemoryError: a single window does not fit in the memory of the device.
        """
        return self._restored(item, probabilities=False, confidence=False).labels

    def predict_with_probabilities(self, item: PreparedCase) -> tuple[MetaTensor, MetaTensor]:
        """Label map (1, *file shape) and probabilities float32 (classes, *file shape) of one case.

        The probabilities need memory for 4 bytes times classes times voxels of the file. Raises the same errors as
        `predict`.
        """
        found = self._restored(item, probabilities=True, confidence=False)
        assert found.probabilities is not None
        return found.labels, found.probabilities

    def segment(self, item: PreparedCase, probabilities: bool = False) -> Segmentation:
        """All that is known of one case after one prediction, see `predict` and `predict_with_probabilities`."""
        return self._restored(item, probabilities, self.confidence)

    def score(self, item: PreparedCase, labels: MetaTensor) -> Scores:
        """The metrics of a predicted case against its "label"; with a tolerance, the surface metrics too.

        Raises:
            ImageError: the grid of the label differs from the grid of the image's file.
            SegmentationError: the label contains unknown classes.
        """
        self._require_same_grid(item)
        return self._compared(labels, item)[1]

    def _require_same_grid(self, item: PreparedCase) -> None:
        geometry = Geometry.from_dict(item["geometry"])
        require_same_grid(f"the label of case {item['case']}", item["label"], geometry)

    def _compared(self, labels: MetaTensor, item: PreparedCase) -> tuple[torch.Tensor, Scores]:
        reference = item["label"]
        prediction, (truth, ignore) = labels.as_tensor().cpu()[0], self._counted(item)
        confusion = confusion_matrix(prediction, truth, len(self.class_names) + 1, ignore)
        affine = reference.affine.cpu().numpy()
        ml = voxel_ml(affine, truth.ndim)
        overlap = overlap_metrics(confusion, self.class_names, ml, self.regions)
        pair = (prediction.numpy(), truth.numpy())
        scores: Scores = {**overlap}
        if self.surface_tolerance is not None:
            tolerance = self.surface_tolerance
            scores |= surface_metrics(*pair, self.class_names, affine, tolerance, self.regions, ignore)
        thin = self._thin(truth.ndim)
        if thin:
            scores |= centerline_metrics(*pair, self.class_names, thin, self.regions, ignore)
        return confusion, scores

    def _thin(self, dims: int) -> Sequence[str]:
        """Names of the structures whose centre lines are measured."""
        if self.centerlines == AUTO:
            return list(self.structures) if dims == 2 else []
        return self.centerlines

    def _counted(self, item: PreparedCase) -> tuple[torch.Tensor, int | None]:
        """The reference (*file shape), and the value of its voxels that do not count; None where all do."""
        truth, ignore = item["label"].as_tensor().cpu()[0], item.get("ignore")
        if "inside" not in item:
            return truth, ignore
        # A value that no label map has, so that one that is no class is still found out.
        ignore = -1 if ignore is None else ignore
        return torch.where(item["inside"].cpu()[0], truth.to(torch.int32), ignore), ignore

    def _pixels(self, item: PreparedCase, probabilities: MetaTensor) -> torch.Tensor:
        truth, ignore = self._counted(item)
        return pixel_histograms(probabilities.as_tensor(), truth, self.class_names, self.regions, ignore)

    def _restored(self, item: PreparedCase, probabilities: bool, confidence: bool) -> Segmentation:
        geometry = Geometry.from_dict(item["geometry"])
        classes = len(self.class_names) + 1
        axis = slab_axis(geometry)
        sure = Confidence(classes, axis) if confidence else None
        restorer = Restorer(geometry, classes, axis, probabilities, None if sure is None else sure.add)
        self.network.eval()
        network = self._engines_network(item)
        agreement = PassAgreement(classes) if confidence and self._passes > 1 else None
        with (
            torch.inference_mode(),
            autocast(self.state.device, self.precision),
            contextlib.nullcontext() if agreement is None else agreement.listening(network),
        ):
            for rows in self._rows(item, network, restorer.axis, restorer.needs_softmax, agreement):
                if len(rows) != classes:
                    hint = "; the background needs an output channel too" if len(rows) == 1 else ""
                    raise SettingError(
                        f"the network has {len(rows)} output channels, but there are {classes} classes: background, "
                        f"{', '.join(self.class_names)}{hint}"
                    )
                restorer.push_logits(rows)
        affine = torch.as_tensor(np.asarray(geometry.affine))
        maps = MetaTensor(restorer.probabilities(), affine=affine) if probabilities else None
        labels = MetaTensor(restorer.labels(), affine=affine)
        found = None if sure is None else sure.result(self.class_names, self.confidence_factors)
        if found is not None and agreement is not None:
            found = found._replace(pass_agreement=agreement.result(self.class_names))
        return Segmentation(labels, maps, found)

    @property
    def _passes(self) -> int:
        """How often the network sees each window, every member of an ensemble counted."""
        if not isinstance(self.inferer, SlidingWindow):
            return 1
        members = len(self.network.networks) if isinstance(self.network, Ensemble) else 1
        return members * 2 ** len(self.inferer.mirror_axes)

    @property
    def computed(self) -> dict[str, str]:
        """Device, engine and precision of the predictions so far, for reports."""
        used = None if self.engine is None else self.engine.used
        precision = None if self.engine is None else self.engine.precision
        return {
            "device": str(self.state.device),
            "engine": used or EAGER,
            "precision": precision or self.precision,
        }

    def _engines_network(self, item: PreparedCase) -> torch.nn.Module:
        if self.engine is None or self.engine.name == EAGER or not isinstance(self.inferer, SlidingWindow):
            return self.network
        if self.engine.network is not None:
            return self.engine.network
        # A window of the middle: whatever has to be measured or checked is done with it.
        window = self.inferer.some_windows(item["image"], 1, item.get("padding"))[0]
        # As if all cases were like this one.
        passes = self.inferer.passes(item["image"]) * max(1, len(self.data_loader))  # type: ignore[arg-type]
        device = torch.device(self.state.device)
        return self.engine.network_for(
            self.network, Work(window, passes, device, self.asked_precision, self.precision)
        )

    def _rows(
        self,
        item: PreparedCase,
        network: torch.nn.Module,
        axis: int,
        normalise: bool,
        agreement: PassAgreement | None,
    ) -> Iterator[torch.Tensor]:
        if isinstance(self.inferer, SlidingWindow):
            # A volume smaller than the window is padded with the same value as in training.
            cval = item.get("padding")
            return self.inferer.rows(item["image"], network, axis, normalise, cval=cval, agreement=agreement)
        return iter(self.inferer(item["image"].to(self.state.device), network))

    def _iteration(self, engine: SegEvaluator, batchdata: PreparedCase | UnreadableCase) -> dict:  # type: ignore[override]
        if "problem" in batchdata:  # the case could not be read, see `VolumeDataset`
            engine.state.failures[batchdata["case"]] = batchdata["problem"]
            return {}
        try:
            return self._evaluate(engine, batchdata)
        except Exception as error:  # an error in one case must not stop the others
            if not self.go_on:
                raise
            engine.state.failures[batchdata["case"]] = problem(error, batchdata["case"])
            return {}

    def _evaluate(self, engine: SegEvaluator, batchdata: PreparedCase) -> dict:
        # A label (1, X, Y) is that of a picture.
        measured = "label" in batchdata and (
            batchdata["label"].ndim == 3 if self.curves == AUTO else self.curves
        )
        labels, probabilities, confidence = self.segment(batchdata, bool(measured))
        if self.on_prediction is not None:
            self.on_prediction(batchdata, labels)
        output: dict[str, Any] = {Keys.IMAGE: batchdata["image"], Keys.PRED: labels}
        engine.state.output = output
        if "label" in batchdata:
            self._require_same_grid(batchdata)
            confusion, scores = self._compared(labels, batchdata)
            pixels = None if probabilities is None else self._pixels(batchdata, probabilities)
            if pixels is not None:
                scores |= pixel_scores(confusion, pixels, self.class_names, self.regions)
            record: CaseMetrics = {"case": batchdata["case"], **scores}
            if "inside" in batchdata:
                record["field_of_view"] = float(batchdata["inside"].double().mean())
            if confidence is not None:
                record |= confidence.estimates()
            if self.on_score is not None:
                self.on_score(batchdata, labels, record)
            engine.state.confusion += confusion
            if pixels is not None:
                known = engine.state.histograms
                engine.state.histograms = pixels if known is None else known + pixels
            engine.state.cases.append(record)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output
