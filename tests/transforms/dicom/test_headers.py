"""Headers of DICOM files: what is believed, and what is refused as damaged."""

import gzip
import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, some, write_series
from transforms.dicom.series import read_series, scan_series
from transforms.io.readers import ImageError, read_image


def test_a_header_that_is_cut_off_is_called_so(folder):
    path = write_series(folder, Phantom().slices())[6]
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.index(b"phantom") + 20])
    with pytest.raises(
        ImageError, match=r"IM0006\.dcm: the DICOM header is damaged \(neither Rows nor Columns"
    ):
        scan_series(folder)


@given(data=st.data())
@settings(some, max_examples=40)
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


def test_compressed_data_without_meta_information_have_no_known_encoding(folder):
    for path in write_series(folder, Phantom().slices(), syntax=RLELossless):
        ph.strip_preamble(path)
    with pytest.raises(ImageError, match=r"IM000\d\.dcm: \d+ bytes of pixel data where"):
        read_series(folder)


@pytest.mark.parametrize(
    ("syntax", "kind"),
    [
        ("1.2.840.113619.5.2", "a private"),  # of GE
        ("1.3.46.670589.33.1.4.1", "a private"),  # of Philips
        ("1.2.840.10008.1.2.4.999", "an unknown"),
    ],
)
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_transfer_syntax_that_is_private_or_unknown_is_called_so(folder, syntax, kind, gzipped):
    path = write_series(folder, Phantom().slices())[3]
    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = f"1.2.826.0.1.{'7' * (len(syntax) - 12)}"
    pydicom.dcmwrite(path, image, implicit_vr=False, little_endian=True)
    stated = str(image.file_meta.TransferSyntaxUID).encode()
    path.write_bytes(path.read_bytes().replace(stated, syntax.encode().ljust(len(stated), b"\0")))
    if gzipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(
        ImageError, match=rf"IM0003\.dcm: stored in {kind} transfer syntax \({syntax}"
    ) as error:
        read_series(folder)
    assert "damaged" not in str(error.value)


def test_headers_as_they_are_found(folder):
    """Padded UIDs, blanks, decimals of more than 16 characters, values in the wrong VR, private tags."""
    slices = Phantom(spacing=(0.8, 0.9, 2.5)).slices()
    for image in slices:
        position = [float(v) for v in image.ImagePositionPatient]
        image.add_new("ImagePositionPatient", "UN", "\\".join(f" {v:.20f} " for v in position).encode())
        image.add_new("PixelSpacing", "LO", "0.90000000000000002220\\0.8000000000000000444")
        image.add_new("SeriesInstanceUID", "UN", b"1.2.3.4\0\0\0")
        image.add_new("RescaleSlope", "DS", " 1.0E+00 ")
        image.add_new("Rows", "UL", int(image.Rows))
        image.add_new("SeriesDescription", "LO", "Schädel")
        image.SpecificCharacterSet = "ISO_IR 192"
        block = image.private_block(0x2005, "Philips Imaging DD 001", create=True)
        block.add_new(0x10, "UN", b"\x00\x01\x02" * 99)
        block.add_new(0x11, "SQ", [ph.multi_frame(Phantom(shape=(2, 2, 2)).slices())])
        del image.private_block(0x2005, "Philips Imaging DD 001")[0x11].value[0].PixelData
    slices[0].SeriesInstanceUID = "1.2.3.4"
    write_series(folder, slices)
    series = scan_series(folder)
    assert (series.uid, series.description) == ("1.2.3.4", "Schädel")
    assert_in_world(*read_series(series))


@pytest.mark.filterwarnings("ignore")
def test_explicit_data_that_call_themselves_implicit(folder):
    for path in write_series(folder, Phantom().slices()):
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0", 1))
    assert_in_world(*read_series(folder))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_files_of_pydicom(name):
    """Real slices that pydicom carries; SimpleITK reads the same values and places."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("not in this pydicom")
    image, expected = read_image(path), sitk.ReadImage(path)
    values = sitk.GetArrayFromImage(expected).transpose(2, 1, 0)
    if name == "693_J2KI.dcm":  # lossy, with padding of -2000
        values = np.maximum(values, -1024)
    np.testing.assert_array_equal(image.numpy()[0], values)
    lps = np.diag([-1, -1, 1, 1]) @ image.affine.numpy()
    np.testing.assert_allclose(lps[:3, 3], expected.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(lps[:3, :2], axis=0), expected.GetSpacing()[:2], atol=1e-6)


def test_other_files_of_pydicom_raise_nothing_but_image_errors():
    for name in (
        "MR_small.dcm",
        "rtdose.dcm",
        "rtplan.dcm",
        "reportsi.dcm",
        "SC_rgb_rle.dcm",
        "waveform_ecg.dcm",
        "liver_1frame.dcm",
    ):
        path = get_testdata_file(name, download=False)
        if path is not None:
            with pytest.raises(ImageError, match=r"not CT|no CT images here, only"):
                scan_series(path)
