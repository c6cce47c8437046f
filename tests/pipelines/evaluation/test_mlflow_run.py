"""Where the run of an evaluation lies in MLflow."""

from mlflow.tracking import MlflowClient

from pipelines.evaluation.mlflow_run import training_run
from tests.pipelines.evaluation.evaluated import evaluation, train
from tests.pipelines.tiny_model import write_model


def test_without_its_training_an_evaluation_has_an_experiment_of_its_own(data, uri, tmp_path):
    model = write_model(tmp_path / "models")
    evaluation(data, model, tmp_path / "out").run()
    evaluation(data, model, tmp_path / "out", experiment="other", run_name="mine").run()
    client = MlflowClient(uri)
    found = {}
    for name in ("evaluation", "other"):
        (found[name],) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
        assert "mlflow.parentRunId" not in found[name].data.tags
    assert found["evaluation"].info.run_name.startswith("evaluation of small, validation, 20")
    assert found["other"].info.run_name == "mine"


def test_an_ensemble_has_no_single_parent(data, uri, tmp_path):
    first, _ = train(uri, tmp_path / "a")
    second, _ = train(uri, tmp_path / "b")
    evaluation(data, f"{first},{second}", tmp_path / "out").run()
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("lungs").experiment_id])
    (run,) = [run for run in runs if run.data.tags["segbundles.kind"] == "evaluation"]
    assert "mlflow.parentRunId" not in run.data.tags


def test_a_training_run_is_found_by_its_id_or_by_its_key(uri, tmp_path):
    _, run_id = train(uri, tmp_path / "models")
    client = MlflowClient(uri)
    assert training_run(run_id, uri) == (run_id, "lungs")
    key = client.get_run(run_id).data.tags["segbundles.key"]
    assert training_run(f"pending-{key}", uri) == (run_id, "lungs")
    for absent in (None, "0" * 32, "pending-nobody"):
        assert training_run(absent, uri) is None
    client.delete_run(run_id)
    assert training_run(run_id, uri) is None


def test_without_its_training_an_evaluation_lies_in_the_experiment_of_its_name(data, uri, tmp_path):
    model, _ = train(uri, tmp_path / "models", run_id="0" * 32, experiment="kidneys")
    evaluation(data, model, tmp_path / "out").run()
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("kidneys").experiment_id])
    assert "mlflow.parentRunId" not in run.data.tags
