"""What is found in a folder and parsed as DICOM, and what is passed over or refused as damaged."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)

from tests.dicom_phantom import Phantom, assert_in_world, some, write_series
from transforms.dicom import read_series, scan_series
from transforms.readers import ImageError


def test_junk_is_passed_over(folder):
    write_series(folder, Phantom().slices())
    (folder / "README.txt").write_text("notes")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 20)
    (folder / ".DS_Store").write_bytes(b"junk")
    (folder / "empty").write_bytes(b"")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"\x89PNG")
    assert_in_world(*read_series(folder))


def test_folders_without_a_series(tmp_path, folder):
    with pytest.raises(ImageError, match="no such folder"):
        scan_series(tmp_path / "absent")
    with pytest.raises(ImageError, match="no DICOM files here; give"):
        scan_series(folder)


def test_files_that_only_look_like_slices(folder):
    paths = write_series(folder, Phantom().slices())
    paths[0].write_bytes(b"")
    with pytest.raises(ImageError, match=r"IM0000\.dcm: named like a slice"):
        scan_series(folder)
    paths[0].unlink()
    (folder / "notes.bin").write_bytes(b"\x08\x00\x05\x00" + bytes(range(200)))
    assert scan_series(folder).shape[2] == 6


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
