"""Paths and descriptions that hang or break a careless reader: each ends in a sentence."""

import json
import os
import socket

import pytest

from pipelines.__main__ import main
from pipelines.data.cases import DatasetError
from pipelines.data.check import check
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.inputs import InputError, find_inputs
from pipelines.evaluation.pairs import find_pairs
from pipelines.utils.json_files import JsonError, read_json
from tests.pipelines.small import write_ct, write_dataset
from tests.pipelines.tiny_model import prediction, write_dicom
from transforms.io.readers import ImageError, read_header, read_image, read_label
from transforms.utils import image_paths

POSIX = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


def pipe(path):
    os.mkfifo(path)
    return path


def device(path):
    path.symlink_to("/dev/zero")
    return path


def circle(path):
    path.symlink_to(path)
    return path


def plug(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(path))
    return path


SPECIAL = {pipe: "a named pipe", device: "a device", circle: "cannot be opened", plug: "a socket"}


@POSIX
@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.parametrize("name", ["x.nii.gz", "x.mha", "x.png", "x.dcm", "x"])
def test_what_is_no_file_is_never_opened(tmp_path, monkeypatch, make, name):
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / name)
    for read in (read_header, read_image, read_label):
        with pytest.raises(ImageError, match=SPECIAL[make]):
            read(path)
    with pytest.raises(InputError, match=SPECIAL[make]):
        find_inputs(path)


@POSIX
@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("place", ["imagesTr", "labelsTr"])
def test_one_of_them_in_a_dataset_ends_no_other_case(tmp_path, make, place):
    write_dataset(tmp_path)
    path = tmp_path / place / "ct1.nii.gz"
    path.unlink()
    make(path)
    refused = {case.case: case.problems for case in check(tmp_path).refused}
    assert list(refused) == ["ct1"]
    assert SPECIAL[make] in refused["ct1"][0]
    with pytest.raises(DatasetError, match=SPECIAL[make]):
        load_dataset(tmp_path)


@POSIX
def test_a_pipe_among_images_is_a_case_that_fails(tmp_path):
    write_ct(tmp_path, "ct0")
    pipe(tmp_path / "imagesTr" / "ct1.nii.gz")
    found = {case["case"]: case.get("problem", "") for case in find_inputs(tmp_path / "imagesTr")}
    assert found["ct0"] == ""
    assert "a named pipe" in found["ct1"]


def test_a_folder_of_too_many_files_is_no_image(tmp_path, monkeypatch):
    """As / is, or a cohort's folder: it would be walked through for minutes, and every file opened."""
    monkeypatch.setattr(image_paths, "MOST_FILES", 20)
    write_dicom(tmp_path / "all" / "good")
    many = tmp_path / "all" / "many" / "deep"
    many.mkdir(parents=True)
    for index in range(25):
        (many / f"{index}.txt").touch()
    for read in (read_header, read_image):
        with pytest.raises(ImageError, match="more than 20 files, too many for one image"):
            read(tmp_path / "all" / "many")
    with pytest.raises(ImageError, match="more than 20 files"):
        read_label(tmp_path / "all" / "many")
    found = {case["case"]: case.get("problem", "") for case in find_inputs(tmp_path / "all")}
    assert found["good"] == ""
    assert "more than 20 files" in found["many"]
    refused = {case.case: case.problems[0] for case in check(tmp_path / "all").refused}
    assert "more than 20 files" in refused["many"]


def test_a_case_that_is_a_whole_disk_fails_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(image_paths, "MOST_FILES", 20)
    write_dicom(tmp_path / "good")
    (tmp_path / "disk").mkdir()
    for index in range(25):
        (tmp_path / "disk" / f"{index}.txt").touch()
    cases = [{"case": name, "image": str(tmp_path / name)} for name in ("disk", "good")]
    for _ in range(2):  # the second time there is a report of the first
        with pytest.raises(ValueError, match=r"1 of 2 cases failed:\n  disk: .*more than 20 files"):
            prediction(cases, tmp_path / "out").run()
    assert (tmp_path / "out" / "good.nii.gz").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5000 + "]" * 5000, "nested deeper than 100 levels"),
        ('{"a":' * 200 + "1" + "}" * 200, "nested deeper than 100 levels"),
        ('{"labels": {"0": "background", "1": "\\ud800"}, "training": []}', "lone surrogate"),
        ('{"labels": ' + "9" * 5000 + "}", "not valid JSON"),
        ("{", "not valid JSON"),
        ("\xff", "not valid JSON"),
    ],
)
def test_json_that_cannot_be_used_is_said(tmp_path, capsys, text, said):
    path = tmp_path / "dataset.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(JsonError, match=said):
        read_json(path)
    with pytest.raises(DatasetError, match=said):
        load_dataset(tmp_path)
    assert main(["check", str(path)]) == 1
    write_ct(tmp_path, "ct0")
    words = [str(tmp_path / "labelsTr")] * 2
    assert main(["evaluate", *words, "--labels", str(path)]) == 2
    printed = capsys.readouterr()
    assert said in printed.out
    assert said in printed.err
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize(
    "change",
    [
        {"case": "\ud800"},
        {"image": "\ud800.nii.gz"},
        {"image": "x" * 5000 + ".nii.gz"},
        {"image": "a\0b.nii.gz"},
        {"label": "x" * 5000},
        {"case": ["a", {"b": 1}]},
        {"patient": "\udfff"},
    ],
)
def test_an_item_that_no_file_system_knows_is_said(tmp_path, capsys, change):
    write_dataset(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["training"][0] |= change
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert main(["check", str(tmp_path)]) == 1
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(DatasetError):
        load_dataset(tmp_path)


def test_class_ids_of_a_thousand_digits_are_said(tmp_path):
    write_dataset(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(
        json.dumps(content | {"labels": {"9" * 5000: "x", "0": "background"}})
    )
    with pytest.raises(DatasetError, match="does not map class ids to names"):
        load_dataset(tmp_path)


def test_every_problem_of_many_cases_is_told_with_its_own_case(tmp_path):
    items = [{"image": f"it's {index}.nii.gz", "label": f"l{index}.nii.gz"} for index in range(300)]
    names = {"0": "background", "1": "lung"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names, "training": items}))
    found = check(tmp_path)
    assert len(found.refused) == 300
    assert all(f"{case.case}.nii.gz: no such file" in case.problems[0] for case in found.refused)
    assert found.problems == []


def test_companions_of_a_prediction_are_left_out(tmp_path):
    for side in ("p", "r"):
        (tmp_path / side).mkdir()
        for name in ("a", "b"):
            (tmp_path / side / f"{name}.nii.gz").touch()
    for name in ("a_preview.png", "a_probabilities.nii.gz", "c_preview.png"):
        (tmp_path / "p" / name).touch()
    pairs = find_pairs(tmp_path / "p", tmp_path / "r")
    assert [pair.case for pair in pairs.found] == ["a", "b"]
    assert pairs.without_reference == ["c_preview"]
