"""Metrics are sent to MLflow by a thread other than the one that trains."""

import contextlib
import signal
import sqlite3

import pytest
from mlflow.tracking import MlflowClient

from pipelines.__main__ import main
from pipelines.tracking.run import Tracking
from pipelines.utils.signals import Terminated
from tests.pipelines.tracked_runs import only_run


def test_two_thousand_metrics_arrive_in_order(uri):
    with Tracking("e", uri=uri) as tracking:
        run_id = tracking.start()
        for step in range(2000):
            tracking.metrics({"loss": 1 / (step + 1)}, step)
        tracking.flush()
        history = MlflowClient(uri).get_metric_history(run_id, "loss")
        assert sorted((m.step, m.value) for m in history) == [(s, 1 / (s + 1)) for s in range(2000)]


def test_metrics_are_sent_in_batches_by_another_thread(uri):
    with Tracking("e", uri=uri, flush_seconds=3600) as tracking:
        run_id = tracking.start()
        tracking.metrics({"loss": 1.0}, 1)
        tracking.metrics({"loss": 2.0}, 2)
        client = MlflowClient(uri)
        assert client.get_metric_history(run_id, "loss") == [], "the call itself sends nothing"
        tracking.flush()
        assert len(client.get_metric_history(run_id, "loss")) == 2
        tracking.metrics({"loss": 3.0}, 3)
    assert len(client.get_metric_history(run_id, "loss")) == 3, "the end of the run sends the rest"


def rename_tables(database, before, after):
    connection = sqlite3.connect(database)
    for table in ("latest_metrics", "metrics", "tags", "runs"):
        connection.execute(f"ALTER TABLE {before}{table} RENAME TO {after}{table}")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "error", [None, ValueError("an error of the training"), KeyboardInterrupt(), Terminated("signal 15")]
)
def test_a_broken_store_does_not_change_how_a_training_ends(database, uri, error, caplog, capsys):
    expected = SystemExit if isinstance(error, Terminated) else type(error)
    expectation = contextlib.nullcontext() if error is None else pytest.raises(expected)
    before = signal.getsignal(signal.SIGTERM)
    with expectation as caught, Tracking("e", uri=uri) as tracking:
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
