"""Contents and final status of MLflow runs, on real stores and a real server."""

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines.__main__ import main
from pipelines.tracking.run import Tracking
from pipelines.utils.provenance import code_version, environment
from tests.e2e.servers import MlflowServer
from tests.pipelines import small
from tests.pipelines.tracked_runs import forked, only_run, patient
from tests.waiting import PATIENCE, wait_for


@pytest.fixture(scope="module")
def server(template, tmp_path_factory):
    """A real server on loopback; it starts while the other tests run."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "server.db")
    made = MlflowServer(folder, "sqlite:///server.db")
    made.start(wait=False)
    yield made
    made.kill()


def test_a_finished_run_has_everything_that_was_logged(uri, tmp_path, server):
    (tmp_path / "model.pt").write_bytes(b"weights")
    with Tracking("e", "first", uri) as tracking:
        run_id = tracking.start()
        tracking.params({"epochs": "4", "a#b[0]": "x", "long": "y" * 9000, "k" * 400: "z"})
        tracking.params({"epochs": "5", "new": "1"})  # the run keeps the first value
        tracking.tags({"data.digest": "d" * 9000} | code_version() | environment())
        tracking.metrics({"loss": 0.5, "lung/left": 0.25}, 1)
        tracking.metrics({"loss": math.nan, "rate": math.inf}, 2)
        tracking.json({"window": [-160, 240]}, "config.json")
        tracking.artifact(tmp_path / "model.pt", "model")
    run = only_run(uri)
    assert run.info.run_id == run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.info.end_time >= run.info.start_time
    params = run.data.params
    assert (params["epochs"], params["a_b_0_"], params["new"]) == ("4", "x", "1")
    assert run.data.tags["changed.epochs"] == "5"
    assert params["long"] == "y" * 6000
    assert params["k" * 250] == "z"
    assert run.data.tags["version.torch"]
    assert run.data.tags["data.digest"].startswith("ddd")
    client = MlflowClient(uri)
    history = {(m.step, m.value) for m in client.get_metric_history(run_id, "loss") if m.value == m.value}
    assert history == {(1, 0.5)}
    assert run.data.metrics["lung/left"] == 0.25
    assert run.data.metrics["rate"] > 1e300
    assert math.isnan(run.data.metrics["loss"])
    artifacts = Path(tmp_path / "mlartifacts")
    assert [p.read_bytes() for p in artifacts.rglob("model.pt")] == [b"weights"], (
        "the artifacts are beside the database"
    )
    assert [json.loads(p.read_text()) for p in artifacts.rglob("config.json")] == [{"window": [-160, 240]}]
    assert not (tmp_path / "mlflow_spool").exists(), "a delivered journal is removed"


def test_the_default_is_what_a_bare_mlflow_ui_shows(database, monkeypatch):
    monkeypatch.chdir(database.parent)
    with Tracking("e") as tracking:
        tracking.start()
    assert only_run(f"sqlite:///{database}").info.status == "FINISHED"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert Tracking("e").uri == "http://somewhere:5000"
    assert Tracking("e", uri="sqlite:///x.db").uri == "sqlite:///x.db"


def test_an_error_makes_the_run_failed_and_is_raised(uri):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), Tracking("e", uri=uri) as tracking:  # noqa: PT012
        tracking.start()
        tracking.metrics({"loss": 1.0}, 1)
        raise ZeroDivisionError("division by zero")
    run = only_run(uri)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "ZeroDivisionError: division by zero"
    assert run.data.metrics == {"loss": 1.0}
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_makes_it_killed(uri):
    with pytest.raises(KeyboardInterrupt), Tracking("e", uri=uri) as tracking:  # noqa: PT012
        tracking.start()
        raise KeyboardInterrupt
    assert only_run(uri).info.status == "KILLED"


def test_an_error_before_the_run_opens_makes_no_run(uri):
    with pytest.raises(ValueError, match="early"), Tracking("e", uri=uri):
        raise ValueError("early")
    assert MlflowClient(uri).get_experiment_by_name("e") is None


def wait_for_sigterm(uri, ready):
    with Tracking("e", uri=uri) as tracking:
        tracking.start()
        tracking.metrics({"loss": 1.0}, 1)
        ready.set()
        signal.pause()


def test_sigterm_makes_it_killed_with_the_usual_exit_code(uri):
    ready = multiprocessing.get_context("fork").Event()
    process = forked(wait_for_sigterm, uri, ready)
    wait_for(ready.is_set, process)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    run = only_run(uri)
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"loss": 1.0}


def test_classes_of_every_script_keep_their_metrics_apart(uri):
    values = {"val_dice_左肺": 0.25, "val_dice_右肺": 0.5, "val_dice_Leber, übrig": 0.75}
    with Tracking("e", uri=uri, system_metrics=None) as tracking:
        tracking.start()
        tracking.metrics(values, 1)
    assert only_run(uri).data.metrics == {
        "val_dice_左肺": 0.25,
        "val_dice_右肺": 0.5,
        "val_dice_Leber_ übrig": 0.75,
    }


def test_ranks_other_than_the_first_log_nothing(uri, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    with Tracking("e", uri=uri) as tracking:
        assert tracking.start() is None
        tracking.params({"a": "b"})
        tracking.tags({"a": "b"})
        tracking.metrics({"loss": 1.0}, 1)
        tracking.json({}, "x.json")
        tracking.artifact(tmp_path / "absent")
        tracking.flush()
    assert MlflowClient(uri).get_experiment_by_name("e") is None


def test_a_terminated_training_with_workers_continues_in_the_same_run(database, uri, tmp_path, monkeypatch):
    dataset = small.write_dataset(tmp_path / "data")
    path = small.config(tmp_path / "out", dataset, tracked=True, num_workers=1)
    command = [sys.executable, "-m", "tests.pipelines.small", str(path)]
    stop_variables = {"SMALL_STOP_AT": "8", "SMALL_STOP_BY": "SIGTERM", "MLFLOW_TRACKING_URI": uri}
    first = subprocess.run(command, env={**os.environ, **stop_variables}, capture_output=True, text=True)
    assert first.returncode == 143, first.stderr
    if (tmp_path / "mlflow_spool").exists():  # a slow machine may not deliver everything after SIGTERM
        assert main(["sync", str(tmp_path / "mlflow_spool")]) == 0
    run = only_run(uri, "small")
    assert run.info.status == "KILLED"
    assert "error" not in run.data.tags, "the training closed the run itself"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    small.run(path)
    run = only_run(uri, "small")
    assert run.info.status == "FINISHED"
    client = MlflowClient(uri)
    history = client.get_metric_history(run.info.run_id, "epoch_loss")
    assert [(m.step, m.value) for m in history][:2] == [(3, history[0].value), (6, history[1].value)]
    assert [m.step for m in history] == [3, 6, 9, 12]
    assert {"val_mean_dice", "val_dice_lung", "val_dice_liver", "best_val_mean_dice"} <= set(run.data.metrics)
    steps = sorted({m.step for m in client.get_metric_history(run.info.run_id, "train_loss")})
    assert steps == list(range(1, 13)), "iteration 7 was done twice"
    assert run.data.params["epochs"] == "4"
    assert run.data.params["network_def._target_"] == "tests.pipelines.small.Tiny"
    assert len(run.data.tags["data.digest"]) == 64
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    whole = {"config.json", "cases.json", "invocation.json", "images", "results", "model", "checkpoint"}
    assert names - {"code"} == whole, "`code` is there only if there are uncommitted changes"
    card = json.loads((tmp_path / "out" / "models" / "model.json").read_text())
    assert card["run_id"] == run.info.run_id


def test_a_server_stores_runs_and_returns_them(server, tmp_path, monkeypatch):
    server.wait()
    url = server.url
    patient(monkeypatch)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(PATIENCE)))
    (tmp_path / "model.pt").write_bytes(b"weights")
    with Tracking("over http", "r", url) as tracking:
        run_id = tracking.start()
        tracking.params({"a": "b"})
        tracking.metrics({"loss": 0.5, "absent": math.nan}, 1)
        tracking.artifact(tmp_path / "model.pt", "model")
    body = json.dumps(
        {"experiment_ids": [MlflowClient(url).get_experiment_by_name("over http").experiment_id]}
    )
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/runs/search", body.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        runs = json.load(answer)["runs"]
    assert [(r["info"]["run_id"], r["info"]["status"]) for r in runs] == [(run_id, "FINISHED")]
    assert {m["key"]: m["value"] for m in runs[0]["data"]["metrics"]}["loss"] == 0.5
    assert [a.path for a in MlflowClient(url).list_artifacts(run_id, "model")] == ["model/model.pt"]
    assert not list(tmp_path.glob("ml*")), "the server stores the artifacts"
