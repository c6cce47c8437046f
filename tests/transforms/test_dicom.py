"""The CT series reader against a known field in world space, and against real slices."""

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.transforms import LoadImage, LoadImaged
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, write_series
from transforms.dicom import DicomSeriesReader, read_series, scan_series
from transforms.readers import ImageError, read_header, read_image

angles = st.tuples(*(st.floats(-180, 180) for _ in range(3)))
spacings = st.tuples(st.floats(0.2, 2), st.floats(0.2, 2), st.floats(0.3, 8))
some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_in_world(array: np.ndarray, affine: np.ndarray, step: float = 1.0) -> None:
    """Every voxel has the value of the field at the place where the affine puts it, to half a stored step."""
    expected = ph.hounsfield(ph.world_grid(array.shape, affine))
    np.testing.assert_allclose(array, expected, atol=0.5 * step + 1e-3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "series #1"
    path.mkdir()
    return path


# --- clean series ---------------------------------------------------------------------------------------------------


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


@given(
    slopes=st.lists(st.sampled_from([0.05, 0.25, 0.7, 1.0, 2.0, 3.0]), min_size=1, max_size=4),
    intercepts=st.lists(st.sampled_from([0.0, 10.0, -24.5, 100.0]), min_size=1, max_size=4),
)
@some
def test_modality_lut_of_every_slice(tmp_path, slopes, intercepts):
    phantom = Phantom(slopes=slopes, intercepts=intercepts, signed=True)
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    write_series(tmp_path / "s", phantom.slices())
    array, affine = read_series(tmp_path / "s")
    used = slopes[:7] + intercepts[:7]
    assert array.dtype == (np.int16 if all(value.is_integer() for value in used) else np.float32)
    for index in range(7):
        expected = ph.hounsfield(ph.world_grid(phantom.shape, affine)[:, :, index])
        np.testing.assert_allclose(array[:, :, index], expected, atol=slopes[index % len(slopes)] / 2 + 1e-3)


def test_slope_below_one_after_a_first_slice_of_one_is_not_truncated(folder):
    """ITK reads the whole series with the type of the first slice and cuts the others to whole numbers."""
    slices = Phantom(intercepts=(-1024.0,)).slices()
    stored = np.arange(9 * 12).reshape(9, 12) * 601
    for image in slices[1:]:
        image.RescaleSlope, image.RescaleIntercept = "0.0005", "0"
        ph.set_pixels(image, stored)
    write_series(folder, slices)
    array, _ = read_series(folder)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[:, :, 3], stored.T * 0.0005, rtol=1e-6)
    np.testing.assert_allclose(
        array[..., 0], ph.hounsfield(ph.world_grid((12, 9, 7), Phantom().affine))[..., 0], atol=0.501
    )


def test_values_beyond_int16_stay_exact_as_float(folder):
    slices = Phantom().slices()
    ph.set_pixels(slices[2], np.full((9, 12), 65535))
    write_series(folder, slices)
    array, _ = read_series(folder)
    assert array.dtype == np.float32
    assert (array[..., 2] == 64511).all()


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_high_bit_are_no_values(folder, signed):
    """Old files keep overlays there; and signed values of 12 bits need their sign extended."""
    phantom = Phantom(bits=12, signed=signed, intercepts=(-1024.0 if not signed else 10.0,))
    slices = phantom.slices()
    for image in slices:
        image.PixelData = (np.frombuffer(image.PixelData, "<u2") | 0xA000).tobytes()
    write_series(folder, slices)
    assert_in_world(*read_series(folder))


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
@pytest.mark.parametrize("signed", [False, True])
def test_transfer_syntaxes_that_need_no_codec(folder, syntax, signed):
    write_series(folder, Phantom(signed=signed).slices(), seed=3, syntax=syntax)
    array, affine = read_series(folder)
    assert array.dtype == np.int16
    assert_in_world(array, affine)


def test_small_jitter_of_orientation_is_no_reason_to_refuse(folder):
    phantom = Phantom(axes=ph.rotation((10, 20, 30)))
    write_series(folder, ph.jittered(phantom.slices(), 1e-5))
    array, affine = read_series(folder)
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-4)
    assert_in_world(array, affine)


def test_rounded_positions_pass_and_worse_ones_do_not(folder):
    write_series(folder, ph.moved(Phantom().slices(), 3, (0, 0, 0.02)))
    read_series(folder)
    write_series(folder, ph.moved(Phantom().slices(), 3, (0, 0, 0.04)))
    with pytest.raises(ImageError, match="uneven"):
        read_series(folder)


def test_junk_is_passed_over(folder):
    write_series(folder, Phantom().slices())
    (folder / "README.txt").write_text("notes")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 20)
    (folder / ".DS_Store").write_bytes(b"junk")
    (folder / "empty").write_bytes(b"")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"\x89PNG")
    assert_in_world(*read_series(folder))


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


# --- refused series -------------------------------------------------------------------------------------------------

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
    "localizer": (ph.localizer, r"2 volumes .*1: .*7 slice.*2: .*1 slice.*localizer, sagittal.*IM0000"),
    "scout unnamed": (
        lambda s: ph.changed(ph.localizer(s), 0, ImageType=["ORIGINAL", "PRIMARY"]),
        r"2 volumes .*1: .*7 slice.*axial.*2: .*1 slice.*sagittal",
    ),
    "other size": (lambda s: ph.other_size(s, 4), r"2 volumes .*6 slice\(s\) of 12 x 9.*1 slice\(s\) of 12 x 18, .*IM0004"),
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
        r"no pair of perpendicular unit vectors",
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


@given(degrees=st.floats(0.1, 35), sign=st.sampled_from([-1, 1]), angles=angles)
@some
def test_gantry_tilt_is_a_sheared_affine(tmp_path, degrees, sign, angles, caplog):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    caplog.clear()
    phantom = Phantom(tilt=sign * degrees, axes=ph.rotation(angles))
    write_series(tmp_path / "s", phantom.slices(), seed=1)
    with caplog.at_level(logging.INFO):
        array, affine = read_series(tmp_path / "s")
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-7)
    assert_in_world(array, affine)
    found = float(re.search(r"tilt of ([\d.e-]+) degrees", caplog.text).group(1))
    assert found == pytest.approx(degrees, rel=0.01)


def test_tilt_below_the_limit_keeps_its_place_in_the_affine(folder):
    phantom = Phantom(tilt=0.04)
    write_series(folder, phantom.slices())
    array, affine = read_series(folder)
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-9)
    assert_in_world(array, affine)


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, DeflatedExplicitVRLittleEndian])
def test_cut_off_anywhere_is_never_read_wrongly(tmp_path, syntax, data):
    folder = tmp_path / "cut"
    if not folder.exists():
        write_series(folder, Phantom(shape=(6, 5, 3)).slices(), syntax=syntax)
        shutil.copy(folder / "IM0001.dcm", tmp_path / "whole.dcm")
    whole = (tmp_path / "whole.dcm").read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    (folder / "IM0001.dcm").write_bytes(whole[:cut])
    try:
        array, affine = read_series(folder)
    except ImageError:
        return
    assert array.shape == (6, 5, 3)
    assert_in_world(array, affine)


@given(position=st.integers(132, 1200), value=st.integers(0, 255))
@settings(some, max_examples=150)
@pytest.mark.filterwarnings("ignore")
def test_damaged_headers_raise_nothing_but_image_errors(tmp_path, position, value):
    folder = tmp_path / "s"
    if not folder.exists():
        write_series(folder, Phantom(shape=(6, 5, 3)).slices())
        shutil.copy(folder / "IM0001.dcm", tmp_path / "whole.dcm")
    raw = bytearray((tmp_path / "whole.dcm").read_bytes())
    raw[min(position, len(raw) - 1)] = value
    (folder / "IM0001.dcm").write_bytes(raw)
    try:
        array, affine = read_series(folder)
    except ImageError:
        return
    assert array.shape == (6, 5, 3)
    assert abs(np.linalg.det(affine)) > 0


def test_folders_without_a_series(tmp_path, folder):
    with pytest.raises(ImageError, match="no such folder"):
        scan_series(tmp_path / "absent")
    with pytest.raises(ImageError, match="no DICOM files here; give"):
        scan_series(folder)


def test_files_that_only_look_like_slices(folder):
    paths = write_series(folder, Phantom().slices())
    raw = paths[0].read_bytes()
    paths[0].write_bytes(b"")
    with pytest.raises(ImageError, match=r"IM0000\.dcm: named like a slice"):
        scan_series(folder)
    paths[0].unlink()
    (folder / "notes.bin").write_bytes(b"\x08\x00\x05\x00" + bytes(range(200)))
    assert scan_series(folder).shape[2] == 6


def test_one_file_is_one_slice(folder):
    path = write_series(folder, Phantom().slices())[2].rename(folder / "slice")
    image = read_image(path)
    assert tuple(image.shape) == (1, 12, 9, 1)
    assert_in_world(image.numpy()[0], image.affine.numpy())


# --- MONAI ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [DicomSeriesReader, "transforms.dicom.DicomSeriesReader"])
def test_monai_load_image(folder, reader):
    phantom = Phantom(axes=ph.rotation((12, -7, 33)))
    write_series(folder, phantom.slices(), seed=5)
    image = LoadImaged("image", reader=reader, ensure_channel_first=True)({"image": folder})["image"]
    assert tuple(image.shape) == (1, 12, 9, 7)
    np.testing.assert_allclose(image.affine, phantom.affine, atol=1e-7)
    assert_in_world(image.numpy()[0], image.affine.numpy())


def test_monai_does_not_fall_back_on_its_own_readers(folder):
    """LoadImage answers an error in read() by trying PydicomReader, which would return wrong voxels."""
    write_series(folder, ph.without(Phantom().slices(), 3))
    with pytest.raises(ImageError, match="missing"):
        LoadImage(reader=DicomSeriesReader)(folder)


def test_reader_suffix_and_number_of_paths(folder):
    reader = DicomSeriesReader()
    assert reader.verify_suffix(folder)
    assert reader.verify_suffix([str(folder)])
    assert not reader.verify_suffix([folder, folder])
    assert not reader.verify_suffix(folder / "a.nii.gz")
    with pytest.raises(ImageError, match="2 paths"):
        reader.get_data(reader.read([folder, folder]))
    with pytest.raises(ImageError, match="no such"):
        reader.get_data(reader.read(folder / "a.nii.gz"))


# --- real data ------------------------------------------------------------------------------------------------------

# Largest difference to the uncompressed image in HU: 0 where the syntax is lossless.
SYNTAXES = {
    "1.2.840.10008.1.2": 0,
    "1.2.840.10008.1.2.1": 0,
    "1.2.840.10008.1.2.1.99": 0,
    "1.2.840.10008.1.2.2": 0,
    "1.2.840.10008.1.2.5": 0,
    "1.2.840.10008.1.2.4.57": 0,
    "1.2.840.10008.1.2.4.70": 0,
    "1.2.840.10008.1.2.4.80": 0,
    "1.2.840.10008.1.2.4.90": 0,
    "1.2.840.10008.1.2.4.81": 1,
    "1.2.840.10008.1.2.4.91": 5,
    "1.2.840.10008.1.2.4.51": 36,  # 12 bits: steps of 2 HU and lossy
    "1.2.840.10008.1.2.4.53": 36,
    "1.2.840.10008.1.2.4.55": 36,
    "1.2.840.10008.1.2.4.50": 65,  # 8 bits: steps of 32 HU and lossy
}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_compressed_ct(shared_data, folder, syntax, caplog):
    source = shared_data / "dicom" / "compressed_ct"
    shutil.copy(source / "CTImage.dcm", folder / "slice")
    reference, affine = read_series(folder)
    shutil.copy(next(source.glob(f"*_{syntax}.dcm")), folder / "slice")
    with caplog.at_level(logging.WARNING, ):
        array, same = read_series(folder)
    np.testing.assert_array_equal(affine, same)
    difference = np.abs(array.astype(float) - reference)
    assert difference.max() <= SYNTAXES[syntax]
    if SYNTAXES[syntax] == 0:
        assert array.dtype == reference.dtype == np.int16
    assert ("compressed with loss" in caplog.text) == (SYNTAXES[syntax] > 0)
    assert np.corrcoef(array.ravel(), reference.ravel())[0, 1] > 0.998


def test_another_scanner_in_jpeg_2000(shared_data, folder):
    shutil.copy(shared_data / "dicom" / "compressed_ct" / "CT2_J2KR", folder / "slice")
    array, _ = read_series(folder)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "slice")))
    np.testing.assert_array_equal(array, expected.transpose(2, 1, 0))


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("syntax", [s for s in SYNTAXES if "1.2.840.10008.1.2.4." in s])
@pytest.mark.parametrize("missing", [9, 300, 3000])
def test_compressed_and_cut_off(shared_data, folder, syntax, missing):
    raw = next((shared_data / "dicom" / "compressed_ct").glob(f"*_{syntax}.dcm")).read_bytes()
    (folder / "slice").write_bytes(raw[:-missing])
    with pytest.raises(ImageError, match=r"cut off|damaged"):
        read_series(folder)


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


def test_big_endian_is_read_without_a_codec(shared_data, folder):
    shutil.copy(
        next((shared_data / "dicom" / "compressed_ct").glob("*_1.2.840.10008.1.2.2.dcm")), folder / "slice"
    )
    series = scan_series(folder)
    assert series.frames[0].syntax == ExplicitVRBigEndian
    assert not series.lossy
