"""A label map as RTSTRUCT: what is written is what is read."""

import shutil

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

import tests.dicom_label_files as lf
import tests.dicom_phantom as ph
from tests.dicom_label_files import grid, meta_tensor
from tests.dicom_phantom import LPS, Phantom, write_series
from transforms.dicom.labels import read_dicom_label
from transforms.dicom.rtstruct_writer import write_rtstruct
from transforms.dicom.series import scan_series


@pytest.fixture
def ct() -> Phantom:
    return Phantom(shape=(21, 18, 6), axes=ph.rotation((12, -8, 20)))


angles = st.tuples(*[st.floats(-40, 40)] * 3)


some = settings(max_examples=30)


NAMES = {0: "background", 1: "Heart", 2: "spinal_cord"}


@given(tilt=st.floats(-30, 30), degrees=angles, seed=st.integers(0, 99), noise=st.booleans())
@settings(some, max_examples=12)
def test_what_is_written_is_read_back_voxel_by_voxel(tmp_path, tilt, degrees, seed, noise):
    ct = Phantom(shape=(21, 18, 6), tilt=tilt, axes=ph.rotation(degrees))
    shutil.rmtree(tmp_path / "ct", ignore_errors=True)
    write_series(tmp_path / "ct", ct.slices())
    source = scan_series(tmp_path / "ct")
    random = np.random.default_rng(seed)
    array = random.integers(0, 4, ct.shape) if noise else lf.label_map(ct.shape, ct.affine)
    array = array.astype(np.uint8)
    names = {**NAMES, 3: "third"}
    path = write_rtstruct(tmp_path / "a.dcm", meta_tensor(array, ct.affine), source, names)
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), names, image=tmp_path / "ct"), array)


def test_written_contours_in_an_independent_rasterisation(tmp_path, ct):
    write_series(tmp_path / "ct", ct.slices(), seed=4)
    series = scan_series(tmp_path / "ct")
    array = lf.label_map(ct.shape, ct.affine)
    array[:, :, 3] = 0
    names = {**NAMES, 3: "third", 4: "absent"}
    path = write_rtstruct(tmp_path / "out" / "a.dcm", meta_tensor(array, series.affine), series, names)
    dataset = pydicom.dcmread(path)
    images = {}
    for file in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(file, stop_before_pixels=True)
        images[header.SOPInstanceUID] = np.asarray(header.ImagePositionPatient, float)
    centres = np.stack(np.meshgrid(np.arange(21), np.arange(18), indexing="ij"), -1).reshape(-1, 2)
    found = np.zeros(ct.shape, np.uint8)
    for item in dataset.ROIContourSequence:
        for contour in item.get("ContourSequence", []):
            points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
            origin = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            local = (points - origin) @ ct.axes / ct.spacing  # the axes of the phantom have right angles
            assert np.abs(local[:, 2]).max() < 1e-3
            inside = Outline(local[:, :2]).contains_points(centres).reshape(21, 18)
            index = round(float((np.linalg.inv(series.affine) @ LPS @ [*origin, 1])[2]))
            found[:, :, index] ^= inside.astype(np.uint8) * np.uint8(item.ReferencedROINumber)
    np.testing.assert_array_equal(found, array)
    image = pydicom.dcmread(series.files[0])
    assert dataset.Modality == "RTSTRUCT"
    assert dataset.StudyInstanceUID == image.StudyInstanceUID
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == image.FrameOfReferenceUID
    (referenced,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == image.SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in referenced.ContourImageSequence} == images.keys()
    assert [roi.ROIName for roi in dataset.StructureSetROISequence] == [
        "Heart",
        "spinal_cord",
        "third",
        "absent",
    ]
    assert {roi.ReferencedFrameOfReferenceUID for roi in dataset.StructureSetROISequence} == {
        image.FrameOfReferenceUID
    }
    assert len({tuple(item.ROIDisplayColor) for item in dataset.ROIContourSequence}) == 4
    assert "ContourSequence" not in dataset.ROIContourSequence[3]
    assert len(dataset.RTROIObservationsSequence) == 4
    assert [p.name for p in path.parent.iterdir()] == [path.name], "a temporary file was left"


def test_a_contour_of_more_than_64_kilobytes(tmp_path):
    """Explicit VR could not say its length."""
    ct = Phantom(shape=(300, 60, 2), spacing=(0.8, 0.9, 2.5))
    write_series(tmp_path / "ct", ct.slices())
    series = scan_series(tmp_path / "ct")
    array = np.zeros(ct.shape, np.uint8)
    array[2:298, 2:4] = 1
    array[2:298:2, 2:58] = 1  # a comb
    path = write_rtstruct(tmp_path / "a.dcm", meta_tensor(array, series.affine), series, NAMES)
    assert (
        max(
            len(",".join(map(str, c.ContourData)))
            for c in pydicom.dcmread(path).ROIContourSequence[0].ContourSequence
        )
        > 10_000
    )
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), array)


def test_geometric_type(tmp_path, ct):
    write_series(tmp_path / "ct", ct.slices())
    series = scan_series(tmp_path / "ct")
    label = meta_tensor(lf.label_map(ct.shape, ct.affine) % 3, series.affine)
    path = write_rtstruct(tmp_path / "a.dcm", label, series, NAMES, geometric_type="CLOSEDPLANAR_XOR")
    np.testing.assert_array_equal(read_dicom_label(path, grid(ct), NAMES), label.numpy()[0])
    with pytest.raises(ValueError, match="geometric_type"):
        write_rtstruct(tmp_path / "a.dcm", label, series, NAMES, geometric_type="POINT")


def test_required_attributes_and_character_sets(tmp_path, ct):
    standard = pytest.importorskip("highdicom._standard_utils")  # the tables of PS3.3
    slices = ph.changed(ct.slices(), None, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    write_series(tmp_path / "ct", slices)
    series = scan_series(tmp_path / "ct")
    label = meta_tensor(lf.label_map(ct.shape, ct.affine) % 3, series.affine)
    dataset = pydicom.dcmread(write_rtstruct(tmp_path / "a.dcm", label, series, {**NAMES, 1: "肝臓"}))
    assert dataset.PatientName == "Müller^Jörg"
    assert dataset.StructureSetROISequence[0].ROIName == "肝臓"
    modules = [m["key"] for m in standard.get_iod_module_map()["rt-structure-set"] if m["usage"] == "M"]
    assert "roi-contour" in modules
    for module in modules:
        standard.check_required_attributes(dataset, module)
