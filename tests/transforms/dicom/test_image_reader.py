"""CT series by MONAI's `LoadImage`."""

import numpy as np
import pytest
from monai.transforms import LoadImage, LoadImaged

from tests import dicom_phantom as ph
from tests.dicom_phantom import Phantom, assert_in_world, write_series
from transforms.dicom.image_reader import DicomSeriesReader
from transforms.io.readers import ImageError


@pytest.mark.parametrize("reader", [DicomSeriesReader, "transforms.DicomSeriesReader"])
def test_monai_load_image(folder, reader):
    phantom = Phantom(axes=ph.rotation((12, -7, 33)))
    write_series(folder, phantom.slices(), seed=5)
    image = LoadImaged("image", reader=reader, ensure_channel_first=True)({"image": folder})["image"]
    assert tuple(image.shape) == (1, 12, 9, 7)
    np.testing.assert_allclose(image.affine, phantom.affine, atol=1e-7)
    assert_in_world(image.numpy()[0], image.affine.numpy())


def test_monai_does_not_fall_back_on_its_own_readers(folder):
    """LoadImage answers an error in read() by trying PydicomReader, which would return wrong voxels."""
    write_series(folder, ph.without(Phantom().slices(), 3))
    with pytest.raises(ImageError, match="missing"):
        LoadImage(reader=DicomSeriesReader)(folder)


def test_reader_suffix_and_number_of_paths(folder):
    reader = DicomSeriesReader()
    assert reader.verify_suffix(folder)
    assert reader.verify_suffix([str(folder)])
    assert not reader.verify_suffix([folder, folder])
    assert not reader.verify_suffix(folder / "a.nii.gz")
    with pytest.raises(ImageError, match="2 paths"):
        reader.get_data(reader.read([folder, folder]))
    with pytest.raises(ImageError, match="no such"):
        reader.get_data(reader.read(folder / "a.nii.gz"))


def test_monai_reader_takes_the_choice(folder):
    write_series(folder, ph.without(ph.second_series(Phantom().slices()), 3))
    image = LoadImage(reader=DicomSeriesReader(series="phantom", allow=["missing-slices"]))(folder)
    assert tuple(image.shape) == (12, 9, 7)
    with pytest.raises(ImageError, match="missing-slices"):
        LoadImage(reader=DicomSeriesReader(series="phantom"))(folder)
    with pytest.raises(ImageError, match="2 volumes here"):
        LoadImage(reader=DicomSeriesReader())(folder)


def test_monai_reads_a_multi_frame_file(folder):
    (path,) = write_series(folder, [ph.multi_frame(Phantom().slices())])
    image = LoadImage(reader=DicomSeriesReader)(path)
    assert_in_world(image.numpy(), image.affine.numpy())
