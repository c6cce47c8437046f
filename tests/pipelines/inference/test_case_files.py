"""What of a DICOM case can be written is written, what cannot is said before, and one file costs no other."""

import gzip
import json
import logging

import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor

from pipelines.data.inputs import find_inputs
from pipelines.inference.prediction import PredictionError
from tests import dicom_phantom as ph
from tests.opened_files import aged, opened_below
from tests.pipelines.small import NAMES, write_ct
from tests.pipelines.tiny_model import prediction, read, write_dicom
from transforms.dicom.series import scan_series
from transforms.io.readers import read_header, read_image, read_label
from transforms.visualization.preview import draw_preview

CLASSES = {value: NAMES[value] for value in range(3)}
BOTH = ["nii.gz", "seg", "rtstruct"]


def zipped(folder):
    for path in list(folder.iterdir()):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def bare(folder):
    for path in folder.iterdir():
        ph.strip_preamble(path)


def enhanced(folder, *sizes):
    """Pack slices into files of so many frames; a file of one stays as it is."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    slices.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    for path in list(folder.iterdir()):
        path.unlink()
    files, start = [], 0
    for number, size in enumerate(sizes):
        part = slices[start : start + size]
        files.append(ph.multi_frame(part, number=number + 1) if size > 1 else part[0])
        start += size
    ph.write_series(folder, files)


def one_frame_each(folder):
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.NumberOfFrames = 1
        image.save_as(path)


FORMS = {
    "gzipped": zipped,
    "without preamble": bare,
    "without preamble, gzipped": lambda folder: (bare(folder), zipped(folder)),
    "enhanced": lambda folder: enhanced(folder, 10),
    "enhanced, gzipped": lambda folder: (enhanced(folder, 10), zipped(folder)),
    "enhanced, three files": lambda folder: enhanced(folder, 4, 3, 3),
    "enhanced and single": lambda folder: enhanced(folder, 6, 1, 1, 1, 1),
    "one frame on a classic image": one_frame_each,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_series_that_is_read_is_written_for(tmp_path, form):
    label = write_dicom(tmp_path / "p1")
    FORMS[form](tmp_path / "p1")
    out = tmp_path / "out"
    prediction(find_inputs(tmp_path / "p1"), out, formats=BOTH).run()
    np.testing.assert_array_equal(read(out / "p1.nii.gz"), label)
    header = read_header(tmp_path / "p1")
    for ending in ("seg", "rtstruct"):
        found = read_label(out / f"p1.{ending}.dcm", header, CLASSES, image=tmp_path / "p1")
        np.testing.assert_array_equal(found[0].numpy(), label)
    _refers_to_its_slices(out / "p1.seg.dcm", scan_series(tmp_path / "p1"))


def _refers_to_its_slices(path, series):
    """Every frame of the SEG names the file and frame that stands at its place, and lists name each file once."""
    seg = pydicom.dcmread(path)
    stored = {}
    for frame in series.frames:
        number = frame.index + 1 if frame.count > 1 else None
        stored[frame.text("SOPInstanceUID"), number] = frame.numbers("ImagePositionPatient")
    for groups in seg.PerFrameFunctionalGroupsSequence:
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        key = source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber")
        np.testing.assert_allclose(
            stored[key], np.asarray(groups.PlanePositionSequence[0].ImagePositionPatient, float), atol=1e-4
        )
    (listed,) = seg.ReferencedSeriesSequence
    names = [item.ReferencedSOPInstanceUID for item in listed.ReferencedInstanceSequence]
    assert len(names) == len(set(names))
    assert [item.ReferencedSOPInstanceUID for item in seg.SourceImageSequence] == names
    assert set(names) == {uid for uid, _ in stored}
    classes = {
        item.ReferencedSOPInstanceUID: item.ReferencedSOPClassUID
        for item in listed.ReferencedInstanceSequence
    }
    assert classes == {frame.text("SOPInstanceUID"): frame.text("SOPClassUID") for frame in series.frames}


def change(folder, **values):
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        for keyword, value in values.items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        image.save_as(path)


LACKING = {
    "no frame of reference": ({"FrameOfReferenceUID": None}, "has no FrameOfReferenceUID to refer to"),
    "no study": ({"StudyInstanceUID": None}, "has no StudyInstanceUID to refer to"),
    "one instance for all": (
        {"SOPInstanceUID": "1.2.3.4"},
        "10 files of the CT have the same SOPInstanceUID",
    ),
}


@pytest.mark.parametrize("name", ["seg", "rtstruct"])
@pytest.mark.parametrize("case", LACKING)
def test_what_cannot_be_written_is_said_before_and_the_label_map_is_kept(tmp_path, caplog, case, name):
    values, message = LACKING[case]
    label = write_dicom(tmp_path / "p1")
    change(tmp_path / "p1", **values)
    out = tmp_path / "out"
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(PredictionError, match=rf"{message}.* write NIfTI instead\. Kept: p1\.nii\.gz\."),
    ):
        prediction(find_inputs(tmp_path / "p1"), out, formats=["nii.gz", name]).run()
    assert message in caplog.text
    assert "all other requested files of the case are written" in caplog.text
    np.testing.assert_array_equal(read(out / "p1.nii.gz"), label)
    report = json.loads((out / "p1.json").read_text())
    assert (report["status"], list(report["outputs"])) == ("failed", ["p1.nii.gz"])
    assert "traceback" not in report
    prediction(find_inputs(tmp_path / "p1"), out).run()
    assert json.loads((out / "p1.json").read_text())["status"] == "done"


def test_nothing_is_predicted_for_a_result_that_cannot_be_written(tmp_path):
    write_dicom(tmp_path / "p1")
    change(tmp_path / "p1", FrameOfReferenceUID=None)
    with pytest.raises(PredictionError, match="has no FrameOfReferenceUID"):
        prediction(find_inputs(tmp_path / "p1"), tmp_path / "out", formats=["seg"]).run()
    report = json.loads((tmp_path / "out" / "p1.json").read_text())
    assert "seconds" not in report


def test_a_cohort_of_dicom_and_other_images(tmp_path):
    write_dicom(tmp_path / "cohort" / "p1")
    write_ct(tmp_path, "p2")
    (tmp_path / "imagesTr" / "p2.nii.gz").rename(tmp_path / "cohort" / "p2.nii.gz")
    out = tmp_path / "out"
    with pytest.raises(
        PredictionError, match=r"1 of 2 cases failed:\n  p2: .*is not DICOM.*Kept: p2\.nii\.gz"
    ):
        prediction(find_inputs(tmp_path / "cohort"), out, formats=["nii.gz", "seg"]).run()
    assert {path.name for path in out.iterdir()} >= {"p1.nii.gz", "p1.seg.dcm", "p2.nii.gz"}


def test_a_file_that_cannot_be_made_in_the_end_costs_no_other(tmp_path):
    """The slices are gone between reading and writing."""
    write_dicom(tmp_path / "p1")
    out = tmp_path / "out"
    started = prediction(find_inputs(tmp_path / "p1"), out, formats=BOTH)
    predict = started.evaluator.predict

    def gone(item):
        labels = predict(item)
        for path in list((tmp_path / "p1").iterdir())[2:5]:
            path.unlink()
        return labels

    started.evaluator.predict = gone
    with pytest.raises(PredictionError, match=r"missing.*Kept: p1\.nii\.gz"):
        started.run()
    assert (out / "p1.nii.gz").is_file()
    assert not list(out.glob("*.dcm"))


def test_each_slice_is_read_once_for_all_files(tmp_path):
    """Opened for its header and for its pixels, from the search for inputs to SEG, RTSTRUCT and preview."""
    write_dicom(tmp_path / "cohort" / "p1", series="one")
    write_dicom(tmp_path / "cohort" / "p2", series="two")
    aged(tmp_path / "cohort")
    with opened_below(tmp_path / "cohort") as opened:
        prediction(find_inputs(tmp_path / "cohort"), tmp_path / "out", formats=BOTH, preview=True).run()
    assert len(opened) == 20
    assert set(opened.values()) == {2}
    assert len(list((tmp_path / "out").glob("p?.*.dcm"))) == 4


def test_the_preview_shows_the_image_as_it_is_read(tmp_path):
    label = write_dicom(tmp_path / "p1")
    out = tmp_path / "out"
    prediction(find_inputs(tmp_path / "p1"), out, preview=True).run()
    image = read_image(tmp_path / "p1")
    volumes = {
        name: found["ml"] for name, found in json.loads((out / "p1.json").read_text())["volumes"].items()
    }
    again = MetaTensor(torch.from_numpy(label[None]), affine=image.affine)
    draw_preview(tmp_path / "again.png", image, again, CLASSES, volumes, title="p1")
    assert (out / "p1_preview.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_a_slice_that_changes_before_a_file_is_written_fails_it(tmp_path):
    write_dicom(tmp_path / "p1")
    out = tmp_path / "out"
    started = prediction(find_inputs(tmp_path / "p1"), out, formats=BOTH)
    predict = started.evaluator.predict

    def changed(item):
        labels = predict(item)
        change(tmp_path / "p1", PatientID="another patient")
        return labels

    started.evaluator.predict = changed
    with pytest.raises(PredictionError, match=r"changed since its header was read.*Kept: p1\.nii\.gz"):
        started.run()
    assert not list(out.glob("*.dcm"))
