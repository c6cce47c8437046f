"""A header is parsed once, and again as soon as its file is another one."""

import os
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from tests import dicom_phantom as ph
from tests.opened_files import aged, opened_below
from transforms.dicom.frame import Frame
from transforms.dicom.header_cache import HeaderCache
from transforms.dicom.series import read_series, scan_series
from transforms.errors import ImageError

HOUR = 3600
OLD = time.time_ns() - HOUR * 10**9


def frames(count):
    return [Frame(Path("a"), index, count, {}, ExplicitVRLittleEndian, 0, 0) for index in range(count)]


def test_frames_are_known_by_path_and_state():
    cache, kept = HeaderCache(10), frames(1)
    cache.put(Path("a"), (OLD, 5), kept)
    assert cache.get(Path("a"), (OLD, 5)) is kept
    for path, state in ((Path("b"), (OLD, 5)), (Path("a"), (OLD + 1, 5)), (Path("a"), (OLD, 6))):
        assert cache.get(path, state) is None


def test_a_file_that_changed_just_now_is_not_kept():
    cache = HeaderCache(10)
    now = time.time_ns()
    cache.put(Path("a"), (now, 5), frames(1))
    assert cache.get(Path("a"), (now, 5)) is None


def test_the_number_of_frames_is_bounded_and_the_last_ones_asked_for_stay():
    cache = HeaderCache(10)
    for name in "abc":
        cache.put(Path(name), (OLD, 1), frames(4))
        cache.get(Path("a"), (OLD, 1))
    assert [cache.get(Path(name), (OLD, 1)) is not None for name in "abc"] == [True, False, True]
    for _ in range(9):  # the same file again takes no more room
        cache.put(Path("a"), (OLD, 1), frames(4))
    assert cache.get(Path("c"), (OLD, 1)) is not None
    cache.put(Path("long"), (OLD, 1), frames(99))
    assert cache.get(Path("long"), (OLD, 1)) is not None
    assert cache.get(Path("c"), (OLD, 1)) is None


@pytest.fixture
def folder(tmp_path):
    ph.write_series(tmp_path / "ct", ph.Phantom().slices(), seed=2)
    return aged(tmp_path / "ct")


def test_a_series_is_scanned_twice_and_its_headers_are_parsed_once(folder):
    with opened_below(folder) as opened:
        scan_series(folder)
        found = scan_series(folder)
        assert set(opened.values()) == {1}
        read_series(found)
    assert len(opened) == 7
    assert set(opened.values()) == {2}  # the header, then the pixels


@pytest.mark.parametrize("same_time", [False, True])
def test_a_file_that_changed_is_read_anew(folder, same_time):
    """Of the same size; where its time is the same too, it is one of now, as a file that is written twice in a moment."""
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    if same_time:
        now = time.time_ns()
        times = dict.fromkeys(times, now)
        for path in times:
            os.utime(path, ns=(now, now))
    first = scan_series(folder)
    for path, then in times.items():
        image = pydicom.dcmread(path)
        image.RescaleIntercept = "-1124.00000"[: len(str(image.RescaleIntercept))]
        image.save_as(path)
        os.utime(path, ns=(then, then) if same_time else (then + 10**6, then + 10**6))
    second = scan_series(folder)
    assert (first.frames[0].intercept, second.frames[0].intercept) == (-1024, -1124)


def test_pixels_are_not_read_by_the_header_of_another_file(folder):
    found = scan_series(folder)
    path = found.frames[3].path
    os.utime(path)
    with pytest.raises(
        ImageError, match=rf"{path.name}: changed since its header was read; run the same command"
    ):
        read_series(found)
    path.unlink()
    with pytest.raises(ImageError, match=rf"{path.name}: cannot be opened"):
        read_series(found)
    with pytest.raises(ImageError, match=rf"{path.name}: missing now \(No such file or directory\)"):
        found.frames[3].require_unchanged()
