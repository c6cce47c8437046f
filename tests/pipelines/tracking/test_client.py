"""Connecting to MLflow: new databases, incomplete databases and unreachable servers."""

import contextlib
import itertools
import multiprocessing
import os
import re
import signal
import socket
import sqlite3
import sys
import tempfile
import types
from importlib import metadata

import pytest
import sqlalchemy
from mlflow.tracking import MlflowClient

from pipelines.tracking.client import OLDEST, connect, first_line
from pipelines.tracking.run import Tracking, TrackingError
from tests.answers import answering
from tests.conftest import REPOSITORY
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


# --- an MLflow that is too old: `tests/e2e/test_older_mlflow.py` has a real one ------------------------------------------

ADVICE = "run: pip install --upgrade 'mlflow>=3.5'"


def server_of_version(version):
    """The address of a server that says which MLflow it is, and nothing else."""
    return answering(lambda path: (200 if path == "/version" else 404, version))


def test_the_oldest_mlflow_is_the_one_that_is_required():
    lines = (REPOSITORY / "pipelines" / "deployment" / "requirements.txt").read_text(encoding="utf-8")
    assert f"\nmlflow>={OLDEST[0]}.{OLDEST[1]}\n" in lines


def test_an_older_package_is_refused(database, uri, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "3.4.0" if name == "mlflow" else "0")
    with pytest.raises(TrackingError) as caught:
        start_a_run(uri)
    assert str(caught.value) == f"MLflow 3.4.0 is installed, and 3.5 or newer is needed; {ADVICE}"


def test_a_server_that_is_too_old_ends_a_start(tmp_path, monkeypatch):
    """It would take the metrics, and no model: the run would never end."""
    monkeypatch.setenv("SEGBUNDLES_SPOOL", str(tmp_path / "spool"))
    with server_of_version(b"2.22.1") as address, pytest.raises(TrackingError) as caught:
        start_a_run(address.replace("//", "//user:secret@"))
    said = str(caught.value)
    assert "is MLflow 2.22.1, and 3.0 or newer is needed" in said
    assert ADVICE in said
    assert "secret" not in said


@pytest.mark.parametrize("answer", [b"3.0.1", b"10.1.0.dev0", b"<html>2.1", b"", b"\xff"])
def test_a_server_of_another_or_no_version_is_taken(answer):
    with server_of_version(answer) as address:
        assert connect(address).tracking_uri == address


def write_revision(database, revision):
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()


def test_a_database_of_a_newer_mlflow_is_no_reason_to_upgrade_the_database(database, uri):
    write_revision(database, "ffffffffffff")
    with pytest.raises(
        TrackingError, match=r"mlflow\.db: a newer MLflow than .* has written the database"
    ) as caught:
        start_a_run(uri)
    assert ADVICE in str(caught.value)


def test_a_database_of_an_older_mlflow_ends_a_start_with_its_own_advice(database, uri):
    write_revision(database, "451aebb31d03")
    with pytest.raises(TrackingError, match=r"backup of your database, then run 'mlflow db upgrade"):
        start_a_run(uri)


def test_packages_that_an_older_mlflow_cannot_use_are_not_called_missing(uri, monkeypatch):
    """As MLflow 3.5 beside SQLAlchemy 2.1: "cannot import name"."""
    monkeypatch.setitem(sys.modules, "mlflow.tracking", types.ModuleType("mlflow.tracking"))
    with pytest.raises(
        TrackingError, match=r"does not fit the packages beside it \(cannot import name"
    ) as caught:
        connect(uri)
    assert ADVICE in str(caught.value)
