"""`python -m pipelines evaluate` on files as people have them."""

import csv
import json
import math
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipelines.__main__ import main
from pipelines.metrics.names import METRICS, OCCASIONAL_METRICS
from tests.e2e.commands import REPOSITORY
from tests.pipelines import masks
from tests.pipelines.tiny_model import write_dicom
from transforms.dicom.seg import write_seg
from transforms.dicom.series import scan_series
from transforms.io.readers import read_image
from transforms.io.writers import write_label

AFFINE = np.array([[0, -0.8, 0, 40], [0.9, 0, 0, -20], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])
SHAPE = (20, 18, 12)


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label(path, MetaTensor(torch.from_numpy(array)[None], affine=torch.as_tensor(affine)))
    return path


def folders(root, count=3):
    """Predictions and references of `count` cases with three classes."""
    for index in range(count):
        save(root / "r" / f"c{index}.nii.gz", masks.label_map(index, SHAPE, 4))
        save(root / "p" / f"c{index}.nii.gz", masks.label_map(index + 100 * (index > 0), SHAPE, 4))
    return root / "p", root / "r"


def command(*words):
    return main(["evaluate", *map(str, words)])


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_two_folders(tmp_path, capsys):
    predictions, references = folders(tmp_path)
    out = tmp_path / "out"
    assert command(predictions, references, "-o", out) == 0
    said = capsys.readouterr()
    assert "3 of 3 cases evaluated" in said.err
    assert "class_1" in said.out
    found = {(row["case"], row["class"]): row for row in rows(out / "metrics.csv")}
    assert len(found) == 9
    perfect = found["c0", "class_2"]
    assert all(
        float(perfect[name]) == (0 if metric.unit else 1)
        for name, metric in METRICS.items()
        if name not in OCCASIONAL_METRICS
    )
    assert 0 < float(found["c1", "class_2"]["dice"]) < 1
    read = json.loads((out / "metrics.json").read_text())
    assert [case["case"] for case in read["cases"]] == ["c0", "c1", "c2"]
    assert read["summary"]["mean_dice"] == pytest.approx(
        np.mean([[float(found[f"c{i}", f"class_{k}"]["dice"]) for i in range(3)] for k in (1, 2, 3)]),
        abs=1e-6,
    )
    assert {path.name for path in out.iterdir()} == {
        "metrics.csv",
        "summary.csv",
        "metrics.json",
        "report.html",
    }


def test_two_files_as_json(tmp_path, capsys):
    predictions, references = folders(tmp_path, 2)
    labels = tmp_path / "names.json"
    labels.write_text(json.dumps({"labels": {"0": "background", "1": "liver", "2": "spleen", "3": "kidney"}}))
    words = [
        predictions / "c1.nii.gz",
        references / "c1.nii.gz",
        "--labels",
        labels,
        "--json",
        "--tolerance",
        "1",
    ]
    assert command(*words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == ["liver", "spleen", "kidney"]
    (case,) = found["cases"]
    one = case["nsd"]["liver"]
    assert command(*words[:-1], "9") == 0
    wide = json.loads(capsys.readouterr().out)["cases"][0]
    assert one < wide["nsd"]["liver"]
    assert "cldice" not in wide
    assert command(*words, "--centerlines", "spleen") == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert 0 < case["cldice"]["spleen"] < 1
    assert case["cldice"]["liver"] is None


def test_a_broken_case_does_not_stop_the_others(tmp_path, capsys):
    predictions, references = folders(tmp_path, 4)
    (predictions / "c1.nii.gz").write_bytes(b"no image")
    shifted = AFFINE.copy()
    shifted[2, 3] += 3.5
    save(predictions / "c2.nii.gz", masks.label_map(2, SHAPE, 4), shifted)
    save(predictions / "c3.nii.gz", masks.label_map(3, (20, 18, 11), 4))
    save(references / "missing.nii.gz", masks.label_map(3, SHAPE, 4))
    save(predictions / "extra.nii.gz", masks.label_map(3, SHAPE, 4))
    out = tmp_path / "out"
    assert command(predictions, references, "-o", out) == 1
    said = capsys.readouterr().err
    assert "1 of 5 cases evaluated" in said
    assert re.search(r"c1: .*c1\.nii\.gz: not a NIfTI file", said)
    assert re.search(
        r"c2: .*p/c2\.nii\.gz does not lie on the grid of .*r/c2\.nii\.gz: .* 3\.5 mm apart", said
    )
    assert "size (20, 18, 12) against (20, 18, 11)" in said
    assert "without a prediction: missing" in said
    assert "without a reference, not evaluated: extra" in said
    assert {row["case"] for row in rows(out / "metrics.csv")} == {"c0"}
    assert "does not lie on the grid" in (out / "report.html").read_text()


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLA", "IPR"])
def test_the_order_of_the_axes_in_the_files_does_not_matter(tmp_path, capsys, axes):
    """An oblique grid of three sizes and spacings, stored along other axes; its neighbour by a voxel is refused."""
    labels, other = masks.label_map(0, SHAPE, 3), masks.label_map(1, SHAPE, 3)
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = affine @ np.diag([0.8, 0.9, 2.5, 1])
    reference = save(tmp_path / "r.nii.gz", labels, affine)
    assert command(save(tmp_path / "p.nii.gz", other, affine), reference, "--json") == 0
    expected = json.loads(capsys.readouterr().out)["cases"][0]
    stored = nib.Nifti1Image(other, affine)
    stored = stored.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(axes)
        )
    )
    nib.save(stored, tmp_path / "turned.nii.gz")
    assert command(tmp_path / "turned.nii.gz", reference, "--json") == 0
    assert json.loads(capsys.readouterr().out)["cases"][0] == expected
    moved = stored.affine.copy()
    moved[2, 3] += 2.5
    nib.save(nib.Nifti1Image(stored.get_fdata(), moved), tmp_path / "moved.nii.gz")
    assert command(tmp_path / "moved.nii.gz", reference) == 1
    assert "does not lie on the grid" in capsys.readouterr().err


def test_pairs_of_header_and_voxels_are_segmentations(tmp_path, capsys):
    predictions, references = folders(tmp_path, 2)
    assert command(predictions, references, "--json") == 0
    expected = json.loads(capsys.readouterr().out)["cases"]
    for path in sorted(predictions.glob("*.nii.gz")):
        image = nib.load(path)
        pair = nib.Nifti1Pair(np.asarray(image.dataobj), image.affine)
        nib.save(pair, predictions / path.name.replace(".nii.gz", ".img"))
        path.unlink()
    assert command(predictions, references, "--json") == 0
    assert json.loads(capsys.readouterr().out)["cases"] == expected
    assert command(predictions / "c0.img", references / "c0.nii.gz", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cases"] == expected[:1]


def test_a_value_without_a_name_is_refused(tmp_path, capsys):
    predictions, references = folders(tmp_path, 1)
    (references / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "liver": 1, "spleen": 3}})
    )
    assert command(predictions, references) == 1
    assert "has the value(s) 2, which belong to no class (1 liver, 3 spleen)" in capsys.readouterr().err


def test_values_with_gaps_keep_their_names(tmp_path, capsys):
    reference = masks.label_map(0, SHAPE, 3)
    reference[reference == 2] = 40
    prediction = reference.copy()
    prediction[prediction == 1] = 0
    save(tmp_path / "p.nii.gz", prediction)
    save(tmp_path / "r.nii.gz", reference)
    labels = tmp_path / "l.json"
    labels.write_text(json.dumps({"small": 1, "large": 40, "never": 300}))
    assert command(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz", "--labels", labels, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cases"][0]["dice"] == {"small": 0.0, "large": 1.0, "never": None}
    assert (found["summary"]["missed"], found["summary"]["absent"]) == (1, 1)


def test_dicom_seg_and_nifti_in_every_combination(tmp_path, capsys):
    reference = write_dicom(tmp_path / "ct")
    image = read_image(tmp_path / "ct")
    prediction = np.roll(reference, 1, 0)
    source = scan_series(tmp_path / "ct")
    for name, array in (("p", prediction), ("r", reference)):
        labels = MetaTensor(torch.from_numpy(array)[None], affine=image.affine)
        write_label(tmp_path / f"{name}.nii.gz", labels)
        write_seg(tmp_path / f"{name}.seg.dcm", labels, source, {1: "lung", 2: "liver"})
    names = tmp_path / "labels.json"
    names.write_text(json.dumps({"1": "lung", "2": "liver"}))
    expected = None
    for first in ("nii.gz", "seg.dcm"):
        for second in ("nii.gz", "seg.dcm"):
            pair = (tmp_path / f"p.{first}", tmp_path / f"r.{second}")
            assert command(*pair, "--labels", names, "--images", tmp_path / "ct", "--json") == 0
            found = json.loads(capsys.readouterr().out)["cases"][0]
            expected = expected or found
            for metric in METRICS.keys() - OCCASIONAL_METRICS:  # NIfTI keeps its affine in float32
                assert found[metric] == pytest.approx(expected[metric], rel=1e-6), metric
    assert 0 < expected["dice"]["lung"] < 1
    assert command(tmp_path / "p.seg.dcm", tmp_path / "r.nii.gz", "--json") == 0, "on the grid of the NIfTI"
    assert json.loads(capsys.readouterr().out)["cases"][0]["dice"] == expected["dice"]
    names.unlink()
    pair = (tmp_path / "p.seg.dcm", tmp_path / "r.seg.dcm")
    assert command(*pair, "--images", tmp_path / "ct", "--json") == 0, "names from the segments"
    assert json.loads(capsys.readouterr().out)["cases"][0]["dice"] == expected["dice"]
    assert command(*pair) == 1
    assert "give the CT with --images" in capsys.readouterr().err
    assert command(tmp_path / "p.seg.dcm", tmp_path / "r.nii.gz") == 2
    assert "give a file with --labels" in capsys.readouterr().err


def test_a_dicom_seg_of_others(shared_data, tmp_path, capsys):
    """dcmqi's liver: the SEG, and 3D Slicer's export of the same segmentation."""
    folder = shared_data / "dicom" / "seg"
    names = tmp_path / "labels.json"
    names.write_text(json.dumps({"1": "liver"}))
    words = [folder / "liver.dcm"] * 2 + ["--images", folder / "ct-3slice", "--labels", names, "--json"]
    assert command(*words) == 0
    found = json.loads(capsys.readouterr().out)["cases"][0]
    assert found["dice"] == {"liver": 1.0}
    assert found["hd95_mm"] == {"liver": 0.0}


def test_pictures_of_the_worst_cases_are_on_the_page(tmp_path):
    predictions, references = folders(tmp_path)
    for index in range(3):
        image = np.where(masks.label_map(index, SHAPE, 4) > 0, 60, -900).astype(np.int16)
        (tmp_path / "i").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "i" / f"c{index}_0000.nii.gz")
    out = tmp_path / "out"
    assert command(predictions, references, "-o", out, "--images", tmp_path / "i") == 0
    assert {path.name for path in (out / "pictures").iterdir()} == {f"c{i}.png" for i in range(3)}
    assert (out / "report.html").read_text().count('src="data:image/png;base64,') == 3


def test_pictures_and_nrrd(tmp_path, capsys):
    """2D label maps have no ml, and pixels for mm; NRRD and NIfTI of one grid may be mixed."""
    import SimpleITK as sitk
    from PIL import Image

    cells = np.zeros((30, 20), np.uint8)
    cells[5:15, 4:12] = 1
    for folder, array in (("p", np.roll(cells, 2, 0)), ("r", cells)):
        (tmp_path / folder).mkdir()
        Image.fromarray(array.T).save(tmp_path / folder / "cell.png")
    assert command(tmp_path / "p", tmp_path / "r", "--json", "-o", tmp_path / "out") == 0
    case = json.loads(capsys.readouterr().out)["cases"][0]
    assert case["dice"]["class_1"] == pytest.approx(0.8)
    assert case["volume_error_ml"]["class_1"] is None
    assert case["hd95_mm"]["class_1"] == pytest.approx(2)
    labels = masks.label_map(0, SHAPE, 3)
    nifti = save(tmp_path / "a.nii.gz", labels, np.diag([1, 1, 2.0, 1]))
    image = sitk.GetImageFromArray(np.flip(labels, (0, 1)).T)
    image.SetSpacing((1, 1, 2))
    image.SetOrigin((-(SHAPE[0] - 1), -(SHAPE[1] - 1), 0))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert command(tmp_path / "a.nrrd", nifti, "--json") == 0
    assert json.loads(capsys.readouterr().out)["summary"]["mean_dice"] == 1, "another order of voxels"
    image = sitk.GetImageFromArray(labels.T)
    image.SetSpacing((1, 1, 2))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert command(tmp_path / "a.nrrd", nifti, "--json") == 0
    assert json.loads(capsys.readouterr().out)["summary"]["mean_dice"] == 1


def test_the_same_as_when_predicting(tmp_path, capsys):
    """Our own predictions, read back from their files, have the metrics that the prediction reported."""
    from pipelines.data.inputs import find_inputs
    from pipelines.metrics.names import ESTIMATES
    from tests.pipelines.small import NAMES, write_dataset
    from tests.pipelines.tiny_model import prediction

    write_dataset(tmp_path / "data", training=2, validation=0)
    worse = tmp_path / "data" / "labelsTr" / "ct1.nii.gz"
    data = find_inputs(tmp_path / "data", labels={value: NAMES[value] for value in range(3)})
    image = nib.load(data[1]["label"])
    changed = np.roll(np.asarray(image.dataobj), 2, 0)
    nib.save(nib.Nifti1Image(changed, image.affine), data[1]["label"])
    run = prediction(data, tmp_path / "p")
    run.evaluator.surface_tolerance = 2.0
    run.run()
    ours = json.loads((tmp_path / "p" / "metrics.json").read_text())
    capsys.readouterr()
    assert command(tmp_path / "p", worse.parent, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    # Files do not say how sure a network was.
    measured = [{key: row for key, row in case.items() if key not in ESTIMATES} for case in ours["cases"]]
    assert found["cases"] == measured != ours["cases"]
    assert not math.isclose(found["cases"][1]["dice"]["lung"], 1)


def test_mistakes_are_one_sentence_and_status_2(tmp_path, capsys):
    predictions, references = folders(tmp_path, 1)
    for words, said in (
        ([predictions, tmp_path / "absent"], "absent does not exist"),
        ([predictions, references, "--tolerance", "0"], "is not a distance above 0 mm"),
        ([predictions, references, "-o", predictions / "c0.nii.gz"], "is a file"),
    ):
        with pytest.raises(SystemExit) as ended:
            command(*words)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert command(predictions, references, "-o", predictions) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert command(predictions, references, "--centerlines", "nerve") == 2
    assert "centerlines names 'nerve'; choose among class_1, class_2, class_3" in capsys.readouterr().err
    assert command(predictions, references / "c0.nii.gz") == 2
    assert "give two files or two folders" in capsys.readouterr().err


def test_help_comes_at_once():
    code = (
        "import sys; from pipelines.__main__ import main\n"
        "try: main(['evaluate', '--help'])\n"
        "except SystemExit as ended: print(ended.code, 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.endswith("0 False\n"), result.stderr
