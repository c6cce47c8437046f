"""Runs against servers that die, hang and fail: nothing is lost, nothing is there twice, and nobody waits."""

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from pipelines.__main__ import main
from pipelines.tracking.run import Tracking
from tests.e2e.commands import REPOSITORY, SMALL, Workplace
from tests.e2e.servers import Postgres, Proxy, free_port
from tests.pipelines import small
from tests.pipelines.tracked_runs import patient
from tests.waiting import PATIENCE, wait_for


@pytest.fixture(scope="module")
def postgres():
    made = Postgres()
    try:
        MlflowClient(made.uri).search_experiments()
        yield made
    finally:
        made.remove()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A working directory of its own, since the spool of a server's runs lies there."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "RANK", "SEGBUNDLES_SPOOL"):
        monkeypatch.delenv(name, raising=False)
    # A server on a slow machine is not one that is away.
    patient(monkeypatch)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(PATIENCE)))
    return tmp_path


def say(tracking, first, last):
    """Metrics of some steps, and everything else that a training says, named after the last of them."""
    for step in range(first, last):
        tracking.metrics({"loss": 1 / (step + 1), "rate": step * 1e-3}, step)
    tracking.params({f"param{last}": "x"})
    tracking.tags({f"tag{last}": "y"})
    tracking.json({"steps": last}, f"results/cases{last}.json")
    tracking.image("case/a", np.full((40, 60, 3), last % 256, np.uint8), last)
    tracking.table(f"table{last}.json", {"case": ["a", "b"], "dice": [0.5, float("nan")]})
    tracking.inputs(
        [{"name": f"data{last}", "digest": "d", "source_type": "local", "source": "s", "context": "training"}]
    )


def require_all(client, run_id, steps, said, folder, status="FINISHED"):
    """The run has these steps and what `say` said, once each."""
    run = client.get_run(run_id)
    assert run.info.status == status
    for name, value in (("loss", lambda s: 1 / (s + 1)), ("rate", lambda s: s * 1e-3)):
        history = client.get_metric_history(run_id, name)
        assert sorted((m.step, m.value) for m in history) == [(s, value(s)) for s in range(steps)]
    assert {f"param{n}" for n in said} <= set(run.data.params)
    assert {f"tag{n}" for n in said} <= set(run.data.tags)
    assert {d.dataset.name for d in run.inputs.dataset_inputs} == {f"data{n}" for n in said}
    assert len(run.inputs.dataset_inputs) == len(said)
    names = {item.path for item in client.list_artifacts(run_id, "results")}
    assert names == {f"results/cases{n}.json" for n in said}
    pictures = [item.path for item in client.list_artifacts(run_id, "images")]
    assert len(pictures) == 2 * len(said)
    for n in said:
        assert sum(path.startswith(f"images/case~a+step+{n}+timestamp+") for path in pictures) == 2
        table = pd.read_json(client.download_artifacts(run_id, f"table{n}.json", folder), orient="split")
        assert list(table["case"]) == ["a", "b"]
        assert table["dice"].isna().tolist() == [False, True]
    assert run.data.tags["mlflow.loggedImages"] == "True"


def only_one(client, experiment):
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run


def test_a_server_killed_and_back_in_mid_run_has_everything_once(server, place, caplog, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    with Tracking("killed", "survivor", flush_seconds=0.2, finish_seconds=PATIENCE) as tracking:
        survivor = tracking.start()
        say(tracking, 0, 100)
        # Somewhere within the delivery.
        wait_for(lambda: MlflowClient(server.url).get_metric_history(survivor, "loss"))
        server.kill()
        say(tracking, 100, 200)
        wait_for(lambda: "cannot be reached" in caplog.text)
        # A second training begins and ends while nobody answers.
        with Tracking("killed", "offline", finish_seconds=5) as second:
            offline = second.start()
            say(second, 0, 50)
        assert offline.startswith("pending-")
        assert "wait in" in caplog.text
        server.start()
        say(tracking, 200, 300)
        assert tracking.flush()
    client = MlflowClient(server.url)
    require_all(client, survivor, 300, (100, 200, 300), place)
    assert caplog.text.count("cannot be reached") == 2, "once for each training"
    assert caplog.text.count("can be reached again") == 1
    assert main(["sync"]) == 0
    assert "1 delivered" in capsys.readouterr().out
    assert not (place / "mlflow_spool").exists()
    runs = client.search_runs([client.get_experiment_by_name("killed").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["offline", "survivor"]
    (late,) = [run for run in runs if run.info.run_name == "offline"]
    require_all(client, late.info.run_id, 50, (50,), place)
    assert main(["sync"]) == 0
    assert "no records to send" in capsys.readouterr().out


def test_answers_that_get_lost_make_nothing_twice(server, place):
    """Requests that fail before the server, and requests that it carried out without the client knowing.

    How many there are depends on the time between them; after three vain attempts in a row the rest would be kept.
    """
    proxy = Proxy(server.port, ("lost request", "lost answer"), share=0.15, seed=3, in_a_row=2)
    with Tracking("lossy", "r", proxy.url, flush_seconds=0.1, finish_seconds=PATIENCE) as tracking:
        tracking.start()
        said = [0]
        while proxy.failed < 4 or len(said) < 3:
            said.append(said[-1] + 60)
            say(tracking, *said[-2:])
            tracking.flush()
        tracking.register("lossy model", "results", 0.5)
    proxy.close()
    assert not (place / "mlflow_spool").exists(), "an attempt that brings something is followed by another"
    client = MlflowClient(server.url)
    run = only_one(client, "lossy")
    require_all(client, run.info.run_id, said[-1], said[1:], place)
    (version,) = client.search_model_versions("name = 'lossy model'")
    assert client.get_model_version_by_alias("lossy model", "best").version == version.version


@pytest.mark.parametrize("fault", ["500", "hang"])
def test_a_server_in_trouble_holds_nobody_up(fault, place, template, caplog, capsys, monkeypatch):
    """Nothing of MLflow's answers; afterwards another store takes all of it."""
    monkeypatch.setattr("pipelines.tracking.delivery_thread.START_SECONDS", 2.0)
    proxy = Proxy(None, (fault,))
    with Tracking("trouble", "r", proxy.url, finish_seconds=3) as tracking:
        tracking.start()
        for step in range(200):
            tracking.metrics({"loss": 1 / (step + 1), "rate": step * 1e-3}, step)
        say(tracking, 0, 0)
        assert tracking.run_id.startswith("pending-"), "all is said and nobody has answered yet"
    proxy.close()
    assert caplog.text.count("cannot be reached") == 1
    uri = f"sqlite:///{shutil.copy(template, place / 'other.db')}"
    # The thread of the hanging request may hold on to the journal a little longer.
    assert main(["sync", "mlflow_spool", "--tracking-uri", uri]) == 0, capsys.readouterr().out
    require_all(MlflowClient(uri), only_one(MlflowClient(uri), "trouble").info.run_id, 200, (0,), place)


def test_a_postgresql_that_loses_power_in_mid_run_has_everything_once(postgres, place, caplog):
    """Directly, as `MLFLOW_TRACKING_URI=postgresql://...`."""
    with Tracking("power", "r", postgres.uri, flush_seconds=0.05, finish_seconds=PATIENCE) as tracking:
        run_id = tracking.start()
        for cut in range(3):
            say(tracking, cut * 100, cut * 100 + 100)
            time.sleep(0.1 * cut)
            postgres.stop()
            tracking.metrics({"other": 1.0}, cut)
            time.sleep(0.3)
            postgres.start()
        say(tracking, 300, 400)
    client = MlflowClient(postgres.uri)
    require_all(client, run_id, 400, (100, 200, 300, 400), place)
    assert [m.step for m in client.get_metric_history(run_id, "other")] == [0, 1, 2]
    assert not (place / "mlflow_spool").exists()
    assert client.get_run(run_id).info.artifact_uri.startswith((place / "mlartifacts").as_uri())


def test_monais_own_option_does_not_double_the_run(lungs_like, tmp_path):
    """`python -m monai.bundle run training ... --tracking mlflow`, as MONAI's documentation has it."""
    place = Workplace(tmp_path)
    words = place.training("r2unet", **{**SMALL, "epochs": 1}, dataset_dir=lungs_like, experiment_name="ct")
    place.run([*words, "--tracking", "mlflow"])
    assert sorted(e.name for e in place.client.search_experiments()) == ["Default", "ct"]
    (run,) = place.runs("ct")
    assert run.info.status == "FINISHED"
    assert {"epoch_loss", "val_mean_dice"} <= set(run.data.metrics)
    assert "MLFlowHandler" not in str(run.data.params)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("mlruns")]


@pytest.mark.slow
def test_a_whole_training_without_a_server_is_delivered_later(server, place):
    dataset = small.write_dataset(place / "data")
    path = small.config(place / "out", dataset, tracked=True, epochs=2)
    nobody = f"http://127.0.0.1:{free_port()}"
    variables = {**os.environ, "MLFLOW_TRACKING_URI": nobody, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tests.pipelines.small", str(path)]
    done = subprocess.run(command, env=variables, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "best validation" in done.stdout
    assert "python -m pipelines sync" in done.stderr
    sync = [sys.executable, "-m", "pipelines", "sync"]
    first = subprocess.run([*sync], env=variables, cwd=place, capture_output=True, text=True)
    assert (first.returncode, "1 waiting" in first.stdout) == (1, True), first.stdout + first.stderr
    words = [*sync, "mlflow_spool", "--tracking-uri", server.url]
    second = subprocess.run(words, env=variables, cwd=place, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    client = MlflowClient(server.url)
    run = only_one(client, "small")
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "epoch_loss")] == [3, 6]
    model = {item.path for item in client.list_artifacts(run.info.run_id, "model/models")}
    assert {"model/models/model.pt", "model/models/model.json"} <= model
