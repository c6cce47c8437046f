"""The CT reader against a known field in world space, and against real slices."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, some, write_series
from transforms.dicom.series import read_series, scan_series
from transforms.io.readers import ImageError, read_header, read_image

angles = st.tuples(*(st.floats(-180, 180) for _ in range(3)))


spacings = st.tuples(st.floats(0.2, 2), st.floats(0.2, 2), st.floats(0.3, 8))


@given(angles=angles, spacing=spacings, seed=st.integers(0, 99), slices=st.integers(2, 9))
@some
def test_any_orientation_and_names(tmp_path, angles, spacing, seed, slices):
    phantom = Phantom(shape=(6, 5, slices), spacing=spacing, axes=ph.rotation(angles))
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    write_series(tmp_path / "s", phantom.slices(), seed=seed)
    array, affine = read_series(tmp_path / "s")
    assert array.shape == phantom.shape
    assert array.dtype == np.int16
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-7)
    assert_in_world(array, affine)


def test_slices_listed_against_the_normal_are_sorted_along_it(folder):
    phantom = Phantom()
    write_series(folder, phantom.slices()[::-1])
    array, affine = read_series(folder)
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-9)
    assert_in_world(array, affine)


def test_one_slice_takes_its_thickness(folder):
    write_series(folder, Phantom(shape=(6, 5, 1)).slices())
    array, affine = read_series(folder)
    assert array.shape == (6, 5, 1)
    np.testing.assert_allclose(affine, Phantom(shape=(6, 5, 1)).affine)


def test_header_without_pixels_agrees_with_the_image(folder):
    write_series(folder, Phantom(axes=ph.rotation((5, 6, 7))).slices(), seed=1)
    header, image = read_header(folder), read_image(folder)
    assert (1, *header.shape) == tuple(image.shape) == (1, 12, 9, 7)
    np.testing.assert_array_equal(header.affine, image.affine.numpy())
    assert image.meta["filename_or_obj"] == str(folder)


REFUSED = {
    "two series": (
        ph.second_series,
        r"2 volumes here.*--series NUMBER.*1: CT 'phantom': 7 slice.*2: CT 'other kernel': 7 slice",
    ),
    "missing slice": (
        lambda s: ph.without(s, 3),
        r"IM0002\.dcm: 1 slice\(s\) missing: 5 mm .*IM0003\.dcm where 2\.5 mm",
    ),
    "two missing slices": (lambda s: ph.without(s, 3, 4), r"2 slice\(s\) missing: 7\.5 mm"),
    "uneven spacing": (lambda s: ph.moved(s, 6, (0, 0, 0.8)), r"IM0005\.dcm: uneven slice spacing: 3\.3 mm"),
    "two phases": (
        lambda s: ph.duplicated(s, 2, other_values=True),
        r"IM0007\.dcm: at the same position as IM0002\.dcm .*several phases",
    ),
    "localizer on the grid": (
        lambda s: ph.changed(s, 6, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        r"2 volumes .*1: .*6 slice.*2: .*1 slice.*localizer, axial.*IM0006",
    ),
    "scout unnamed": (
        lambda s: ph.changed(ph.localizer(s), 0, ImageType=["ORIGINAL", "PRIMARY"]),
        r"2 volumes .*1: .*7 slice.*axial.*2: .*1 slice.*sagittal",
    ),
    "other size": (
        lambda s: ph.other_size(s, 4),
        r"2 volumes .*6 slice\(s\) of 12 x 9.*1 slice\(s\) of 12 x 18, .*IM0004",
    ),
    "other spacing": (
        lambda s: ph.changed(s, 1, PixelSpacing=["0.95", "0.8"]),
        r"IM0001\.dcm: pixel spacing \(0\.95, 0\.8\) mm differs from \(0\.9, 0\.8\) mm",
    ),
    "other frame": (
        lambda s: ph.changed(s, 5, FrameOfReferenceUID="1.2.3"),
        r"2 volumes .*1 slice.*frame of reference 1\.2\.3, such as IM0005",
    ),
    "jitter": (lambda s: ph.jittered(s, 5e-4), r"orientation .* differs from .*allowed: 0\.0001"),
    "shifted slice": (lambda s: ph.moved(s, 3, (0.5, 0, 0)), r"IM0003\.dcm: shifted sideways by 0\.5 mm"),
    "no position": (
        lambda s: ph.changed(s, 2, ImagePositionPatient=None),
        r"IM0002\.dcm: ImagePositionPatient is missing; .*no known place",
    ),
    "empty position": (
        lambda s: ph.changed(s, 2, ImagePositionPatient=[]),
        r"IM0002\.dcm: ImagePositionPatient is missing",
    ),
    "no orientation": (
        lambda s: ph.changed(s, 2, ImageOrientationPatient=None),
        r"ImageOrientationPatient is missing",
    ),
    "no slope": (
        lambda s: ph.changed(s, 2, RescaleSlope=None),
        r"RescaleSlope is missing; .*no Hounsfield units",
    ),
    "slope zero": (lambda s: ph.changed(s, 2, RescaleSlope="0"), r"IM0002\.dcm: RescaleSlope is 0"),
    "not HU": (lambda s: ph.changed(s, 2, RescaleType="Z_EFF"), r"IM0002\.dcm: values are in 'Z_EFF'"),
    "multi-frame without groups": (
        lambda s: ph.changed(s, 2, NumberOfFrames=7),
        r"IM0002\.dcm: a multi-frame image \(CT Image.*7 frames\) without functional groups",
    ),
    "not CT": (lambda s: ph.changed(s, None, Modality="MR"), r"IM000\d\.dcm: modality MR, not CT"),
    "inverted": (
        lambda s: ph.changed(s, 3, PhotometricInterpretation="MONOCHROME1"),
        r"IM0003\.dcm: PhotometricInterpretation is MONOCHROME1",
    ),
    "skewed axes": (
        lambda s: ph.changed(s, None, ImageOrientationPatient=[1, 0, 0, 0.1, 0.995, 0]),
        r"not a pair of perpendicular unit vectors",
    ),
    "no pixels": (lambda s: ph.changed(s, 3, PixelData=None), r"IM0003\.dcm: no pixel data"),
    "too many pixels": (
        lambda s: ph.changed(s, 3, PixelData=b"\0" * 500),
        r"IM0003\.dcm: 500 bytes .*need 216",
    ),
    "one slice without thickness": (
        lambda s: ph.changed(s[:1], 0, SliceThickness=None),
        r"IM0000\.dcm: the only slice .*without a SliceThickness",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_finding_and_advice(folder, case):
    spoil, message = REFUSED[case]
    write_series(folder, spoil(Phantom().slices()))
    with pytest.raises(ImageError, match=f"(?s){message}") as error:
        read_series(folder)
    assert str(folder) in str(error.value)


def test_one_file_is_one_slice(folder):
    path = write_series(folder, Phantom().slices())[2].rename(folder / "slice")
    image = read_image(path)
    assert tuple(image.shape) == (1, 12, 9, 1)
    assert_in_world(image.numpy()[0], image.affine.numpy())


def test_real_series_equals_simpleitk(shared_data):
    source = shared_data / "dicom" / "seg" / "ct-3slice"
    array, affine = read_series(source)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source)))
    image = reader.Execute()
    expected = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    assert (expected == -3024).any()  # the padding of this scanner
    np.testing.assert_array_equal(array, np.where(expected == -3024, -1024, expected))
    direction = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    np.testing.assert_allclose(affine[:3, :3], np.diag([-1, -1, 1]) @ direction, atol=1e-6)
    np.testing.assert_allclose(affine[:3, 3], np.diag([-1, -1, 1]) @ image.GetOrigin(), atol=1e-6)


def test_real_folders_of_several_objects(shared_data):
    with pytest.raises(ImageError, match="volumes here"):
        scan_series(shared_data / "dicom" / "compressed_ct")
    with pytest.raises(ImageError, match="volumes here"):
        scan_series(shared_data / "dicom")
    assert scan_series(shared_data / "dicom" / "rtstruct").shape == (512, 512, 2)  # beside RTSTRUCTs
    assert scan_series(shared_data / "dicom" / "seg").shape == (512, 512, 3)  # beside SEGs and a NRRD


@given(
    angles=angles,
    spacing=spacings,
    tilt=st.sampled_from([0.0, -20.0, 0.5, 12.0]),
    slopes=st.lists(st.sampled_from([0.25, 0.7, 1.0, 2.0]), min_size=1, max_size=3),
    signed=st.booleans(),
    syntax=st.sampled_from(
        [
            ImplicitVRLittleEndian,
            ExplicitVRLittleEndian,
            ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian,
            RLELossless,
            JPEGLosslessSV1,
            JPEGLSLossless,
        ]
    ),
    copies=st.sets(st.integers(0, 6)),
    gaps=st.sets(st.integers(1, 5), max_size=2),  # every second one missing cannot be seen
    seed=st.integers(0, 99),
    noise=st.booleans(),
)
@settings(some, max_examples=60)
def test_every_irregularity_that_is_read_in_any_company(
    tmp_path, angles, spacing, tilt, slopes, signed, syntax, copies, gaps, seed, noise
):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    phantom = Phantom(
        shape=(6, 5, 7),
        spacing=spacing,
        axes=ph.rotation(angles),
        tilt=tilt,
        slopes=slopes,
        intercepts=(0.0,) if signed else (-1100.0,),
        signed=signed,
    )
    slices = phantom.slices()
    for index in copies - gaps:
        slices = ph.duplicated(slices, index, same_instance=bool(index % 2))
    slices = ph.without(slices, *gaps)
    if noise:
        slices = ph.structure_set(ph.secondary_capture(slices, CTImageStorage))
    write_series(tmp_path / "s", slices, seed=seed, syntax=syntax, depth=seed % 3)
    array, affine = read_series(tmp_path / "s", allow=["missing-slices"])
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-6)
    kept = [index for index in range(7) if index not in gaps]
    expected = ph.hounsfield(ph.world_grid(phantom.shape, phantom.affine))
    for index in kept:
        atol = slopes[index % len(slopes)] / 2 + 1e-3
        np.testing.assert_allclose(array[..., index], expected[..., index], atol=atol)


def test_what_writers_need_to_know(folder):
    slices = Phantom().slices()
    paths = write_series(folder, slices[::-1], seed=4)[::-1]
    series = scan_series(folder)
    assert series.sources == tuple((path, 0) for path in paths)
    assert series.files == tuple(paths)
    assert series.uid == slices[0].SeriesInstanceUID
    assert series.study_uid == slices[0].StudyInstanceUID
    assert series.frame_of_reference_uid == slices[0].FrameOfReferenceUID
    assert series.description == "phantom"
    np.testing.assert_array_equal(read_series(series)[1], series.affine)


def test_the_demo_series_equals_its_nifti_twin(repository):
    """133 real slices with a PixelPaddingValue (63536) that none of them holds."""
    source, twin = repository / "data" / "demo_dicom", repository / "data" / "demo"
    if not (source / "1-001.dcm").is_file() or not (twin / "dataset.json").is_file():
        pytest.skip("the demo CT is not there; `python -m pipelines.data.demo --dicom` fetches it")
    array, affine = read_series(source)
    nifti = nib.as_closest_canonical(nib.load(twin / "imagesTr" / "lidc_idri_0001.nii.gz"))
    dicom = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    np.testing.assert_allclose(dicom.affine, nifti.affine, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(dicom.dataobj), np.asarray(nifti.dataobj))
