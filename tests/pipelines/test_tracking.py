"""MLflow runs: opened once, fed off the training thread, closed as they ended. On real stores and a real server."""

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines import tracking as module
from pipelines.provenance import code_version, environment
from pipelines.tracking import Terminated, Tracking, TrackingError
from tests.pipelines import small


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """An MLflow database without experiments: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(template, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    return Path(shutil.copy(template, tmp_path / "mlflow.db"))


@pytest.fixture
def uri(database):
    return f"sqlite:///{database}"


@pytest.fixture(scope="module")
def server(template, tmp_path_factory):
    """A real server on loopback; it starts while the other tests run."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "server.db")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--workers",
        "1",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--backend-store-uri", "sqlite:///server.db"]
    variables = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=log, stderr=log, start_new_session=True
        )
        yield f"http://127.0.0.1:{port}", process, folder / "log"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def only_run(uri, experiment="e"):
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(found) == 1
    return found[0]


def test_runs_of_one_seed_have_names_of_their_own(tmp_path):
    """The seed of a training is also that of the generator that MLflow draws its names from."""
    uri, names = f"sqlite:///{tmp_path / 'mlflow.db'}", []
    for _ in range(2):
        random.seed(0)
        with Tracking("lungs", uri=uri) as tracking:
            names.append(MlflowClient(uri).get_run(tracking.start()).info.run_name)
        time.sleep(1.0)
    assert names[0] != names[1]
    started = [datetime.strptime(name, "lungs %Y-%m-%d %H:%M:%S") for name in names]
    assert abs(started[1] - datetime.now()) < timedelta(minutes=1)


def test_a_run_tells_everything_and_is_finished(uri, tmp_path, server):
    (tmp_path / "model.pt").write_bytes(b"weights")
    with Tracking("e", "first", uri) as tracking:
        run_id = tracking.start()
        tracking.params({"epochs": "4", "a#b[0]": "x", "long": "y" * 9000, "k" * 400: "z"})
        tracking.params({"epochs": "5", "new": "1"})  # a run that goes on keeps what it said first
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
    assert [p.read_bytes() for p in artifacts.rglob("model.pt")] == [b"weights"], "beside the database"
    assert [json.loads(p.read_text()) for p in artifacts.rglob("config.json")] == [{"window": [-160, 240]}]


def test_the_default_is_what_a_bare_mlflow_ui_shows(database, monkeypatch):
    monkeypatch.chdir(database.parent)
    with Tracking("e") as tracking:
        tracking.start()
    assert only_run(f"sqlite:///{database}").info.status == "FINISHED"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert Tracking("e").uri == "http://somewhere:5000"
    assert Tracking("e", uri="sqlite:///x.db").uri == "sqlite:///x.db"


def test_two_thousand_metrics_arrive_in_order(uri):
    with Tracking("e", uri=uri) as tracking:
        run_id = tracking.start()
        for step in range(2000):
            tracking.metrics({"loss": 1 / (step + 1)}, step)
        tracking.flush()
        history = MlflowClient(uri).get_metric_history(run_id, "loss")
        assert sorted((m.step, m.value) for m in history) == [(s, 1 / (s + 1)) for s in range(2000)]


def test_metrics_wait_for_company_off_the_calling_thread(uri):
    with Tracking("e", uri=uri, flush_seconds=3600) as tracking:
        run_id = tracking.start()
        tracking.metrics({"loss": 1.0}, 1)
        tracking.metrics({"loss": 2.0}, 2)
        client = MlflowClient(uri)
        assert client.get_metric_history(run_id, "loss") == [], "the call itself writes nothing"
        tracking.flush()
        assert len(client.get_metric_history(run_id, "loss")) == 2
        tracking.metrics({"loss": 3.0}, 3)
    assert len(client.get_metric_history(run_id, "loss")) == 3, "leaving writes what is left"


def test_a_value_that_is_no_number_is_reported_and_stops_nothing_else(uri):
    tracking = Tracking("e", uri=uri, flush_seconds=0)
    run_id = tracking.start()
    tracking.metrics({"loss": "much"}, 1)
    with pytest.raises(TrackingError, match="refused metrics"):
        tracking.flush()
    tracking.metrics({"loss": 0.5}, 2)
    tracking.finish("FINISHED")
    assert [m.value for m in MlflowClient(uri).get_metric_history(run_id, "loss")] == [0.5]


def test_an_error_makes_the_run_failed_and_goes_on_its_way(uri):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), Tracking("e", uri=uri) as tracking:  # noqa: PT012
        tracking.start()
        tracking.metrics({"loss": 1.0}, 1)
        raise ZeroDivisionError("by nothing")
    run = only_run(uri)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "ZeroDivisionError: by nothing"
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
        time.sleep(60)


def forked(target, *arguments):
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def test_sigterm_makes_it_killed_with_the_usual_exit_code(uri):
    ready = multiprocessing.get_context("fork").Event()
    process = forked(wait_for_sigterm, uri, ready)
    assert ready.wait(60)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 143
    run = only_run(uri)
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"loss": 1.0}


def one_of_two(uri, barrier, name):
    barrier.wait()
    with Tracking("e", name, uri) as tracking:
        tracking.start()
        for step in range(300):
            tracking.metrics({"loss": float(step)}, step)
        tracking.flush()


def test_two_trainings_at_once_on_a_new_database_stay_two_runs(tmp_path):
    uri = f"sqlite:///{tmp_path}/new.db"
    barrier = multiprocessing.get_context("fork").Barrier(2)
    processes = [forked(one_of_two, uri, barrier, name) for name in ("a", "b")]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["a", "b"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [len(client.get_metric_history(run.info.run_id, "loss")) for run in runs] == [300, 300]


def test_a_run_goes_on_under_its_own_id(uri):
    with pytest.raises(KeyboardInterrupt), Tracking("e", uri=uri) as tracking:  # noqa: PT012
        first = tracking.start()
        raise KeyboardInterrupt
    with Tracking("e", uri=uri) as tracking:
        assert tracking.start(continue_run=first) == first
        assert only_run(uri).info.status == "RUNNING"
        tracking.metrics({"loss": 1.0}, 5)
    assert only_run(uri).info.status == "FINISHED"


@pytest.mark.parametrize("gone", ["deleted", "unknown"])
def test_a_run_that_is_gone_is_replaced_by_a_new_one(uri, gone, caplog):
    with Tracking("e", uri=uri) as tracking:
        first = tracking.start()
    if gone == "deleted":
        MlflowClient(uri).delete_run(first)
    else:
        first = "0" * 32
    with Tracking("e", uri=uri) as tracking:
        second = tracking.start(continue_run=first)
        tracking.tags({"a": "b"})
        tracking.metrics({"loss": 1.0}, 1)
        tracking.flush()
    assert second != first
    assert MlflowClient(uri).get_run(second).info.status == "FINISHED"
    assert f"MLflow run {first} cannot go on" in caplog.text


def test_a_deleted_experiment_is_one_clear_sentence(uri):
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("e"))
    with pytest.raises(TrackingError, match="'e' was deleted; restore it or choose another --experiment"):
        Tracking("e", uri=uri).start()


def test_ranks_other_than_the_first_say_nothing(uri, monkeypatch, tmp_path):
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


def destroy(database):
    connection = sqlite3.connect(database)
    for table in ("latest_metrics", "metrics", "tags", "runs"):
        connection.execute(f"ALTER TABLE {table} RENAME TO gone_{table}")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "error", [ValueError("the training's own"), KeyboardInterrupt(), Terminated("signal 15")]
)
def test_a_broken_store_does_not_hide_what_ended_the_training(database, uri, error, caplog):
    expected = SystemExit if isinstance(error, Terminated) else type(error)
    with pytest.raises(expected) as caught, Tracking("e", uri=uri) as tracking:  # noqa: PT012
        tracking.start()
        destroy(database)
        raise error
    assert caught.value is error or caught.value.code == 143
    assert "stays open" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is not module._terminate


def test_a_broken_store_at_the_end_is_an_error_of_ours(database, uri):
    with pytest.raises(TrackingError, match=r"mlflow\.db did not take that the run is FINISHED"):  # noqa: PT012, SIM117
        with Tracking("e", uri=uri) as tracking:
            tracking.start()
            destroy(database)
    assert signal.getsignal(signal.SIGTERM) is not module._terminate


def test_metrics_that_a_store_refuses_are_an_error_at_the_flush(database, uri):
    tracking = Tracking("e", uri=uri, flush_seconds=0)
    tracking.start()
    destroy(database)
    tracking.metrics({"loss": 1.0}, 1)
    with pytest.raises(TrackingError, match="refused metrics"):
        tracking.flush()


def test_a_terminated_training_with_workers_goes_on_in_the_same_run(database, uri, tmp_path, monkeypatch):
    dataset = small.write_dataset(tmp_path / "data")
    path = small.config(tmp_path / "out", dataset, tracked=True, num_workers=1)
    command = [sys.executable, "-m", "tests.pipelines.small", str(path)]
    stop = {"SMALL_STOP_AT": "8", "SMALL_STOP_BY": "SIGTERM", "MLFLOW_TRACKING_URI": uri}
    first = subprocess.run(command, env={**os.environ, **stop}, capture_output=True, text=True, timeout=180)
    assert first.returncode == 143, first.stderr
    run = only_run(uri, "small")
    assert run.info.status == "KILLED"
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
    assert names == {"config.json", "cases.json", "model"}
    card = json.loads((tmp_path / "out" / "models" / "model.json").read_text())
    assert card["run_id"] == run.info.run_id


def test_a_server_takes_runs_and_gives_them_back(server, tmp_path):
    url, process, log = server
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                break
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
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
    with urllib.request.urlopen(request, timeout=30) as answer:
        runs = json.load(answer)["runs"]
    assert [(r["info"]["run_id"], r["info"]["status"]) for r in runs] == [(run_id, "FINISHED")]
    assert {m["key"]: m["value"] for m in runs[0]["data"]["metrics"]}["loss"] == 0.5
    assert [a.path for a in MlflowClient(url).list_artifacts(run_id, "model")] == ["model/model.pt"]
    assert not list(tmp_path.glob("ml*")), "a server keeps artifacts itself"
