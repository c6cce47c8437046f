"""Values that are Hounsfield units, and values that only look like them."""

import numpy as np
import pytest
from pydicom import Dataset

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, write_series
from transforms.dicom.series import read_series
from transforms.io.readers import ImageError


def mapped(slices, code):
    """Say that values mean something else (PS3.3 C.7.6.16.2.11)."""
    unit, mapping = Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = code, "UCUM", code
    mapping.MeasurementUnitsCodeSequence = [unit]
    return ph.changed(slices, None, RealWorldValueMappingSequence=[mapping], RescaleType=None)


MAP = ["DERIVED", "SECONDARY", "AXIAL", "CBF"]
NOT_HU = {
    "US of a derived image": (
        lambda s: ph.changed(s, None, RescaleType="US", ImageType=MAP[:3]),
        "not specified",
    ),
    "US without an image type": (
        lambda s: ph.changed(s, None, RescaleType="US", ImageType=None),
        "not specified",
    ),
    "US without air": (
        lambda s: ph.changed(s, None, RescaleType="US", RescaleIntercept="0"),
        "none is that of air",
    ),
    "a unit": (lambda s: ph.changed(s, None, RescaleType="ml/100ml/min"), "'ml/100ml/min'"),
    "modified": (lambda s: ph.changed(s, None, RescaleType="HU_MOD"), "'HU_MOD'"),
    "a map by its type": (lambda s: ph.changed(s, None, RescaleType=None, ImageType=MAP), "CBF"),
    "a mapping": (lambda s: mapped(s, "ml/(100.g.min)"), r"'ml/\(100\.g\.min\)' \(RealWorld"),
}


@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("case", NOT_HU)
def test_values_that_are_no_hounsfield_units(folder, case, enhanced):
    spoil, message = NOT_HU[case]
    slices = spoil(Phantom().slices())
    for image in slices:
        image.setdefault("ImageType", [])
    write_series(folder, [ph.multi_frame(slices)] if enhanced else slices)
    with pytest.raises(ImageError, match=message):
        read_series(folder)


SECOND_SLICE = np.eye(4)
SECOND_SLICE[2, 3] = 1


def with_air(slices):
    """Air in a corner of the first slice."""
    mask = np.zeros((12, 9), bool)
    mask[0, 0] = True
    return [*ph.padded(slices[:1], 24, mask), *slices[1:]]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: with_air(ph.changed(s, None, RescaleType="US")),
        lambda s: ph.changed(s, None, RescaleType="hu "),
        lambda s: ph.changed(s, None, RescaleType=None, ImageType=["DERIVED", "SECONDARY", "MPR"]),
        lambda s: mapped(s, "[hnsf'U]"),
    ],
)
def test_values_that_are_hounsfield_units(folder, change):
    write_series(folder, change(Phantom().slices()))
    array, affine = read_series(folder)
    assert_in_world(array[..., 1:], affine @ SECOND_SLICE)
