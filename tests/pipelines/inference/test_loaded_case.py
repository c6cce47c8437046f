"""A case on its way into a prediction says in what it is unlike the training's."""

import json
import logging

import nibabel as nib
import numpy as np

from pipelines.data.inputs import find_inputs
from pipelines.inference.ensemble import trained_model
from tests.pipelines import small
from tests.pipelines.inference.predicted import report
from tests.pipelines.tiny_model import prediction


def test_a_prediction_compares_its_images_with_those_of_the_training(tmp_path, caplog):
    """From a training to the notices of a prediction with its model."""
    dataset = small.write_dataset(tmp_path / "data")
    small.run(small.config(tmp_path / "run", dataset, epochs=1))
    path = tmp_path / "run" / "models" / "model.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    assert card["training_data"]["cases"] == 3
    assert set(card["validation"][0]["confidence"]) == {"lung", "liver"}
    images = tmp_path / "images"
    images.mkdir()
    source = nib.load(dataset / "imagesTr" / "ct3.nii.gz")
    values = np.asarray(source.dataobj)
    nib.save(source, images / "same.nii.gz")
    nib.save(nib.Nifti1Image(values[:, :, ::2], np.diag([1, 1, 2.0, 1])), images / "coarser.nii.gz")
    nib.save(
        nib.Nifti1Image(((values + 1000) / 2000).astype(np.float32), np.eye(4)), images / "scaled.nii.gz"
    )
    model = trained_model(tmp_path / "run" / "models" / "model.pt")
    with caplog.at_level(logging.WARNING):
        prediction(find_inputs(images), tmp_path / "out", model=model).run()
    told = (
        f"{images / 'coarser.nii.gz'} differs from the training data of the model: its voxels are 2 mm apart"
    )
    assert report(tmp_path / "out", "same")["notices"] == []
    (notice,) = report(tmp_path / "out", "coarser")["notices"]
    assert notice == f"{told} from foot to head; the training's were 1 mm"
    assert caplog.text.count(told) == 1
    notices = report(tmp_path / "out", "scaled")["notices"]
    assert any("not a CT in Hounsfield units" in each for each in notices)
    assert any("of the voxels lie below" in each for each in notices)


def test_a_model_that_says_nothing_of_its_training_compares_nothing(tmp_path):
    small.write_ct(tmp_path, "a", affine=np.diag([40.0, 40.0, 40.0, 1.0]))
    prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out").run()
    assert report(tmp_path / "out", "a")["notices"] == []
