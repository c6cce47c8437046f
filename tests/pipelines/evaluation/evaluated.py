"""Evaluations of small models that are known to MLflow."""

import json

from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.evaluation.model_evaluation import Evaluation, labelled
from pipelines.inference.ensemble import trained_model
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.inference.trained_model import TrainedModel
from pipelines.tracking.run import Tracking
from tests.pipelines.tiny_model import write_model


def train(uri, folder, **card):
    """A model whose card names a finished MLflow run."""
    with Tracking("lungs", uri=uri, system_metrics=None) as tracking:
        run_id = tracking.start(tags={"segbundles.kind": "training"})
        tracking.metrics({"best_val_mean_dice": 0.9}, 1)
    path = write_model(folder)
    content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    path.with_suffix(".json").write_text(
        json.dumps(content | {"run_id": run_id, "epoch": 3} | card), encoding="utf-8"
    )
    return path, run_id


def evaluation(data, model, output, **options):
    model = model if isinstance(model, TrainedModel) else trained_model(model)
    loader = volume_loader(VolumeDataset(labelled(data, "validation"), model.preprocess))
    engine = SegEvaluator(
        "cpu",
        loader,
        model.network,
        model.preprocess,
        model.class_names,
        SlidingWindow((12, 12, 12)),
        surface_tolerance=2.0,
    )
    return Evaluation(engine, model, data, output, **options)
