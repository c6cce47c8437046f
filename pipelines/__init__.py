"""What happens to a cohort: cases, preprocessing, patches, training, evaluation, prediction, runs.

The names that bundles use are imported when first asked for: a process that only builds patches should not
wait for MLflow.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "dataset_folder": ["load_dataset"],
    "checkpoints": ["TrainedModel"],
    "config": ["executed_config", "preflight"],
    "dataset": ["PatchDataset", "PatchSampler"],
    "distributed": ["data_parallel", "rank_device", "start_distributed", "stop_distributed"],
    "ensemble": ["Ensemble", "TrainedEnsemble", "trained_model"],
    "engines": ["SegEvaluator", "SegTrainer", "averaged"],
    "evaluation": ["Evaluation", "labelled"],
    "handlers": ["Progress", "Validation"],
    "loaders": ["VolumeDataset", "patch_loader", "shard", "steps_per_epoch", "volume_loader"],
    "losses": ["SegLoss"],
    "inputs": ["find_inputs"],
    "memory_format": ["place"],
    "postprocess": ["Postprocess"],
    "predict": ["Prediction"],
    "preparation": ["evaluated_network", "open_dataset", "seed_everything"],
    "preprocess": ["Preprocess"],
    "schedule": ["lr_schedule"],
    "sliding_window": ["SlidingWindow"],
    "tracking": ["Tracking"],
    "training": ["Training"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pipelines' has no attribute '{name}'")
    value = getattr(import_module(f"pipelines.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
