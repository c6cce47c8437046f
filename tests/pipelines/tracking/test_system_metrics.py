"""The machine, under the names that MLflow has for it."""

from functools import partial

from mlflow.tracking import MlflowClient

from pipelines.tracking.run import Tracking
from tests.waiting import PATIENCE, wait_for


def test_the_machine_is_watched_under_mlflows_names(uri):
    client, first = MlflowClient(uri), None
    for least in (3, 6):
        with Tracking(
            "e", uri=uri, flush_seconds=0.1, finish_seconds=PATIENCE, system_metrics=0.1
        ) as tracking:
            first = tracking.start(continue_run=first)
            seen = partial(client.get_metric_history, first, "system/cpu_utilization_percentage")
            wait_for(lambda seen=seen, least=least: len(seen()) >= least)
    run = client.get_run(first)
    expected = {"cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_available_megabytes"}
    assert {f"system/{name}" for name in expected} <= set(run.data.metrics)
    history = client.get_metric_history(first, "system/cpu_utilization_percentage")
    assert len(history) >= 6
    steps = [m.step for m in sorted(history, key=lambda m: m.timestamp)]
    assert steps == sorted(steps)
    seconds = [(m.timestamp - run.info.start_time) // 1000 for m in history]
    assert [m.step for m in history] == seconds, "the step is the second of the run"
