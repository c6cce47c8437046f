"""What happens to a cohort: cases, preprocessing, patches, training, evaluation, prediction, runs.

The names that bundles use are imported when first asked for: a process that only builds patches should not
wait for MLflow.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "pipelines.config.executed": ["executed_config"],
    "pipelines.config.preflight": ["preflight"],
    "pipelines.data.dataset_folder": ["load_dataset", "open_dataset"],
    "pipelines.data.inputs": ["find_inputs"],
    "pipelines.data.loaders": ["patch_loader", "shard", "steps_per_epoch", "volume_loader"],
    "pipelines.data.patch_dataset": ["PatchDataset", "PatchSampler"],
    "pipelines.data.volume_dataset": ["VolumeDataset"],
    "pipelines.distributed.process_group": [
        "data_parallel",
        "rank_device",
        "start_distributed",
        "stop_distributed",
    ],
    "pipelines.evaluation.model_evaluation": ["Evaluation", "labelled"],
    "pipelines.inference.ensemble": ["Ensemble", "TrainedEnsemble", "trained_model"],
    "pipelines.inference.evaluator": ["SegEvaluator"],
    "pipelines.inference.memory_format": ["place"],
    "pipelines.inference.postprocess": ["Postprocess"],
    "pipelines.inference.prediction": ["Prediction"],
    "pipelines.inference.sliding_window": ["SlidingWindow"],
    "pipelines.inference.trained_model": ["TrainedModel"],
    "pipelines.tracking.run": ["Tracking"],
    "pipelines.training.handlers": ["Progress", "Validation"],
    "pipelines.training.losses": ["SegLoss"],
    "pipelines.training.optimization": ["averaged", "evaluated_network", "lr_schedule"],
    "pipelines.training.seed": ["seed_everything"],
    "pipelines.training.trainer": ["SegTrainer"],
    "pipelines.training.workflow": ["Training"],
    "transforms.preprocess": ["Preprocess"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pipelines' has no attribute '{name}'")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
