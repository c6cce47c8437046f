"""Which of several volumes is meant."""

import logging
import shutil

import pytest

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, write_series
from tests.transforms.dicom.test_volumes import lines
from transforms.dicom.series import find_volumes, read_series, scan_series
from transforms.io.readers import ImageError


def scout(**values):
    image = ph.changed(
        Phantom(shape=(12, 20, 1)).slices(), None, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    return ph.changed(image, None, **values)


@pytest.mark.parametrize("kind", ["LOCALIZER", "SCANOSCOPE"])
def test_a_localizer_alone_is_no_ct(folder, kind):
    (path,) = write_series(folder, scout(ImageType=["ORIGINAL", "PRIMARY", kind]))
    for where in (folder, path):
        with pytest.raises(ImageError, match=r"only localizers.*--series NUMBER"):
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


def test_listed_by_series_number_and_chosen_in_every_way(folder):
    slices = ph.changed(Phantom().slices(), None, SeriesNumber=5)
    both = ph.second_series(slices)
    write_series(folder, ph.changed(both[7:], None, SeriesNumber=2) + both[:7], seed=3, depth=2)
    volumes = find_volumes(folder)
    assert [(v.number, v.description, v.count, v.size, v.orientation, v.modality) for v in volumes] == [
        (1, "other kernel", 7, (12, 9), "axial", "CT"),
        (2, "phantom", 7, (12, 9), "axial", "CT"),
    ]
    assert len(volumes[0].files) == 7
    with pytest.raises(ImageError, match="choose with --series NUMBER") as error:
        scan_series(folder)
    assert len(lines(error)) == 2
    for choice, number in (
        ("1", 1),
        (2, 2),
        (volumes[0].uid, 1),
        (volumes[1].uid, 2),
        ("Phantom", 2),
        ("kernel", 1),
    ):
        series = scan_series(folder, series=choice)
        assert series.uid == volumes[number - 1].uid
        assert set(series.files) == set(volumes[number - 1].files)
    for wrong, finding in (("3", "no volume matches"), ("n", "2 volumes match"), ("", "no volume matches")):
        with pytest.raises(ImageError, match=f"{finding} --series '{wrong}'") as error:
            scan_series(folder, series=wrong)
        assert len(lines(error)) == 2


def test_a_localizer_or_an_odd_slice_is_left_out_by_choice(folder):
    write_series(folder, ph.localizer(Phantom().slices()))
    assert_in_world(*read_series(folder, series=1))
    shutil.rmtree(folder)
    slices = ph.other_size([*Phantom().slices(), *Phantom(shape=(12, 9, 9)).slices()[7:]], 8)
    for image in slices:
        image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = "1.2", "1.3", "1.4"
    write_series(folder, slices)
    array, affine = read_series(folder, series=1)
    assert array.shape == (12, 9, 8)
    assert_in_world(array, affine)


def test_a_number_names_no_part_of_a_description(folder):
    slices = ph.second_series(Phantom().slices())
    for image in slices[7:]:
        image.SeriesDescription, image.SeriesNumber = "T=10%", 3
    write_series(folder, slices)
    with pytest.raises(ImageError, match="no volume matches --series '10'"):
        scan_series(folder, series="10")
    assert scan_series(folder, series="t=10").description == "T=10%"
