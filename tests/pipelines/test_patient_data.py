"""Which patient data reaches which file: what docs/security.md says of it is true."""

import gzip
import json
import re
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary

from pipelines.data.inputs import find_inputs
from tests.pipelines import small
from tests.pipelines.tiny_model import prediction, write_dicom
from tests.pipelines.tracked_runs import new_store, patient
from transforms.io.readers import read_image

TEXTS = ("LO", "SH", "PN", "LT", "ST", "UT", "UC")
IDENTITY = {"PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName"}
NEEDED = ("SpecificCharacterSet", "TimezoneOffsetFromUTC")


@pytest.fixture(scope="module")
def keywords():
    """Every attribute of patient, study, series and equipment that is a text."""
    return [
        keyword
        for tag, (vr, _, _, retired, keyword) in DicomDictionary.items()
        if vr in TEXTS and keyword and not retired and keyword not in NEEDED
        if tag >> 16 in (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040)
    ]


def mark(folder, keywords):
    """Write a text of its own into each attribute of each slice; returns the texts by attribute."""
    marks = {keyword: f"MRK{number}Q" for number, keyword in enumerate(keywords)}
    for file in folder.iterdir():
        header = pydicom.dcmread(file)
        for keyword, text in marks.items():
            setattr(header, keyword, text)
        header.PatientBirthDate, header.PatientSex, header.PatientAge = "19010203", "F", "077Y"
        header.save_as(file)
    return {**marks, "PatientBirthDate": "19010203", "PatientAge": "077Y"}


def found_in(text, marks):
    return {keyword for keyword, value in marks.items() if value in text}


def row(repository, name):
    lines = (repository / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {name}"))
    return line.split("|")[2]


@pytest.mark.filterwarnings("ignore")
def test_what_a_prediction_copies_of_a_header(tmp_path, keywords, repository):
    write_dicom(tmp_path / "in" / "case")
    marks = mark(tmp_path / "in" / "case", keywords)
    out = tmp_path / "out"
    formats = ["nii.gz", "seg", "rtstruct"]
    prediction(find_inputs(tmp_path / "in"), out, formats=formats, preview=True, probabilities=True).run()
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {"case.nii.gz", "case.json", "case_preview.png", "index.html", "volumes.csv"} < set(written)
    for name, content in written.items():
        if not name.endswith(".dcm"):
            content = gzip.decompress(content) if name.endswith(".gz") else content
            assert found_in(content.decode("latin-1"), marks) == set(), name
    said = set(re.findall(r"[A-Z]\w+", row(repository, "DICOM RTSTRUCT")))
    copied = found_in(str(pydicom.dcmread(out / "case.rtstruct.dcm")), marks)
    assert copied >= IDENTITY
    assert copied <= said
    in_seg = found_in(str(pydicom.dcmread(out / "case.seg.dcm")), marks)
    assert in_seg >= IDENTITY


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pictures", [3, 0])
def test_what_a_training_sends_to_mlflow(tmp_path, keywords, monkeypatch, pictures):
    patient(monkeypatch)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    items = []
    for number in range(2):
        folder = tmp_path / "data" / "ct" / f"case{number}"
        write_dicom(folder, series=f"s{number}")
        marks = mark(folder, keywords)
        image = read_image(folder)
        label = np.digitize(np.asarray(image[0]), (-750, -150)).astype(np.uint8)
        nib.save(
            nib.Nifti1Image(label, np.asarray(image.affine)), tmp_path / "data" / f"label{number}.nii.gz"
        )
        items.append(
            {"image": f"ct/case{number}", "label": f"label{number}.nii.gz", "patient": f"MRKPATIENT{number}"}
        )
    content = {
        "labels": {"background": 0, "lung": 1, "liver": 2},
        "training": items[:1],
        "validation": items[1:],
    }
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content))
    store = tmp_path / "store"
    store.mkdir()
    new_store(store)
    monkeypatch.chdir(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")
    small.run(
        small.config(tmp_path / "run", tmp_path / "data", tracked=True, epochs=1, workflow__pictures=pictures)
    )
    # Whoever changes this very file has its marks in the code that a run keeps.
    files = (path for path in store.rglob("*") if path.is_file() and path.name != "uncommitted.diff")
    sent = {path: path.read_bytes() for path in files}
    assert any(path.name == "cases.json" for path in sent)
    for path, content in sent.items():
        assert found_in(content.decode("latin-1"), {**marks, "patient": "MRKPATIENT"}) == set(), path
    drawn = [path for path in sent if path.suffix in (".png", ".webp") and "case1" in path.name]
    assert bool(drawn) == bool(pictures)
