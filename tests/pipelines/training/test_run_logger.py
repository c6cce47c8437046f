"""What a training leaves in MLflow, read back from a real database."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from pipelines.tracking.runs import quoted
from pipelines.training.run_logger import _image_key, model_name
from tests import waiting
from tests.pipelines import small

EPOCHS, CASES = 3, ("ct3", "ct4")


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("RANK", raising=False)
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        yield monkeypatch


@pytest.fixture(scope="module")
def trained(template, tmp_path_factory, patched):
    """A training of 3 epochs with 2 validation cases; its folder and the client of its database."""
    folder = tmp_path_factory.mktemp("trained")
    patched.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(template, folder / 'mlflow.db')}")
    dataset = small.write_dataset(folder / "data", training=3, validation=len(CASES))
    path = small.config(folder / "bundle", dataset, tracked=True, epochs=EPOCHS, seed=7)
    small.run(path)
    return folder, MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture(scope="module")
def run(trained):
    _, client = trained
    (found,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    return found


def history(client, run, name):
    return {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}


def listed(client, run, folder=""):
    return {item.path for item in client.list_artifacts(run.info.run_id, folder)}


@pytest.fixture
def fetched(trained, run, tmp_path):
    return lambda name: Path(trained[1].download_artifacts(run.info.run_id, name, str(tmp_path)))


def test_every_iteration_and_epoch_has_its_figures(trained, run):
    _, client = trained
    for name in ("train_loss", "grad_norm", "learning_rate", "time/data", "patches_per_second"):
        assert sorted(history(client, run, name)) == list(range(1, 10)), name
    for name in ("time/forward", "time/backward", "time/optimizer"):
        values = history(client, run, name)
        assert sorted(values) == list(range(1, 10)), name
        assert all(0 < value < math.inf for value in values.values())
    for name in ("epoch_loss", "epoch_seconds", "time/validation", "val_mean_dice", "val_dice_lung"):
        assert sorted(history(client, run, name)) == [3, 6, 9], name


def test_the_best_validation_is_in_the_run(trained, run, fetched):
    _, client = trained
    dice = history(client, run, "val_mean_dice")
    best = max(dice.values())
    assert run.data.metrics["best_val_mean_dice"] == best
    assert dice[3 * int(run.data.metrics["best_epoch"])] == best
    record = json.loads(fetched("results/cases.json").read_text())
    assert (record["format"], record["split"], record["classes"]) == (1, "validation", ["lung", "liver"])
    assert [case["case"] for case in record["cases"]] == list(CASES)
    means = []
    for name in record["classes"]:
        values = [case["dice"][name] for case in record["cases"] if case["dice"][name] is not None]
        means.append(np.mean(values))
        assert run.data.metrics[f"best_val_dice_{name}"] == pytest.approx(means[-1])
    assert best == pytest.approx(np.mean(means))
    assert listed(client, run, "results/pictures") == {f"results/pictures/{case}.png" for case in CASES}
    for name in ("confusion", "dice"):
        picture = np.asarray(Image.open(fetched(f"results/{name}.png")).convert("L"))
        assert picture.std() > 10, "an empty figure"
    table = client.load_table(
        experiment_id=run.info.experiment_id, artifact_file="results/table.json", run_ids=[run.info.run_id]
    )
    assert list(table["case"]) == ["ct3", "ct3", "ct4", "ct4"]
    assert list(table["class"]) == ["lung", "liver"] * 2
    flat = [case["dice"][name] for case in record["cases"] for name in record["classes"]]
    flat = [math.nan if value is None else value for value in flat]
    assert list(table["dice"].astype(float)) == pytest.approx(flat, nan_ok=True, abs=1e-9)


def test_pictures_show_every_validation_in_the_image_grid(trained, run, fetched):
    _, client = trained
    names = [Path(path).name for path in listed(client, run, "images") if path.endswith(".png")]
    found = sorted(tuple(name.replace("%", "+").split("+")[:3]) for name in names)
    assert found == sorted((case, "step", str(epoch)) for case in CASES for epoch in (1, 2, 3))
    assert run.data.tags["mlflow.loggedImages"] == "True"
    last = next(name for name in names if name.startswith(("ct3+step+3", "ct3%step%3")))
    assert np.asarray(Image.open(fetched(f"images/{last}"))).shape[2] == 3


def test_the_origin_of_the_run_is_told(trained, run, fetched):
    tags, params = run.data.tags, run.data.params
    assert tags["segbundles.kind"] == "training"
    assert (params["seed"], params["epochs"]) == ("7", "3")
    assert params["network_def._target_"] == "tests.pipelines.small.Tiny"
    assert float(tags["host.memory_gib"]) > 0
    assert tags["host.cpu"]
    assert tags["device"]
    assert tags["processes"] == "1"
    parameters = sum(v.numel() for k, v in small.Tiny(3).named_parameters())
    assert tags["network.parameters"] == str(parameters)
    splits = {"training": ["ct0", "ct1", "ct2"], "validation": list(CASES)}
    assert json.loads(fetched("cases.json").read_text()) == splits
    inputs = {}
    for each in run.inputs.dataset_inputs:
        (context,) = [tag.value for tag in each.tags if tag.key == "mlflow.data.context"]
        inputs[context] = each.dataset
    assert set(inputs) == set(splits)
    for split, dataset in inputs.items():
        assert json.loads(dataset.profile)["cases"] == splits[split]
        assert len(dataset.digest) == 32
    assert inputs["training"].digest != inputs["validation"].digest


def test_mlflow_loads_the_model_and_predicts_the_same_labels(trained, run):
    """Out of the run's artifacts alone, in a process that cannot see the repository's code."""
    folder, client = trained
    version = client.get_model_version_by_alias("small", "best")
    assert version.run_id == run.info.run_id
    assert float(version.tags["value"]) == run.data.metrics["best_val_mean_dice"]
    image = folder / "data" / "imagesTr" / "ct3.nii.gz"
    code = (
        "import sys, mlflow, nibabel, numpy as np\n"
        "uri, image, output = sys.argv[1:]\n"
        "mlflow.set_tracking_uri(uri)\n"
        "model = mlflow.pyfunc.load_model('models:/small@best')\n"
        "import pipelines\n"
        "assert 'artifacts/model' in pipelines.__file__, pipelines.__file__\n"
        "volume = nibabel.load(image)\n"
        "array = np.asarray(volume.dataobj)\n"
        "found = [model.predict(image), *model.predict([{'image': array, 'affine': volume.affine}, array[None]])]\n"
        "np.save(output, np.stack(found))\n"
    )
    # The network of this test is not one of ours: it is looked up beside the test, at the very end of the path.
    (folder / "away" / "tests" / "pipelines").mkdir(parents=True)
    for name in ("tests/__init__.py", "tests/pipelines/__init__.py"):
        (folder / "away" / name).touch()
    shutil.copy(small.__file__, folder / "away" / "tests" / "pipelines" / "small.py")
    shutil.copy(waiting.__file__, folder / "away" / "tests" / "waiting.py")
    (folder / "away" / "load.py").write_text(code)
    words = ["load.py", client.tracking_uri, str(image), str(folder / "labels.npy")]
    done = subprocess.run([sys.executable, *words], cwd=folder / "away", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(folder / "labels.npy")
    assert found.dtype == np.uint8
    from pipelines.deployment.mlflow_model import Predictor, write_model

    expected = Predictor(write_model(folder / "again", folder / "bundle" / "models", None)).predict(image)
    assert expected.shape == small.SIZE
    for labels in found:
        np.testing.assert_array_equal(labels, expected)


def test_every_experiment_has_a_name_for_its_model(template, tmp_path):
    client = MlflowClient(f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}")
    for experiment in ("/Users/me/lungs: 2", 'it\'s "mine"', "übrig"):
        client.create_registered_model(model_name(experiment))
        assert client.search_model_versions(f"name = {quoted(model_name(experiment))}") == []
    assert model_name("r2unet") == "r2unet"


def test_cases_keep_apart_whatever_they_are_called():
    keys = [_image_key(case) for case in ("ct_1", "Müller", "Möller", "左", "右")]
    assert keys[0] == "ct_1"
    assert len(set(keys)) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9_\-./ ]+", key) for key in keys), "as MLflow's log_image demands"
