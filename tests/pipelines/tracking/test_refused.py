"""Records that MLflow refuses do not delay the others."""

import json

from mlflow.tracking import MlflowClient

from pipelines.__main__ import main
from pipelines.tracking.run import Tracking
from tests.pipelines.tracked_runs import only_run, runs, steps


def test_refused_records_are_stored_and_do_not_delay_others(uri, tmp_path, caplog, capsys):
    with Tracking("e", uri=uri, flush_seconds=3600, system_metrics=None) as tracking:
        run_id = tracking.start()
        tracking.metrics({"loss": 1.0}, 1)
        tracking.metrics({"/absolute": 2.0, "rate": 0.5}, 1)  # this name is not a relative path
        tracking.params({"ok": "1", "../up": "2"})
        tracking.register("no:such/name", "model", 1.0)
        tracking.metrics({"loss": 0.5}, 2)
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"
    assert steps(uri, run_id) == [1, 2]
    assert run.data.metrics["rate"] == 0.5
    assert run.data.params == {"ok": "1"}
    assert caplog.text.count("MLflow refused a record of run") == 1
    assert f"MLflow refused 3 records of run {run_id}" in caplog.text
    (refused,) = (tmp_path / "mlflow_spool").glob("*/refused.jsonl")
    records = [json.loads(line) for line in refused.read_text().splitlines()]
    assert ["/absolute" in records[0]["values"], records[1]["key"], records[2]["op"]] == [
        True,
        "../up",
        "register",
    ]
    assert all(record["refused"] for record in records)
    # Another server may accept them later; this one refuses them again.
    assert main(["sync", str(tmp_path / "mlflow_spool"), "--refused"]) == 1
    assert "MLflow refused 3 records" in capsys.readouterr().out
    assert len(refused.read_text().splitlines()) == 3
    assert steps(uri, run_id) == [1, 2]


def test_a_run_deleted_while_it_is_written_is_reported_once(uri, tmp_path, caplog):
    with Tracking("e", uri=uri, flush_seconds=0, system_metrics=None) as tracking:
        run_id = tracking.start()
        MlflowClient(uri).delete_run(run_id)
        for step in range(500):
            tracking.metrics({"loss": 1.0}, step)
        tracking.tags({"a": "b"})
    assert caplog.text.count("MLflow refused a record of run") == 1
    assert not list((tmp_path / "mlflow_spool").glob("*/journal.jsonl"))


def test_a_value_that_is_not_a_number_is_reported_and_stops_nothing_else(uri, caplog):
    tracking = Tracking("e", uri=uri, flush_seconds=0)
    run_id = tracking.start()
    tracking.metrics({"loss": "much", "dice": 0.25}, 1)
    tracking.metrics({"loss": 0.5}, 2)
    assert tracking.flush()
    tracking.finish("FINISHED")
    assert "the metric loss is not a number but 'much'" in caplog.text
    assert [m.value for m in MlflowClient(uri).get_metric_history(run_id, "loss")] == [0.5]
    assert only_run(uri).data.metrics["dice"] == 0.25
