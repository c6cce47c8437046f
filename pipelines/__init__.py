"""What happens to a cohort: cases, preprocessing, patches, training, evaluation, prediction, runs."""

from pipelines.cases import load_dataset
from pipelines.checkpoints import TrainedModel
from pipelines.config import executed_config, preflight
from pipelines.dataset import PatchDataset, PatchSampler
from pipelines.distributed import distributed, rank_device, start_distributed, stop_distributed
from pipelines.engines import SegEvaluator, SegTrainer, averaged
from pipelines.evaluation import Evaluation, labelled
from pipelines.handlers import Progress, Validation
from pipelines.loaders import VolumeDataset, patch_loader, shard, steps_per_epoch, volume_loader
from pipelines.losses import SegLoss
from pipelines.predict import Prediction, find_inputs
from pipelines.preprocess import Preprocess
from pipelines.schedule import lr_schedule
from pipelines.sliding_window import SlidingWindow
from pipelines.tracking import Tracking
from pipelines.training import Training, evaluated_network, open_dataset, seed_everything

__all__ = [
    "Evaluation",
    "PatchDataset",
    "PatchSampler",
    "Prediction",
    "Preprocess",
    "Progress",
    "SegEvaluator",
    "SegLoss",
    "SegTrainer",
    "SlidingWindow",
    "Tracking",
    "TrainedModel",
    "Training",
    "Validation",
    "VolumeDataset",
    "averaged",
    "distributed",
    "evaluated_network",
    "executed_config",
    "find_inputs",
    "labelled",
    "load_dataset",
    "lr_schedule",
    "open_dataset",
    "patch_loader",
    "preflight",
    "rank_device",
    "seed_everything",
    "shard",
    "start_distributed",
    "steps_per_epoch",
    "stop_distributed",
    "volume_loader",
]
