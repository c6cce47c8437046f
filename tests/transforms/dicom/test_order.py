"""Pieces of a scan along its axis."""

import itertools

import numpy as np
import pytest

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, write_series
from transforms.dicom.series import find_volumes, read_series, scan_series
from transforms.io.readers import ImageError


def with_gap(numbers=(1, 1, 1, 1, 2, 2, 2, 2), gap=10.0, keyword="AcquisitionNumber"):
    slices = Phantom(shape=(12, 9, 14)).slices()[: len(numbers)]
    steps = np.cumsum([0, *(1 + (gap / 2.5 - 1) * (a != b) for a, b in itertools.pairwise(numbers))])
    world = Phantom(shape=(12, 9, 40)).slices()
    result = [world[int(step)] for step in steps]
    for image, number, like in zip(result, numbers, slices, strict=True):
        setattr(image, keyword, str(number))
        image.SeriesInstanceUID = like.SeriesInstanceUID
    return result


@pytest.mark.parametrize("keyword", ["AcquisitionNumber", "ProtocolName", "KVP"])
def test_pieces_with_a_gap_are_chosen_one_by_one(folder, keyword, caplog):
    write_series(folder, with_gap(keyword=keyword), seed=1)
    first, second = find_volumes(folder)
    assert first.count == second.count == 4
    with pytest.raises(ImageError, match=r"(?s)2 volumes here.*--allow missing-slices"):
        scan_series(folder)
    for number in (1, 2):
        array, affine = read_series(folder, series=number)
        assert array.shape == (12, 9, 4)
        assert_in_world(array, affine)
    assert not caplog.records, "nothing is invented"
    for options in ({}, {"series": first.uid}):
        series = scan_series(folder, allow=["missing-slices"], **options)
        assert series.shape == (12, 9, 11), "as one, by interpolation"
        assert series.sources.count(None) == 3
    assert scan_series(folder, series=2, allow=["missing-slices"]).shape == (12, 9, 4)


def test_pieces_of_other_slice_distances(folder):
    fine = ph.changed(Phantom(shape=(12, 9, 6), spacing=(0.8, 0.9, 1.25)).slices(), None, AcquisitionNumber=1)
    coarse = Phantom(shape=(12, 9, 6), spacing=(0.8, 0.9, 5), origin=(-31.5, 12.25, -100.75 + 7.5)).slices()
    for image, like in zip(coarse, fine, strict=True):
        image.AcquisitionNumber = 2
        for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            setattr(image, keyword, getattr(like, keyword))
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{like.SOPInstanceUID}.1"
    write_series(folder, [*fine, *coarse])
    assert [volume.phase for volume in find_volumes(folder)] == ["acquisition 1", "acquisition 2"]
    assert_in_world(*read_series(folder, series=2))


def test_a_missing_slice_is_no_gap_between_pieces(folder):
    """Acquisitions of one slice each, or a gap inside of one: as before."""
    for numbers, gone in ((range(1, 8), 3), ([1, 1, 1, 1, 1, 2, 2], 2)):
        slices = Phantom().slices()
        for image, number in zip(slices, numbers, strict=True):
            image.AcquisitionNumber = number
        for path in folder.iterdir():
            path.unlink()
        write_series(folder, ph.without(slices, gone))
        assert len(find_volumes(folder)) == 1
        with pytest.raises(ImageError, match=r"1 slice\(s\) missing"):
            scan_series(folder)
