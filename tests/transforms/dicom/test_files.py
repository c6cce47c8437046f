"""Which files below a folder are DICOM, and how they are opened."""

import gzip
import re

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, write_series
from transforms.dicom.series import find_volumes, read_series, scan_series
from transforms.io.readers import ImageError, read_header, read_image


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


@pytest.mark.parametrize("content", [b"", b"\0" * 3000, b"\0" * 100], ids=["empty", "zeros", "cut"])
def test_what_a_broken_copy_leaves_behind_is_warned_of(folder, caplog, content):
    for number, path in enumerate(write_series(folder, Phantom().slices())):
        path.rename(path.with_name(f"1.2.840.{number}"))
    (folder / "lockfile.txt").write_bytes(b"")
    assert scan_series(folder).shape[2] == 7
    assert not caplog.records
    (folder / "1.2.840.6").write_bytes(content)
    assert scan_series(folder).shape[2] == 6
    assert re.search(
        r"1\.2\.840\.6: empty, only zeros, a broken link or .* \(1 such file\(s\)\); passed over",
        caplog.text,
    )


def test_links_to_what_was_not_fetched(folder, caplog):
    paths = write_series(folder, Phantom().slices())
    paths[6].rename(folder.parent / "content")
    paths[6].symlink_to(folder.parent / "content")
    assert scan_series(folder).shape[2] == 7
    (folder.parent / "content").unlink()
    with pytest.raises(ImageError, match=r"IM0006\.dcm: a link to nothing \(.*content\); fetch"):
        scan_series(folder)
    for path in paths:
        path.rename(path.with_suffix(""))
    assert scan_series(folder).shape[2] == 6
    assert "IM0006: empty, only zeros, a broken link" in caplog.text


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("ending", ["", ".dcm"])
def test_files_without_preamble(folder, syntax, meta, ending):
    for path in write_series(folder, Phantom().slices(), syntax=syntax):
        ph.strip_preamble(path, meta)
        path.rename(path.with_suffix(ending))
    assert_in_world(*read_series(folder))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("multi_frame", [False, True])
def test_gzipped_files(folder, syntax, multi_frame):
    slices = Phantom().slices()
    for path in write_series(folder, [ph.multi_frame(slices)] if multi_frame else slices, syntax=syntax):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert_in_world(*read_series(folder))
    damaged = folder / "IM0000.dcm.gz"
    damaged.write_bytes(damaged.read_bytes()[:-90])
    with pytest.raises(ImageError, match=r"IM0000\.dcm\.gz"):
        read_series(folder)


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b", b"\x1f\x8b\x08\x00broken", gzip.compress(b"x" * 9000, mtime=0)[:20]]
)
def test_a_broken_gzip_file_beside_the_slices(folder, caplog, content):
    write_series(folder, Phantom().slices())
    for name in ("scout.nii.gz", "notes.gz"):
        (folder / name).write_bytes(content)
    assert_in_world(*read_series(folder))
    assert not caplog.records
    for path in sorted(folder.glob("*.dcm")):
        (folder / f"{path.stem}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert_in_world(*read_series(folder))
    assert "notes.gz: empty, only zeros, a broken link or impossible to unpack" in caplog.text
    (folder / "IM0009.dcm.gz").write_bytes(content)
    with pytest.raises(ImageError, match=r"IM0009\.dcm\.gz: cannot be unpacked .* damaged; copy"):
        read_series(folder)


def test_wrong_endings_and_hidden_files(folder):
    for number, path in enumerate(write_series(folder, Phantom().slices())):
        path.rename(path.with_suffix(("", ".txt", ".1.2.840", ".jpg", ".IMA", ".gz", ".nii")[number]))
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._IM0001.dcm").write_bytes(b"junk")
    (folder / ".git").mkdir()
    write_series(folder / ".git", ph.second_series(Phantom().slices()))
    assert_in_world(*read_series(folder))


def test_linked_folders_count_and_circles_end(folder, tmp_path):
    write_series(tmp_path / "store", Phantom().slices())
    (folder / "link").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "back").symlink_to(folder)
    array, affine = read_series(folder)
    assert array.shape == (12, 9, 7)
    assert_in_world(array, affine)


def test_a_folder_that_cannot_be_found_or_a_file_that_is_no_image(tmp_path):
    with pytest.raises(ImageError, match="no such"):
        find_volumes(tmp_path / "x")
    (tmp_path / "a.dcm").write_bytes(b"not DICOM at all" * 20)
    for read in (read_image, read_header):
        with pytest.raises(ImageError, match=r"a\.dcm: named like a slice but not a DICOM"):
            read(tmp_path / "a.dcm")
