"""Slices of several scans, reconstructions or patients under one series UID: parted, chosen, or refused."""

import itertools
import logging

import numpy as np
import pytest
from pydicom import Dataset

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, write_series
from transforms.dicom.series import find_volumes, read_series, scan_series
from transforms.io.readers import ImageError


def between(slices, shift=500, **values):
    """Two scans at half the slice distance between one another, the second `shift` HU brighter; in order of position."""
    slices = ph.phases(slices, shift, **values) if values else ph.phases(slices, shift, ImageType=["A", "A"])
    half = len(slices) // 2
    for index in range(half, 2 * half):
        slices = ph.moved(slices, index, (0, 0, 1.25))
    return [image for pair in zip(slices[:half], slices[half:], strict=True) for image in pair]


def number_of(folder, image):
    """Number of the volume that a slice is in."""
    (number,) = (
        volume.number
        for volume in find_volumes(folder)
        if any(frame.text("SOPInstanceUID") == image.SOPInstanceUID for frame in volume.frames)
    )
    return number


TOLD_APART = {
    "acquisition": {"AcquisitionNumber": [1, 2]},
    "kernel": {"ConvolutionKernel": ["B30f", "B70f"]},
    "filter": {"FilterType": ["BODY FILTER", "HEAD FILTER"]},
    "kV": {"KVP": ["80", "140"]},
    "contrast": {"ContrastBolusAgent": [None, "Ultravist"]},
    "diameter": {"ReconstructionDiameter": ["400", "250"]},
    "thickness": {"SliceThickness": ["2.5", "5"]},
    "image type": {"ImageType": [["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "MIP"]]},
    "description": {"SeriesDescription": ["plain", "venous"]},
    "event": {"IrradiationEventUID": ["1.2.3", "1.2.4"]},
    "scanner": {"DeviceSerialNumber": ["7", "8"]},
    "window": {"WindowCenter": ["40", "-600"]},
    "units": {"RescaleType": ["HU", "ml/100ml/min"]},
}


@pytest.mark.parametrize("values", TOLD_APART.values(), ids=TOLD_APART)
def test_two_scans_between_one_another_are_two_volumes(folder, values):
    none = {key: ["" if value is None else value for value in both] for key, both in values.items()}
    for image in (slices := between(Phantom().slices(), **none)):
        if image.get("ContrastBolusAgent") == "":
            del image.ContrastBolusAgent
    write_series(folder, slices, seed=1)
    assert [volume.count for volume in find_volumes(folder)] == [7, 7]
    for allow in ([], ["missing-slices", "uneven-spacing", "alternating-slices"]):
        with pytest.raises(ImageError, match="2 volumes here"):
            read_series(folder, allow=allow)
    assert_in_world(*read_series(folder, series=number_of(folder, slices[0])))


def test_three_scans_between_one_another(folder):
    slices = ph.phases(Phantom(spacing=(0.8, 0.9, 3.0)).slices(), ConvolutionKernel=["A", "B", "C"])
    for index in range(7, 21):
        slices = ph.moved(slices, index, (0, 0, index // 7))
    write_series(folder, slices)
    assert [volume.phase for volume in find_volumes(folder)] == ["kernel A", "kernel B", "kernel C"]


def test_a_slice_missing_in_one_of_two_scans_between_one_another(folder):
    slices = between(Phantom().slices(), ConvolutionKernel=["A", "B"])
    write_series(folder, ph.without(slices, 5))
    assert [volume.count for volume in find_volumes(folder)] == [7, 6]
    with pytest.raises(ImageError, match="2 volumes here"):
        read_series(folder, allow=["missing-slices"])


def test_another_slice_distance_and_another_place(folder):
    fine = Phantom(shape=(12, 9, 13), spacing=(0.8, 0.9, 1.25)).slices()
    coarse = ph.phases(fine, ConvolutionKernel=["A", "B"])[13::4]
    fine = ph.changed(fine, None, ConvolutionKernel="A")
    for index in range(len(coarse)):
        coarse = ph.moved(coarse, index, (0, 0, 0.5))
    write_series(folder, [*fine, *coarse])
    assert [(volume.count, volume.phase) for volume in find_volumes(folder)] == [
        (13, "kernel A"),
        (4, "kernel B"),
    ]


def test_the_times_of_slices_tell_scans_apart(folder):
    slices = between(Phantom().slices())
    for index, image in enumerate(slices):
        image.AcquisitionTime = f"1000{index // 2 + 20 * (index % 2):02d}.5"
    write_series(folder, slices)
    first, second = find_volumes(folder)
    assert (first.count, first.phase) == (7, "acquired at 100000.5 to 100006.5")
    assert (second.count, second.phase) == (7, "acquired at 100020.5 to 100026.5")
    assert_in_world(*read_series(folder, series=1))


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("AcquisitionNumber", [1, 1, 1, 2, 2, 1, 1]),
        ("AcquisitionNumber", [1, 1, 2, 2, 1, 1, 2]),
        ("AcquisitionNumber", [3, 3, 2, 2, 1, 1, 1]),
        ("AcquisitionTime", [f"10000{n}" for n in range(7)]),
        ("AcquisitionTime", [f"10000{n // 2}" for n in range(7)]),
        ("XRayTubeCurrent", [200, 210, 200, 210, 200, 210, 200]),
        ("Exposure", [20, 21, 20, 21, 20, 21, 20]),
        ("WindowCenter", [40, 40, 40, 50, 40, 40, 40]),
        ("ImageType", [["ORIGINAL", "PRIMARY", "AXIAL"], *[["DERIVED", "PRIMARY", "AXIAL"]] * 6]),
        ("PatientName", ["Doe^Jane", "DOE^JANE", "Doe^Jane^^", "Doe Jane", "", "doe^jane", "Doe^Jane"]),
    ],
)
def test_what_varies_within_one_scan(folder, keyword, values):
    slices = Phantom().slices()
    for image, value in zip(slices, values, strict=True):
        setattr(image, keyword, value)
    write_series(folder, slices)
    (volume,) = find_volumes(folder)
    assert volume.phase == ""
    assert_in_world(*read_series(folder))


@pytest.mark.parametrize(
    "values",
    [
        {"PatientID": ["ID-a", "ID-b"]},
        {"PatientName": ["Doe^Jane", "Roe^Richard"]},
        {"PatientBirthDate": ["19500101", "19610203"]},
    ],
    ids=lambda values: next(iter(values)),
)
@pytest.mark.parametrize("order", ["between", "after", "same place"])
def test_two_patients_are_two_volumes(folder, values, order):
    slices = ph.phases(Phantom().slices(), 300, **values)
    if order == "after":
        for index in range(7, 14):
            slices = ph.moved(slices, index, (0, 0, 7 * 2.5))
    elif order == "between":
        slices = between(Phantom().slices(), **values)
    write_series(folder, slices, seed=2)
    volumes = find_volumes(folder)
    assert [(volume.count, volume.phase[:14]) for volume in volumes] == [
        (7, "patient 1 of 2"),
        (7, "patient 2 of 2"),
    ]
    for value in next(iter(values.values())):
        assert not any(value in str(volume) for volume in volumes), "who it is stays in the files"
    with pytest.raises(ImageError, match="2 volumes here"):
        read_series(folder)
    assert_in_world(*read_series(folder, series=1))


def test_slices_without_an_identity_belong_to_the_only_patient(folder):
    write_series(folder, ph.changed(Phantom().slices(), 3, PatientID="17"))
    assert_in_world(*read_series(folder))


# --- phases at one place --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "first", "step", "label"),
    [
        ("TriggerTime", 310, 7, "trigger time 310 to 352 ms"),
        ("AcquisitionTime", 101010, 1, "acquired at 101010 to 101016"),
        ("AcquisitionDateTime", 20200101101010, 1, "acquired at 20200101101010 to 20200101101016"),
    ],
)
def test_times_that_differ_from_slice_to_slice(folder, keyword, first, step, label):
    slices = ph.phases(Phantom().slices(), AcquisitionNumber=[1, 1])
    for index, image in enumerate(slices):
        setattr(image, keyword, str(first + step * (index % 7) + (index // 7) * 30 * step))
    write_series(folder, ph.without(slices, 9), seed=3)
    volumes = find_volumes(folder)
    assert [volume.count for volume in volumes] == [7, 6]
    assert volumes[0].phase == label
    assert_in_world(*read_series(folder, series=1))


def test_times_that_drift_from_place_to_place(folder):
    """A table that goes to and fro: at each place the first slice is of the first pass."""
    slices = ph.phases(Phantom().slices(), AcquisitionNumber=[1, 1, 1])
    for index, image in enumerate(slices):
        turn, place = divmod(index, 7)
        image.TriggerTime = str(700 * turn + 100 * (6 - place if turn % 2 else place))
        image.AcquisitionNumber = place
    for image in slices[7:14]:
        image.TriggerTime = str(float(image.TriggerTime) + 1)
    write_series(folder, slices, seed=4)
    assert [volume.count for volume in find_volumes(folder)] == [7, 7, 7]
    for number in range(3):
        array, affine = read_series(folder, series=number + 1)
        assert_in_world(array - 100 * number, affine)


@pytest.mark.parametrize("drift", [0, 30, 300])
def test_trigger_times_of_beats_of_other_lengths(folder, drift):
    slices = ph.phases(Phantom().slices(), AcquisitionNumber=[1, 1, 1])
    for index, image in enumerate(slices):
        image.TriggerTime = str(80 * (index // 7) + drift * (index % 7))
    write_series(folder, slices, seed=4)
    assert [volume.count for volume in find_volumes(folder)] == [7, 7, 7]
    assert_in_world(*read_series(folder, series=1))


def test_trigger_times_of_an_enhanced_ct(folder):
    slices = ph.phases(Phantom().slices(), AcquisitionNumber=[1, 1])
    image = ph.multi_frame(slices)
    for index, groups in enumerate(image.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        item.NominalCardiacTriggerDelayTime = 300.0 + index % 7 + 200 * (index // 7)
        groups.CardiacSynchronizationSequence = [item]
    write_series(folder, [image])
    assert [volume.phase for volume in find_volumes(folder)] == [
        "trigger time 300.0 to 306.0 ms",
        "trigger time 500.0 to 506.0 ms",
    ]
    assert_in_world(*read_series(folder, series=1))


# --- pieces with a gap ----------------------------------------------------------------------------------------------


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


# --- localizers -----------------------------------------------------------------------------------------------------


def scout(**values):
    image = ph.changed(
        Phantom(shape=(12, 20, 1)).slices(), None, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    return ph.changed(image, None, **values)


@pytest.mark.parametrize("kind", ["LOCALIZER", "SCANOSCOPE"])
def test_a_localizer_alone_is_no_ct(folder, kind):
    (path,) = write_series(folder, scout(ImageType=["ORIGINAL", "PRIMARY", kind]))
    for where in (folder, path):
        with pytest.raises(ImageError, match=r"nothing but localizers.*--series NUMBER"):
            read_series(where)
    assert read_series(folder, series=1)[0].shape == (12, 20, 1)


def test_a_ct_beside_localizers_is_taken_with_a_notice(folder, caplog):
    slices = [*ph.localizer(Phantom().slices()), *scout(SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4")]
    write_series(folder, slices, seed=1)
    with caplog.at_level(logging.WARNING):
        assert_in_world(*read_series(folder))
    assert "reading phantom; passed over: localizer (2)" in caplog.text
    write_series(folder / "more", ph.second_series(Phantom().slices())[7:])
    with pytest.raises(ImageError, match="2 volumes here"):
        read_series(folder)
