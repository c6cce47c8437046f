"""An evaluation's files, and what a case that fails costs."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from pipelines.evaluation.model_evaluation import EvaluationError, labelled
from pipelines.metrics.names import METRICS, OCCASIONAL_METRICS
from tests.pipelines.evaluation.evaluated import evaluation, train
from tests.pipelines.tiny_model import write_model
from transforms.utils.files import FolderError


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
    assert {f"mean_{metric}" for metric in METRICS.keys() - OCCASIONAL_METRICS} <= set(run.data.metrics)
    assert run.data.metrics["false_positives"] == 1
    error = written["summary"]["confidence"]["classes"]["liver"]["mean_absolute_error"]
    assert run.data.metrics["confidence_error_liver"] == pytest.approx(error)
    assert "confidence,surface_entropy" in (out / "metrics.csv").read_text().splitlines()[0]
    assert "Confidence and Dice" in (out / "report.html").read_text()
    stored = Path(client.download_artifacts(run.info.run_id, "results", str(tmp_path)))
    assert json.loads((stored / "cases.json").read_text()) == written
    assert (stored / "report.html").read_bytes() == (out / "report.html").read_bytes()
    assert {path.name for path in (stored / "pictures").iterdir()} == {
        path.name for path in (out / "pictures").iterdir()
    }
    table = client.load_table(experiment.experiment_id, "results/table.json", [run.info.run_id])
    assert len(table["confidence"]) == len(table["dice"])
    assert sorted(table["case"]) == sorted([case.id for case in data.validation] * 2)
    assert {path.name for path in stored.glob("*.png")} == {"dice.png", "confusion.png"}
    assert not [e for e in client.search_experiments() if e.name == "evaluation"]


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
