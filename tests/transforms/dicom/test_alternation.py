"""Two scans between one another that only their values tell apart."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from scipy import ndimage

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, between, write_series
from transforms.dicom.alternation import require_one_scan
from transforms.dicom.frame import Frame
from transforms.dicom.series import read_series
from transforms.io.readers import ImageError


def texture(slices, seed=0):
    """The same slices in the grain of a sharp kernel."""
    rng = np.random.default_rng(seed)
    for image in slices:
        pixels = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
        ph.set_pixels(image, pixels + rng.integers(0, 160, pixels.shape))
    return slices


@pytest.mark.parametrize(("shift", "count"), [(30, 20), (100, 7), (100, 20), (500, 7), (500, 20)])
def test_two_scans_that_only_their_values_tell_apart(folder, shift, count):
    phantom = Phantom(shape=(24, 20, count))
    write_series(folder, between(phantom.slices(), shift))
    with pytest.raises(
        ImageError, match=r"IM0000\.dcm: from here on slices alternate between 2 scans"
    ) as error:
        read_series(folder)
    near, far = (float(value) for value in re.findall(r"by ([\d.e+]+) HU", str(error.value)))
    assert far < near
    assert near == pytest.approx(shift, rel=0.3)
    array, _ = read_series(folder, allow=["alternating-slices"])
    assert array.shape == (24, 20, 2 * count)
    even = [path for index, path in enumerate(sorted(folder.iterdir())) if index % 2]
    for path in even:
        path.unlink()
    assert_in_world(*read_series(folder))


def test_two_kernels_that_only_their_grain_tells_apart(folder):
    slices = Phantom(shape=(64, 64, 20), spacing=(0.8, 0.9, 2.5)).slices()
    write_series(folder, [*slices[::2], *texture(slices[1::2])])
    with pytest.raises(ImageError, match="slices alternate between 2 scans or reconstructions"):
        read_series(folder)


def test_one_scan_in_the_grain_of_its_kernel_is_one_scan(folder):
    write_series(folder, texture(Phantom(shape=(64, 64, 20)).slices()))
    assert read_series(folder)[0].shape == (64, 64, 20)


def test_real_cts_are_single_scans_and_a_mixture_of_their_slices_is_none(shared_data):
    """Along two axes and at several times the slice distance; pt_140 is brighter and darker in turns by up to 15 HU."""
    paths = sorted((shared_data / "openkbp" / "images").glob("*.nii.gz"))
    if not paths:
        pytest.skip("no CTs here")
    chosen = [*paths[::30], *(path for path in paths if path.name == "pt_140.nii.gz")]
    for path in chosen:
        volume = np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)
        for part in (volume, volume[::2], volume[::5], volume[40:48], volume.transpose(1, 0, 2)):
            require_one_scan(frames(len(part)), part)
        for shift, part in ((60, volume), (500, volume[30:40])):
            mixed = part.copy()
            mixed[1::2] += shift
            with pytest.raises(ImageError, match="alternate between 2 scans"):
                require_one_scan(frames(len(mixed)), mixed)
        blurred = volume.astype(np.float32)
        blurred[1::2] = ndimage.gaussian_filter(blurred[1::2], (0, 1, 1))
        with pytest.raises(ImageError, match="alternate between 2 scans"):
            require_one_scan(frames(len(blurred)), blurred)


def frames(count):
    return [Frame(Path(f"{index}.dcm"), 0, 1, {}, ExplicitVRLittleEndian, 0, 0) for index in range(count)]
