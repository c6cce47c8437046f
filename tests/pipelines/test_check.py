"""What `check` says of a dataset, of folders, and of what is broken in them."""

import json

import nibabel as nib
import numpy as np

from pipelines.__main__ import main
from pipelines.check import check, table
from pipelines.inputs import find_inputs
from tests.pipelines.small import write_ct, write_dataset
from tests.pipelines.tiny_model import prediction, write_dicom


def by_case(found):
    return {case.case: case for case in found.cases}


def test_a_whole_dataset(tmp_path, capsys):
    affine = np.array([[-0.8, 0, 0, 7], [0, -0.9, 0, 8], [0, 0, 2.5, -900], [0, 0, 0, 1]])
    write_dataset(tmp_path, training=2, validation=1)
    write_ct(tmp_path, "ct1", classes=(2,), affine=affine)
    found = check(tmp_path)
    assert [(case.case, case.split) for case in found.cases] == [
        ("ct0", "training"),
        ("ct1", "training"),
        ("ct2", "validation"),
    ]
    case = by_case(found)["ct1"]
    assert case.size == [20, 18, 16]
    assert case.spacing == [0.8, 0.9, 2.5]
    assert case.orientation == "LPS"
    assert (case.kind, case.label_kind) == ("NIfTI", "NIfTI")
    assert set(case.classes) == {"background", "liver"}
    assert sum(case.classes.values()) == 20 * 18 * 16
    assert [found.refused, found.problems, found.notices] == [[], [], []]
    assert main(["check", str(tmp_path / "dataset.json")]) == 0
    said = capsys.readouterr().out
    assert "0.8 x 0.9 x 2.5" in said
    assert said.endswith("3 cases, 0 refused\n")


def test_every_broken_case_is_named_and_the_others_too(tmp_path, capsys):
    write_dataset(tmp_path, training=5, validation=1)
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    (images / "ct0.nii.gz").write_bytes(b"no image")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), labels / "ct1.nii.gz")
    nib.save(nib.Nifti1Image(np.full((20, 18, 16), 7, np.uint8), np.eye(4)), labels / "ct2.nii.gz")
    (labels / "ct3.nii.gz").unlink()
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["training"] += [{"image": "imagesTr/ct9.nii.gz"}, "nothing"]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    found = check(tmp_path)
    cases = by_case(found)
    assert "not a NIfTI file" in cases["ct0"].problems[0]
    assert "not on the grid" in cases["ct1"].problems[0]
    assert "label value(s) 7" in cases["ct2"].problems[0]
    assert "ct3.nii.gz" in cases["ct3"].problems[0]
    assert cases["ct4"].problems == cases["ct5"].problems == []
    assert cases["ct4"].classes["lung"] > 0
    assert [len(case.problems) for case in found.refused] == [1, 1, 1, 1]
    assert len(found.problems) == 2
    assert all("names no label" in problem for problem in found.problems)
    assert main(["check", str(tmp_path), "--json", str(tmp_path / "found.json")]) == 1
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["refused"] == 4
    assert [case["case"] for case in written["cases"]] == [f"ct{i}" for i in range(6)]
    said = capsys.readouterr().out
    assert said.count("refused: ") == 6
    assert "6 cases, 4 refused" in said


def test_a_folder_of_dicom_and_files(tmp_path, capsys):
    write_dicom(tmp_path / "good", description="THORAX 2.5")
    write_dicom(tmp_path / "gap", series="other")
    sorted((tmp_path / "gap").iterdir())[4].unlink()
    write_ct(tmp_path / "x", "a")
    (tmp_path / "x" / "imagesTr" / "a.nii.gz").rename(tmp_path / "a.nii.gz")
    (tmp_path / "x" / "labelsTr" / "a.nii.gz").unlink()
    for folder in ("imagesTr", "labelsTr", ""):
        (tmp_path / "x" / folder).rmdir()
    cases = by_case(check(tmp_path))
    assert set(cases) == {"a", "gap", "good"}
    good = cases["good"]
    assert (good.kind, good.series, good.files, good.size) == ("DICOM series", "THORAX 2.5", 10, [14, 12, 10])
    assert cases["good"].problems == cases["a"].problems == []
    assert "mm" in cases["gap"].problems[0]
    assert main(["check", str(tmp_path), "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)["refused"] == 1


def test_what_is_wrong_with_the_dataset_itself(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background"}, "training": []}')
    found = check(tmp_path)
    assert found.cases == []
    assert found.problems
    assert "0 cases" in table(found)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is empty" in check(empty).problems[0]


def test_a_dataset_that_can_be_predicted_but_not_trained(tmp_path):
    write_dataset(tmp_path, training=1, validation=0)
    content = json.loads((tmp_path / "dataset.json").read_text())
    del content["validation"]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    found = check(tmp_path)
    assert [found.refused, found.problems] == [[], []]
    assert "for a training: there is one case" in found.notices[0]


def test_headers_only_reads_no_label(tmp_path):
    write_dataset(tmp_path)
    path = tmp_path / "labelsTr" / "ct0.nii.gz"
    nib.save(nib.Nifti1Image(np.full((20, 18, 16), 7, np.uint8), np.eye(4)), path)
    assert check(tmp_path).refused
    assert not check(tmp_path, voxels=False).refused


def test_dicom_with_a_dicom_label(tmp_path):
    label = write_dicom(tmp_path / "scans" / "p1")
    prediction(find_inputs(tmp_path / "scans" / "p1"), tmp_path / "labels", formats=["seg", "rtstruct"]).run()
    names = {"0": "background", "1": "lung", "2": "liver"}
    for ending, kind in (("seg", "DICOM SEG"), ("rtstruct", "DICOM RTSTRUCT")):
        entry = {"image": "scans/p1", "label": f"labels/p1.{ending}.dcm"}
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": names, "training": [entry]}))
        (case,) = check(tmp_path).cases
        assert case.problems == []
        assert (case.kind, case.label_kind) == ("DICOM series", kind)
        assert case.classes == {
            name: int((label == value).sum()) for value, name in enumerate(names.values())
        }


def test_a_label_beside_the_slices_is_called_what_it_is(tmp_path):
    write_dicom(tmp_path / "p1")
    prediction(find_inputs(tmp_path / "p1"), tmp_path / "out", formats=["seg"]).run()
    (tmp_path / "out" / "p1.seg.dcm").rename(tmp_path / "p1" / "seg.dcm")
    names = {"0": "background", "1": "lung", "2": "liver"}
    entry = {"image": "p1", "label": "p1"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names, "training": [entry]}))
    (case,) = check(tmp_path).cases
    assert (case.problems, case.label_kind) == ([], "DICOM SEG")


def test_cases_of_one_id_are_told_once_each(tmp_path):
    for patient in ("p1", "p2", "p3", "p4"):
        write_ct(tmp_path / patient, "CT")
    items = [
        {"image": f"{p}/imagesTr/CT.nii.gz", "label": f"{p}/labelsTr/CT.nii.gz"}
        for p in ("p1", "p2", "p3", "p4")
    ]
    names = {"0": "background", "1": "lung", "2": "liver"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": names, "training": items}))
    found = check(tmp_path)
    assert [len(case.problems) for case in found.cases] == [1] * 4
    assert "and 2 more have the same case id" in found.cases[3].problems[0]
