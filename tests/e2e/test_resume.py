"""Trainings that are killed, asked to end, changed or out of disk, and go on as if nothing had been."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines.inference.trained_model import BEST, CARD, load_tensors
from pipelines.training.checkpoints import EARLIER, LAST, load_state
from tests.conftest import make_dataset
from tests.e2e.commands import INTERRUPTIBLE, REPOSITORY, SMALL, Workplace
from tests.pipelines import small
from tests.pipelines.training.states import EXACT, equal, without_times
from tests.waiting import wait_for

DETERMINISTIC = ["$pipelines.preflight()", "$pipelines.seed_everything(@seed, True)"]


def history(client, run_id):
    """Metric to the (step, value) of all its points."""
    names = client.get_run(run_id).data.metrics
    return {
        name: sorted((p.step, p.value) for p in client.get_metric_history(run_id, name)) for name in names
    }


def killed_and_straight(folder, kills, seed, **overrides):
    """Two trainings of one config, the second killed so many times; what was killed where."""
    data = small.write_dataset(folder / "data")
    settings = {"tracked": True, "val_interval": 2, "initialize": DETERMINISTIC, **overrides}
    configs = [small.config(folder / name, data, **settings) for name in ("straight", "killed")]
    # The second builds its patch store itself: that is killed too.
    content = json.loads(configs[1].read_text())
    content["train"]["dataset"]["root"] = str(folder / "killed" / "store")
    configs[1].write_text(json.dumps(content))
    command = [sys.executable, "-m", "tests.e2e.killed", *map(str, configs), str(seed), str(kills)]
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    log = folder / "killed" / "log"
    assert result.returncode == 0, result.stderr[-2000:] + (log.read_text()[-4000:] if log.exists() else "")
    return uri, [row["place"] for row in map(json.loads, result.stdout.splitlines()) if row["killed"]]


def require_the_same(folder, uri):
    """The files and the metrics of the killed training are those of the straight one."""
    models = [folder / name / "models" for name in ("straight", "killed")]
    expected, found = (load_state(path / LAST) for path in models)
    assert expected["finished"]
    for key in expected.keys() - {"work", "history", "run_id"}:
        assert equal(expected[key], found[key]), key
    assert without_times(expected)["history"] == without_times(found)["history"]
    assert equal(load_tensors(models[0] / BEST), load_tensors(models[1] / BEST))
    assert {path.name for path in models[1].iterdir()} - {"previous"} == {".lock", LAST, EARLIER, BEST, CARD}
    client = MlflowClient(uri)
    points = [history(client, state["run_id"]) for state in (expected, found)]
    assert client.get_run(found["run_id"]).info.status == "FINISHED"
    assert len(points[0]["train_loss"]) == expected["iteration"]
    exact = {name for name in points[0] if EXACT.fullmatch(name)}
    assert exact >= {"train_loss", "epoch_loss", "val_mean_dice", "val_dice_lung", "best_val_mean_dice"}
    for name in exact:
        assert points[0][name] == points[1][name], name
    for name, values in points[1].items():
        if not name.startswith("system/"):
            steps = [step for step, _ in values]
            assert len(steps) == len(set(steps)), f"{name} has steps twice"


@pytest.mark.slow
def test_a_training_killed_twenty_times_ends_as_one_never_stopped(tmp_path):
    uri, places = killed_and_straight(tmp_path, kills=26, seed=0, epochs=8, patches_per_epoch=8)
    assert len(places) == 26
    assert len(set(places)) > 10
    require_the_same(tmp_path, uri)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "overrides"),
    [
        (1, {"epochs": 30, "patches_per_epoch": 8}),
        (2, {"epochs": 20, "patches_per_epoch": 12, "num_workers": 2}),
        (3, {"epochs": 20, "patches_per_epoch": 12, "train__trainer__accumulation_steps": 2}),
    ],
    ids=["plain", "workers", "accumulation"],
)
def test_a_training_killed_a_hundred_times_ends_as_one_never_stopped(tmp_path, seed, overrides):
    uri, places = killed_and_straight(tmp_path, kills=100, seed=seed, **overrides)
    assert len(places) == 100
    require_the_same(tmp_path, uri)


def interrupted(place, words, number, at, group=False, world=1):
    """Start a training, send it a signal in an iteration, and return its exit status and what it complained of."""
    reached = place.folder / f"reached{at}-"
    stop = {"SMALL_STOP_AT": str(at), "SMALL_STOP_BY": str(reached)}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with place.started(words, stop, **pipes, start_new_session=True) as process:
        wait_for(lambda: all(Path(f"{reached}{rank}").is_file() for rank in range(world)), process)
        (os.killpg if group else os.kill)(process.pid, number)
        errors = process.communicate()[1]
    return process.returncode, errors


def test_a_terminated_training_goes_on_within_its_epoch(tmp_path):
    """And not with another learning rate, unless told to."""
    data = make_dataset(tmp_path / "data", training=2, validation=1, size=32)
    place = Workplace(tmp_path)
    settings = SMALL | {"patches_per_epoch": 20, "epochs": 1, "dataset_dir": data}
    words = place.training("r2unet", INTERRUPTIBLE, **settings)
    code, errors = interrupted(place, words, signal.SIGTERM, at=4)
    assert code == 143, errors
    assert load_state(place.root / "models" / LAST)["inside"] == 4
    place.require_killed("r2unet")
    changed = place.run([*words, "--learning_rate", "0.002"], check=False)
    assert changed.returncode == 1
    (line,) = [line for line in changed.stderr.splitlines() if line.startswith("error:")]
    assert "learning_rate: 0.004 in the checkpoint, 0.002 now" in line
    result = place.run(words)
    assert "resuming after epoch 0 of 1, in epoch 1 after iteration 4 of 20" in result.stdout
    (run,) = place.runs("r2unet")
    assert run.info.status == "FINISHED"
    steps = [step for step, _ in history(place.client, run.info.run_id)["train_loss"]]
    assert steps == [10, 20]


@pytest.mark.slow
def test_signals_to_the_command_and_its_workers_lose_nothing(tmp_path):
    """Ctrl-C in a terminal and batch systems reach the loader workers too."""
    data = make_dataset(tmp_path / "data", training=2, validation=1, size=32)
    settings = SMALL | {
        "patches_per_epoch": 40,
        "epochs": 2,
        "checkpoint_minutes": 0,
        "dataset_dir": data,
        "num_workers": 2,
        "deterministic": "$True",
    }
    straight, stopped = Workplace(tmp_path / "a"), Workplace(tmp_path / "b")
    straight.run(straight.training("r2unet", INTERRUPTIBLE, **settings))
    words = stopped.training("r2unet", INTERRUPTIBLE, **settings)
    ways = [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, True)]
    for count, (number, group) in enumerate(ways):
        at = 15 * count + 3
        code, errors = interrupted(stopped, words, number, at, group)
        assert code == {signal.SIGTERM: 143, signal.SIGKILL: -9}.get(number, code), errors
        assert code != 0
        assert "DataLoader worker" not in errors
        done = at - (number == signal.SIGKILL)
        assert load_state(stopped.root / "models" / LAST)["iteration"] == done
    stopped.run(words)
    expected, found = (load_state(place.root / "models" / LAST) for place in (straight, stopped))
    for key in ("network", "average", "optimizer", "lr_scheduler", "ranks", "iteration"):
        assert equal(expected[key], found[key]), key
    runs = [place.runs("r2unet") for place in (straight, stopped)]
    assert [len(found) for found in runs] == [1, 1]
    points = [
        history(place.client, found[0].info.run_id)
        for place, found in zip((straight, stopped), runs, strict=True)
    ]
    for name in points[0]:
        if EXACT.fullmatch(name):
            assert points[0][name] == points[1][name], name


@pytest.mark.slow
def test_two_processes_stop_and_go_on_together(tmp_path):
    data = make_dataset(tmp_path / "data", training=2, validation=2, size=32)
    settings = SMALL | {
        "patches_per_epoch": 40,
        "checkpoint_minutes": 0,
        "dataset_dir": data,
        "deterministic": "$True",
    }
    straight, stopped = Workplace(tmp_path / "a"), Workplace(tmp_path / "b")
    commands = []
    for place in (straight, stopped):
        words = place.training("r2unet", "multi_gpu_train.json", INTERRUPTIBLE, **settings)
        commands.append(["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words])
    straight.run(commands[0])
    code, errors = interrupted(stopped, commands[1], signal.SIGTERM, at=5, world=2)
    assert code != 0
    assert load_state(stopped.root / "models" / LAST)["iteration"] == 5, errors
    stopped.require_killed("r2unet", errors)
    # one process alone is another training
    alone = stopped.run(stopped.training("r2unet", INTERRUPTIBLE, **settings), check=False)
    assert "the number of processes: 2 in the checkpoint, 1 now" in alone.stderr
    result = stopped.run(commands[1])
    assert "resuming after epoch 0 of 2, in epoch 1 after iteration 5 of 20" in result.stdout
    expected, found = (load_state(place.root / "models" / LAST) for place in (straight, stopped))
    assert len(found["ranks"]) == 2
    for key in ("network", "average", "optimizer", "lr_scheduler", "ranks", "iteration"):
        assert equal(expected[key], found[key]), key


def limited(place, words, folder, size, how):
    """Run a command that may write no more than so many bytes: to each file, or to a folder on a disk of its own."""
    if how == "limit":
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        options = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))}
        command = [sys.executable, *words]
    else:
        # A file system of our own, gone with the process; what lies in it is copied out.
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder.parent / f"{folder.name}.kept"
        script = (
            f'mount -t tmpfs -o size={size} tmpfs "{folder}" || exit 77; shift 0; "$@"; code=$?; '
            f'cp -a "{folder}" "{kept}"; exit $code'
        )
        command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, *words]
        options = {}
    result = subprocess.run(
        command, cwd=REPOSITORY, env=place.environment, capture_output=True, text=True, **options
    )
    if how == "disk" and (result.returncode == 77 or "unshare:" in result.stderr):
        pytest.skip("mounting is not allowed here")
    if how == "disk":
        shutil.rmtree(folder)
        (folder.parent / f"{folder.name}.kept").rename(folder)
    return result


def sentence(result, *parts):
    """The one line that a command ended with."""
    assert result.returncode == 1, result.stdout[-2000:] + result.stderr[-4000:]
    assert "Traceback" not in result.stderr, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    for part in parts:
        assert part in line, line


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
@pytest.mark.slow
@pytest.mark.parametrize("how", ["limit", "disk"])
def test_full_disks_are_said_in_a_sentence_and_cost_no_file(tmp_path, how):
    if how == "disk" and shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    data = make_dataset(tmp_path / "data", training=2, validation=1, size=32)
    place = Workplace(tmp_path)
    settings = SMALL | {"epochs": 1, "dataset_dir": data}
    words = place.training("r2unet", **settings)
    store, models, output = tmp_path / "store", place.root / "models", tmp_path / "predictions"
    sentence(limited(place, words, store, 4096, how), "no room to store case", str(store), "free some space")
    if store.is_dir():
        assert not [path for path in store.rglob("*") if path.name.startswith(".tmp-")]
    shutil.rmtree(store, ignore_errors=True)
    sentence(
        limited(place, words, models, 2 << 20, how), "cannot be written", str(models), "free some room there"
    )
    (run,) = place.runs("r2unet")
    assert run.info.status == "FAILED"
    assert "CheckpointNotWrittenError" in run.data.tags["error"]
    assert {path.name for path in models.iterdir()} <= {".lock"}
    place.run(words)
    limit = 64 if how == "limit" else 8192
    predict = [
        "-m",
        "pipelines",
        "predict",
        str(data / "images"),
        "-o",
        str(output),
        "--bundle",
        "bundles/r2unet",
    ]
    predict += ["--model", str(models / BEST), "--format", "nii.gz"]
    result = limited(place, predict, output, limit, how)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr, result.stderr
    assert result.stderr.count(f"cannot be written to {output}") == 3, result.stderr
    assert "free some room there" in result.stderr
    # nothing half, and nothing left
    assert not [path for path in output.rglob("*") if path.is_file() and path.stat().st_size == limit]
