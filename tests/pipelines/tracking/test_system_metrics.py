"""System metrics are logged under MLflow's names."""

from functools import partial

from mlflow.tracking import MlflowClient

from pipelines.tracking.run import Tracking
from tests.waiting import PATIENCE, wait_for


def test_system_metrics_have_mlflows_names_and_the_seconds_as_steps(uri):
    client, run_id = MlflowClient(uri), None
    for count in (3, 6):
        with Tracking(
            "e", uri=uri, flush_seconds=0.1, finish_seconds=PATIENCE, system_metrics=0.1
        ) as tracking:
            run_id = tracking.start(continue_run=run_id)
            history = partial(client.get_metric_history, run_id, "system/cpu_utilization_percentage")
            wait_for(lambda history=history, count=count: len(history()) >= count)
    run = client.get_run(run_id)
    expected = {"cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_available_megabytes"}
    assert {f"system/{name}" for name in expected} <= set(run.data.metrics)
    history = client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    assert len(history) >= 6
    steps = [m.step for m in sorted(history, key=lambda m: m.timestamp)]
    assert steps == sorted(steps)
    seconds = [(m.timestamp - run.info.start_time) // 1000 for m in history]
    assert [m.step for m in history] == seconds, "the step is the number of seconds since the start"
