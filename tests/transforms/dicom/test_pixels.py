"""Stored values to Hounsfield units: modality LUT, bits, transfer syntaxes, padding."""

import logging
import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, some, write_series
from transforms.dicom.series import read_series, scan_series
from transforms.io.readers import ImageError


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
    with caplog.at_level(
        logging.WARNING,
    ):
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


def test_big_endian_is_read_without_a_codec(shared_data, folder):
    shutil.copy(
        next((shared_data / "dicom" / "compressed_ct").glob("*_1.2.840.10008.1.2.2.dcm")), folder / "slice"
    )
    series = scan_series(folder)
    assert series.frames[0].syntax == ExplicitVRBigEndian
    assert not series.lossy


# --- padding --------------------------------------------------------------------------------------------------------


def corners(shape=(12, 9)) -> np.ndarray:
    """A mask (columns, rows) of what lies outside a circle: all four corners."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return x**2 + y**2 > 1.2


def assert_padded(array: np.ndarray, affine: np.ndarray, where: np.ndarray, value: float) -> None:
    expected = ph.hounsfield(ph.world_grid(array.shape, affine))
    expected[where] = value
    np.testing.assert_allclose(array, expected, atol=0.501)


@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("bits", [-2000, -32768, 63536])
def test_padding_is_air_whatever_the_vr(folder, vr, signed, syntax, bits):
    """63536 is -2000 of a signed image, and 62512 HU of an unsigned one."""
    phantom = Phantom(signed=signed, intercepts=(-1024.0,))
    slices = ph.padded(phantom.slices(), bits, corners())
    for image in slices:
        ph.tag(image, "PixelPaddingValue", bits % 65536, vr)
    write_series(folder, slices, syntax=syntax)
    array, affine = read_series(folder)
    assert array.dtype == np.int16
    assert_padded(array, affine, corners(), -1024)


@pytest.mark.parametrize("signed", [False, True])
def test_padding_in_bits_above_the_stored_ones(folder, signed):
    """Twelve bits stored, and padding of -2000 in sixteen."""
    phantom = Phantom(bits=12, signed=signed, intercepts=(10.0 if signed else -1024.0,))
    slices = ph.padded(phantom.slices(), -2000, corners())
    for image in slices:
        ph.tag(image, "PixelPaddingValue", 65536 - 2000)
    write_series(folder, slices)
    assert_padded(*read_series(folder), corners(), -1024)


def test_padding_with_a_fractional_slope(folder):
    slices = ph.padded(Phantom(slopes=(0.5,), signed=True).slices(), -32768, corners())
    for image in slices:
        ph.tag(image, "PixelPaddingValue", 32768, "SS")
    write_series(folder, slices)
    array, affine = read_series(folder)
    assert array.dtype == np.float32
    assert_padded(array, affine, corners(), -1024)


def test_a_range_of_padding(folder):
    slices = ph.padded(Phantom(signed=True, intercepts=(0.0,)).slices(), -2000, corners())
    for image in slices:
        pixels = np.frombuffer(image.PixelData, "<i2").copy()
        pixels[0] = -1500
        image.PixelData = pixels.tobytes()
        ph.tag(image, "PixelPaddingValue", 65536 - 2000, "SS")
        ph.tag(image, "PixelPaddingRangeLimit", 65536 - 1500, "SS")
    write_series(folder, slices)
    assert_padded(*read_series(folder), corners(), -1024)


@pytest.mark.parametrize(("stored", "value"), [(0, -1024), (24, -1000), (10, -1014)])
def test_padding_that_reads_as_air_stays(folder, stored, value):
    slices = ph.padded(Phantom().slices(), stored, corners())
    for image in slices:
        ph.tag(image, "PixelPaddingValue", stored)
    write_series(folder, slices)
    assert_padded(*read_series(folder), corners(), value)


@pytest.mark.parametrize("stored", [1024, 4095])
def test_padding_that_reads_like_tissue_or_metal_counts_at_the_corners_only(folder, caplog, stored):
    inside = np.zeros((12, 9), bool)
    inside[5:7, 4] = True
    slices = ph.padded(Phantom().slices(), stored, corners() | inside)
    for image in slices:
        ph.tag(image, "PixelPaddingValue", stored)
    write_series(folder, slices)
    array, _ = read_series(folder)
    assert (array[corners()] == -1024).all()
    assert (array[inside] == stored - 1024).all()
    assert f"PixelPaddingValue {stored} reads like tissue or metal" in caplog.text


def test_no_padding_value_no_padding(folder):
    """Nothing is guessed: -2000 without the attribute is a value."""
    write_series(folder, ph.padded(Phantom(signed=True, intercepts=(0.0,)).slices(), -2000, corners()))
    assert_padded(*read_series(folder), corners(), -2000)


def test_padding_is_never_interpolated(folder):
    slices = ph.padded(ph.without(Phantom(signed=True).slices(), 3), -32768, corners())
    for image in slices:
        ph.tag(image, "PixelPaddingValue", 32768, "SS")
    write_series(folder, slices)
    array, _ = read_series(folder, allow=["missing-slices"])
    assert (array[corners()] == -1024).all()


def test_lossy_padding_is_near_its_value(folder, shared_data):
    """The same slice in lossless and lossy JPEG 2000 has air in the same places."""
    source = shared_data / "dicom" / "compressed_ct"
    arrays = []
    for syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.91"):
        image = pydicom.dcmread(next(source.glob(f"*_{syntax}.dcm")))
        image.PixelPaddingValue = -2000
        image.save_as(folder / "slice")
        arrays.append(read_series(folder)[0])
    assert ((arrays[0] == -1024) == (arrays[1] == -1024)).mean() > 0.999
    assert arrays[1].min() >= -1400  # ringing beside the circle, no -3024


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_codecs(folder, syntax, bits, signed):
    phantom = Phantom(bits=bits, signed=signed, intercepts=(10.0 if signed else -1024.0,))
    write_series(folder, phantom.slices(), seed=3, syntax=syntax)
    array, affine = read_series(folder)
    assert array.dtype == np.int16
    assert_in_world(array, affine)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_high_bit_in_compressed_files(folder, syntax, signed):
    phantom = Phantom(bits=12, signed=signed, intercepts=(10.0 if signed else -1024.0,))
    slices = phantom.slices()
    for image in slices:
        image.PixelData = (np.frombuffer(image.PixelData, "<u2") | 0x5000).astype("<u2").tobytes()
    write_series(folder, slices, syntax=syntax)
    assert_in_world(*read_series(folder))
