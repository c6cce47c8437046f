"""What `check` says of a dataset, of folders, and of what is broken in them."""

import json

import nibabel as nib
import numpy as np

from pipelines.__main__ import main
from pipelines.data.check import check, table
from pipelines.data.inputs import find_inputs
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
    assert all("has no label" in problem for problem in found.problems)
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


def save_raw(path, array, affine, **fields):
    """A NIfTI file with these header fields, which nibabel's own saving would change."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    header = image.header
    for key, value in fields.items():
        header[key] = value
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(header.binaryblock + bytes(4) + array.tobytes(order="F"))


def test_what_a_strangers_files_are_is_said_case_by_case(tmp_path, capsys):
    """Read, read with a notice, or refused: each file for what it is, and the others stand."""
    root = write_dataset(tmp_path, training=8, validation=1)
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"

    def stored(path):
        image = nib.load(path)
        return np.asarray(image.dataobj), image.affine

    content = json.loads((root / "dataset.json").read_text())
    hu, affine = stored(images / "ct1.nii.gz")
    nib.save(nib.Nifti1Image((hu + 1000) / np.float32(2000), affine), images / "ct1.nii.gz")
    label, _ = stored(labels / "ct2.nii.gz")
    wrong = np.where(label == 1, np.int16(-1), label.astype(np.int16))
    nib.save(nib.Nifti1Image(wrong, affine), labels / "ct2.nii.gz")
    label, _ = stored(labels / "ct3.nii.gz")
    scaled = nib.Nifti1Image(np.rint(label * 65535.0 / 2).astype(np.uint16), affine)
    scaled.header.set_slope_inter(2 / 65535, 0)
    nib.save(scaled, labels / "ct3.nii.gz")
    given = nib.load(labels / "ct4.nii.gz")
    turn = nib.orientations.axcodes2ornt("LAS")
    nib.save(
        given.as_reoriented(nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], turn)),
        labels / "ct4.nii.gz",
    )
    hu, _ = stored(images / "ct5.nii.gz")
    (images / "ct5.nii.gz").unlink()
    nib.save(nib.Nifti1Pair(hu, affine), images / "ct5.img")
    content["training"][5]["image"] = "imagesTr/ct5.img"
    hu, _ = stored(images / "ct6.nii.gz")
    for name, folder in (("ct6", images), ("ct6", labels)):
        array, _ = stored(folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(array, np.diag([0.0007, 0.0007, 0.002, 1])), folder / f"{name}.nii.gz")
    hu, _ = stored(images / "ct7.nii.gz")
    (images / "ct7.nii.gz").unlink()
    moved = affine.copy()
    moved[0, 3] += 5
    save_raw(images / "ct7.nii", hu, affine, qoffset_x=moved[0, 3])
    content["training"][7]["image"] = "imagesTr/ct7.nii"
    (root / "dataset.json").write_text(json.dumps(content))
    found = by_case(check(root))
    assert [name for name, case in found.items() if case.problems] == ["ct2", "ct6"]
    assert [name for name, case in found.items() if case.notices] == ["ct1", "ct7"]
    assert "ct1.nii.gz: not a CT in Hounsfield units" in found["ct1"].notices[0]
    assert "label value(s) -1 are not among the classes 0 to 2" in found["ct2"].problems[0]
    assert "class ids start at 0" in found["ct2"].problems[0]
    assert set(found["ct3"].classes) == set(found["ct4"].classes) == {"background", "lung", "liver"}
    assert found["ct5"].kind == "NIfTI"
    assert "voxels of 0.0007 x 0.0007 x 0.002 mm" in found["ct6"].problems[0]
    assert "sform (code 1) and qform (code 1) place the voxels up to 5 mm" in found["ct7"].notices[0]
    assert main(["check", str(root)]) == 1
    assert "9 cases, 2 refused" in capsys.readouterr().out


def test_what_a_training_would_miss_is_noticed(tmp_path):
    root = write_dataset(tmp_path, training=3, validation=1)
    write_ct(tmp_path, "ct1", classes=())
    write_ct(tmp_path, "ct0", classes=(1,))
    write_ct(tmp_path, "ct2", classes=(1,))
    empty, unseen = check(root).notices
    assert empty.startswith("1 of 3 training cases have no foreground: ct1;")
    assert unseen.startswith("no training case has the class liver,")
    assert check(root, voxels=False).notices == []


def test_images_that_are_no_ct_need_not_be_in_hounsfield_units(tmp_path):
    root = write_dataset(tmp_path, training=1, validation=1)
    image = nib.load(tmp_path / "imagesTr" / "ct0.nii.gz")
    nib.save(
        nib.Nifti1Image(np.asarray(image.dataobj) / np.float32(4000), image.affine), image.get_filename()
    )
    assert "not a CT in Hounsfield units" in check(root).cases[0].notices[0]
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**content, "modality": {"0": "MRI"}}))
    assert check(root).cases[0].notices == []


def test_images_of_several_channels_are_read_as_the_dataset_says(tmp_path):
    root = write_dataset(tmp_path, training=1, validation=1)
    for name in ("ct0", "ct1"):
        path = tmp_path / "imagesTr" / f"{name}.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.stack([np.asarray(image.dataobj)] * 2, -1), image.affine), path)
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**content, "modality": {"0": "CT", "1": "CT"}}))
    assert check(root).refused == []
