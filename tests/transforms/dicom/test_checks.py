"""What is refused about a slice by itself."""

import numpy as np
import pytest

from tests.dicom_phantom import Phantom, assert_in_world, write_series
from transforms.dicom.series import read_series
from transforms.io.readers import ImageError


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [
        ("1e300", "0"),
        ("1e35", "0"),
        ("-1e300", "0"),
        ("1", "1e300"),
        ("1e-300", "0"),
        ("1e-9", "40"),
        ("1e9", "0"),
    ],
)
@pytest.mark.parametrize("slices", [1, 7])
def test_numbers_that_no_ct_has(tmp_path, slope, intercept, slices):
    series = Phantom().slices()
    for image in series[:slices]:
        image.RescaleSlope, image.RescaleIntercept = slope, intercept
    write_series(tmp_path, series)
    with pytest.raises(ImageError, match=r"IM0000\.dcm: RescaleSlope .* which no CT has"):
        read_series(tmp_path)


@pytest.mark.parametrize("slope", [0.0005, 0.05, 10.0])
def test_unusual_slopes_are_read(tmp_path, slope):
    phantom = Phantom(slopes=(slope,), intercepts=(-10.0,), bits=16, signed=True) if slope >= 0.05 else None
    if phantom is None:
        series = Phantom().slices()
        for image in series:
            image.RescaleSlope, image.RescaleIntercept = str(slope), "0"
        write_series(tmp_path, series)
        assert np.isfinite(read_series(tmp_path)[0]).all()
        return
    write_series(tmp_path, phantom.slices())
    assert_in_world(*read_series(tmp_path), step=slope)
