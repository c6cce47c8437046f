"""MONAI Label serves a packaged bundle: its own server, asked over HTTP."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from mlflow import MlflowClient

from tests.e2e.commands import PRECISE, Workplace
from tests.e2e.monai_label import Server, start_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


@pytest.fixture
def server(
    packaged: Path, lungs_like: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    studies = shutil.copytree(lungs_like / "images", tmp_path / "studies")
    found = start_server(packaged, studies, tmp_path, tmp_path_factory.mktemp("clients"))
    yield found
    found.stop()


def test_it_predicts_trains_and_predicts_with_what_it_has_trained(
    server: Server, packaged: Path, lungs_like: Path, tmp_path: Path
) -> None:
    models = tmp_path / "app" / "model" / "lungs" / "models"
    model = server.info()["models"]["lungs"]
    assert model["labels"] == {"left_lung": 1, "right_lung": 2}
    assert model["config"]["model_filename"] == ["model.pt"]

    place, image = Workplace(tmp_path / "predicted"), lungs_like / "images" / "validation_0.nii.gz"
    expected = nib.load(place.predict(image, packaged / "models" / "model.pt", *PRECISE))
    found = server.infer("validation_0", tmp_path / "found.nii.gz")
    # MONAI Label does not choose the memory format, so that sums are rounded elsewhere.
    assert (found == np.asarray(expected.dataobj)).mean() > 0.9999
    np.testing.assert_allclose(nib.load(tmp_path / "found.nii.gz").affine, expected.affine, atol=1e-4)

    cases = sorted(path.name.split(".")[0] for path in (lungs_like / "images").iterdir())
    for case in cases:
        server.label(case, lungs_like / "labels" / f"{case}.nii.gz")
    before = (models / "model.pt").read_bytes()
    server.train(max_epochs=2, val_split=0.4)
    after = (models / "model.pt").read_bytes()
    assert after != before
    assert (models / "previous" / "001" / "model.pt").read_bytes() == before
    card = json.loads((models / "model.json").read_text(encoding="utf-8"))
    assert {case["case"] for case in card["validation"]} < set(cases)
    (run,) = MlflowClient(server.database).search_runs(["1"])
    assert run.inputs.dataset_inputs[0].dataset.name.startswith(f"{len(cases)} cases")
    assert "demo" not in json.dumps(run.to_dictionary())

    later = server.infer("validation_0", tmp_path / "later.nii.gz")
    expected = nib.load(place.predict(image, models / "model.pt", *PRECISE, "--overwrite"))
    assert (later == np.asarray(expected.dataobj)).mean() > 0.9999
    # A server that is started anew offers the model, and no state of the training, which it would take for one.
    server.stop()
    server.start()
    assert server.info()["models"]["lungs"]["config"]["model_filename"] == ["model.pt"]
    assert (server.infer("validation_0", tmp_path / "again.nii.gz") == later).all()
