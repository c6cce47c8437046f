"""Runs with results in a real MLflow database, as trainings and evaluations leave them."""

import atexit
import functools
import io
import json
import math
import multiprocessing
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from pipelines.tracking.journal import sqlite_file
from tests.waiting import PATIENCE


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trainings of this process, and of its forks, give MLflow all the time that a slow machine needs."""
    for name in ("run.KILLED_SECONDS", "run.OTHERS_SECONDS", "delivery_thread.START_SECONDS"):
        monkeypatch.setattr(f"pipelines.tracking.{name}", PATIENCE)


@functools.cache
def template_database() -> Path:
    """An MLflow database without runs: making its tables takes seconds."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return folder / "mlflow.db"


def new_store(folder: Path) -> MlflowClient:
    """A client of a new database in a folder."""
    return MlflowClient(f"sqlite:///{shutil.copy(template_database(), folder / 'mlflow.db')}")


def add_run(
    client: MlflowClient,
    name: str,
    values: dict[str, Any] | None,
    cases: list[str] | None = None,
    classes: list[str] | None = None,
    *,
    experiment: str = "lungs",
    kind: str = "evaluation",
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    split: str = "validation",
    status: str | None = "FINISHED",
    pictures: bool = False,
    start_time: int | None = None,
) -> str:
    """Add a run; `values` is metric to (cases, classes), NaN where there is none; None leaves results out."""
    found = client.get_experiment_by_name(experiment)
    key = found.experiment_id if found else client.create_experiment(experiment, _artifacts(client))
    given = {"segbundles.kind": kind, "data.digest": "d" * 64, **(tags or {})}
    run_id = client.create_run(key, start_time=start_time, run_name=name, tags=given).info.run_id
    for param, value in (params or {}).items():
        client.log_param(run_id, param, value)
    if values is not None:
        cases = cases or [f"case_{i}" for i in range(len(next(iter(values.values()))))]
        classes = classes or ["left_lung", "right_lung"]
        content = {"format": 1, "split": split, "classes": classes, "cases": _cases(values, cases, classes)}
        log_text(client, run_id, json.dumps(content), "results/cases.json")
        if pictures:
            with tempfile.TemporaryDirectory() as folder:
                for index, case in enumerate(cases):
                    (Path(folder) / f"{case}.png").write_bytes(picture(index, len(name)))
                client.log_artifacts(run_id, folder, "results/pictures")
    if status is not None:
        client.set_terminated(run_id, status)
    return run_id


def _artifacts(client: MlflowClient) -> str | None:
    """Beside a SQLite file; MLflow itself would put them into the working directory."""
    database = sqlite_file(client.tracking_uri)
    return (database.parent / "mlartifacts").as_uri() if database is not None else None


def log_text(client: MlflowClient, run_id: str, text: str, path: str) -> None:
    """`MlflowClient.log_text` without the seconds that importing its helpers takes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(path).name
        file.write_text(text, encoding="utf-8")
        client.log_artifact(run_id, str(file), str(Path(path).parent))


def picture(*seed: int) -> bytes:
    """A PNG of three slices' size."""
    noise = np.random.default_rng(seed).integers(0, 255, (30, 90, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((1200, 400)).save(stream, "PNG")
    return stream.getvalue()


def _cases(values: dict[str, Any], cases: list[str], classes: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"case": case} for case in cases]
    for metric, table in values.items():
        for row, line in zip(rows, np.asarray(table, float).tolist(), strict=True):
            row[metric] = {n: None if math.isnan(v) else v for n, v in zip(classes, line, strict=True)}
    return rows


def runs(uri, experiment="e"):
    client = MlflowClient(uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def steps(uri, run_id, name="loss"):
    return sorted(m.step for m in MlflowClient(uri).get_metric_history(run_id, name))


def only_run(uri, experiment="e"):
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(found) == 1
    return found[0]


def forked(target, *arguments):
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments, daemon=True)
    process.start()
    return process
