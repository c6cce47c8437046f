"""Trainings by 1, 2 and 4 processes over gloo: the same weights, the same validation, one end, going on as others."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from pipelines.training.checkpoints import LAST, load_state
from tests.pipelines import small
from tests.pipelines.worlds import REPOSITORY, logs, require_success, worlds

OVERLAY = REPOSITORY / "bundles" / "r2unet" / "multi_gpu_train.json"


def job(folder, data, world, trouble=None, counting=False, uri=None, **overrides):
    """A training by so many processes with a global batch of 4, that changes nothing but the number of processes."""
    total = (
        f"$@epochs * pipelines.steps_per_epoch(@patches_per_epoch, @batch_size, {overrides.pop('window', 1)})"
    )
    validation = {
        "_target_": "pipelines.Validation",
        "interval": "@val_interval",
        "validator": "@validate#evaluator",
    }
    handlers = [
        {"_target_": "tests.pipelines.small.Interrupt"},
        validation,
        {"_target_": "pipelines.Progress", "evaluator": "@validate#evaluator"},
        {
            "_target_": "tests.pipelines.witnesses.Witness",
            "folder": str(folder),
            "evaluator": "@validate#evaluator",
        },
        {"_target_": "tests.pipelines.witnesses.Drawn", "folder": str(folder)},
    ]
    if trouble is not None:
        kind, rank, iteration = trouble
        disturbing = {"kind": kind, "on": rank, "at": iteration}
        handlers.insert(0, {"_target_": "tests.pipelines.witnesses.Trouble", **disturbing})
    settings = {
        "channels_last": False,
        "precision": "fp32",
        "train__trainer__channels_last": "@channels_last",
        "deterministic": False,
        "batch_size": 4 // world,
        "patches_per_epoch": 8,
        "epochs": 2,
        **({} if "network_def" in overrides else {"network_def__norm": "group", "network_def__dropout": 0.0}),
        "lr_scheduler__total_steps": total,
        "train__handlers": handlers,
        # By this name the bundles' overlay takes the network.
        "weights": "$pipelines.InitialWeights(@network_def)",
        # Not small's True, which is of all ranks.
        "workflow__tracking__enabled": None if uri else False,
    }
    overlay = json.loads(OVERLAY.read_text())
    if counting:
        overlay["network"] = {
            "_target_": "tests.pipelines.witnesses.counted",
            "network": overlay["network"],
            "folder": str(folder),
        }
    configs = [small.config(folder, data, **(settings | overrides)), folder / "overlay.json"]
    configs[1].write_text(json.dumps(overlay))
    made = {"world": world, "folder": str(folder), "config": [str(path) for path in configs]}
    return made | ({"environment": {"MLFLOW_TRACKING_URI": uri}} if uri else {})


@pytest.fixture(scope="module")
def jobs(template, tmp_path_factory):
    """All jobs of this file with their outcome, run by one process, since its imports take longer than they do."""
    root, made = tmp_path_factory.mktemp("jobs"), {}
    data = small.write_dataset(root / "data", training=3, validation=5)
    few = small.write_dataset(root / "few", training=2, validation=3)

    def add(name, data, world, tracked=False, **options):
        folder = root / name
        folder.mkdir()
        uri = f"sqlite:///{shutil.copy(template, folder / 'mlflow.db')}" if tracked else None
        made[name] = job(folder, data, world, uri=uri, **options)

    for world in (1, 2, 4):
        add(f"plain {world}", data, world, counting=world > 1)
    windows = {"train__trainer__accumulation_steps": 3, "window": 3, "patches_per_epoch": 16}
    smaller = {"patches_per_epoch": 10, "epochs": 1}
    for world, counting in ((1, False), (2, True)):
        add(f"accumulated {world}", data, world, counting=counting, **windows)
        add(f"smaller last {world}", data, world, **smaller)
    add("left over 4", data, 4, **smaller)
    still = {"epochs": 1, "patches_per_epoch": 4, "optimizer__lr": 0.0, "optimizer__weight_decay": 0.0}
    for world in (1, 4):
        add(f"validated {world}", few, world, tracked=True, **still)
    add("batch norm 2", data, 2, network_def__norm="batch", epochs=1)
    # As the bundles train, with the memory format and the layer checkpointing that they offer.
    real = {"_target_": "networks.R2UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    real |= {"features": [4, 8], "num_steps": 2, "checkpointing": True}
    for world in (1, 2):
        add(f"r2unet {world}", few, world, network_def=real, channels_last=True, epochs=1)
    add("nan", few, 2, tracked=True, trouble=("nan", 1, 3))
    add("kill", few, 4, tracked=True, trouble=("kill", 2, 3))
    long = {"patches_per_epoch": 16, "epochs": 3, "val_interval": 3}
    add("never stopped", data, 1, **long)
    for part, (world, stop) in enumerate(((1, 3), (2, 8), (4, 10), (1, None))):
        add(f"stopped {part}", data, world, **long, resume="changed" if part else True)
        made[f"stopped {part}"]["overrides"] = {"bundle_root": str(root / "stopped")}
        if stop is not None:
            made[f"stopped {part}"]["environment"] = {"SMALL_STOP_AT": str(stop), "SMALL_STOP_BY": "SIGTERM"}
    apart = [root / "host0", root / "host1"]
    for folder in apart:
        # Files copied to another host need not keep their times.
        shutil.copytree(few, folder / "data", copy_function=shutil.copyfile)
    add("two hosts", few, 2, epochs=1, train__dataset__root="$@dataset_dir + '/store'")
    made["two hosts"] |= {
        "hosts": 2,
        "each": [{"dataset_dir": str(f / "data"), "bundle_root": str(f / "bundle")} for f in apart],
    }
    add("two datasets", few, 2, epochs=1, train__dataset__root="$@dataset_dir + '/store'")
    other = [{"dataset_dir": str(apart[0] / "data")}, {"dataset_dir": str(data)}]
    made["two datasets"] |= {"hosts": 2, "each": other}
    results = worlds(root, *made.values())
    return {name: job | result for (name, job), result in zip(made.items(), results, strict=True)}


def known(job, epoch):
    """What the ranks of a job knew after an epoch."""
    paths = [f"{job['folder']}/epoch{epoch}_rank{rank}.pt" for rank in range(job["world"])]
    return [torch.load(path, weights_only=False) for path in paths]


def drawn_by(job):
    """The batches that each rank trained on, in order."""
    paths = [Path(job["folder"], f"drawn_rank{rank}.jsonl") for rank in range(job["world"])]
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]


def same(ours, theirs):
    """To the last bit; NaN equals NaN."""
    return json.dumps(ours) == json.dumps(theirs)


def last(job):
    require_success(job)
    return load_state(f"{job['folder']}/models/{LAST}")


def run_of(job):
    client = MlflowClient(job["environment"]["MLFLOW_TRACKING_URI"])
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return client, run


@pytest.mark.parametrize(
    ("kind", "world"), [("plain", 2), ("plain", 4), ("accumulated", 2), ("smaller last", 2), ("r2unet", 2)]
)
def test_any_number_of_processes_trains_to_the_same_weights(jobs, kind, world):
    """Equal but for rounding: the gradients of a batch are summed in another order, 1e-7 of each.

    AdamW moves a weight by about the learning rate, 0.01, whatever the size of the gradient: it enlarges the rounding
    of the smallest gradients (to 2e-5, mostly 1e-7), and another patch in the batch, or a mean over the wrong number,
    makes differences of 1e-3 after these 1 to 6 steps.
    """
    expected, found = last(jobs[f"{kind} 1"]), last(jobs[f"{kind} {world}"])
    for key in ("network", "average"):
        for name, value in expected[key].items():
            torch.testing.assert_close(found[key][name], value, rtol=0, atol=5e-5)
    assert found["iteration"] == expected["iteration"]
    assert found["lr_scheduler"]["last_epoch"] == expected["lr_scheduler"]["last_epoch"]
    for ours, theirs in zip(found["history"], expected["history"], strict=True):
        assert ours["epoch_loss"] == pytest.approx(theirs["epoch_loss"], rel=1e-5)
        assert ours["val_mean_dice"] == pytest.approx(theirs["val_mean_dice"], abs=2e-3)


@pytest.mark.parametrize("name", ["plain 4", "accumulated 2"])
def test_ranks_have_the_very_same_weights(jobs, name):
    require_success(jobs[name])
    first, *others = (part["weights"] for part in known(jobs[name], 2))
    assert all(torch.equal(value, other[name]) for other in others for name, value in first.items())


@pytest.mark.parametrize(("name", "iterations"), [("plain 2", 4), ("plain 4", 4), ("accumulated 2", 8)])
def test_gradients_are_exchanged_once_in_an_accumulation_window(jobs, name, iterations):
    """Accumulated, 16 patches are 4 iterations an epoch: windows of 3 and of 1; plain, each iteration is a window."""
    assert last(jobs[name])["iteration"] == iterations
    for rank in range(jobs[name]["world"]):
        lines = Path(jobs[name]["folder"], f"reduced_rank{rank}.txt").read_text().splitlines()
        # all weights fit one bucket
        assert [line.split()[0] for line in lines] == ["0"] * 4
        assert int(lines[-1].split()[1]) == sum(p.numel() for p in small.Tiny(3).parameters())


def test_patches_that_do_not_divide_are_left_out(jobs):
    """10 patches by 4 processes: 2 each, in the order of one process; the last 2 wait for no epoch."""
    drawn = {
        name: [[row["patches"] for row in rows] for rows in drawn_by(jobs[name])]
        for name in ("smaller last 1", "smaller last 2", "left over 4")
    }
    whole = [patch for batch in drawn["smaller last 1"][0] for patch in batch]
    assert len(whole) == 10
    assert [[len(batch) for batch in rank] for rank in drawn["smaller last 2"]] == [[2, 2, 1]] * 2
    for name, kept in (("smaller last 2", 10), ("left over 4", 8)):
        ranks = [[patch for batch in rank for patch in batch] for rank in drawn[name]]
        assert [patch for group in zip(*ranks, strict=True) for patch in group] == whole[:kept]
    assert last(jobs["left over 4"])["iteration"] == 2


def test_cases_that_do_not_divide_give_the_metrics_of_one_process(jobs, tmp_path):
    """3 cases on 4 ranks, of which one has none: records, voxels, MLflow's files and pictures are the same."""
    require_success(jobs["validated 1"])
    require_success(jobs["validated 4"])
    (expected,) = known(jobs["validated 1"], 1)
    assert len(expected["cases"]) == 3
    assert expected["confusion"].sum() == 3 * np.prod(small.SIZE)
    for found in known(jobs["validated 4"], 1):
        assert torch.equal(found["confusion"], expected["confusion"])
        assert same(found["cases"], expected["cases"])
        assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-12, nan_ok=True)
    files = []
    for world in (1, 4):
        client, run = run_of(jobs[f"validated {world}"])
        assert (run.info.status, run.data.tags["processes"]) == ("FINISHED", str(world))
        folder = client.download_artifacts(run.info.run_id, "results", str(tmp_path))
        files.append(json.loads(Path(folder, "cases.json").read_text()))
        files.append({item.path for item in client.list_artifacts(run.info.run_id, "results/pictures")})
    assert files[:2] == files[2:]
    assert len(files[1]) == 3


def test_uneven_shards_of_a_trained_network_agree(jobs):
    """5 cases on 2 and on 4 ranks: every rank has all records, and counts add up to all voxels."""
    for name in ("plain 2", "plain 4"):
        first, *others = known(jobs[name], 2)
        assert [case["case"] for case in first["cases"]] == [f"ct{i}" for i in range(3, 8)]
        assert first["confusion"].sum() == 5 * np.prod(small.SIZE)
        for other in others:
            assert same(other["cases"], first["cases"])
            assert torch.equal(other["confusion"], first["confusion"])


def test_all_ranks_validate_with_the_running_statistics_of_the_first(jobs):
    require_success(jobs["batch norm 2"])
    first, second = (part["buffers"] for part in known(jobs["batch norm 2"], 1))
    assert any("running_mean" in name for name in first)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("name", "reason", "said"),
    [
        (
            "nan",
            "rank 1 of 2 on .* failed: NonFiniteLossError: the loss became nan",
            "the loss became nan",
        ),
        ("kill", "ended without reporting an error", "ended without reporting an error"),
    ],
)
def test_a_failing_rank_ends_all_and_the_run_is_failed(jobs, name, reason, said):
    """`failing_together`, by NaN and by kill -9."""
    require_failure(jobs[name], reason, said)


@pytest.mark.slow
def test_a_rank_that_is_stuck_is_ended_when_another_fails(template, tmp_path):
    """It would hang for ever; ranks on GPUs may wait for a collective that never ends."""
    data = small.write_dataset(tmp_path / "data", training=2, validation=1)
    uri = f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}"
    made = job(tmp_path, data, 2, uri=uri, trouble=("stuck", 1, 3))
    (result,) = worlds(tmp_path, made)
    said = "the test ends this rank here"
    require_failure(made | result, f"rank 1 of 2 on .* failed: RuntimeError: {said}", said)


def require_failure(ended, reason, said):
    assert all(code != 0 for code in ended["codes"]), ended
    assert ended["killed"] == [], "ranks end by themselves once one has failed"
    _, run = run_of(ended)
    assert run.info.status == "FAILED"
    words = logs(ended)
    assert re.search(reason, run.data.tags["error"]), run.data.tags["error"]
    speaking = [rank for rank, text in enumerate(words) if said in text]
    assert len(speaking) == 1, words
    if said != "the test ends this rank here":
        assert not any("Traceback" in text for text in words), words


def test_a_training_goes_on_with_another_number_of_processes(jobs):
    """By 1, 2, 4 and 1 processes, stopped within an epoch, at the end of one, and within one again."""
    parts = [jobs[f"stopped {part}"] for part in range(4)]
    for part in parts[:3]:
        assert all(code in (143, -15) for code in part["codes"]), [log[-2000:] for log in logs(part)]
    require_success(parts[3])

    def patches(job):
        batches = zip(*drawn_by(job), strict=True)
        return [
            patch
            for ranks in batches
            for group in zip(*(r["patches"] for r in ranks), strict=True)
            for patch in group
        ]

    assert [len(patches(part)) for part in parts] == [12, 20, 8, 8]
    assert [one for part in parts for one in patches(part)] == patches(jobs["never stopped"])
    expected = last(jobs["never stopped"])
    found = load_state(Path(parts[0]["folder"]).parent / "stopped" / "models" / LAST)
    for name, value in expected["network"].items():
        torch.testing.assert_close(found["network"][name], value, rtol=0, atol=1e-5)
    assert found["lr_scheduler"]["last_epoch"] == expected["lr_scheduler"]["last_epoch"] == 12
    for ours, theirs in zip(found["history"], expected["history"], strict=True):
        assert ours["epoch_loss"] == pytest.approx(theirs["epoch_loss"], rel=1e-5)


def test_hosts_need_share_no_folder(jobs):
    """Each has a dataset and a patch store of its own; only the first one writes models."""
    made = jobs["two hosts"]
    require_success(made)
    places = [Path(given["dataset_dir"]).parent for given in made["each"]]
    assert [bool(list(place.glob("data/store/*/*/meta.json"))) for place in places] == [True, True]
    assert [(place / "bundle").exists() for place in places] == [True, False]
    assert load_state(places[0] / "bundle" / "models" / LAST)["finished"]


def test_hosts_with_other_cases_are_told(jobs):
    made = jobs["two datasets"]
    assert all(code != 0 for code in made["codes"])
    said = [re.findall(r"error: the processes do not train the same \(.*", text) for text in logs(made)]
    # Here rank 0 keeps the store by which they tell one another; under torchrun it outlives rank 0.
    assert 1 <= sum(map(len, said)) <= 2, logs(made)
    assert "ct2 ct3 ct4 on rank 0, ct3 ct4 ct5 ct6 ct7 on rank 1" in str(said)
