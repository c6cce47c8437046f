"""The loop over a cohort: what is written, what is left alone, and what a broken case costs."""

import json
import logging
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.inputs import InputError, find_inputs
from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.case_reports import CaseReport
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.outputs import UNFINISHED
from pipelines.inference.postprocess import Postprocess, PostprocessError
from pipelines.inference.prediction import Prediction, PredictionError
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.utils.terminal import take_every_character
from tests import dicom_phantom as ph
from tests.pipelines.inference.predicted import cohort, report, rows
from tests.pipelines.small import NAMES, Oracle, write_ct, write_dataset
from tests.pipelines.tiny_model import prediction, read, write_dicom
from transforms.io.readers import read_header, read_label
from transforms.preprocess import Preprocess


def test_label_maps_lie_on_the_grid_of_their_images(tmp_path):
    affine = np.eye(4)
    affine[:3, :3] = ph.rotation((4, -7, 95)) * (0.9, 1.2, 2.5)
    affine[:3, 3] = (7, 8, -900)
    cases = [write_ct(tmp_path, "a", affine=affine), write_ct(tmp_path, "b", shape=(14, 20, 22))]
    out = tmp_path / "new" / "out"
    written = prediction(find_inputs(tmp_path / "imagesTr"), out).run()
    assert [path.name for path in written] == ["a.nii.gz", "b.nii.gz"]
    for path, case in zip(written, cases, strict=True):
        image, result = nib.load(case["image"]), nib.load(path)
        assert result.shape == image.shape
        assert result.get_data_dtype() == np.uint8
        np.testing.assert_allclose(result.affine, image.affine, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(result.dataobj), read_label(case["label"])[0].numpy())
    labels = json.loads((out / "labels.json").read_text())
    assert labels == {"0": "background", "1": "lung", "2": "liver"}
    found = report(out, "a")
    assert set(found) == set(CaseReport.__annotations__) - {"error", "traceback", "pass_agreement"}
    assert found["status"] == "done"
    assert found["input"]["path"] == cases[0]["image"]
    assert found["labels"] == labels
    assert found["outputs"] == {"a.nii.gz": written[0].stat().st_size}
    assert found["versions"]["torch"] == torch.__version__
    assert set(found["seconds"]) == {"read", "predict", "write"}
    lung = int((read_label(cases[0]["label"]) == 1).sum())
    unit = abs(np.linalg.det(affine[:3, :3])) / 1000
    assert found["volumes"]["lung"] == {"voxels": lung, "ml": pytest.approx(lung * unit)}
    assert found["confidence"] == {"lung": pytest.approx(1), "liver": pytest.approx(1)}
    assert found["surface_entropy"] == {"lung": pytest.approx(0), "liver": pytest.approx(0)}
    table = rows(out / "volumes.csv")
    assert [float(row["confidence"]) for row in table] == [1.0] * 4
    assert [(row["case"], row["class"]) for row in table] == [
        (case, name) for case in "ab" for name in ("lung", "liver")
    ]
    assert float(table[0]["ml"]) == pytest.approx(lung * unit, rel=1e-5)
    assert not (out / UNFINISHED).exists()


def test_what_postprocessing_takes_away_has_no_confidence(tmp_path):
    cohort(tmp_path, "a")
    clean = Postprocess(min_volume_ml={"lung": 1e6})
    prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out", postprocess=clean).run()
    found = report(tmp_path / "out", "a")
    assert found["volumes"]["lung"]["voxels"] == 0
    assert found["confidence"] == {"lung": None, "liver": pytest.approx(1)}
    assert found["surface_entropy"]["lung"] is None
    assert [row["confidence"] for row in rows(tmp_path / "out" / "volumes.csv")] == ["", "1.000000"]


def test_no_confidence_where_it_is_switched_off(tmp_path):
    cohort(tmp_path, "a")
    run = prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out")
    run.evaluator.confidence = False
    run.run()
    assert "confidence" not in report(tmp_path / "out", "a")
    assert rows(tmp_path / "out" / "volumes.csv")[0]["confidence"] == ""


def test_a_broken_case_does_not_stop_the_others(tmp_path, capsys):
    cohort(tmp_path)
    images, out = tmp_path / "imagesTr", tmp_path / "out"
    (images / "b.nii.gz").write_bytes(b"not an image")
    with pytest.raises(PredictionError, match=r"1 of 3 cases failed:\n  b: .*b\.nii\.gz"):
        prediction(find_inputs(images), out).run()
    assert sorted(path.name for path in out.iterdir()) == [
        *("a.json", "a.nii.gz", "b.json", "c.json", "c.nii.gz"),
        *("labels.ctbl", "labels.json", "labels_itksnap.txt", "volumes.csv"),
    ]
    failed = report(out, "b")
    assert set(failed) < set(CaseReport.__annotations__)
    assert failed["status"] == "failed"
    assert "b.nii.gz" in failed["error"]
    assert "traceback" not in failed
    assert {row["case"] for row in rows(out / "volumes.csv")} == {"a", "c"}
    assert "2 of 3 cases segmented, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize("ahead", [False, True])
def test_reading_ahead_mixes_nothing_up(tmp_path, ahead):
    """Images, notices and errors belong to their own cases, whichever thread read them."""
    cohort(tmp_path, "abcd")
    (tmp_path / "imagesTr" / "c.nii.gz").write_bytes(b"no image")
    run = prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out", read_ahead=ahead)
    read_image = run.dataset.preprocess.read

    def noticed(path, **options):
        logging.getLogger("transforms.dicom.series").warning("seen %s", Path(path).name)
        return read_image(path, **options)

    run.dataset.preprocess.read = noticed
    with pytest.raises(PredictionError, match=r"1 of 4 cases failed:\n  c: "):
        run.run()
    for name in "abd":
        np.testing.assert_array_equal(
            read(tmp_path / "out" / f"{name}.nii.gz"),
            read_label(tmp_path / "labelsTr" / f"{name}.nii.gz")[0].numpy(),
        )
        assert report(tmp_path / "out", name)["notices"] == [f"seen {name}.nii.gz"]


def test_a_label_with_a_value_too_many_is_said(tmp_path):
    write_dataset(tmp_path / "data", training=1, validation=1)
    data = find_inputs(tmp_path / "data")
    nib.save(nib.Nifti1Image(np.full((20, 18, 16), 9, np.uint8), np.eye(4)), data[1]["label"])
    with pytest.raises(
        PredictionError, match=r"ct1: .*ct1\.nii\.gz: a label map holds classes .* correct the label"
    ):
        prediction(data, tmp_path / "out").run()
    assert "traceback" not in report(tmp_path / "out", "ct1")


def test_an_unexpected_error_costs_only_its_case(tmp_path):
    cohort(tmp_path, "ab")
    run = prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out")
    segment = run.evaluator.segment

    def fails_on_a(item, probabilities):
        if item["case"] == "a":
            raise RuntimeError("the device vanished")
        return segment(item, probabilities)

    run.evaluator.segment = fails_on_a
    with pytest.raises(PredictionError, match=r"a\.nii\.gz: RuntimeError: the device vanished \(traceback"):
        run.run()
    assert "fails_on_a" in report(tmp_path / "out", "a")["traceback"]
    assert (tmp_path / "out" / "b.nii.gz").is_file()


def test_a_failed_case_is_tried_again_and_keeps_what_was_there(tmp_path):
    data = cohort(tmp_path, "a")
    images, out = tmp_path / "imagesTr", tmp_path / "out"
    prediction(find_inputs(images), out).run()
    image = Path(data[0]["image"])
    whole = image.read_bytes()
    image.write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(PredictionError):
            prediction(find_inputs(images), out).run()
        assert (out / "a.nii.gz").is_file()
        failed = report(out, "a")
        assert failed["notices"] == ["of an earlier run: a.nii.gz"]
    image.write_bytes(whole)
    prediction(find_inputs(images), out).run()
    assert report(out, "a")["status"] == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_whose_name_is_no_text(tmp_path, capsys):
    """A name in Latin-1, as old disks hold them: the tables and the page over all have a letter for what is none."""
    cases = cohort(tmp_path, "ab")
    images, out = tmp_path / "imagesTr", tmp_path / "out"
    take_every_character()
    os.rename(cases[0]["image"], os.fsencode(images) + b"/caf\xe9.nii.gz")
    written = prediction(find_inputs(images), out, preview=True).run()
    assert [path.name for path in written] == ["b.nii.gz", "caf\ufffd.nii.gz"]
    assert "caf\ufffd" in (out / "index.html").read_text(encoding="utf-8")
    assert "caf\ufffd" in (out / "volumes.csv").read_text(encoding="utf-8")
    assert prediction(find_inputs(images), out, preview=True).run() == []
    os.rename(cases[1]["image"], os.fsencode(images) + b"/caf\xe8.nii.gz")
    with pytest.raises(InputError, match="have the same case id 'caf\ufffd'; rename one"):
        find_inputs(images)


def test_an_interrupted_run_goes_on(tmp_path, capsys):
    cohort(tmp_path)
    out = tmp_path / "out"
    run = prediction(find_inputs(tmp_path / "imagesTr"), out)
    segment = run.evaluator.segment

    def stops_at_b(item, probabilities):
        if item["case"] == "b":
            raise KeyboardInterrupt
        return segment(item, probabilities)

    run.evaluator.segment = stops_at_b
    with pytest.raises(KeyboardInterrupt):
        run.run()
    said = capsys.readouterr()
    assert "1 of 3 cases segmented, 2 not reached" in said.out
    assert "b: not done" in said.err
    assert len(rows(out / "volumes.csv")) == 2
    prediction(find_inputs(tmp_path / "imagesTr"), out).run()
    assert "2 of 3 cases segmented, 1 done before" in capsys.readouterr().out


def test_labels_are_evaluated_in_the_same_pass(tmp_path):
    write_dataset(tmp_path / "data", training=2, validation=1)
    names = {value: NAMES[value] for value in range(3)}
    data = find_inputs(tmp_path / "data", labels=names)
    wrong = np.zeros((20, 18, 16), np.uint8)
    wrong[:, :, :8] = 1
    nib.save(nib.Nifti1Image(wrong, np.eye(4)), data[2]["label"])
    out = tmp_path / "out"
    for _ in range(2):  # of cases that are done before, too
        prediction(data, out).run()
        found = {(row["case"], row["class"]): row["dice"] for row in rows(out / "metrics.csv")}
        assert found["ct0", "lung"] == found["ct1", "liver"] == "1.000000"
        assert float(found["ct2", "lung"]) < 0.9
        assert float(found["ct2", "liver"]) == 0
        summary = json.loads((out / "metrics.json").read_text())["summary"]
        assert summary["classes"]["liver"]["dice"]["mean"] == pytest.approx(2 / 3)


def test_postprocessing_names_are_checked_at_once(tmp_path):
    cohort(tmp_path, "a")
    with pytest.raises(PostprocessError, match="'spleen'"):
        prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out", postprocess=Postprocess("spleen"))


@pytest.mark.parametrize("name", ["seg", "rtstruct"])
def test_dicom_results_need_dicom(tmp_path, name):
    cohort(tmp_path, "a")
    with pytest.raises(InputError, match=rf"a\.nii\.gz is not DICOM, .* leave out the format '{name}'"):
        prediction(find_inputs(tmp_path / "imagesTr"), tmp_path / "out", formats=["nii.gz", name]).run()
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="format 'dcm' is unknown"):
        prediction([], tmp_path / "out", formats="dcm")


def test_a_dicom_folder_gives_a_label_map(tmp_path):
    label = write_dicom(tmp_path / "ct" / "p1")
    (path,) = prediction(find_inputs(tmp_path / "ct"), tmp_path / "out").run()
    np.testing.assert_array_equal(read(path), label)
    assert report(tmp_path / "out", "p1")["input"]["files"] == 10


@pytest.mark.parametrize(("name", "ending"), [("seg", ".seg.dcm"), ("rtstruct", ".rtstruct.dcm")])
def test_dicom_results_say_the_same_as_the_label_map(tmp_path, name, ending):
    write_dicom(tmp_path / "p1")
    out = tmp_path / "out"
    prediction(find_inputs(tmp_path / "p1"), out, formats=["nii.gz", name]).run()
    names = {value: NAMES[value] for value in range(3)}
    second = read_label(out / f"p1{ending}", read_header(tmp_path / "p1"), names, image=tmp_path / "p1")
    np.testing.assert_array_equal(second[0].numpy(), read(out / "p1.nii.gz"))


def test_probabilities_agree_with_the_labels(tmp_path):
    if not hasattr(SegEvaluator, "predict_with_probabilities"):
        pytest.skip("this engine gives no probabilities")
    cohort(tmp_path, "a")
    out = tmp_path / "out"
    (path,) = prediction(find_inputs(tmp_path / "imagesTr"), out, probabilities=True).run()
    maps = nib.load(out / "a_probabilities.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(maps.argmax(-1), read(path))
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)


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
    out = tmp_path / "out"
    (path,) = Prediction(engine, {0: "background", 1: "lung"}, out, preview=True).run()
    assert path.name == "photo.png"
    assert np.asarray(Image.open(path)).shape == (20, 30)
    assert (out / "photo_preview.png").is_file()
    assert rows(out / "volumes.csv")[0]["ml"] == ""


def test_a_result_carries_the_sform_and_the_qform_of_its_input(tmp_path):
    case = write_ct(tmp_path, "a")
    image = nib.load(case["image"])
    image.set_sform(image.affine, 2)
    moved = image.affine.copy()
    moved[:3, 3] += (5, -6, 7)
    image.set_qform(moved, 1)
    nib.save(image, case["image"])
    (path,) = prediction([case], tmp_path / "out", probabilities=True).run()
    assert "sform (code 2) and qform (code 1)" in report(tmp_path / "out", "a")["notices"][0]
    for result in (path, tmp_path / "out" / "a_probabilities.nii.gz"):
        header = nib.load(result).header
        for form in ("sform", "qform"):
            wanted = getattr(image.header, f"get_{form}")(coded=True)
            got = getattr(header, f"get_{form}")(coded=True)
            assert got[1] == wanted[1], form
            np.testing.assert_array_equal(got[0], wanted[0], form)


def test_a_ct_that_is_not_in_hounsfield_units_is_told_beside_its_result(tmp_path, caplog):
    case = write_ct(tmp_path, "a")
    image = nib.load(case["image"])
    nib.save(
        nib.Nifti1Image((np.asarray(image.dataobj) + 1000) / np.float32(2000), image.affine), case["image"]
    )
    prediction([case], tmp_path / "out").run()
    (notice,) = report(tmp_path / "out", "a")["notices"]
    assert (
        f"{case['image']}: not a CT in Hounsfield units (air -1000, water 0): its values run from 0" in notice
    )
    assert notice in caplog.text


def test_a_pair_without_its_voxels_is_a_failed_case(tmp_path):
    case = write_ct(tmp_path, "a")
    image, folder = nib.load(case["image"]), tmp_path / "pairs"
    folder.mkdir()
    for name in "ab":
        nib.save(nib.Nifti1Pair(np.asarray(image.dataobj), image.affine), folder / f"{name}.img")
    (folder / "b.img").unlink()
    with pytest.raises(
        PredictionError, match=r"1 of 2 cases failed:\n  b: .*b\.hdr: the \.img file .* is missing"
    ):
        prediction(find_inputs(folder), tmp_path / "out").run()
