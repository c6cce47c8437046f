"""Slices of several patients under one series UID."""

import pytest

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, between, write_series
from transforms.dicom.series import find_volumes, read_series
from transforms.io.readers import ImageError


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
