"""What is written as DICOM SEG and RTSTRUCT, checked by dciodvfy against PS3.3, and colours by dcmqi."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

import tests.dicom_label_files as lf
import tests.dicom_phantom as ph
from tests.dicom_label_files import meta_tensor
from tests.dicom_phantom import Phantom, write_series
from transforms.dicom.rtstruct_writer import write_rtstruct
from transforms.dicom.seg import write_seg
from transforms.dicom.series import scan_series
from transforms.utils.colours import colour_of

NAMES = {1: "left lung", 2: "Geschwür (größer als 3 mm)", 3: "肝臓"}
PATIENT = {
    "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
    "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "PatientID": "MRN-0001",
    "PatientBirthDate": "19010203",
    "PatientSex": "F",
    "PatientAge": "077Y",
    "PatientSize": "1.71",
    "PatientWeight": "70",
    "AccessionNumber": "A1",
    "StudyID": "S1",
    "StudyDate": "20260102",
    "StudyTime": "101112.5",
    "StudyDescription": "Thorax",
    "ReferringPhysicianName": "Doe^Jane",
    "InstitutionName": "Hospital",
    "PositionReferenceIndicator": "XY",
}

validator = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian: apt-get install dicom3tools)"
)


def errors_of(path):
    """What dciodvfy calls an error; its first line without one is the object that it recognised."""
    said = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace"
    ).stderr
    lines = [line for line in said.splitlines() if not line.startswith("Warning")]
    assert lines, said
    return [line for line in lines if line.startswith("Error")]


def source(kind, folder):
    """A series of CT in a folder; returns what was read of it."""
    ct = Phantom(shape=(13, 9, 7), axes=ph.rotation((11, -7, 23)), tilt=12 if kind == "tilted" else 0)
    slices = (
        ph.changed(ct.slices(), None, **PATIENT) if kind in ("patient", "enhanced", "legacy") else ct.slices()
    )
    if kind == "enhanced":
        slices = [ph.multi_frame(slices, EnhancedCTImageStorage)]
    elif kind == "legacy":
        slices = [ph.multi_frame(slices, LegacyConvertedEnhancedCTImageStorage)]
    elif kind == "gap":
        del slices[3]
    write_series(folder, slices, seed=3)
    return scan_series(folder, allow=["missing-slices"])


def written(series, folder):
    """Each kind of file, of several classes and of one, and of an empty label map; not deflated, which dciodvfy cannot read."""
    array = lf.label_map(series.shape, series.affine)
    label, one = (meta_tensor(values.astype(np.uint8), series.affine) for values in (array, array == 1))
    chances = np.random.default_rng(0).dirichlet(np.ones(4), series.shape).transpose(3, 0, 1, 2)
    plain = {"compress": False}
    overlapping = {"all": (1, 2, 3), "große": (2, 3)}
    yield write_seg(folder / "several.dcm", label, series, NAMES, **plain)
    yield write_seg(folder / "one.dcm", one, series, {1: "tumor"}, **plain)
    yield write_seg(folder / "regions.dcm", label, series, NAMES, regions=overlapping, **plain)
    yield write_seg(folder / "probabilities.dcm", label, series, NAMES, probabilities=chances, **plain)
    yield write_rtstruct(folder / "several.rtstruct.dcm", label, series, NAMES)
    yield write_rtstruct(folder / "one.rtstruct.dcm", one, series, {1: "tumor"})
    yield write_rtstruct(folder / "regions.rtstruct.dcm", label, series, NAMES, regions=overlapping)
    # Not as CLOSEDPLANAR_XOR, which PS3.3 C.8.8.6.3 has and dciodvfy does not know yet.


@validator
@pytest.mark.parametrize("kind", ["plain", "patient", "tilted", "gap", "enhanced", "legacy"])
def test_no_error_by_dciodvfy(tmp_path, kind):
    series = source(kind, tmp_path / "ct")
    found = {path.name: errors_of(path) for path in written(series, tmp_path)}
    assert len(found) == 7
    assert {name: errors for name, errors in found.items() if errors} == {}


@validator
@pytest.mark.slow
@pytest.mark.parametrize("name", ["seg/ct-3slice", "compressed_ct/CTImage.dcm", "compressed_ct/CT2_J2KR"])
def test_no_error_for_real_series(shared_data, tmp_path, name):
    path = shared_data / "dicom" / name
    folder = tmp_path / "ct"
    folder.mkdir()
    for file in path.iterdir() if path.is_dir() else [path]:
        shutil.copy(file, folder / f"{file.stem}.dcm")
    found = {path.name: errors_of(path) for path in written(scan_series(folder), tmp_path)}
    assert {name: errors for name, errors in found.items() if errors} == {}


@validator
def test_dciodvfy_finds_errors(tmp_path):
    """Else the tests above would show nothing."""
    (path, *_) = written(source("patient", tmp_path / "ct"), tmp_path)
    dataset = pydicom.dcmread(path)
    del dataset.SegmentSequence[0].SegmentAlgorithmType
    dataset.Modality = "XX"
    dataset.save_as(path)
    assert len(errors_of(path)) >= 2


def test_each_segment_has_the_colour_of_its_class(tmp_path):
    import highdicom

    series = source("plain", tmp_path / "ct")
    names = {number: f"class {number}" for number in range(1, 40)}
    label = meta_tensor(lf.label_map(series.shape, series.affine), series.affine)
    dataset = pydicom.dcmread(write_seg(tmp_path / "a.dcm", label, series, names))
    for item in dataset.SegmentSequence:
        red, green, blue = colour_of(item.SegmentNumber)
        wanted = highdicom.color.CIELabColor.from_rgb(red, green, blue).value
        assert list(item.RecommendedDisplayCIELabValue) == list(wanted)
    structures = pydicom.dcmread(write_rtstruct(tmp_path / "b.dcm", label, series, names))
    for item in structures.ROIContourSequence:
        assert tuple(item.ROIDisplayColor) == colour_of(item.ReferencedROINumber)
