"""A comparison kept in MLflow: a run of its own, renewed and not doubled, and nothing else touched."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.comparison.comparison import compare
from pipelines.comparison.mlflow_run import log_comparison
from pipelines.comparison.run_finder import RunError, RunFinder
from pipelines.comparison.run_results import read_results
from tests.pipelines.tracked_runs import add_run, new_store


def test_a_run_of_its_own(tmp_path: Path) -> None:
    client = new_store(tmp_path)
    values = np.linspace(0.5, 0.9, 16).reshape(8, 2)
    ids = [
        add_run(client, "first", {"dice": values, "iou": values}),
        add_run(client, "second", {"dice": values + 0.01, "iou": values}, experiment="other"),
    ]
    before = [client.get_run(run_id).to_dictionary() for run_id in ids]
    finder = RunFinder(client.tracking_uri)
    runs = [read_results(finder, run) for run in finder.find(ids)]
    kept = log_comparison(finder, compare(runs), {})
    run = client.get_run(kept)
    assert run.info.run_name == "dice: first vs second"
    assert run.info.status == "FINISHED"
    assert run.info.experiment_id == client.get_run(ids[0]).info.experiment_id
    assert run.data.tags["segbundles.kind"] == "comparison"
    assert run.data.tags["segbundles.compared"] == ",".join(ids)
    assert "+0.0100" in run.data.tags["mlflow.note.content"]
    names = {item.path for item in client.list_artifacts(kept)}
    assert names == {"comparison.html", "comparison.csv", "comparison_classes.csv"}
    assert [client.get_run(run_id).to_dictionary() for run_id in ids] == before

    assert log_comparison(finder, compare(runs), {}) == kept
    other = log_comparison(finder, compare(runs, "iou"), {})
    turned = log_comparison(finder, compare(runs[::-1]), {})
    assert len({kept, other, turned}) == 3
    # A comparison is nothing to compare: a filter passes it over.
    assert [run.info.run_id for run in finder.find(["attributes.status = 'FINISHED'"])] == ids


def test_a_store_that_refuses_is_told(tmp_path: Path) -> None:
    client = new_store(tmp_path)
    ids = [add_run(client, name, {"dice": [[0.5, 0.5]]}) for name in ("first", "second")]
    finder = RunFinder(client.tracking_uri)
    comparison = compare([read_results(finder, run) for run in finder.find(ids)])
    client.delete_experiment(client.get_run(ids[0]).info.experiment_id)
    with pytest.raises(RunError, match=r"could not be logged to MLflow at .* \(.*\); use --no-log"):
        log_comparison(finder, comparison, {})
