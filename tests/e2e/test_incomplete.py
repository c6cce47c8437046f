"""What of a run did not arrive is told in whole, by the run too, and no version or alias stands for a part of a model."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines.__main__ import main
from pipelines.tracking.refused import INCOMPLETE
from pipelines.tracking.run import Tracking
from tests.e2e.commands import REPOSITORY
from tests.e2e.servers import Proxy, free_port
from tests.pipelines.tracked_runs import patient
from tests.waiting import PATIENCE


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "RANK", "SEGBUNDLES_SPOOL"):
        monkeypatch.delenv(name, raising=False)
    patient(monkeypatch)
    return tmp_path


def write_model(folder, weights):
    """A model of three files; returns its folder."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "models").mkdir(parents=True)
    (folder / "MLmodel").write_text(f"size: {weights}\n")
    (folder / "models" / "model.json").write_text("{}\n")
    (folder / "models" / "model.pt").write_bytes(os.urandom(weights))
    return folder


def train(uri, folder, value, model="m", run_id=None):
    """A run of experiment e that ends with a model; returns its id."""
    with Tracking("e", uri=uri, finish_seconds=PATIENCE, system_metrics=None) as tracking:
        tracking.start(continue_run=run_id)
        tracking.metrics({"loss": 0.5}, 1)
        tracking.artifacts(folder, "model")
        tracking.register(model, "model", value)
        tracking.flush()
        return tracking.run_id


def best(client, model):
    version = client.get_model_version_by_alias(model, "best")
    return version.run_id, version.tags["value"]


def files(client, run_id, folder):
    """Bytes of the run's model by name, as the server gives them."""
    root = Path(client.download_artifacts(run_id, "model", str(folder)))
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_a_model_that_the_server_does_not_take_is_no_version_and_the_alias_stays(
    server, place, caplog, capsys
):
    proxy = Proxy(server.port, share=0.0, largest=100_000)
    client = MlflowClient(server.url)
    first = train(proxy.url, write_model(place / "a", 1000), 0.5, "413")
    assert best(client, "413") == (first, "0.5")
    assert INCOMPLETE not in client.get_run(first).data.tags
    second = train(proxy.url, write_model(place / "b", 200_000), 0.9, "413")
    assert best(client, "413") == (first, "0.5")
    assert len(client.search_model_versions("name = '413'")) == 1
    run = client.get_run(second)
    assert run.info.status == "FINISHED"
    (told,) = [line for line in caplog.messages if line.startswith("MLflow refused 4 records")]
    for text in (told, run.data.tags[INCOMPLETE]):
        for name in (
            "model/models/model.pt",
            "model/models/model.json",
            "model/MLmodel",
            "the version of 413",
        ):
            assert name in text
        assert "413 Client Error" in text
    assert client.list_artifacts(second, "model") == []
    assert main(["sync", "mlflow_spool"]) == 1
    assert "delivered" not in capsys.readouterr().out
    # The proxy is mended.
    proxy.largest = float("inf")
    assert main(["sync", "mlflow_spool", "--refused"]) == 0, capsys.readouterr().out
    assert best(client, "413") == (second, "0.9")
    assert len(files(client, second, place)["models/model.pt"]) == 200_000
    assert INCOMPLETE not in client.get_run(second).data.tags
    assert not (place / "mlflow_spool").exists()
    proxy.close()


def test_a_better_model_that_is_refused_leaves_the_version_before_it_whole(server, place, tmp_path):
    """A run that goes on puts its model in the place of the one before: all of it or nothing."""
    proxy = Proxy(server.port, share=0.0, largest=100_000)
    client = MlflowClient(server.url)
    run_id = train(proxy.url, write_model(place / "a", 1000), 0.5, "goes on")
    before = files(client, run_id, tmp_path)
    assert train(proxy.url, write_model(place / "b", 200_000), 0.9, "goes on", run_id) == run_id
    assert files(client, run_id, tmp_path) == before
    assert best(client, "goes on") == (run_id, "0.5")
    proxy.close()


def test_the_alias_does_not_go_to_an_older_version_that_lacks_files(server, place):
    client = MlflowClient(server.url)
    # As earlier releases left them: no word of what belongs to it, and the weights never came.
    older = client.create_run("0").info
    client.log_artifact(older.run_id, str(write_model(place / "old", 10) / "MLmodel"), "model")
    client.create_registered_model("older")
    client.create_model_version(
        "older", f"{older.artifact_uri}/model", run_id=older.run_id, tags={"value": "0.99"}
    )
    client.set_registered_model_alias("older", "best", "1")
    first = train(server.url, write_model(place / "a", 1000), 0.5, "older")
    assert best(client, "older") == (first, "0.5")
    # A better one whose files were removed since.
    second = train(server.url, write_model(place / "b", 1000), 0.8, "older")
    assert best(client, "older") == (second, "0.8")
    (weights,) = server.folder.rglob(f"{second}/artifacts/model/models/model.pt")
    weights.unlink()
    third = train(server.url, write_model(place / "c", 1000), 0.7, "older")
    assert best(client, "older") == (third, "0.7")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_folder_for_temporary_files_costs_what_was_made_there_and_no_training(place, template, caplog):
    uri = f"sqlite:///{shutil.copy(template, place / 'mlflow.db')}"
    with Tracking("e", uri=uri, system_metrics=None) as tracking:
        run_id = tracking.start()
        for name in ("results of epoch 3", "model"):
            with tracking.losing(name):
                Path("/dev/full").write_text("figures, or the files of a model")
        tracking.register("m", "model", 0.5)
        tracking.metrics({"loss": 0.5}, 1)
    run = MlflowClient(uri).get_run(run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 0.5})
    assert run.data.tags[INCOMPLETE].splitlines() == [
        "it could not be saved (No space left on device): results of epoch 3, model",
        "a file of model could not be saved, so no version is registered and the alias is not moved: the version of m",
    ]
    assert "3 parts of it are lost" in caplog.text
    assert MlflowClient(uri).search_registered_models() == []


@pytest.fixture
def disk(place):
    """Runs a command with a disk of its own, of so many bytes, at a folder; what lies on it is there afterwards."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")

    def run(words, folder, size, **variables):
        folder.mkdir()
        kept = folder.with_name("kept")
        script = (
            f'mount -t tmpfs -o size={size} tmpfs "{folder}" || exit 77; "$@"; code=$?; '
            f'rm -f "{folder}/filler"; cp -a "{folder}" "{kept}"; exit $code'
        )
        command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, *words]
        done = subprocess.run(
            command, cwd=REPOSITORY, env={**os.environ, **variables}, capture_output=True, text=True
        )
        if done.returncode == 77 or "unshare:" in done.stderr:
            pytest.skip("mounting is not allowed here")
        return done, kept

    return run


LOST = ["results/after.json", "table.json", "checkpoint/last.ckpt", "model/last.ckpt", "model/MLmodel"]
PICTURES = [f"images/case_a+step+{step}+" for step in range(3)]


def require_lost_told(text):
    for name in (*LOST, *PICTURES, "the version of filled"):
        assert name in text, text
    assert "No space left on device" in text


def write_trained(place):
    model = write_model(place / "model", 300_000)
    (model / "last.ckpt").write_bytes(os.urandom(300_000))


def test_a_disk_that_fills_up_in_mid_run_costs_what_is_told_in_whole(disk, place, template, capsys):
    uri = f"sqlite:///{shutil.copy(template, place / 'mlflow.db')}"
    write_trained(place)
    spool = place / "disk" / "spool"
    done, kept = disk(["-m", "tests.e2e.filled", uri], place / "disk", "300k", SEGBUNDLES_SPOOL=str(spool))
    assert done.returncode == 0, done.stderr
    assert "the training is whole" in done.stdout
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("filled").experiment_id])
    require_lost_told(run.data.tags[INCOMPLETE])
    (told,) = [line for line in done.stderr.splitlines() if f"run {run.info.run_id} is incomplete" in line]
    require_lost_told(told)
    assert run.info.status == "FINISHED"
    steps = sorted(m.step for m in client.get_metric_history(run.info.run_id, "loss"))
    assert steps == list(range(1500)), "what waited in memory is delivered from there"
    assert client.search_registered_models() == []
    for _ in range(2):
        assert main(["sync", str(kept / "spool")]) == 1
        said = capsys.readouterr().out
        assert "delivered" not in said
        require_lost_told(said)


def test_a_full_disk_and_no_server_leave_a_run_that_says_what_it_lacks(disk, place, template, capsys):
    write_trained(place)
    spool = place / "disk" / "spool"
    nobody = f"http://127.0.0.1:{free_port()}"
    done, kept = disk(["-m", "tests.e2e.filled", nobody], place / "disk", "300k", SEGBUNDLES_SPOOL=str(spool))
    assert done.returncode == 0, done.stderr
    assert "the training is whole" in done.stdout
    (told,) = [line for line in done.stderr.splitlines() if "is incomplete" in line]
    require_lost_told(told)
    uri = f"sqlite:///{shutil.copy(template, place / 'mlflow.db')}"
    assert main(["sync", str(kept / "spool"), "--tracking-uri", uri]) == 1
    said = capsys.readouterr().out
    assert "1 incomplete" in said
    assert "delivered" not in said
    require_lost_told(said)
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("filled").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.end_time < time.time() * 1000
    tag = run.data.tags[INCOMPLETE]
    require_lost_told(tag)
    there = sorted(m.step for m in client.get_metric_history(run.info.run_id, "loss"))
    assert there == list(range(len(there)))
    assert 0 < len(there) < 1500
    assert f"the disk was still full at the end of the run: {1500 - len(there)} records" in tag
    assert client.search_registered_models() == []
