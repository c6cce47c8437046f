"""Opening the run of a journal: it is found or created, and only once."""

import multiprocessing
import os
import random
import statistics
import time

import pytest
from mlflow.tracking import MlflowClient

from pipelines.__main__ import main
from pipelines.tracking.journal import journals
from pipelines.tracking.run import Tracking
from tests.pipelines.tracked_runs import forked, only_run, runs
from tests.pipelines.tracking.killed import killed, train_forever

FORK = multiprocessing.get_context("fork")


def test_killed_while_opening_leaves_no_open_run_and_no_duplicate(uri, tmp_path):
    moments, started = random.Random(1), time.monotonic()
    killed(0.0, train_forever, uri)
    duration = time.monotonic() - started
    for _ in range(6):
        process = FORK.Process(target=train_forever, args=(uri, os.open(os.devnull, os.O_WRONLY)))
        process.start()
        time.sleep(moments.uniform(0.0, duration))
        process.kill()
        process.join()
    heads = [journal.head() for journal in journals(tmp_path / "mlflow_spool")]
    assert main(["sync", str(tmp_path / "mlflow_spool")]) == 0
    keys = [run.data.tags["segbundles.key"] for run in runs(uri)]
    assert len(keys) == len(set(keys))
    assert {head["key"] for head in heads if head is not None} <= set(keys)
    assert {run.info.status for run in runs(uri)} == {"KILLED"}


def test_a_continued_run_keeps_its_id(uri):
    with pytest.raises(KeyboardInterrupt), Tracking("e", uri=uri) as tracking:  # noqa: PT012
        first = tracking.start()
        raise KeyboardInterrupt
    with Tracking("e", uri=uri) as tracking:
        assert tracking.start(continue_run=first) == first
        assert only_run(uri).info.status == "RUNNING"
        tracking.metrics({"loss": 1.0}, 5)
    assert only_run(uri).info.status == "FINISHED"


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
    assert parent.data.metrics == metrics, "a failed fold does not change the metrics"
    fold(uri, None, 4)
    parent = client.get_run(parent.info.run_id)
    assert parent.info.status == "FINISHED", "the failed fold was repeated"
    assert parent.data.metrics["folds"] == 5


@pytest.mark.parametrize("reason", ["deleted", "unknown"])
def test_a_missing_run_is_replaced_by_a_new_one(uri, reason, caplog):
    with Tracking("e", uri=uri) as tracking:
        first = tracking.start()
    if reason == "deleted":
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
    assert f"MLflow run {first} cannot be continued" in caplog.text
