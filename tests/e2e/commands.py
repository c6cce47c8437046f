"""The commands that a user types, run as a user runs them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.pipelines.tracked_runs import new_store

REPOSITORY = Path(__file__).resolve().parents[2]

# A training that takes seconds: everything real, only small.
SMALL = {
    "epochs": 2,
    "patches_per_epoch": 4,
    "val_interval": 1,
    "patch_size": "[32,32,32]",
    "spacing": "[8.0,8.0,8.0]",
    "num_workers": 0,
}
# What a plan would choose, so that a test needs none: planning looks at data and machine, which takes it seconds.
UNPLANNED = {
    "spacing": "[3.0,3.0,10.0]",
    "normalization": "$None",
    "window": "[-1000,1000]",
    "crop_above": -500,
    "patch_size": "[112,96,28]",
    "foreground": 0.33,
    "dice_smooth": 1e-5,
    "flip_axes": "[]",
    "overlap": 0.5,
    "mirror_axes": "[]",
    "augmentation": "strong",
    "epochs": 15,
    "patches_per_epoch": 32,
    "batch_size": 1,
    "learning_rate": 0.004,
    "warmup_steps": 10,
    "schedule": "wsd",
    "ema": 0.999,
    "val_interval": 3,
}
UNPLANNED_NETWORK = {"r2unet": {"features": "[8,16,32,64,128]"}, "upernet": {}}
# The number format that every processor has fast kernels for; what a bundle would choose may differ by the machine.
EVERYWHERE = {"precision": "fp32"}
PRECISE = ("--precision", EVERYWHERE["precision"])
INTERRUPTIBLE = "tests/e2e/interrupt.json"
"""An overlay by which the variables of `tests.pipelines.small.Interrupt` stop a training at an iteration."""


class Workplace:
    """A folder with models, patch store and MLflow database of its own.

    Args:
        folder: made where absent.
        database: False leaves it to the first command to make the database, which takes it seconds.
    """

    def __init__(self, folder: Path, database: bool = True) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if database and not (folder / "mlflow.db").exists():
            new_store(folder)
        self.root = folder / "bundle"
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        # One thread a process: tests run side by side.
        self.environment = {**os.environ, "MLFLOW_TRACKING_URI": self.uri, "OMP_NUM_THREADS": "1"}
        self.environment.pop("RANK", None)

    def training(self, bundle: str, *overlays: str, **overrides: Any) -> list[str]:
        """The words of a training command that leaves nothing to a plan, see `planned_training`."""
        return self.planned_training(
            bundle, *overlays, **{**EVERYWHERE, **UNPLANNED, **UNPLANNED_NETWORK[bundle], **overrides}
        )

    def planned_training(self, bundle: str, *overlays: str, **given: Any) -> list[str]:
        """The words of a training command that plans what is not given.

        Args:
            bundle: its name.
            overlays: files of the bundle, or paths from the repository's root.
            given: values of the config.
        """
        files = [name if "/" in name else f"bundles/{bundle}/{name}" for name in ("train.json", *overlays)]
        config = files[0] if len(files) == 1 else str(files)
        words = ["-m", "monai.bundle", "run", "training", "--config_file", config]
        places = {"bundle_root": self.root, "store_dir": self.folder / "store"}
        return words + [
            word for key, value in {**places, **given}.items() for word in (f"--{key}", str(value))
        ]

    @contextlib.contextmanager
    def started(
        self, words: list[str], environment: Mapping[str, str], **options: Any
    ) -> Iterator[subprocess.Popen]:
        """`python WORDS` from the repository's root while it runs; killed when the block ends before it."""
        variables = {**self.environment, **environment}
        process = subprocess.Popen([sys.executable, *words], cwd=REPOSITORY, env=variables, **options)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def run(
        self, words: list[str], check: bool = True, encoding: str = "utf-8", **environment: str
    ) -> subprocess.CompletedProcess:
        """Run `python WORDS` from the repository's root; `encoding` is that of what it says."""
        result = subprocess.run(
            [sys.executable, *words],
            cwd=REPOSITORY,
            env={**self.environment, **environment},
            capture_output=True,
            encoding=encoding,
        )
        assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
        return result

    def bundle(
        self, bundle: str, config: str, check: bool = True, **overrides: Any
    ) -> subprocess.CompletedProcess:
        """Run another config of a bundle on this folder's model."""
        words = ["-m", "monai.bundle", "run", "--config_file", f"bundles/{bundle}/{config}"]
        given = {"bundle_root": self.root, **EVERYWHERE, **overrides}
        return self.run(words + [w for key, value in given.items() for w in (f"--{key}", str(value))], check)

    def predict(self, image: Path, model: Path, *words: str) -> Path:
        """`python -m pipelines predict` of one image with a model of r2unet; returns the label map.

        Args:
            image: a file, or a folder of DICOM slices.
            model: its `model.pt`.
            words: further options.
        """
        out = self.folder / "labels"
        given = ["predict", str(image), "--bundle", "bundles/r2unet", "--model", str(model), "-o", str(out)]
        self.run(["-m", "pipelines", *given, *words])
        return out / (f"{image.name}.nii.gz" if image.is_dir() else image.name)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def runs(self, experiment: str, kind: str = "training") -> list[Run]:
        found = self.client.get_experiment_by_name(experiment)
        runs = [] if found is None else self.client.search_runs([found.experiment_id])
        return [run for run in runs if run.data.tags.get("segbundles.kind", "training") == kind]

    def require_killed(self, experiment: str, said: str = "") -> Run:
        """The only run of an experiment, whose process was asked to end and closed it as KILLED.

        A process that is asked to end gives MLflow some seconds; what a slow machine does not manage in them waits
        in the spool.
        """
        if (self.folder / "mlflow_spool").exists():
            self.run(["-m", "pipelines", "sync", str(self.folder / "mlflow_spool")])
        (run,) = self.runs(experiment)
        assert run.info.status == "KILLED", said
        # As others say it of a process that could not close its run.
        assert "error" not in run.data.tags, run.data.tags["error"] + said
        return run
