"""Dictionary transforms: the same voxels as `Preprocess`, for images from files and from other programs."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

from tests.pipelines.small import OBLIQUE
from transforms.dictionary import LoadOriginald, RestoreLabelsd, ToNetworkGridd
from transforms.errors import ImageError
from transforms.preprocess import Preprocess

PREPROCESS = Preprocess(spacing=1.5, window=(-160, 240), crop_above=-500, crop_margin=3)


@pytest.fixture
def ct(tmp_path):
    """A body in air on an oblique grid."""
    values = np.full((40, 24, 32), -1000, np.int16)
    values[8:32, 4:20, 6:26] = np.random.default_rng(0).integers(-100, 200, (24, 16, 20))
    nib.save(nib.Nifti1Image(values, OBLIQUE), tmp_path / "ct.nii.gz")
    return tmp_path / "ct.nii.gz"


def before(preprocess=PREPROCESS):
    return Compose([LoadOriginald("image", preprocess), ToNetworkGridd("image", preprocess)])


def test_an_image_becomes_what_the_network_was_trained_on(ct):
    image = before()({"image": str(ct)})["image"]
    prepared = PREPROCESS.image(ct)
    assert torch.equal(image.as_tensor(), PREPROCESS.normalise(prepared.codes, prepared.intensity))
    assert image.dtype == torch.float32
    assert image.meta["padding"] == PREPROCESS.padding_value(prepared.intensity)
    np.testing.assert_allclose(image.affine, prepared.geometry.prepared_affine)
    assert image.meta["filename_or_obj"] == str(ct)
    assert image.meta["spatial_shape"] == [40, 24, 32]
    np.testing.assert_allclose(image.meta["original_affine"], OBLIQUE, atol=1e-6)


def test_logits_become_labels_on_the_grid_of_the_file(ct):
    given = before()({"image": str(ct)})
    logits = torch.randn(3, *given["image"].shape[1:], generator=torch.Generator().manual_seed(0))
    labels = RestoreLabelsd("pred", PREPROCESS)({**given, "pred": logits})["pred"]
    expected = PREPROCESS.restore(logits, PREPROCESS.image(ct).geometry)
    assert torch.equal(labels.as_tensor(), expected.as_tensor())
    assert labels.shape == (1, 40, 24, 32)
    np.testing.assert_allclose(labels.affine, OBLIQUE, atol=1e-6)
    assert labels.meta["filename_or_obj"] == str(ct)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_an_image_that_the_program_has_read_is_the_same_image(ct, axis):
    read = LoadImaged("image", image_only=True)({"image": str(ct)})["image"]
    assert read.ndim == 3
    values = read if axis is None else read.as_tensor()[None].movedim(0, axis)
    where = float("nan") if axis is None else axis
    given = MetaTensor(values, affine=read.affine, meta={"original_channel_dim": where})
    assert torch.equal(before()({"image": given})["image"], before()({"image": str(ct)})["image"])


def test_another_number_of_channels_is_refused(ct):
    given = MetaTensor(torch.zeros(8, 8, 8, 3), meta={"original_channel_dim": -1})
    with pytest.raises(ImageError, match="has 3 channels in its axis -1, not 1"):
        LoadOriginald("image", PREPROCESS)({"image": given})


def test_logits_of_an_image_from_elsewhere_are_refused():
    given = {"image": MetaTensor(torch.zeros(1, 8, 8, 8)), "pred": torch.zeros(2, 8, 8, 8)}
    with pytest.raises(ImageError, match="'image' has lost the way back to its file"):
        RestoreLabelsd("pred", PREPROCESS)(given)
