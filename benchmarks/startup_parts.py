"""The functions that `benchmarks.startup` measures, and the training with MONAI's components for comparison."""

from __future__ import annotations

from typing import Any

# "module:function" to the part that it belongs to.
STARTING = {
    "monai.bundle.workflows:ConfigWorkflow.__init__": "config: read",
    "monai.bundle.config_parser:ConfigParser.get_parsed_content": "config: resolved",
    "pipelines.config.preflight:preflight": "config: preflight",
    "pipelines.data.dataset_folder:open_dataset": "dataset: opened",
    "pipelines.data.cases:Dataset.digest": "dataset: digest",
    "pipelines.data.patch_dataset:PatchDataset.__init__": "patch store",
    "networks.r2unet:R2UNet.__init__": "network, optimiser",
    "networks.upernet:UPerNet.__init__": "network, optimiser",
    "torch.optim.adamw:AdamW.__init__": "network, optimiser",
    "pipelines.training.optimization:averaged": "network, optimiser",
    "pipelines.tracking.run:Tracking.start": "MLflow",
    "monai.handlers.mlflow_handler:MLFlowHandler.__init__": "MLflow",
    "monai.handlers.mlflow_handler:MLFlowHandler.start": "MLflow",
    "pipelines.training.run_logger:Record._log_origin": "provenance: other",
    "pipelines.training.run_logger:Record._log_data": "provenance: data",
    "pipelines.training.run_logger:code_version": "provenance: git",
    "pipelines.training.run_logger:uncommitted": "provenance: git",
    "pipelines.training.run_logger:environment": "provenance: versions",
    "pipelines.training.workflow:Training._begin": "resume",
    "pipelines.training.workflow:Training._train": "first batch",
    "monai.engines.trainer:Trainer.run": "first batch",
    "pipelines.training.trainer:SegTrainer._iteration": "first iteration",
    "monai.engines.trainer:SupervisedTrainer._iteration": "first iteration",
}
IMPORTS = ("torch", "monai", "ignite", "mlflow", "others", "ours")
PARTS = (
    "interpreter",
    *(f"import {name}" for name in IMPORTS),
    *dict.fromkeys(STARTING.values()),
    "the rest",
)

ENDING = {
    "pipelines.training.trainer:SegTrainer._iteration": "iterations",
    "pipelines.training.workflow:Training._train": "training",
    "pipelines.inference.evaluator:SegEvaluator.run": "validation",
    "pipelines.training.run_logger:Record.epoch": "results of the validation",
    "pipelines.training.saving:Saver.keep_model": "checkpoints",
    "pipelines.training.saving:Saver.write": "checkpoints",
    "pipelines.training.run_logger:write_model": "model: written",
    "pipelines.training.run_logger:Record.end": "model: handed to MLflow",
    "pipelines.tracking.run:Tracking.flush": "MLflow: waited for",
    "pipelines.tracking.run:Tracking.finish": "MLflow: run closed",
}

_IMAGE, _LABEL = "data/demo/imagesTr/lidc_idri_0001.nii.gz", "data/demo/labelsTr/lidc_idri_0001.nii.gz"
MONAI_CONFIG: dict[str, Any] = {
    "imports": ["$import torch"],
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "tracking_uri": None,
    "network": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "channels": [8, 16, 32, 64, 128],
        "strides": [2, 2, 2, 2],
    },
    "optimizer": {
        "_target_": "torch.optim.AdamW",
        "params": "$@network.to(@device).parameters()",
        "lr": 0.004,
    },
    "dataset": {
        "_target_": "Dataset",
        "data": [{"image": _IMAGE, "label": _LABEL}],
        "transform": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": ["image", "label"]},
                {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
                {"_target_": "Orientationd", "keys": ["image", "label"], "axcodes": "RAS", "labels": None},
                {
                    "_target_": "Spacingd",
                    "keys": ["image", "label"],
                    "pixdim": [3.0, 3.0, 8.0],
                    "mode": ["bilinear", "nearest"],
                },
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": "image",
                    "a_min": -1000,
                    "a_max": 1000,
                    "b_min": -1,
                    "b_max": 1,
                    "clip": True,
                },
                {
                    "_target_": "RandSpatialCropd",
                    "keys": ["image", "label"],
                    "roi_size": [112, 96, 28],
                    "random_size": False,
                },
            ],
        },
    },
    "trainer": {
        "_target_": "SupervisedTrainer",
        "max_epochs": 1,
        "device": "@device",
        "train_data_loader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "network": "@network",
        "optimizer": "@optimizer",
        "loss_function": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True},
        "train_handlers": [
            {
                "_target_": "MLFlowHandler",
                "tracking_uri": "@tracking_uri",
                "output_transform": "$monai.handlers.from_engine(['loss'], first=True)",
            }
        ],
    },
    "training": ["$@trainer.run()"],
    "run": "%training",
}
