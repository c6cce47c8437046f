"""Requests to a served model, and its answers."""

import base64
import gzip
import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.pyfunc.scoring_server import infer_and_parse_data, predictions_to_json
from monai.data import MetaTensor

from pipelines.deployment.requests import ModelInputError, answer, image_file, rows_of


def encoded(packed=True):
    content = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([1.0, 2.0, 3.0, 1.0])).to_bytes()
    return base64.b64encode(gzip.compress(content) if packed else content).decode()


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": ["a.nii", "b.nii"]},
        {"instances": ["a.nii", "b.nii"]},
        {"dataframe_split": {"columns": ["image"], "data": [["a.nii"], ["b.nii"]]}},
        {"dataframe_records": [{"image": "a.nii"}, {"image": "b.nii"}]},
    ],
)
def test_every_form_of_a_request_is_a_table_of_texts(body):
    """As MLflow's own server reads it."""
    read = infer_and_parse_data(json.loads(json.dumps(body)))
    assert rows_of(read[0] if isinstance(read, tuple) else read) == [["a.nii"], ["b.nii"]]


def test_one_text_is_one_image_and_columns_are_channels():
    assert rows_of(np.array("a.nii")) == [["a.nii"]]
    assert rows_of(pd.DataFrame({"t1": ["a", "b"], "t2": ["c", "d"]})) == [["a", "c"], ["b", "d"]]
    for other in ("a.nii", ["a.nii"], {"image": "a.nii"}, np.zeros((2, 3))):
        assert rows_of(other) is None


@pytest.mark.parametrize(
    "table", [pd.DataFrame({"image": [1.5]}), np.array([None, "a"]), np.full((1, 1, 1), "a")]
)
def test_a_table_of_anything_else_is_refused_in_a_sentence(table):
    with pytest.raises(ModelInputError, match="an image of a request is a text: a path"):
        rows_of(table)


@pytest.mark.parametrize("packed", [True, False])
def test_an_image_in_base64_becomes_a_file(tmp_path, packed):
    path = image_file(encoded(packed), tmp_path, 3)
    assert path.name == ("request3.nii.gz" if packed else "request3.nii")
    assert nib.load(path).shape == (3, 4, 5)


def test_a_path_is_taken_as_it_is(tmp_path):
    (tmp_path / "ct.nii.gz").touch()
    assert image_file(str(tmp_path / "ct.nii.gz"), tmp_path / "no folder") == tmp_path / "ct.nii.gz"


@pytest.mark.parametrize(
    "text", ["/no/such.nii.gz", "", "AAAA", "a\0b", "x" * 5000, base64.b64encode(b"GIF89a").decode()]
)
def test_what_is_neither_is_said(tmp_path, text):
    with pytest.raises(
        ModelInputError, match="neither a file or folder on the machine that serves"
    ) as caught:
        image_file(text, tmp_path)
    assert len(str(caught.value)) < 250
    assert list(tmp_path.iterdir()) == []


def test_an_answer_is_a_file_on_the_grid_of_the_image_with_its_forms(tmp_path):
    image = image_file(encoded(), tmp_path)
    labels = MetaTensor(
        torch.zeros(1, 3, 4, 5, dtype=torch.uint8), affine=torch.diag(torch.tensor([1.0, 2, 3, 1]).double())
    )
    labels[0, :2, 0, 0] = 1
    found = answer(labels, image, {0: "background", 1: "liver", 2: "spleen"}, {})
    with (tmp_path / "answer.json").open("w", encoding="utf-8") as stream:
        predictions_to_json([found], stream)
    found = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))["predictions"][0]
    (tmp_path / "labels.nii.gz").write_bytes(base64.b64decode(found["labels"]))
    written = nib.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), labels[0].numpy())
    assert np.array_equal(written.affine, nib.load(image).affine)
    assert found["names"] == {"0": "background", "1": "liver", "2": "spleen"}
    assert found["volumes"]["liver"] == {"voxels": 2, "ml": pytest.approx(0.012)}
    assert found["volumes"]["spleen"]["voxels"] == 0
