"""No name, id or path of a patient leaves an anonymous command: every byte that it writes or says is searched for them."""

import gzip
import io
import json
import shutil
import zipfile
import zlib

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary

from tests.e2e.commands import SMALL, Workplace
from tests.pipelines.tiny_model import write_dicom, write_model
from transforms.io.readers import read_image

MARK = "MRKQ"
"""Begins whatever must not come out. No program or library writes it by chance."""
TEXTS = ("LO", "SH", "PN", "LT", "ST", "UT", "UC")
UID = "1.2.826.0.1.7777777"
BIRTH = "19010203"
KEYWORDS = [
    keyword
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items()
    if vr in TEXTS and keyword and not retired and tag >> 16 in (0x0008, 0x0010, 0x0018, 0x0020, 0x0032)
    if keyword not in ("SpecificCharacterSet", "TimezoneOffsetFromUTC")
]


def mark(folder):
    """Write a mark into every attribute of patient, study, series and equipment, and into file names and UIDs."""
    for number, file in enumerate(sorted(folder.iterdir())):
        header = pydicom.dcmread(file)
        for keyword in KEYWORDS:
            setattr(header, keyword, f"{MARK}{len(keyword)}")
        header.PatientBirthDate, header.PatientAge = BIRTH, "077Y"
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(header, keyword, f"{UID}.{len(keyword)}.{folder.name[-1]}")
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = (
            f"{UID}.{folder.name[-1]}.{number}"
        )
        header.save_as(folder / f"{MARK}slice{number}.dcm")
        file.unlink()


def nifti(path, label):
    """An image and its labels, with marks where NIfTI has texts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(label, np.diag([0.8, 0.9, 2.5, 1]))
    image.header["descrip"] = image.header["aux_file"] = f"{MARK}name"
    image.header["db_name"] = image.header["intent_name"] = f"{MARK}n"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"{MARK}comment".encode()))
    nib.save(image, path)


def dataset(folder, count=3):
    """A dataset of DICOM with marks in headers, names of files and folders, and dataset.json."""
    items = []
    for number in range(count):
        images = folder / f"{MARK}case{number}"
        label = write_dicom(images, series=f"s{number}")
        affine = np.asarray(read_image(images).affine)
        mark(images)
        nib.save(nib.Nifti1Image(label, affine), folder / f"{MARK}label{number}.nii.gz")
        items.append(
            {"image": images.name, "label": f"{MARK}label{number}.nii.gz", "patient": f"{MARK}p{number}"}
        )
    content = {
        "name": f"{MARK}dataset",
        "labels": {"background": 0, "lung": 1, "liver": 2},
        "training": items[:-1],
        "validation": items[-1:],
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def marks_in(name, content, depth=0):
    """Where a file holds a mark: in its name, as it is, unpacked, or in UTF-16."""
    found = [name] if MARK in name else []
    for mark_ in (MARK, UID, BIRTH):
        if mark_.encode() in content or mark_.encode("utf-16-le") in content:
            place = max(content.find(mark_.encode()), 0)
            found.append(f"{name}: {content[max(0, place - 60) : place + 60]!r}")
    if content[:2] == b"\x1f\x8b":
        found += marks_in(f"{name}, unpacked", gzip.decompress(content), depth + 1)
    if content[:4] == b"PK\x03\x04" and depth < 4:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for inner in archive.namelist():
                found += marks_in(f"{name}/{inner}", archive.read(inner), depth + 1)
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        for kind in (b"zTXt", b"iTXt"):
            start = content.find(kind)
            if start >= 0:
                found += marks_in(f"{name} {kind!r}", zlib.decompress(content[start + 10 :]), depth + 1)
    return found


def leaks(folder, *said, without=()):
    """Every place below a folder, and in what was said, that has a mark."""
    found = [each for number, text in enumerate(said) for each in marks_in(f"said {number}", text.encode())]
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if any(part in path.parents or part == path for part in without):
            continue
        found += marks_in(name, path.read_bytes() if path.is_file() else b"")
    return found


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A folder whose own name is a mark."""
    folder = tmp_path_factory.mktemp("in") / f"{MARK} Städtisches Klinikum"
    dataset(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def predict(place, model, path, out, *words, check=True):
    given = ["-m", "pipelines", "predict", path, "-o", out, "--bundle", "bundles/r2unet", "--model", model]
    return place.run([str(word) for word in [*given, "--device", "cpu", *words]], check)


def test_predict(tmp_path, hospital, model):
    """DICOM and a damaged one, with everything that can be written."""
    images = tmp_path / f"{MARK}in"
    for case in sorted(hospital.glob(f"{MARK}case*")):
        (images / case.name).mkdir(parents=True)
        for number, file in enumerate(sorted(case.iterdir())):
            content = file.read_bytes()
            cut = case.name.endswith("0") and number == 3
            (images / case.name / file.name).write_bytes(content[: len(content) // 2] if cut else content)
    place = Workplace(tmp_path / "place", database=False)
    out = tmp_path / "place" / "out"
    words = ("--format", "nii.gz", "seg.nrrd", "--preview", "--probabilities")
    first = predict(place, model, images, out, *words, "--anonymous", check=False)
    assert first.returncode == 1, "one case is damaged"
    assert leaks(tmp_path / "place", first.stdout, first.stderr) == []
    assert {path.name for path in out.glob("*.seg.nrrd")} == {"case002.seg.nrrd", "case003.seg.nrrd"}
    assert "case001: ImageError; the reason may name a patient and is withheld (anonymous)" in first.stderr


@pytest.mark.slow
def test_a_result_is_found_again_and_taken_for_no_other_image(tmp_path, hospital, model):
    place, out = Workplace(tmp_path / "place", database=False), tmp_path / "place" / "out"
    predict(place, model, hospital / f"{MARK}case1", out, "--anonymous")
    again = predict(place, model, hospital / f"{MARK}case1", out, "--anonymous")
    assert "0 of 1 cases segmented, 1 done before" in again.stdout
    other = predict(place, model, hospital / f"{MARK}case2", out, "--anonymous", check=False)
    assert other.returncode == 2
    assert "holds the result of another image as case001" in other.stderr
    assert leaks(tmp_path / "place", again.stdout, again.stderr, other.stderr) == []


@pytest.mark.slow
def test_predict_without_it_names_cases_and_paths(tmp_path, hospital, model):
    """Else the search would find nothing anywhere; what docs/security.md says of DICOM files is in test_patient_data."""
    place = Workplace(tmp_path / "place", database=False)
    done = predict(place, model, hospital / f"{MARK}case1", tmp_path / "place" / "out")
    found = leaks(tmp_path / "place", done.stdout, done.stderr)
    assert any(each.endswith(".nii.gz") for each in found)
    assert any(".json: " in each for each in found)
    assert any(each.startswith("said ") for each in found)
    refused = predict(place, model, hospital, tmp_path / "x", "--anonymous", "--format", "seg", check=False)
    assert refused.returncode == 2
    assert "a 'seg' file names its patient" in refused.stderr


@pytest.mark.slow
def test_evaluate_of_files(tmp_path, hospital):
    for side in ("predictions", "references"):
        for number in range(2):
            label = np.zeros((9, 8, 7), np.uint8)
            label[2:5, 2:6, 1 : 4 + number] = 1
            nifti(tmp_path / f"{MARK}{side}" / f"{MARK}case{number}.nii.gz", label)
    nifti(tmp_path / f"{MARK}references" / f"{MARK}case9.nii.gz", label[1:])
    nifti(tmp_path / f"{MARK}predictions" / f"{MARK}case9.nii.gz", label)
    nifti(tmp_path / f"{MARK}references" / f"{MARK}lost.nii.gz", label)
    place = Workplace(tmp_path / "place", database=False)
    sides = [str(tmp_path / f"{MARK}{side}") for side in ("predictions", "references")]
    words = ["-m", "pipelines", "evaluate", *sides, "-o", str(tmp_path / "place" / "out"), "--anonymous"]
    for more in ([], ["--json"]):
        done = place.run([*words, *more], check=False)
        assert done.returncode == 1
        assert leaks(tmp_path / "place", done.stdout, done.stderr) == []
    assert "case002" in (tmp_path / "place" / "out" / "metrics.csv").read_text()


@pytest.mark.slow
def test_a_training_its_evaluation_and_what_mlflow_has_of_them(tmp_path, hospital):
    """The real commands on a small network: MLflow's database and artifacts, models, spool, reports, and all they say."""
    place = Workplace(tmp_path / "place")
    given = {
        **SMALL,
        "patch_size": "[8,8,8]",
        "spacing": "[2.0,2.0,2.5]",
        "dataset_dir": hospital,
        "anonymous": "$True",
    }
    named = Workplace(tmp_path / "named")
    named.run(named.training("r2unet", **{**given, "anonymous": "$False"}, features="[4,8]"))
    store = place.folder / "store"
    shutil.copytree(named.folder / "store", store)
    trained = place.run(place.training("r2unet", **given, features="[4,8]"))
    words = {"dataset_dir": hospital, "anonymous": "$True", "output_dir": place.folder / "evaluation"}
    evaluated = place.bundle("r2unet", "evaluate.json", **words, save_predictions="$True")
    said = [trained.stdout, trained.stderr, evaluated.stdout, evaluated.stderr]
    assert leaks(place.folder, *said, without=(store,)) == []
    without = {
        each.split(":")[0].partition("/")[0]
        for each in leaks(named.folder, without=(named.folder / "store",))
    }
    assert {"bundle", "mlartifacts", "mlflow.db"} <= without, "else the search would find nothing anywhere"
    (run,) = place.runs("r2unet")
    assert run.info.status == "FINISHED"
    assert run.data.params["dataset_dir"] == "***"
    broken = tmp_path / f"{MARK}broken"
    broken.mkdir()
    (broken / "dataset.json").write_text(
        json.dumps(
            {
                "labels": {"background": 0, f"{MARK}x": 1},
                "training": [{"image": f"{MARK}.nii.gz", "label": f"{MARK}l.nii.gz"}],
            }
        )
    )
    failed = place.run(place.training("r2unet", **{**given, "dataset_dir": broken}), check=False)
    assert failed.returncode != 0
    assert leaks(place.folder, failed.stdout, failed.stderr, without=(store,)) == []
