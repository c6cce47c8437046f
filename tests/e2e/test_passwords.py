"""A password in the address of a server is used, and lands nowhere: on disk, in MLflow, in what is printed."""

import shutil
import socket

import pytest
from mlflow.tracking import MlflowClient

from pipelines.__main__ import main
from pipelines.comparison.run_finder import RunFinder
from pipelines.tracking.client import QUIET, connect, terminate
from pipelines.tracking.run import Tracking
from tests.conftest import make_dataset
from tests.e2e.commands import SMALL, Workplace
from tests.pipelines.tracked_runs import patient

# Not in one piece: where this file is edited, its lines are in the diff that a run stores.
PASSWORD = "-".join(("S3cret", "Pw"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "RANK", "SEGBUNDLES_SPOOL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(QUIET, "false")
    monkeypatch.setattr("pipelines.tracking.client._set_here", set())
    patient(monkeypatch)
    return tmp_path


def with_password(server):
    return server.url.replace("://", f"://user:{PASSWORD}@")


def require_clean(*folders):
    """No file of these has the password in it, compressed ones of PyTorch apart, which store it as it is."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                assert PASSWORD.encode() not in path.read_bytes(), path


def test_an_address_on_the_command_line_is_followed_and_its_password_kept_nowhere(server, place):
    data = make_dataset(place / "data", training=2, validation=1, size=32)
    work = Workplace(place / "work")
    given = {"dataset_dir": data, "tracking_uri": with_password(server), "experiment_name": "command line"}
    trained = work.run(work.training("r2unet", **{**SMALL, "epochs": 1}, **given))
    evaluated = work.bundle("r2unet", "evaluate.json", **given)
    client = MlflowClient(server.url)
    found = client.search_runs([client.get_experiment_by_name("command line").experiment_id])
    assert [run.data.tags["segbundles.kind"] for run in found] == ["evaluation", "training"]
    assert work.client.search_experiments(filter_string="name = 'command line'") == []
    for done, run in ((trained, found[1]), (evaluated, found[0])):
        assert PASSWORD not in done.stdout + done.stderr
        assert f"View run {run.info.run_name} at: {server.url}/#/experiments/" in done.stdout
    assert "tracking_uri" not in trained.stdout, "MONAI does not say the words of the command again"
    tags = found[1].data.tags
    assert "http://user:***@127.0.0.1" in tags["overrides"]
    assert "http://user:***@127.0.0.1" in tags["mlflow.source.name"]
    require_clean(work.folder, server.folder)
    for run in found:
        require_clean(place / client.download_artifacts(run.info.run_id, "", str(place)))
    refused = work.run(work.training("r2unet", **SMALL, registry_uri=with_password(server)), check=False)
    assert refused.returncode == 1
    assert PASSWORD not in refused.stdout + refused.stderr
    assert "nothing uses 'registry_uri'; set MLFLOW_REGISTRY_URI" in refused.stderr


def test_a_spool_holds_no_password_and_is_delivered_with_that_of_the_variable(
    server, place, monkeypatch, capsys
):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = f"http://user:{PASSWORD}@127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setattr("pipelines.tracking.delivery_thread.START_SECONDS", 1.0)
        with Tracking("spooled", "r", away, finish_seconds=1, system_metrics=None) as tracking:
            tracking.start()
            tracking.params({"address": away})
            tracking.json({"password": PASSWORD, "address": away}, "config.json")
            tracking.tags({"error": f"API request to {away}/api failed"})
    require_clean(place)
    assert main(["sync"]) == 1
    assert (
        "is not kept in the spool; set MLFLOW_TRACKING_URI to the address with the password"
        in capsys.readouterr().out
    )
    assert main(["sync", "--tracking-uri", with_password(server)]) == 0
    said = capsys.readouterr().out
    assert PASSWORD not in said
    assert "View run r at: " + server.url in said
    client = MlflowClient(server.url)
    (run,) = client.search_runs([client.get_experiment_by_name("spooled").experiment_id])
    assert run.data.params["address"] == away.replace(PASSWORD, "***")


def test_a_spool_is_delivered_with_the_password_that_mlflow_has(server, place, monkeypatch, capsys):
    monkeypatch.setattr("pipelines.tracking.delivery_thread.START_SECONDS", 1.0)
    server.kill()
    with Tracking("later", "r", with_password(server), finish_seconds=1, system_metrics=None) as tracking:
        tracking.start()
    server.start()
    for name, value in (
        ("MLFLOW_TRACKING_URI", with_password(server)),
        ("MLFLOW_TRACKING_USERNAME", "user"),
    ):
        shutil.copytree("mlflow_spool", name)
        monkeypatch.setenv(name, value)
        assert main(["sync", name]) == 0, capsys.readouterr().out
        monkeypatch.delenv(name)
    assert PASSWORD not in "".join(capsys.readouterr())


def test_mlflows_own_lines_show_no_password(server, place, capsys):
    client = connect(with_password(server))
    run = client.create_run("0", run_name="linked")
    terminate(client, run.info.run_id, "FINISHED")
    RunFinder(with_password(server)).client.set_terminated(run.info.run_id, "FINISHED")
    said = capsys.readouterr().out
    assert PASSWORD not in said
    assert f"View run linked at: {server.url}/#/experiments/0/runs/{run.info.run_id}" in said
