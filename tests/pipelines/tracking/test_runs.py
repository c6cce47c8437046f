"""Finding experiments and runs, and closing runs whose process has ended."""

import multiprocessing
import os

import pytest
from mlflow.tracking import MlflowClient

from pipelines.__main__ import main
from pipelines.tracking.run import Tracking, TrackingError
from tests.pipelines.tracked_runs import runs, steps
from tests.pipelines.tracking.killed import killed, train_forever

FORK = multiprocessing.get_context("fork")


def test_a_killed_run_is_closed_by_the_next_start_of_its_work_and_no_other(uri, tmp_path, capsys):
    first = killed(0.1, train_forever, uri)
    (run,) = runs(uri)
    assert run.info.status == "RUNNING"
    with Tracking("e", uri=uri) as tracking:
        tracking.start(tags={"segbundles.work": "other work"})
    client = MlflowClient(uri)
    assert client.get_run(first[0]).info.status == "RUNNING"
    assert set(map(int, first[1:])) <= set(steps(uri, first[0])), "its values are delivered nevertheless"
    with Tracking("e", uri=uri) as tracking:
        tracking.start(tags={"segbundles.work": "w"})
    closed = client.get_run(first[0])
    assert closed.info.status == "KILLED"
    assert "the process ended" in closed.data.tags["error"]
    assert [r.info.status for r in runs(uri)] == ["FINISHED", "FINISHED", "KILLED"]
    killed(0.1, train_forever, uri)
    assert main(["sync", str(tmp_path / "mlflow_spool")]) == 0, "sync closes the runs of every work"
    assert {r.info.status for r in runs(uri)} == {"FINISHED", "KILLED"}
    assert not (tmp_path / "mlflow_spool").exists()


def test_a_killed_run_whose_journal_is_elsewhere_is_closed_by_its_tags(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGBUNDLES_SPOOL", str(tmp_path / "elsewhere"))
    (first, *_) = killed(0.1, train_forever, uri)
    monkeypatch.delenv("SEGBUNDLES_SPOOL")
    with Tracking("e", uri=uri) as tracking:
        tracking.start(tags={"segbundles.work": "w"})
    assert MlflowClient(uri).get_run(first).info.status == "KILLED"


def test_a_run_of_a_running_process_is_neither_closed_nor_continued(uri, tmp_path, capsys, caplog):
    reading, writing = os.pipe()
    process = FORK.Process(target=train_forever, args=(uri, writing))
    process.start()
    with os.fdopen(reading) as stream:
        other_id = stream.readline().strip()
        assert main(["sync", str(tmp_path / "mlflow_spool")]) == 0
        assert "1 running" in capsys.readouterr().out
        with Tracking("e", uri=uri) as tracking:
            own_id = tracking.start(continue_run=other_id, tags={"segbundles.work": "w"})
        assert own_id != other_id
        assert (
            f"MLflow run {other_id} cannot be continued, so a new run is created: process {process.pid}"
            in caplog.text
        )
        assert MlflowClient(uri).get_run(other_id).info.status == "RUNNING"
        process.kill()
    process.join()


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


def test_a_deleted_experiment_is_reported(uri):
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("e"))
    with pytest.raises(TrackingError, match="'e' was deleted; restore it or choose another --experiment"):
        Tracking("e", uri=uri).start()
