"""The mission's commands in a subprocess, and what they leave behind."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from pipelines.data.demo import prepare_demo, prepare_demo_dicom
from tests.conftest import make_dataset
from tests.e2e.commands import EVERYWHERE, INTERRUPTIBLE, REPOSITORY, SMALL, Workplace
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The mission's own command for two short epochs on the demo CT."""
    place = Workplace(tmp_path_factory.mktemp("demo"), database=False)
    result = place.run(place.training("r2unet", epochs=2, patches_per_epoch=4, val_interval=1, num_workers=0))
    assert "left_lung" in result.stdout
    assert "next commands" in result.stdout
    return place


def test_the_run_can_be_read_back_from_mlflow(trained: Workplace) -> None:
    (run,) = trained.runs("r2unet")
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "2"
    assert run.data.params["network_def._target_"] == "networks.R2UNet"
    assert run.data.params["dataset_dir"] == "data/demo"
    assert len(run.data.tags["data.digest"]) == 64
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    assert run.data.tags["git.dirty"] in ("true", "false")
    for metric in ("epoch_loss", "val_mean_dice", "val_dice_left_lung", "val_dice_right_lung"):
        history = trained.client.get_metric_history(run.info.run_id, metric)
        assert len(history) == 2, metric
        assert all(np.isfinite(point.value) for point in history)
    names = {item.path for item in trained.client.list_artifacts(run.info.run_id)}
    assert {"config.json", "cases.json", "model", "results", "images", "checkpoint"} <= names
    assert run.data.tags["segbundles.kind"] == "training"
    overrides = json.loads(run.data.tags["overrides"])
    assert overrides["epochs"] == 2
    assert overrides["bundle_root"] == str(trained.root)
    called = json.loads(
        Path(trained.client.download_artifacts(run.info.run_id, "invocation.json")).read_text()
    )
    assert called["config_files"] == ["bundles/r2unet/train.json"]
    assert called["overrides"] == overrides
    (kept,) = trained.client.list_artifacts(run.info.run_id, "config_files")
    source = Path(trained.client.download_artifacts(run.info.run_id, kept.path)).read_text()
    assert source == (REPOSITORY / "bundles" / "r2unet" / "train.json").read_text()


def test_the_run_shows_the_validation_cases(trained: Workplace) -> None:
    (run,) = trained.runs("r2unet")

    def listed(folder: str) -> list[str]:
        return [Path(item.path).name for item in trained.client.list_artifacts(run.info.run_id, folder)]

    assert listed("results/pictures") == ["ctchest.png"]
    assert {"cases.json", "confusion.png", "dice.png", "table.json"} <= set(listed("results"))
    steps = {name.replace("%", "+").split("+")[2] for name in listed("images") if name.startswith("ctchest")}
    assert steps == {"1", "2"}
    record = json.loads(
        Path(trained.client.download_artifacts(run.info.run_id, "results/cases.json")).read_text()
    )
    (case,) = record["cases"]
    assert case["case"] == "ctchest"
    assert run.data.metrics["best_val_mean_dice"] == pytest.approx(np.mean(list(case["dice"].values())))


def test_the_run_is_a_bundle_and_an_mlflow_model(trained: Workplace, tmp_path: Path) -> None:
    """One folder: MONAI runs it, MLflow loads it, and both give the labels of `python -m pipelines predict`."""
    (run,) = trained.runs("r2unet")
    image = prepare_demo(REPOSITORY / "data" / "demo") / "imagesTr" / "lidc_idri_0001.nii.gz"
    root = Path(trained.client.download_artifacts(run.info.run_id, "model", str(tmp_path)))
    # All three in one number format, which both bundle and MLflow model take from here.
    inference = json.loads((root / "configs" / "inference.json").read_text())
    (root / "configs" / "inference.json").write_text(json.dumps({**inference, **EVERYWHERE}))
    predict = ["-m", "pipelines", "predict", str(image), "-o", str(tmp_path / "predicted")]
    predict += ["--bundle", "bundles/r2unet", "--model", str(trained.root / "models" / "model.pt")]
    trained.run([*predict, "--precision", EVERYWHERE["precision"]])
    bundle = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    bundle += ["--input", str(image), "--output", str(tmp_path / "bundle")]
    code = "import mlflow, sys, numpy; model = mlflow.pyfunc.load_model(sys.argv[1]); "
    code += "import pipelines; assert pipelines.__file__.startswith(sys.argv[1]), pipelines.__file__; "
    code += "numpy.save(sys.argv[3], model.predict(sys.argv[2]))"
    loading = ["-c", code, str(root), str(image), str(tmp_path / "labels.npy")]
    for words, place in ((bundle, root), (loading, tmp_path)):
        result = subprocess.run(
            [sys.executable, *words], cwd=place, env=trained.environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    expected = np.asarray(nib.load(tmp_path / "predicted" / image.name).dataobj)
    assert len(np.unique(expected)) > 1
    assert np.array_equal(np.asarray(nib.load(tmp_path / "bundle" / image.name).dataobj), expected)
    assert np.array_equal(np.load(tmp_path / "labels.npy"), expected)
    train = json.loads((root / "configs" / "train.json").read_text())
    assert train["epochs"] == 2


def test_the_checkpoint_is_tensors_only(trained: Workplace) -> None:
    weights = torch.load(trained.root / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())


def test_evaluate_writes_dice_per_case_and_class(trained: Workplace) -> None:
    trained.bundle("r2unet", "evaluate.json")
    with (trained.root / "evaluation" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["case"], row["class"]) for row in rows} == {
        ("ctchest", "left_lung"),
        ("ctchest", "right_lung"),
    }
    report = json.loads((trained.root / "evaluation" / "metrics.json").read_text())
    (run,) = trained.runs("r2unet")
    best = max(p.value for p in trained.client.get_metric_history(run.info.run_id, "val_mean_dice"))
    # Validation in training and evaluate.json walk the same way, so they agree.
    assert report["summary"]["mean_dice"] == pytest.approx(best, abs=1e-6)


def test_a_dicom_folder_and_its_nifti_give_the_same_labels(trained: Workplace, tmp_path: Path) -> None:
    """The training scan of the demo exists as 133 DICOM slices and as NIfTI."""
    dicom = prepare_demo_dicom(REPOSITORY / "data" / "demo_dicom")
    nifti = prepare_demo(REPOSITORY / "data" / "demo") / "imagesTr" / "lidc_idri_0001.nii.gz"
    trained.bundle("r2unet", "inference.json", input=dicom, output=tmp_path)
    trained.bundle("r2unet", "inference.json", input=nifti, output=tmp_path)
    first = nib.as_closest_canonical(nib.load(tmp_path / "demo_dicom.nii.gz"))
    second = nib.load(tmp_path / "lidc_idri_0001.nii.gz")
    source = nib.load(nifti)
    assert second.shape == source.shape
    assert np.allclose(second.affine, source.affine)
    canonical = nib.as_closest_canonical(second)
    assert first.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(first.dataobj), np.asarray(canonical.dataobj))
    assert json.loads((tmp_path / "labels.json").read_text()) == {
        "0": "background",
        "1": "left_lung",
        "2": "right_lung",
    }


def test_upernet_trains_evaluates_and_infers_on_own_data(lungs_like: Path, tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    small = SMALL | {"dataset_dir": lungs_like}
    place.run(place.training("upernet", **small))
    (run,) = place.runs("upernet")
    assert run.info.status == "FINISHED"
    place.bundle("upernet", "evaluate.json", dataset_dir=lungs_like, save_predictions="$True")
    assert len(list((place.root / "evaluation" / "predictions").glob("*.nii.gz"))) == 2
    place.bundle("upernet", "inference.json", input=lungs_like / "images", output=tmp_path / "out")
    for image in (lungs_like / "images").iterdir():
        source, labels = nib.load(image), nib.load(tmp_path / "out" / image.name)
        assert labels.shape == source.shape
        assert np.allclose(labels.affine, source.affine)


def test_learning_happens(lungs_like: Path, tmp_path: Path) -> None:
    """Two ellipsoids are easy: a short training must find both on cases that it never saw."""
    place = Workplace(tmp_path)
    coarse = {"spacing": "[16.0,16.0,16.0]", "patch_size": "[24,24,24]"}
    settings = SMALL | coarse | {"epochs": 4, "patches_per_epoch": 24, "val_interval": 4}
    place.run(place.training("r2unet", dataset_dir=lungs_like, **settings))
    (run,) = place.runs("r2unet")
    assert run.data.metrics["best_val_mean_dice"] > 0.85


def test_a_killed_training_goes_on_in_its_own_run(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", training=2, validation=1, size=32)
    place = Workplace(tmp_path)
    settings = SMALL | {"epochs": 4, "patches_per_epoch": 6, "dataset_dir": data}
    words = place.training("r2unet", INTERRUPTIBLE, **settings)
    killed = place.run(words, check=False, SMALL_STOP_AT="15", SMALL_STOP_BY="SIGKILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(place.root / "models" / "last.ckpt", weights_only=True)["epoch"] == 2
    result = place.run(words)
    assert "resuming after epoch 2 of 4" in result.stdout
    (run,) = place.runs("r2unet")
    assert run.info.status == "FINISHED"
    epochs = [point.value for point in place.client.get_metric_history(run.info.run_id, "epoch")]
    assert sorted(set(epochs)) == [1, 2, 3, 4]


def test_a_terminated_training_is_marked_killed(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", training=2, validation=1, size=32)
    place = Workplace(tmp_path)
    words = place.training("r2unet", INTERRUPTIBLE, **(SMALL | {"dataset_dir": data}))
    reached = tmp_path / "reached"
    stop = {"SMALL_STOP_AT": "2", "SMALL_STOP_BY": str(reached)}
    with place.started(words, stop, stdout=subprocess.DEVNULL) as process:
        wait_for(Path(f"{reached}0").is_file, process)
        process.terminate()
        assert process.wait() == 143
    place.require_killed("r2unet")


def test_a_failed_training_says_so(lungs_like: Path, tmp_path: Path) -> None:
    """A learning rate without end makes the loss NaN; the run is FAILED and the message names the cases."""
    place = Workplace(tmp_path)
    settings = SMALL | {"learning_rate": 1e30, "warmup_steps": 0, "patches_per_epoch": 20}
    result = place.run(place.training("r2unet", dataset_dir=lungs_like, **settings), check=False)
    assert result.returncode == 1
    assert "the loss became nan" in result.stderr
    assert "training_" in result.stderr
    assert "Traceback" not in result.stderr
    (run,) = place.runs("r2unet")
    assert run.info.status == "FAILED"
    assert "NonFiniteLossError" in run.data.tags["error"]


@pytest.mark.slow
def test_two_processes_train_like_one(lungs_like: Path, tmp_path: Path) -> None:
    """torchrun with two gloo processes: the same losses as one process with the same global batch.

    The two augment in the training process, the one where it reads.
    """
    losses = []
    for world, batch_size in ((1, 2), (2, 1)):
        place = Workplace(tmp_path / str(world))
        # Weight averaging and the schedule see the same number of steps in both.
        settings = SMALL | {"dataset_dir": lungs_like, "batch_size": batch_size, "patches_per_epoch": 8}
        settings["augment_on"] = "device" if world > 1 else "workers"
        # Sums in another order differ by rounding, which Adam's first steps at a high rate make large.
        settings["learning_rate"] = 0.0004
        words = place.training("r2unet", *(["multi_gpu_train.json"] if world > 1 else []), **settings)
        if world > 1:
            words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}", *words]
        place.run(words)
        (run,) = place.runs("r2unet")
        assert run.info.status == "FINISHED"
        history = place.client.get_metric_history(run.info.run_id, "epoch_loss")
        dice = place.client.get_metric_history(run.info.run_id, "val_mean_dice")
        losses.append([point.value for point in (*history, *dice)])
    assert losses[0] == pytest.approx(losses[1], rel=2e-4, abs=1e-3)


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    several = {"epoch": 3, "resume": "false", "network_def#feature": "[8,16]"}
    for overrides, *said in (
        ({"dataset_dir": tmp_path / "nowhere"}, "nowhere"),
        (several, "did you mean 'epochs'", "--resume '$False'", "did you mean 'features'"),
        ({"precision": "bf17"}, "bf17"),
    ):
        result = place.run(place.training("r2unet", **(SMALL | overrides)), check=False)
        assert result.returncode != 0
        assert "Traceback" not in result.stderr, result.stderr
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert all(words in line for words in said)
    assert not os.path.exists(place.root)
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4)), tmp_path / "ct.nii.gz")
    result = place.bundle("r2unet", "inference.json", check=False, input=tmp_path / "ct.nii.gz")
    assert result.returncode != 0
    assert "error: there is no trained model" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["r2unet", "upernet"])
def test_short_training_on_real_organs(bundle: str, shared_data: Path, tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    settings = {"epochs": 1, "patches_per_epoch": 8, "val_interval": 1, "patch_size": "[64,64,64]"}
    place.run(
        place.training(bundle, dataset_dir=shared_data / "openkbp", spacing="[4.0,4.0,2.5]", **settings)
    )
    (run,) = place.runs(bundle)
    assert run.info.status == "FINISHED"
    assert {"val_dice_Brainstem", "val_dice_LeftParotid"} <= set(run.data.metrics)
