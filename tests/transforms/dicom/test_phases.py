"""Scans and reconstructions under one series UID: told apart by what their slices say."""

import pytest
from pydicom import Dataset

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, between, number_of, write_series
from transforms.dicom.series import find_volumes, read_series
from transforms.io.readers import ImageError

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
