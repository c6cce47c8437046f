"""`transforms.dicom` gives the names that docs/dicom.md shows, and imports them when they are asked for."""

import subprocess
import sys

import pytest

import transforms.dicom
from transforms.dicom import find_volumes, read_series, scan_series, series


def test_the_names_are_those_of_the_module_behind_them():
    assert (find_volumes, read_series, scan_series) == (
        series.find_volumes,
        series.read_series,
        series.scan_series,
    )
    for name in transforms.dicom.__all__:
        assert getattr(transforms.dicom, name) is getattr(series, name)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match=r"module 'transforms\.dicom' has no attribute 'read_serie'"):
        _ = transforms.dicom.read_serie


def test_the_package_alone_imports_nothing_heavy():
    code = "import sys, transforms.dicom; print({'pydicom', 'numpy', 'transforms.dicom.series'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
