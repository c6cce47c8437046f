"""The smallest whole training: a dataset of a few little CTs, a bundle config, and ways to end it in the middle.

`python -m tests.pipelines.small CONFIG` runs the config as `monai.bundle run` does, without its command line.
"""

import json
import os
import signal
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events

from tests.waiting import stay_until_signalled

LEVELS = (-1000, -500, 200, 700)
"""HU of background and of the classes 1, 2, 3: whoever knows them segments without a mistake."""
NAMES = {0: "background", 1: "lung", 2: "liver", 3: "bone"}
SIZE = (20, 18, 16)


def right_angled(affine):
    """The nearest affine whose axes are at right angles, as scanners write it, with the same spacing."""
    affine = np.array(affine, dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    affine[:3, :3] = left @ right * spacing
    return affine


# An oblique grid far from the origin whose axes run P, S, L.
OBLIQUE = right_angled(
    [[0.12, -0.2, -1.48, 431.5], [-0.78, 0.1, -0.2, -88.25], [-0.05, 2.1, -0.2, 1507.0], [0, 0, 0, 1]]
)


def write_ct(folder, case, classes=(1, 2), affine=None, shape=SIZE, seed=0):
    """An image whose HU are those of its classes, a box each, side by side, and its label map."""
    random = np.random.default_rng((seed, *case.encode()))
    label = np.zeros(shape, np.uint8)
    for place, value in enumerate(classes):
        start = [int(random.integers(1, n // 3)) for n in shape]
        stop = [int(random.integers(n // 2, n - 1)) for n in shape]
        share = (shape[0] - 2) // len(classes)
        start[0], stop[0] = 1 + place * share, 1 + (place + 1) * share - int(random.integers(0, 2))
        label[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    image = np.array(LEVELS, np.int16)[label]
    paths = {}
    for name, array in (("image", image), ("label", label)):
        path = Path(folder) / f"{name}sTr" / f"{case}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        paths[name] = str(path)
    return {**paths, "case": case}


def write_dataset(folder, training=3, validation=1):
    """A dataset in MSD's layout; returns its folder."""
    cases = [write_ct(folder, f"ct{i}") for i in range(training + validation)]
    entries = [{"image": c["image"], "label": c["label"]} for c in cases]
    description = {
        "name": "small",
        "labels": {name: value for value, name in NAMES.items() if value < 3},
        "numTraining": training,
        "training": entries[:training],
        "validation": entries[training:],
    }
    (Path(folder) / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return Path(folder)


class Tiny(torch.nn.Module):
    """Two convolutions with everything that a training has to carry on: running statistics and dropout."""

    def __init__(self, out_channels, spatial_dims=3, features=6, dropout=0.2, norm="batch"):
        super().__init__()
        conv = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[spatial_dims]
        batch = {2: torch.nn.BatchNorm2d, 3: torch.nn.BatchNorm3d}[spatial_dims]
        self.body = torch.nn.Sequential(
            conv(1, features, 3, padding=1),
            batch(features) if norm == "batch" else torch.nn.GroupNorm(1, features),
            torch.nn.ReLU(),
            torch.nn.Dropout(dropout),
            conv(features, out_channels, 1),
        )

    def forward(self, x):
        return self.body(x)


class Oracle(torch.nn.Module):
    """Knows the HU of every class."""

    def __init__(self, classes, lower=-1000.0, upper=1000.0):
        super().__init__()
        levels = torch.tensor(LEVELS[:classes], dtype=torch.float32)
        self.register_buffer("levels", (levels - lower) / (upper - lower) * 2 - 1)

    def forward(self, x):
        return -1000 * (x - self.levels.view(-1, *[1] * (x.ndim - 2))) ** 2


class Interruption(RuntimeError):
    pass


class Interrupt:
    """Ends the training at the iteration in SMALL_STOP_AT, by an error or by the signal in SMALL_STOP_BY.

    Where SMALL_STOP_BY is the path of a file, each rank makes that file, with its rank at the end of the name, and
    stays at that iteration until somebody sends it a signal.

    An environment variable, since another config would be another training.
    """

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine):
        if engine.state.iteration != int(os.environ.get("SMALL_STOP_AT", "-1")):
            return
        name = os.environ.get("SMALL_STOP_BY", "error")
        if name == "error":
            raise Interruption("the test ends this training here")
        if os.path.isabs(name):
            stay_until_signalled(name + os.environ.get("RANK", "0"))
        else:
            os.kill(os.getpid(), getattr(signal, name))


def config(folder, dataset, tracked=False, **overrides):
    """A config like those of the bundles, written to `folder`; returns its path."""
    content = {
        "imports": ["$import torch", "$import pipelines"],
        "bundle_root": str(folder),
        "dataset_dir": str(dataset),
        "epochs": 4,
        "patches_per_epoch": 6,
        "batch_size": 2,
        "num_workers": 0,
        "patch_size": [12, 12, 12],
        "val_interval": 1,
        "seed": 0,
        "experiment": "small",
        "ema": 0.9,
        "resume": True,
        "checkpoint_minutes": 10,
        "patience": None,
        "min_delta": 0.0,
        "device": "cpu",
        "data": "$pipelines.open_dataset(@dataset_dir)",
        "preprocessing": {"_target_": "pipelines.Preprocess"},
        "network_def": {"_target_": "tests.pipelines.small.Tiny", "out_channels": "$@data.num_classes"},
        "network": "$@network_def.to(@device)",
        "average": "$pipelines.averaged(@network, @ema)",
        "optimizer": {"_target_": "torch.optim.AdamW", "params": "$@network.parameters()", "lr": 0.01},
        "lr_scheduler": {
            "_target_": "pipelines.lr_schedule",
            "optimizer": "@optimizer",
            "kind": "cosine",
            "total_steps": "$@epochs * pipelines.steps_per_epoch(@patches_per_epoch, @batch_size)",
        },
        "train": {
            "dataset": {
                "_target_": "pipelines.PatchDataset",
                "data": "$@data.as_dicts('training')",
                "patch_size": "@patch_size",
                "num_patches": "@patches_per_epoch",
                "preprocess": "@preprocessing",
                "root": str(Path(dataset) / "store"),
                "labels": "$@data.labels",
                "num_workers": 0,
                "progress": False,
            },
            "dataloader": "$pipelines.patch_loader(@train#dataset, @batch_size, @num_workers)",
            "handlers": [
                {"_target_": "tests.pipelines.small.Interrupt"},
                {
                    "_target_": "pipelines.Validation",
                    "interval": "@val_interval",
                    "validator": "@validate#evaluator",
                },
                {"_target_": "pipelines.Progress", "evaluator": "@validate#evaluator"},
            ],
            "trainer": {
                "_target_": "pipelines.SegTrainer",
                "max_epochs": "@epochs",
                "device": "@device",
                "train_data_loader": "@train#dataloader",
                "network": "@network",
                "optimizer": "@optimizer",
                "loss_function": {"_target_": "pipelines.SegLoss"},
                "lr_scheduler": "@lr_scheduler",
                "max_grad_norm": 1.0,
                "average": "@average",
                "train_handlers": "@train#handlers",
            },
        },
        "validate": {
            "dataset": {
                "_target_": "pipelines.VolumeDataset",
                "data": "$pipelines.shard(@data.as_dicts('validation'))",
                "preprocess": "@preprocessing",
            },
            "evaluator": {
                "_target_": "pipelines.SegEvaluator",
                "device": "@device",
                "val_data_loader": "$pipelines.volume_loader(@validate#dataset)",
                "network": "$pipelines.evaluated_network(@network, @average)",
                "preprocess": "@preprocessing",
                "class_names": "$@data.class_names[1:]",
                "inferer": {"_target_": "pipelines.SlidingWindow", "roi_size": "@patch_size"},
            },
        },
        "workflow": {
            "_target_": "pipelines.Training",
            "trainer": "@train#trainer",
            "evaluator": "@validate#evaluator",
            "network": "$pipelines.evaluated_network(@network, @average)",
            "data": "@data",
            "preprocess": "@preprocessing",
            "tracking": {
                "_target_": "pipelines.Tracking",
                "experiment": "@experiment",
                "enabled": tracked,
            },
            "config": "$pipelines.executed_config()",
            "folder": "$@bundle_root + '/models'",
            "log_interval": 1,
            "resume": "@resume",
            "checkpoint_minutes": "@checkpoint_minutes",
            "patience": "@patience",
            "min_delta": "@min_delta",
        },
        "initialize": ["$pipelines.preflight()", "$pipelines.seed_everything(@seed)"],
        "training": ["$@workflow.run()"],
        "run": "%training",
    }
    for key, value in overrides.items():
        inner, *names = key.split("__")
        place = content
        for name in names:
            place, inner = place[inner], name
        place[inner] = value
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / "train.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def run(path, **overrides):
    """Run a config in this process, every object of it new; returns MONAI's parser with what was built."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(path))
    parser.update(overrides)
    parser.parse()
    for part in ("imports", "initialize", "training"):
        parser.get_parsed_content(part)
    return parser


if __name__ == "__main__":
    run(sys.argv[1])
