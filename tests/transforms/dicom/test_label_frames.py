"""Whether an RTSTRUCT is drawn in the coordinates of an image, by frames of reference and what it names."""

import gzip
import re

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

import tests.dicom_label_files as lf
import tests.dicom_phantom as ph
from tests.dicom_label_files import disc, grid
from tests.dicom_phantom import Phantom, write_series
from transforms.dicom.labels import read_dicom_label
from transforms.io.readers import ImageError


@pytest.fixture
def ct() -> Phantom:
    return Phantom(shape=(21, 18, 6))


def study_of(series: str, images: list[str]) -> Dataset:
    """RTReferencedStudySequence of one series."""
    listed = lf.item(
        SeriesInstanceUID=series,
        ContourImageSequence=[lf.item(ReferencedSOPInstanceUID=uid) for uid in images],
    )
    return lf.item(RTReferencedSeriesSequence=[listed])


def structure_set_with_frames(path, ct, slices, roi_frame, *, described=(), top="", images=()):
    """One ROI with a frame of reference of its own; `described`: frame, series and images of each that the file lists."""
    contours = [("CLOSED_PLANAR", disc(ct, 2, (8, 8), 4.3))]
    lf.rtstruct_file(path, {"heart": contours}, roi_frame, images)
    dataset = pydicom.dcmread(path)
    if top:
        dataset.FrameOfReferenceUID = top
    if described:
        dataset.ReferencedFrameOfReferenceSequence = [
            lf.item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study_of(series, names)])
            for frame, series, names in described
        ]
    return lf.save(dataset, path)


@pytest.mark.parametrize("form", ["plain", "gzipped", "bare"])
@pytest.mark.parametrize(
    ("described", "images", "read_all_the_same"),
    [
        ("the series of the CT", False, True),
        ("the images of the CT", False, True),
        ("the series of an MR", False, False),
        ("nothing", False, False),
        ("nothing", True, True),
        ("the CT, and the frame of the ROI with an MR", False, False),
        ("the CT, and the frame of the ROI with an MR", True, True),
        ("the CT, and the frame of the ROI with the CT", False, True),
    ],
)
def test_a_roi_with_a_frame_of_reference_of_its_own(
    tmp_path, ct, caplog, described, images, read_all_the_same, form
):
    slices = ct.slices()
    for file in write_series(tmp_path / "ct", slices):
        if form == "gzipped":
            (tmp_path / "ct" / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
        elif form == "bare":
            ph.strip_preamble(file)
    uids = [str(image.SOPInstanceUID) for image in slices]
    frame, series = slices[0].FrameOfReferenceUID, slices[0].SeriesInstanceUID
    listed = {
        "the series of the CT": [(frame, series, [])],
        "the images of the CT": [(frame, "1.2.9", uids)],
        "the series of an MR": [("1.2.7", "1.2.8", ["1.2.8.1"])],
        "nothing": [],
        "the CT, and the frame of the ROI with an MR": [
            (frame, series, uids),
            ("1.2.3", "1.2.8", ["1.2.8.1"]),
        ],
        "the CT, and the frame of the ROI with the CT": [(frame, series, uids), ("1.2.3", series, [])],
    }[described]
    path = structure_set_with_frames(
        tmp_path / "a.dcm", ct, slices, "1.2.3", described=listed, top=frame, images=uids if images else ()
    )
    names = {0: "background", 1: "heart"}
    if not read_all_the_same:
        with pytest.raises(ImageError, match=r"its frame of reference \(1\.2\.3\) is not that of"):
            read_dicom_label(path, grid(ct), names, image=tmp_path / "ct")
        return
    found = read_dicom_label(path, grid(ct), names, image=tmp_path / "ct")
    assert re.search(r"states another frame of reference \(1\.2\.3\)", caplog.text)
    lf.rtstruct_file(tmp_path / "b.dcm", {"heart": [("CLOSED_PLANAR", disc(ct, 2, (8, 8), 4.3))]}, frame)
    expected = read_dicom_label(tmp_path / "b.dcm", grid(ct), names, image=tmp_path / "ct")
    assert expected.any()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("where", ["top", "listed"])
def test_a_roi_without_a_frame_of_reference_has_that_of_its_file(tmp_path, ct, where):
    slices = ct.slices()
    write_series(tmp_path / "ct", slices)
    options = {"top": "1.2.3"} if where == "top" else {"described": [("1.2.3", "1.2.8", [])]}
    path = structure_set_with_frames(tmp_path / "a.dcm", ct, slices, "", **options)
    with pytest.raises(ImageError, match=r"its frame of reference \(1\.2\.3\) is not that of"):
        read_dicom_label(path, grid(ct), {0: "background", 1: "heart"}, image=tmp_path / "ct")
