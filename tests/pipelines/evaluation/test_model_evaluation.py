"""An evaluation's files and its MLflow run, on a real database."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from pipelines.data.dataset_folder import load_dataset
from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.evaluation.mlflow_run import training_run
from pipelines.evaluation.model_evaluation import Evaluation, EvaluationError, labelled
from pipelines.inference.ensemble import trained_model
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.inference.trained_model import TrainedModel
from pipelines.metrics.names import METRICS
from pipelines.tracking.run import Tracking
from tests.pipelines.small import write_dataset
from tests.pipelines.tiny_model import write_model
from transforms.utils.files import FolderError


@pytest.fixture
def uri(template, tmp_path, monkeypatch):
    shutil.copy(template, tmp_path / "mlflow.db")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def data(tmp_path):
    """Three labelled cases; the second prediction is wrong, the third misses a structure."""
    write_dataset(tmp_path / "data", training=1, validation=3)
    found = load_dataset(tmp_path / "data")
    labels = [case.label for case in found.validation]
    wrong = nib.load(labels[1])
    nib.save(nib.Nifti1Image(np.roll(np.asarray(wrong.dataobj), 2, 1), wrong.affine), labels[1])
    more = np.asarray(nib.load(labels[2]).dataobj).copy()
    more[more == 1] = 0
    nib.save(nib.Nifti1Image(more, wrong.affine), labels[2])
    return found


def train(uri, folder, **card):
    """A model whose card names a finished MLflow run."""
    with Tracking("lungs", uri=uri, system_metrics=None) as tracking:
        run_id = tracking.start(tags={"segbundles.kind": "training"})
        tracking.metrics({"best_val_mean_dice": 0.9}, 1)
    path = write_model(folder)
    content = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(content | {"run_id": run_id, "epoch": 3} | card))
    return path, run_id


def evaluation(data, model, output, **options):
    model = model if isinstance(model, TrainedModel) else trained_model(model)
    loader = volume_loader(VolumeDataset(labelled(data, "validation"), model.preprocess))
    engine = SegEvaluator(
        "cpu",
        loader,
        model.network,
        model.preprocess,
        model.class_names,
        SlidingWindow((12, 12, 12)),
        surface_tolerance=2.0,
    )
    return Evaluation(engine, model, data, output, **options)


def test_files_and_run_of_an_evaluation(data, uri, tmp_path, capsys):
    model, training = train(uri, tmp_path / "models")
    out = tmp_path / "out"
    summary = evaluation(data, model, out).run()
    assert {path.name for path in out.iterdir()} == {
        *("metrics.csv", "summary.csv", "metrics.json", "report.html", "pictures")
    }
    assert {path.stem for path in (out / "pictures").iterdir()} == {case.id for case in data.validation}
    written = json.loads((out / "metrics.json").read_text())
    assert written["split"] == "validation"
    assert summary["mean_dice"] == pytest.approx(written["summary"]["mean_dice"])
    assert summary["false_positives"] == 1
    assert f"page: {out / 'report.html'}" in capsys.readouterr().out

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("lungs")
    runs = {run.data.tags["segbundles.kind"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"training", "evaluation"}
    run = runs["evaluation"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == training == run.data.tags["model.run_id"]
    assert run.data.tags["data.digest"] == data.digest()
    assert run.data.tags["data.split"] == "validation"
    assert run.data.metrics["mean_dice"] == pytest.approx(summary["mean_dice"])
    assert run.data.metrics["hd95_mm_liver"] == pytest.approx(summary["classes"]["liver"]["hd95_mm"]["mean"])
    assert {f"mean_{metric}" for metric in METRICS} <= set(run.data.metrics)
    assert run.data.metrics["false_positives"] == 1
    stored = Path(client.download_artifacts(run.info.run_id, "results", str(tmp_path)))
    assert json.loads((stored / "cases.json").read_text()) == written
    assert (stored / "report.html").read_bytes() == (out / "report.html").read_bytes()
    assert {path.name for path in (stored / "pictures").iterdir()} == {
        path.name for path in (out / "pictures").iterdir()
    }
    table = client.load_table(experiment.experiment_id, "results/table.json", [run.info.run_id])
    assert sorted(table["case"]) == sorted([case.id for case in data.validation] * 2)
    assert {path.name for path in stored.glob("*.png")} == {"dice.png", "confusion.png"}
    assert not [e for e in client.search_experiments() if e.name == "evaluation"]


def test_only_the_worst_cases_are_drawn(data, uri, tmp_path):
    model = write_model(tmp_path / "models")
    out = tmp_path / "out"
    (out / "pictures").mkdir(parents=True)
    first = data.validation[0].id
    (out / "pictures" / f"{first}.png").write_bytes(b"of an earlier evaluation")
    evaluation(data, model, out, track=False, pictures=2).run()
    cases = json.loads((out / "metrics.json").read_text())["cases"]
    means = {c["case"]: np.mean([v for v in c["dice"].values() if v is not None]) for c in cases}
    best = max(means, key=means.get)
    assert best == first
    assert {path.stem for path in (out / "pictures").iterdir()} == set(means) - {first}
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 2
    evaluation(data, model, out, track=False, pictures=0).run()
    assert not list((out / "pictures").iterdir())
    assert "data:image" not in (out / "report.html").read_text()


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


def test_a_case_that_fails_does_not_stop_the_others(data, uri, tmp_path, capsys):
    model, _ = train(uri, tmp_path / "models")
    run = evaluation(data, model, tmp_path / "out")
    whole, unreadable, elsewhere = data.validation
    Path(unreadable.image).write_bytes(b"no image")
    label = nib.load(elsewhere.label)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[:-1], label.affine), elsewhere.label)
    with pytest.raises(EvaluationError) as error:
        run.run()
    lines = str(error.value).splitlines()
    assert lines[0] == "2 of 3 cases failed:"
    assert lines[1].startswith(f"  {unreadable.id}: ")
    assert "not a NIfTI" in lines[1]
    assert lines[2].startswith(f"  {elsewhere.id}: ")
    assert "size" in lines[2]
    assert "page: " in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [case["case"] for case in written["cases"]] == [whole.id]
    assert "not a NIfTI" in (tmp_path / "out" / "report.html").read_text()
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("lungs").experiment_id])
    runs = {r.data.tags["segbundles.kind"]: r for r in runs}
    assert {kind: run.info.status for kind, run in runs.items()} == {
        "training": "FINISHED",
        "evaluation": "FAILED",
    }
    assert "mean_dice" in runs["evaluation"].data.metrics
    stored = client.download_artifacts(runs["evaluation"].info.run_id, "results/cases.json", str(tmp_path))
    assert json.loads(Path(stored).read_text()) == written


def test_an_evaluation_in_which_all_fails_writes_no_results(data, tmp_path):
    run = evaluation(data, write_model(tmp_path / "models"), tmp_path / "out", track=False)
    for case in data.validation:
        Path(case.image).write_bytes(b"no image")
    with pytest.raises(EvaluationError, match="3 of 3 cases failed:"):
        run.run()
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_without_its_training_an_evaluation_lies_in_the_experiment_of_its_name(data, uri, tmp_path):
    model, _ = train(uri, tmp_path / "models", run_id="0" * 32, experiment="kidneys")
    evaluation(data, model, tmp_path / "out").run()
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("kidneys").experiment_id])
    assert "mlflow.parentRunId" not in run.data.tags


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_computed(data, uri, tmp_path):
    (tmp_path / "out").write_text("mine")
    run = evaluation(data, write_model(tmp_path / "models"), tmp_path / "out")
    with pytest.raises(
        FolderError, match=r"the results cannot be written to .* choose another --output_dir$"
    ):
        run.run()
    assert not run.evaluator.state.iteration
    assert (tmp_path / "out").read_text() == "mine"
    assert not MlflowClient(uri).search_experiments(filter_string="name != 'Default'")


def test_a_split_without_labels_is_refused(data):
    with pytest.raises(EvaluationError, match=r"the test split of .* has no case with a label"):
        labelled(data, "test")
