"""The commands that a user types, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

REPOSITORY = Path(__file__).resolve().parents[2]

# A training that takes seconds: everything real, only small.
SMALL = {
    "epochs": 2,
    "patches_per_epoch": 4,
    "val_interval": 1,
    "patch_size": "[32,32,32]",
    "spacing": "[8.0,8.0,8.0]",
    "precision": "fp32",
    "num_workers": 0,
}


class Workplace:
    """A folder with models, patch store and MLflow database of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "bundle"
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        # One thread a process: tests run side by side.
        self.environment = {**os.environ, "MLFLOW_TRACKING_URI": self.uri, "OMP_NUM_THREADS": "1"}
        self.environment.pop("RANK", None)

    def training(self, bundle: str, *overlays: str, **overrides: Any) -> list[str]:
        """The words of a training command."""
        files = [f"bundles/{bundle}/{name}" for name in ("train.json", *overlays)]
        config = files[0] if len(files) == 1 else str(files)
        words = ["-m", "monai.bundle", "run", "training", "--config_file", config]
        given = {"bundle_root": self.root, "store_dir": self.folder / "store", **overrides}
        return words + [word for key, value in given.items() for word in (f"--{key}", str(value))]

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
        given = {"bundle_root": self.root, **overrides}
        return self.run(words + [w for key, value in given.items() for w in (f"--{key}", str(value))], check)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def runs(self, experiment: str, kind: str = "training") -> list[Run]:
        found = self.client.get_experiment_by_name(experiment)
        runs = [] if found is None else self.client.search_runs([found.experiment_id])
        return [run for run in runs if run.data.tags.get("segbundles.kind", "training") == kind]
