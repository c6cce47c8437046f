"""What is taken for an image, and the label maps that come out."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from pipelines.engines import SegEvaluator
from pipelines.loaders import VolumeDataset, volume_loader
from pipelines.predict import Prediction, PredictionError, find_inputs
from pipelines.preprocess import Preprocess
from pipelines.sliding_window import SlidingWindow
from tests.pipelines.small import NAMES, Oracle, right_angled, write_ct
from transforms.readers import read_label


def names(path):
    return {case["case"]: case["image"] for case in find_inputs(path)}


@pytest.mark.parametrize(
    ("file", "case"),
    [
        ("a.nii.gz", "a"),
        ("A.B.NII.GZ", "A.B"),
        ("ct.nrrd", "ct"),
        ("x.mha", "x"),
        ("p.PNG", "p"),
        ("IM0001", "IM0001"),
    ],
)
def test_a_file_is_one_case(tmp_path, file, case):
    (tmp_path / file).touch()
    assert names(tmp_path / file) == {case: str(tmp_path / file)}


def test_a_folder_of_images_is_a_case_each(tmp_path):
    for file in ("b.nii.gz", "a.nrrd", ".hidden.nii.gz", "readme.txt"):
        (tmp_path / file).touch()
    (tmp_path / "series").mkdir()
    assert list(names(tmp_path)) == ["a", "b"]


def test_a_folder_of_other_files_is_one_dicom_series(tmp_path, monkeypatch):
    folder = tmp_path / "patient 1"
    folder.mkdir()
    for file in ("IM1", "IM2.dcm"):
        (folder / file).touch()
    assert names(folder) == {"patient 1": str(folder)}
    monkeypatch.chdir(folder)
    assert list(names(".")) == ["patient 1"]


def test_a_folder_of_folders_is_a_series_each(tmp_path):
    for name in ("s2", "s1", ".cache"):
        (tmp_path / name).mkdir()
    assert names(tmp_path) == {"s1": str(tmp_path / "s1"), "s2": str(tmp_path / "s2")}


def test_a_link_is_called_by_its_own_name(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "sha256-77de.nii.gz").touch()
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "patient7.nii.gz").symlink_to(tmp_path / "store" / "sha256-77de.nii.gz")
    assert list(names(tmp_path / "input")) == ["patient7"]
    assert list(names(tmp_path / "input" / "patient7.nii.gz")) == ["patient7"]


@pytest.mark.parametrize("path", [None, ""])
def test_no_input_says_how_to_name_one(path):
    with pytest.raises(PredictionError, match="--input FILE_OR_DICOM_FOLDER"):
        find_inputs(path)


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(PredictionError, match="absent does not exist"):
        find_inputs(tmp_path / "absent")
    with pytest.raises(PredictionError, match="is empty"):
        find_inputs(tmp_path)
    for file in ("a.nii.gz", "a.nrrd"):
        (tmp_path / file).touch()
    with pytest.raises(PredictionError, match=r"two images in .* are called 'a'"):
        find_inputs(tmp_path)


def prediction(data, output, preprocess=None, classes=3):
    preprocess = preprocess or Preprocess()
    loader = volume_loader(VolumeDataset(data, preprocess))
    engine = SegEvaluator(
        "cpu", loader, Oracle(classes), preprocess, ["lung", "liver"], SlidingWindow((12, 12, 12))
    )
    return Prediction(engine, {0: "background", 2: NAMES[2], 1: NAMES[1]}, output)


def test_label_maps_lie_on_the_grid_of_their_images(tmp_path):
    affine = right_angled([[0, -1.2, 0.1, 7], [0.9, 0, 0, 8], [0, 0.1, 2.5, -900], [0, 0, 0, 1]])
    cases = [write_ct(tmp_path, "a", affine=affine), write_ct(tmp_path, "b", shape=(14, 20, 22))]
    data = find_inputs(tmp_path / "imagesTr")
    written = prediction(data, tmp_path / "new" / "out").run()
    assert [path.name for path in written] == ["a.nii.gz", "b.nii.gz"]
    for path, case in zip(written, cases, strict=True):
        image, result = nib.load(case["image"]), nib.load(path)
        assert result.shape == image.shape
        assert result.get_data_dtype() == np.uint8
        np.testing.assert_allclose(result.affine, image.affine, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(result.dataobj), read_label(case["label"])[0].numpy())
    labels = json.loads((tmp_path / "new" / "out" / "labels.json").read_text())
    assert labels == {"0": "background", "1": "lung", "2": "liver"}


def test_a_case_that_cannot_be_read_does_not_stop_the_others(tmp_path):
    for name in "abc":
        write_ct(tmp_path, name)
    (tmp_path / "imagesTr" / "b.nii.gz").write_bytes(b"not an image")
    run = prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out").run
    with pytest.raises(PredictionError, match=r"1 of 3 cases could not be read: .*b\.nii\.gz"):
        run()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.nii.gz",
        "c.nii.gz",
        "labels.json",
    ]


@pytest.mark.parametrize("linked", [False, True])
def test_an_image_is_never_replaced_by_its_result(tmp_path, linked):
    for name in "ab":
        write_ct(tmp_path, name)
    images = tmp_path / "imagesTr"
    before = {path: path.read_bytes() for path in images.iterdir()}
    output = images
    if linked:
        output = tmp_path / "elsewhere"
        output.symlink_to(images)
    with pytest.raises(
        PredictionError, match=r"would replace the image .*a\.nii\.gz; choose another --output"
    ):
        prediction(find_inputs(images), output).run()
    assert {path: path.read_bytes() for path in images.iterdir()} == before


def test_a_picture_becomes_a_picture(tmp_path):
    pixels = np.full((20, 30), 10, np.uint8)
    pixels[4:12, 5:25] = 200
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    preprocess = Preprocess(window=(10, 400))
    engine = SegEvaluator(
        "cpu",
        volume_loader(VolumeDataset(find_inputs(tmp_path / "photo.png"), preprocess)),
        Oracle(2, -1000 - 5000, -1000 + 5000 / 190 * 200),
        preprocess,
        ["lung"],
        SlidingWindow((16, 16)),
    )
    (path,) = Prediction(engine, {0: "background", 1: "lung"}, tmp_path / "out").run()
    assert path.name == "photo.png"
    assert np.asarray(Image.open(path)).shape == (20, 30)
