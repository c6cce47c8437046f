"""Connecting to MLflow: new databases, incomplete databases and unreachable servers."""

import contextlib
import itertools
import multiprocessing
import os
import re
import signal
import socket
import sqlite3
import tempfile

import pytest
import sqlalchemy
from mlflow.tracking import MlflowClient

from pipelines.tracking.client import connect, first_line
from pipelines.tracking.run import Tracking, TrackingError
from tests.pipelines.tracked_runs import forked


def train_with_another(uri, barrier, name):
    barrier.wait()
    with Tracking("e", name, uri) as tracking:
        tracking.start()
        for step in range(300):
            tracking.metrics({"loss": float(step)}, step)
        tracking.flush()


def test_two_trainings_at_once_on_a_new_database_stay_two_runs(tmp_path):
    uri = f"sqlite:///{tmp_path}/new.db"
    barrier = multiprocessing.get_context("fork").Barrier(2)
    processes = [forked(train_with_another, uri, barrier, name) for name in ("a", "b")]
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


def die_after_sql_statements(uri, number):
    """Start a run, and kill this process with SIGKILL after this number of SQL statements."""
    statements = itertools.count(1)

    @sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "after_cursor_execute")
    def count(*arguments):
        if next(statements) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    start_a_run(uri)


@pytest.mark.parametrize("number", [1, 100])
def test_a_training_killed_while_it_creates_the_database_leaves_no_incomplete_one(
    tmp_path, monkeypatch, number
):
    """MLflow cannot use a file with only some of its tables, so the records of every later run would stay in the spool."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    database = tmp_path / "new.db"
    process = forked(die_after_sql_statements, f"sqlite:///{database}", number)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not database.exists()
    start_a_run(f"sqlite:///{database}")
    runs = MlflowClient(f"sqlite:///{database}").search_runs(["1"])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]
    assert sorted(path.name for path in tmp_path.glob("*new*")) == ["new.db", "new.db.lock"]


def test_an_incomplete_database_is_reported(database, uri):
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM alembic_version")
        connection.execute("DROP TABLE webhooks")
        connection.commit()
    with pytest.raises(
        TrackingError, match=r"mlflow\.db is an incomplete MLflow database .*; move the file elsewhere"
    ):
        start_a_run(uri)


def test_an_unreachable_server_is_reported_in_one_line():
    with socket.socket() as listener:  # bound, but nobody listens
        listener.bind(("127.0.0.1", 0))
        client = connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(Exception, match="Max retries exceeded") as caught:
            client.search_experiments()
    assert re.fullmatch(
        r"Failed to establish a new connection: \[Errno \d+\] Connection refused", first_line(caught.value)
    )
