"""What happens to a cohort: cases, preprocessing, patches, training, evaluation, prediction, runs.

The names that bundles use are imported when first asked for: a process that only builds patches should not
wait for MLflow.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "pipelines.data.dataset_folder": ["load_dataset"],
    "pipelines.training.checkpoints": ["TrainedModel"],
    "pipelines.config.executed": ["executed_config", "preflight"],
    "pipelines.data.patch_dataset": ["PatchDataset", "PatchSampler"],
    "pipelines.distributed.process_group": [
        "data_parallel",
        "rank_device",
        "start_distributed",
        "stop_distributed",
    ],
    "pipelines.inference.ensemble": ["Ensemble", "TrainedEnsemble", "trained_model"],
    "pipelines.training.trainer": ["SegEvaluator", "SegTrainer", "averaged"],
    "pipelines.evaluation.model_evaluation": ["Evaluation", "labelled"],
    "pipelines.training.handlers": ["Progress", "Validation"],
    "pipelines.data.loaders": ["VolumeDataset", "patch_loader", "shard", "steps_per_epoch", "volume_loader"],
    "pipelines.training.losses": ["SegLoss"],
    "pipelines.data.inputs": ["find_inputs"],
    "pipelines.inference.memory_format": ["place"],
    "pipelines.inference.postprocess": ["Postprocess"],
    "pipelines.inference.prediction": ["Prediction"],
    "pipelines.training.seed": ["evaluated_network", "open_dataset", "seed_everything"],
    "transforms.preprocess": ["Preprocess"],
    "pipelines.training.optimization": ["lr_schedule"],
    "pipelines.inference.sliding_window": ["SlidingWindow"],
    "pipelines.tracking.run": ["Tracking"],
    "pipelines.training.workflow": ["Training"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pipelines' has no attribute '{name}'")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
