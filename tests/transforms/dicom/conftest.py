"""Fixtures of the tests of DICOM labels."""

import pytest

import tests.dicom_phantom as ph
from tests.dicom_phantom import Phantom


@pytest.fixture
def ct() -> Phantom:
    return Phantom(shape=(13, 9, 7), axes=ph.rotation((11, -7, 23)))
