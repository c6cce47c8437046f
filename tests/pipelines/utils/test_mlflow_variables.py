"""MLflow's own variables decide which run and experiment is written, as they do elsewhere."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from monai.bundle import run as bundle_run

from pipelines.evaluation.mlflow_run import EvaluationRun
from pipelines.tracking.run import Tracking, TrackingError
from pipelines.utils.mlflow_variables import tracking_uri
from tests.conftest import REPOSITORY
from tests.pipelines import small
from tests.pipelines.tracked_runs import patient

VARIABLES = (
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_RUN_ID",
    "MLFLOW_RUN_NAME",
    "MLFLOW_RUN_CONTEXT",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",
)


@pytest.fixture
def client(template, tmp_path, monkeypatch):
    for name in (*VARIABLES, "RANK", "SEGBUNDLES_SPOOL"):
        monkeypatch.delenv(name, raising=False)
    patient(monkeypatch)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    uri = f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    # A bundle that fails between its steps ends its process, and so need not give the signal back.
    before = signal.getsignal(signal.SIGTERM)
    yield MlflowClient(uri)
    signal.signal(signal.SIGTERM, before)


def written(folder, **given):
    """Run a bundle that opens a run and no more, as `monai.bundle run` does; returns MLflow's run."""
    content = {
        "imports": ["$import pipelines"],
        "experiment": "of the bundle",
        "run_name": None,
        "tracking": {"_target_": "pipelines.Tracking", "experiment": "@experiment", "run_name": "@run_name"},
        "initialize": ["$pipelines.preflight()"],
        "run": ["$@tracking.__enter__()", "$@tracking.start()", "$@tracking.__exit__(None, None, None)"],
    }
    files = [folder / "train.json"]
    files[0].write_text(json.dumps(content))
    overlay = given.pop("overlay", None)
    if overlay is not None:
        files.append(folder / "overlay.json")
        files[1].write_text(json.dumps(overlay))
    bundle_run(run_id="run", config_file=[str(file) for file in files], **given)


def only(client):
    """The one run there is, and the name of its experiment."""
    every = {e.experiment_id: e.name for e in client.search_experiments()}
    (run,) = client.search_runs(list(every))
    return run, every[run.info.experiment_id]


@pytest.mark.parametrize(
    ("given", "variables", "expected"),
    [
        ({}, {}, "of the bundle"),
        ({}, {"MLFLOW_EXPERIMENT_NAME": "of the variable"}, "of the variable"),
        ({"experiment": "asked for"}, {"MLFLOW_EXPERIMENT_NAME": "of the variable"}, "asked for"),
        ({"overlay": {"experiment": "asked for"}}, {"MLFLOW_EXPERIMENT_NAME": "x"}, "asked for"),
        ({"experiment_name": "asked for"}, {"MLFLOW_EXPERIMENT_NAME": "x"}, "asked for"),
        ({}, {"MLFLOW_EXPERIMENT_ID": "1"}, "the first"),
        ({"experiment": "asked for"}, {"MLFLOW_EXPERIMENT_ID": "1"}, "asked for"),
        ({}, {"MLFLOW_EXPERIMENT_ID": "1", "MLFLOW_EXPERIMENT_NAME": "the first"}, "the first"),
    ],
)
def test_the_command_goes_before_the_variable_and_the_variable_before_the_bundle(
    client, tmp_path, monkeypatch, given, variables, expected
):
    assert client.create_experiment("the first", (tmp_path / "mlartifacts").as_uri()) == "1"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    written(tmp_path, **given)
    _, experiment = only(client)
    assert experiment == expected
    assert {e.name for e in client.search_experiments()} <= {"Default", "the first", expected}


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"MLFLOW_EXPERIMENT_ID": "77"}, "MLFLOW_EXPERIMENT_ID names the experiment 77: "),
        (
            {"MLFLOW_EXPERIMENT_ID": "0", "MLFLOW_EXPERIMENT_NAME": "x"},
            "that is 'Default', and .*_NAME is 'x'",
        ),
        ({"MLFLOW_RUN_ID": "0" * 32}, f"MLFLOW_RUN_ID names the run {'0' * 32}: "),
    ],
)
def test_what_a_variable_names_must_be_there(client, tmp_path, monkeypatch, variables, told):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Exception, match="tracking") as caught:
        written(tmp_path)
    error = caught.value
    while error is not None and not isinstance(error, TrackingError):
        error = error.__cause__ or error.__context__
    assert isinstance(error, TrackingError)
    assert re.search(told, str(error))
    assert client.search_runs([e.experiment_id for e in client.search_experiments()]) == []


def test_the_run_of_a_variable_is_gone_on_with_once(client, monkeypatch):
    number = client.create_experiment("theirs")
    theirs = client.create_run(
        number, run_name="made by mlflow run", tags={"mlflow.source.name": "a project"}
    )
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs.info.run_id)
    with Tracking("ours", system_metrics=None) as tracking:
        assert tracking.start(tags={"segbundles.kind": "training"}) == theirs.info.run_id
        assert tracking.experiment == "theirs"
        tracking.metrics({"loss": 0.5}, 1)
    run, experiment = only(client)
    assert (experiment, run.info.status, run.info.run_name) == ("theirs", "FINISHED", "made by mlflow run")
    assert (run.data.tags["mlflow.source.name"], run.data.tags["segbundles.kind"]) == (
        "a project",
        "training",
    )
    assert run.data.metrics == {"loss": 0.5}
    with Tracking("ours", system_metrics=None) as tracking:
        assert tracking.start() != theirs.info.run_id, (
            "the second run of a process is another one, as in MLflow"
        )


def test_the_run_of_a_variable_goes_before_that_of_a_checkpoint(client, monkeypatch):
    with Tracking("e", system_metrics=None) as tracking:
        earlier = tracking.start()
    theirs = client.create_run(client.get_experiment_by_name("e").experiment_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs.info.run_id)
    with Tracking("e", system_metrics=None) as tracking:
        assert tracking.start(continue_run=earlier) == theirs.info.run_id
    assert client.get_run(theirs.info.run_id).data.tags["segbundles.continues"] == earlier


def test_a_name_tags_and_no_system_metrics_by_variables(client, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_RUN_NAME", "of the variable")
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", '{"ticket": 12}')
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with Tracking("e", system_metrics=0.01) as tracking:
        tracking.start()
        assert tracking._system is None
    run, _ = only(client)
    assert (run.info.run_name, run.data.tags["ticket"]) == ("of the variable", "12")
    assert Tracking("e", "asked for").run_name == "asked for"
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", "[1]")
    with Tracking("e", system_metrics=None) as tracking:
        tracking.start()
    assert "MLFLOW_RUN_CONTEXT is not a JSON object" in caplog.text


def test_an_evaluation_follows_them_too(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_NAME", "of the variable")
    assert EvaluationRun(None, None, "test").tracking.run_name == "of the variable"
    assert EvaluationRun(None, None, "test", run_name="asked for").tracking.run_name == "asked for"
    assert EvaluationRun(None, None, "test", experiment_id="3").named


def test_mlflow_run_and_the_training_in_it_are_one_run(client, tmp_path):
    """MLflow's command for projects makes the run and names it to what it starts."""
    path = small.config(tmp_path / "out", small.write_dataset(tmp_path / "data"), tracked=True, epochs=1)
    project = tmp_path / "project"
    project.mkdir()
    python = Path(sys.executable).as_posix()
    command = f"{python} -m tests.pipelines.small {path}"
    (project / "MLproject").write_text(
        f'name: p\nentry_points:\n  main:\n    command: "cd {REPOSITORY} && {command}"\n'
    )
    words = ["-m", "mlflow", "run", str(project), "--env-manager", "local", "--experiment-name", "theirs"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    run, experiment = only(client)
    assert (experiment, run.info.status) == ("theirs", "FINISHED")
    assert run.data.tags["mlflow.project.entryPoint"] == "main"
    assert run.data.params["experiment"] == "theirs"
    assert "val_mean_dice" in run.data.metrics
    card = json.loads((tmp_path / "out" / "models" / "model.json").read_text())
    assert (card["run_id"], card["experiment"]) == (run.info.run_id, "theirs")
    assert client.get_model_version_by_alias("theirs", "best").run_id == run.info.run_id


def test_the_address_given_wins_over_the_variable_and_that_over_the_default(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert [tracking_uri("http://other"), tracking_uri()] == ["http://other", "http://server"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri() == "sqlite:///mlflow.db"
