"""Volumes told apart in a folder."""

import logging
import random
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, some, write_series
from transforms.dicom.series import find_volumes, read_series, scan_series
from transforms.io.readers import ImageError, read_header, read_image


def lines(error: pytest.ExceptionInfo) -> list[str]:
    """The numbered volumes of a refusal."""
    return re.findall(r"^  (\d+: .*)$", str(error.value), re.MULTILINE)


@given(seed=st.integers(0, 999), depth=st.integers(0, 3))
@some
def test_slices_in_nested_folders_are_one_series(tmp_path, seed, depth):
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    phantom = Phantom(shape=(6, 5, 9), axes=ph.rotation((seed, 2 * seed, 7)))
    write_series(tmp_path / "s", phantom.slices(), seed=seed, depth=depth)
    array, affine = read_series(tmp_path / "s")
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-7)
    assert_in_world(array, affine)


def test_the_numbers_do_not_depend_on_names(tmp_path):
    slices = ph.localizer(ph.phases(Phantom().slices(), AcquisitionNumber=[1, 2]))
    found = []
    for seed in range(4):
        random.Random(seed).shuffle(slices)
        write_series(tmp_path / str(seed), slices, seed=seed, depth=seed)
        found.append([(v.number, v.count, v.phase, v.localizer) for v in find_volumes(tmp_path / str(seed))])
    assert found == [[(1, 7, "acquisition 1", False), (2, 7, "acquisition 2", False), (3, 1, "", True)]] * 4


@pytest.mark.parametrize(
    "values",
    [
        {"AcquisitionNumber": [1, 2]},
        {"TemporalPositionIdentifier": [1, 2, 3]},
        {"NominalPercentageOfCardiacPhase": [45.0, 75.0]},
        {"ConvolutionKernel": ["B30f", "B70f"]},
        {"KVP": [80, 140]},
        {"AcquisitionTime": ["100000", "100130.5"]},
        {"AcquisitionNumber": [1, 1, 2, 2], "ConvolutionKernel": ["A", "B", "A", "B"]},
    ],
    ids=lambda values: "+".join(values),
)
def test_phases_at_the_same_places(folder, values):
    count = len(next(iter(values.values())))
    write_series(folder, ph.phases(Phantom().slices(), shift=100, **values), seed=1)
    volumes = find_volumes(folder)
    assert len({volume.phase for volume in volumes}) == len(volumes) == count
    with pytest.raises(ImageError, match=f"{count} volumes here") as error:
        read_series(folder)
    assert len(lines(error)) == count
    with pytest.raises(ImageError, match=f"{count} volumes match"):
        read_series(folder, series=volumes[0].uid)
    for number in range(count):
        array, affine = read_series(folder, series=number + 1)
        assert_in_world(array - 100 * number, affine)


@pytest.mark.parametrize("numbers", [range(7), [1, 1, 1, 1, 2, 2, 2]], ids=["each", "halves"])
def test_acquisitions_that_form_one_stack_are_one_volume(folder, numbers, caplog):
    slices = Phantom().slices()
    for image, number in zip(slices, numbers, strict=True):
        image.AcquisitionNumber, image.ConvolutionKernel = number, f"K{number}"
    write_series(folder, slices)
    (volume,) = find_volumes(folder)
    assert (volume.count, volume.phase) == (7, "")
    assert_in_world(*read_series(folder))
    assert re.search(r"differ in ConvolutionKernel: K\d \(such as IM0000\.dcm\), K\d", caplog.text)


def test_acquisitions_that_overlap_are_two(folder):
    slices = Phantom(shape=(6, 5, 10)).slices()
    first, second = (
        ph.phases(slices, AcquisitionNumber=[1, 2])[:6],
        ph.phases(slices, AcquisitionNumber=[1, 2])[15:],
    )
    write_series(folder, [*first, *second])
    assert [(v.count, v.phase) for v in find_volumes(folder)] == [(6, "acquisition 1"), (5, "acquisition 2")]


def test_phases_between_one_another_are_two(folder):
    """The second stands 0.7 mm higher: nothing is at the same place, but it is no series with uneven spacing."""
    slices = ph.phases(Phantom().slices(), AcquisitionNumber=[1, 2], shift=0)
    for index in range(7, 14):
        slices = ph.moved(slices, index, (0, 0, 0.7))
    write_series(folder, slices, seed=1)
    assert [volume.count for volume in find_volumes(folder)] == [7, 7]
    with pytest.raises(ImageError, match="2 volumes here"):
        read_series(folder, allow=["uneven-spacing", "missing-slices"])


def test_a_missing_slice_in_one_of_two_phases(folder):
    slices = ph.without(ph.phases(Phantom().slices(), AcquisitionNumber=[1, 2]), 3)
    write_series(folder, slices)
    assert [volume.count for volume in find_volumes(folder)] == [6, 7]
    with pytest.raises(ImageError, match="1 slice\\(s\\) missing"):
        read_series(folder, series="1")
    assert read_series(folder, series="2")[0].shape == (12, 9, 7)


def test_a_localizer_without_a_slope_does_not_matter_beside_the_chosen_series(folder):
    slices = ph.changed(ph.localizer(Phantom().slices()), 0, RescaleSlope=None, RescaleIntercept=None)
    write_series(folder, slices)
    assert_in_world(*read_series(folder, series=1))
    with pytest.raises(ImageError, match="RescaleSlope is missing"):
        read_series(folder, series=2)


def raw_data(slices):
    """Scanners store raw data beside the images and call it CT, too."""
    other = ph.structure_set(slices)
    other[-1].Modality, other[-1].SOPClassUID = "CT", "1.2.840.10008.5.1.4.1.1.66"
    other[-1].file_meta.MediaStorageSOPClassUID = other[-1].SOPClassUID
    return other


@pytest.mark.parametrize(
    ("add", "what"),
    [
        (ph.structure_set, r"RTSTRUCT \(1\)"),
        (ph.secondary_capture, r"secondary capture \(1\)"),
        (lambda s: ph.secondary_capture(s, CTImageStorage), r"CT without a position \(1\)"),
        (
            lambda s: [
                *s,
                *ph.changed(
                    ph.second_series(s)[7:], None, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"
                ),
            ],
            r"MR \(7\)",
        ),
        (raw_data, r"CT without a position \(1\)"),
    ],
    ids=["RTSTRUCT", "dose report", "dose report as CT", "MR", "raw data as CT"],
)
def test_other_objects_do_not_disturb_and_are_named(folder, caplog, add, what):
    write_series(folder, add(Phantom().slices()), seed=1)
    with caplog.at_level(logging.INFO):
        array, affine = read_series(folder)
    assert array.shape == (12, 9, 7)
    assert_in_world(array, affine)
    assert re.search(f"passed over: {what}", caplog.text)


def test_no_ct_at_all(folder):
    write_series(folder, ph.structure_set(Phantom().slices())[7:])
    with pytest.raises(ImageError, match=r"no CT images here, only RTSTRUCT \(1\)"):
        scan_series(folder)
    write_series(folder, ph.secondary_capture(Phantom().slices(), CTImageStorage)[:1])
    with pytest.raises(ImageError, match="ImageOrientationPatient is missing"):
        scan_series(folder)


def test_another_modality_with_the_uid_of_the_ct_is_no_stranger(folder):
    write_series(
        folder, ph.changed(Phantom().slices(), 6, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    )
    with pytest.raises(ImageError, match="2 volumes here"):
        scan_series(folder)


def test_readers_pass_the_choice_on(folder, tmp_path):
    write_series(folder, ph.without(ph.second_series(Phantom().slices()), 10))
    image = read_image(folder, series=1)
    assert image.meta["series_uid"] == find_volumes(folder)[0].uid
    assert_in_world(image.numpy()[0], image.affine.numpy())
    with pytest.raises(ImageError, match="missing-slices"):
        read_header(folder, series="other kernel")
    assert read_header(folder, series="other kernel", allow=["missing-slices"]).shape == (12, 9, 7)
    (tmp_path / "a.png").write_bytes(b"")
    for read in (read_image, read_header):
        with pytest.raises(
            ImageError, match=r"a\.png: --series '1' chooses .* not DICOM; leave the option out"
        ):
            read(tmp_path / "a.png", series="1")


def test_scanning_reads_no_pixels(folder):
    """Files that end where their pixels would start are listed all the same."""
    for path in write_series(folder, Phantom().slices()):
        raw = path.read_bytes()
        path.write_bytes(raw[: raw.index(b"\xe0\x7f\x10\x00")])
    (volume,) = find_volumes(folder)
    assert volume.count == 7


def test_multi_frame_and_single_frames_of_one_series(folder):
    slices = Phantom().slices()
    write_series(folder, [ph.multi_frame(slices[:4], EnhancedCTImageStorage), *slices[4:]], seed=2)
    array, affine = read_series(folder)
    assert array.shape == (12, 9, 7)
    assert_in_world(array, affine)
