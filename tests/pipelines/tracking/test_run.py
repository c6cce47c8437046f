"""MLflow runs: opened once, fed off the training thread, closed as they ended. On real stores and a real server."""

import contextlib
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from datetime import datetime
from functools import partial
from pathlib import Path
from urllib.request import url2pathname

import numpy as np
import pytest
import sqlalchemy
from mlflow.tracking import MlflowClient
from PIL import Image

from pipelines.__main__ import main
from pipelines.tracking.client import connect, first_line
from pipelines.tracking.run import Tracking, TrackingError
from pipelines.utils.provenance import code_version, environment
from pipelines.utils.signals import Terminated
from tests.e2e.servers import MlflowServer
from tests.pipelines import small
from tests.pipelines.tracked_runs import patient
from tests.waiting import PATIENCE, wait_for


@pytest.fixture
def database(template, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    patient(monkeypatch)
    return Path(shutil.copy(template, tmp_path / "mlflow.db"))


@pytest.fixture
def uri(database):
    return f"sqlite:///{database}"


@pytest.fixture(scope="module")
def server(template, tmp_path_factory):
    """A real server on loopback; it starts while the other tests run."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "server.db")
    made = MlflowServer(folder, "sqlite:///server.db")
    made.start(wait=False)
    yield made
    made.kill()


def only_run(uri, experiment="e"):
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(found) == 1
    return found[0]


def test_runs_of_one_seed_and_one_second_have_names_of_their_own(uri):
    """The seed of a training is also that of the generator that MLflow draws its names from."""
    names, before = [], datetime.now().replace(microsecond=0)
    for _ in range(2):
        random.seed(0)
        with Tracking("lungs", uri=uri) as tracking:
            names.append(MlflowClient(uri).get_run(tracking.start()).info.run_name)
    assert names[0] != names[1]
    started = [datetime.strptime(name[:-5], "lungs %Y-%m-%d %H:%M:%S") for name in names]
    assert before <= started[0] <= started[1] <= datetime.now()


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
    assert [p.read_bytes() for p in artifacts.rglob("model.pt")] == [b"weights"], "beside the database"
    assert [json.loads(p.read_text()) for p in artifacts.rglob("config.json")] == [{"window": [-160, 240]}]
    assert not (tmp_path / "mlflow_spool").exists(), "a journal that is delivered leaves nothing"


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


def test_a_value_that_is_no_number_is_told_and_stops_nothing_else(uri, caplog):
    tracking = Tracking("e", uri=uri, flush_seconds=0)
    run_id = tracking.start()
    tracking.metrics({"loss": "much", "dice": 0.25}, 1)
    tracking.metrics({"loss": 0.5}, 2)
    assert tracking.flush()
    tracking.finish("FINISHED")
    assert "the metric loss is no number but 'much'" in caplog.text
    assert [m.value for m in MlflowClient(uri).get_metric_history(run_id, "loss")] == [0.5]
    assert only_run(uri).data.metrics["dice"] == 0.25


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
        signal.pause()


def forked(target, *arguments):
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


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
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["a", "b"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [len(client.get_metric_history(run.info.run_id, "loss")) for run in runs] == [300, 300]


def start_a_run(uri):
    with Tracking("e", uri=uri) as tracking:
        tracking.start()


def die_after_statements(uri, number):
    """Start a run in a process that SIGKILL ends after so many statements of SQL."""
    statements = itertools.count(1)

    @sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "after_cursor_execute")
    def count(*given):
        if next(statements) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    start_a_run(uri)


@pytest.mark.parametrize("number", [1, 100])
def test_killed_while_it_makes_the_database_a_training_leaves_no_half_of_it(tmp_path, monkeypatch, number):
    """MLflow can do nothing with a file that has some of its tables, so every later run would wait in the spool."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    database = tmp_path / "new.db"
    process = forked(die_after_statements, f"sqlite:///{database}", number)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not database.exists()
    start_a_run(f"sqlite:///{database}")
    runs = MlflowClient(f"sqlite:///{database}").search_runs(["1"])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]
    assert sorted(path.name for path in tmp_path.glob("*new*")) == ["new.db", "new.db.lock"]


def test_a_half_made_database_is_named(database, uri):
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM alembic_version")
        connection.execute("DROP TABLE webhooks")
        connection.commit()
    with pytest.raises(TrackingError, match=r"mlflow\.db is no whole MLflow database .*; move it away"):
        start_a_run(uri)


def test_a_server_that_is_away_is_told_in_few_words():
    with socket.socket() as listener:  # bound, but nobody listens
        listener.bind(("127.0.0.1", 0))
        client = connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(Exception, match="Max retries exceeded") as caught:
            client.search_experiments()
    assert re.fullmatch(
        r"Failed to establish a new connection: \[Errno \d+\] Connection refused", first_line(caught.value)
    )


def test_names_that_look_like_numbers_are_names(uri):
    """MONAI reads `--experiment 2026` as a number."""
    with Tracking(2026, 7, uri) as tracking:
        tracking.start()
    assert only_run(uri, "2026").info.run_name == "7"


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


def test_a_run_goes_on_under_its_own_id(uri):
    with pytest.raises(KeyboardInterrupt), Tracking("e", uri=uri) as tracking:  # noqa: PT012
        first = tracking.start()
        raise KeyboardInterrupt
    with Tracking("e", uri=uri) as tracking:
        assert tracking.start(continue_run=first) == first
        assert only_run(uri).info.status == "RUNNING"
        tracking.metrics({"loss": 1.0}, 5)
    assert only_run(uri).info.status == "FINISHED"


def test_a_run_that_goes_on_has_no_step_twice(uri):
    """A training killed after its last checkpoint does some iterations again, perhaps with other values."""
    with pytest.raises(KeyboardInterrupt), Tracking("e", uri=uri) as tracking:  # noqa: PT012
        first = tracking.start()
        for step in range(1, 8):
            tracking.metrics({"loss": 1 / step}, step)
        tracking.metrics({"dice": 0.5}, 4)
        raise KeyboardInterrupt
    with Tracking("e", uri=uri) as tracking:
        tracking.start(continue_run=first)
        for step in range(5, 11):
            tracking.metrics({"loss": 2 / step, "new": 1.0}, step)
        tracking.metrics({"dice": 0.6}, 8)
    client = MlflowClient(uri)
    history = {m.step: m.value for m in client.get_metric_history(first, "loss")}
    assert len(client.get_metric_history(first, "loss")) == 10
    assert history == {step: (1 if step < 8 else 2) / step for step in range(1, 11)}
    assert [m.step for m in client.get_metric_history(first, "dice")] == [4, 8]
    assert [m.step for m in client.get_metric_history(first, "new")] == list(range(5, 11))


def test_the_experiment_opens_in_the_view_for_model_training(uri):
    client = MlflowClient(uri)
    old = client.create_experiment("old")
    client.set_experiment_tag(
        client.create_experiment("chosen"), "mlflow.experimentKind", "genai_development"
    )
    for name, kind in (("new", "custom_model_development"), ("old", "custom_model_development")):
        with Tracking(name, uri=uri) as tracking:
            tracking.start()
        assert client.get_experiment_by_name(name).tags["mlflow.experimentKind"] == kind
    assert client.get_experiment_by_name("old").experiment_id == old
    with Tracking("chosen", uri=uri) as tracking:
        tracking.start()
    assert client.get_experiment_by_name("chosen").tags["mlflow.experimentKind"] == "genai_development"


def fold(uri, barrier, number, fails=False):
    if barrier is not None:
        barrier.wait()
    parent = {
        "key": "folds of it",
        "name": "five folds",
        "tags": {"kind": "cv"},
        "spread": ["best_", "absent"],
    }
    with Tracking("e", f"fold {number}", uri, system_metrics=None) as tracking:
        tracking.start(parent=parent, tags={"fold": str(number), "segbundles.work": str(number)})
        tracking.metrics({"best_dice": 0.5 + 0.1 * number, "loss": 1.0}, 7)
        if fails:
            raise ValueError("a fold that fails")


def test_folds_started_at_once_have_one_parent_with_mean_and_spread(uri):
    barrier = multiprocessing.get_context("fork").Barrier(3)
    processes = [forked(fold, uri, barrier, number) for number in range(3)]
    for process in processes:
        process.join()
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    (parent,) = [run for run in found if run.info.run_name == "five folds"]
    children = [run for run in found if run.info.run_id != parent.info.run_id]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.tags["fold"] for run in children} == {"0", "1", "2"}
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["kind"] == "cv"
    expected = {
        "folds": 3,
        "best_dice": 0.6,
        "best_dice_std": 0.1,
        "best_dice_min": 0.5,
        "best_dice_max": 0.7,
    }
    assert parent.data.metrics == pytest.approx(expected)
    fold(uri, None, 3)
    metrics = client.get_run(parent.info.run_id).data.metrics
    values = [0.5, 0.6, 0.7, 0.8]
    assert metrics["best_dice"] == pytest.approx(statistics.mean(values))
    assert metrics["best_dice_std"] == pytest.approx(statistics.stdev(values))
    with pytest.raises(ValueError, match="a fold that fails"):
        fold(uri, None, 4, fails=True)
    parent = client.get_run(parent.info.run_id)
    assert parent.info.status == "FAILED"
    assert parent.data.metrics == metrics, "a fold that failed has no say"
    fold(uri, None, 4)
    parent = client.get_run(parent.info.run_id)
    assert parent.info.status == "FINISHED", "what failed has been done again"
    assert parent.data.metrics["folds"] == 5


def test_the_alias_is_on_the_best_model(uri, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    versions = []
    for value in (0.5, 0.8, math.nan, 0.7):
        with Tracking("e", uri=uri) as tracking:
            run_id = tracking.start()
            tracking.artifact(tmp_path / "model.pt", "model")
            tracking.register("it's r2unet", "model", value)
        best = MlflowClient(uri).get_model_version_by_alias("it's r2unet", "best")
        versions.append((str(best.version), best.tags["value"], best.run_id == run_id))
    assert versions == [("1", "0.5", True), ("2", "0.8", True), ("2", "0.8", False), ("2", "0.8", False)]
    source = Path(url2pathname(best.source.removeprefix("file://")))
    assert (source / "model.pt").read_bytes() == b"weights"


def test_a_run_that_goes_on_is_one_version_with_its_last_value(uri, tmp_path):
    """Its better model took the place of the first one's files, so two versions would be the same model."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    run_id = None
    for value in (0.5, 0.6):
        with Tracking("e", uri=uri) as tracking:
            run_id = tracking.start(continue_run=run_id)
            tracking.artifact(tmp_path / "model.pt", "model")
            tracking.register("r2unet", "model", value)
    client = MlflowClient(uri)
    (version,) = client.search_model_versions("name = 'r2unet'")
    assert (version.run_id, version.tags["value"]) == (run_id, "0.6")
    assert client.get_model_version_by_alias("r2unet", "best").version == version.version


def test_pictures_and_tables_are_where_mlflow_looks_for_them(uri, tmp_path):
    pictures = {step: np.full((30, 50, 3), 40 * step, np.uint8) for step in (1, 2, 3)}
    with Tracking("e", uri=uri) as tracking:
        run_id = tracking.start()
        for step in (1, 2):
            tracking.image("case/one: ä", pictures[step], step)
        tracking.table(
            "dice.json", {"case": ["a", "b"], "dice": [np.float32(0.5), math.nan], "n": [1, np.int64(2)]}
        )
        with pytest.raises(ValueError, match="shorter"):
            tracking.table("wrong.json", {"case": ["a", "b"], "dice": [0.5]})
        with pytest.raises(ValueError, match=r"ends in \.json"):
            tracking.table("wrong", {"case": ["a"]})
    with Tracking("e", uri=uri) as tracking:
        tracking.start(continue_run=run_id)
        for step in (2, 3):  # step 2 was drawn after the last checkpoint
            tracking.image("case/one: ä", pictures[step], step)
        tracking.table("dice.json", {"case": ["c"], "dice": [0.25], "n": [3]})
    client = MlflowClient(uri)
    names = [Path(item.path).name for item in client.list_artifacts(run_id, "images")]
    # As MLflow's own log_image names them: key, step, time, and a part that makes it unique.
    pattern = re.compile(
        r"case~one_ _\+step\+(\d)\+timestamp\+\d{13}\+[0-9a-f-]{36}(\.png|\+compressed\.webp)"
    )
    found = sorted(pattern.fullmatch(name).groups() for name in names)
    assert found == [(str(step), end) for step in (1, 2, 3) for end in ("+compressed.webp", ".png")]
    for name in names:
        step = int(pattern.fullmatch(name).group(1))
        stored = np.asarray(
            Image.open(client.download_artifacts(run_id, f"images/{name}", tmp_path)).convert("RGB")
        )
        if name.endswith(".png"):
            assert (stored == pictures[step]).all()
    tags = client.get_run(run_id).data.tags
    assert tags["mlflow.loggedImages"] == "True"
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "dice.json", "type": "table"}]
    table = client._read_from_file(client.download_artifacts(run_id, "dice.json", tmp_path))
    assert table.to_dict("records") == [{"case": "c", "dice": 0.25, "n": 3}]


def test_the_machine_is_watched_under_mlflows_names(uri):
    client, first = MlflowClient(uri), None
    for least in (3, 6):
        with Tracking(
            "e", uri=uri, flush_seconds=0.1, finish_seconds=PATIENCE, system_metrics=0.1
        ) as tracking:
            first = tracking.start(continue_run=first)
            seen = partial(client.get_metric_history, first, "system/cpu_utilization_percentage")
            wait_for(lambda seen=seen, least=least: len(seen()) >= least)
    run = client.get_run(first)
    expected = {"cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_available_megabytes"}
    assert {f"system/{name}" for name in expected} <= set(run.data.metrics)
    history = client.get_metric_history(first, "system/cpu_utilization_percentage")
    assert len(history) >= 6
    steps = [m.step for m in sorted(history, key=lambda m: m.timestamp)]
    assert steps == sorted(steps)
    seconds = [(m.timestamp - run.info.start_time) // 1000 for m in history]
    assert [m.step for m in history] == seconds, "the step is the second of the run"


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


def rename_tables(database, before, after):
    connection = sqlite3.connect(database)
    for table in ("latest_metrics", "metrics", "tags", "runs"):
        connection.execute(f"ALTER TABLE {before}{table} RENAME TO {after}{table}")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "error", [None, ValueError("the training's own"), KeyboardInterrupt(), Terminated("signal 15")]
)
def test_a_broken_store_changes_nothing_about_how_a_training_ends(database, uri, error, caplog, capsys):
    expected = SystemExit if isinstance(error, Terminated) else type(error)
    ending = contextlib.nullcontext() if error is None else pytest.raises(expected)
    before = signal.getsignal(signal.SIGTERM)
    with ending as caught, Tracking("e", uri=uri) as tracking:
        tracking.start()
        rename_tables(database, "", "gone_")
        tracking.metrics({"loss": 1.0}, 1)
        if error is not None:
            raise error
    assert error is None or caught.value is error or caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert caplog.text.count("cannot be reached") == 1
    assert "python -m pipelines sync" in caplog.text
    rename_tables(database, "gone_", "")
    assert only_run(uri).info.status == "RUNNING"
    assert main(["sync", str(database.parent / "mlflow_spool")]) == 0
    assert "1 delivered" in capsys.readouterr().out
    run = only_run(uri)
    status = {type(None): "FINISHED", ValueError: "FAILED"}.get(type(error), "KILLED")
    assert (run.info.status, run.data.metrics) == (status, {"loss": 1.0})
    assert not (database.parent / "mlflow_spool").exists()


def test_a_terminated_training_with_workers_goes_on_in_the_same_run(database, uri, tmp_path, monkeypatch):
    dataset = small.write_dataset(tmp_path / "data")
    path = small.config(tmp_path / "out", dataset, tracked=True, num_workers=1)
    command = [sys.executable, "-m", "tests.pipelines.small", str(path)]
    stop = {"SMALL_STOP_AT": "8", "SMALL_STOP_BY": "SIGTERM", "MLFLOW_TRACKING_URI": uri}
    first = subprocess.run(command, env={**os.environ, **stop}, capture_output=True, text=True)
    assert first.returncode == 143, first.stderr
    if (tmp_path / "mlflow_spool").exists():  # what a slow machine does not manage in the seconds at the end
        assert main(["sync", str(tmp_path / "mlflow_spool")]) == 0
    run = only_run(uri, "small")
    assert run.info.status == "KILLED"
    assert "error" not in run.data.tags, "it closed the run itself"
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
    assert names - {"code"} == whole, "uncommitted changes are there where there are some"
    card = json.loads((tmp_path / "out" / "models" / "model.json").read_text())
    assert card["run_id"] == run.info.run_id


def test_a_server_takes_runs_and_gives_them_back(server, tmp_path, monkeypatch):
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
    assert not list(tmp_path.glob("ml*")), "a server keeps artifacts itself"
