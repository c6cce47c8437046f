"""Segmentations of 3D Slicer, read by its own package slicerio and by ITK."""

import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from transforms.errors import ImageError
from transforms.io.seg_nrrd import write_seg_nrrd
from transforms.utils.colours import colour_of

NAMES = {0: "background", 1: "left lung", 3: "liver", 4: "\u809d"}
AFFINE = np.array(
    [[0.0, -0.7, 0.1, 20.0], [0.8, 0.1, 0.0, -30.0], [0.0, 0.2, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]]
)


def labelled(shape=(7, 6, 5), affine=AFFINE, dtype=torch.uint8):
    values = torch.zeros((1, *shape), dtype=dtype)
    values[0, 1:4, 2:5, 3:5] = 1
    values[0, 5:, :2, 0] = 3
    return MetaTensor(values, affine=torch.as_tensor(affine, dtype=torch.float64))


def test_slicer_reads_names_colours_terms_and_places(tmp_path):
    path = write_seg_nrrd(tmp_path / "case.seg.nrrd", labelled(), NAMES)
    assert [file.name for file in tmp_path.iterdir()] == ["case.seg.nrrd"]
    found = slicerio.read_segmentation(str(path))
    assert np.array_equal(found["voxels"], labelled()[0].numpy())
    # The reader below slicerio drops what is not ASCII; ITK, which Slicer reads with, does not.
    assert slicerio.segment_names(found)[:2] == ["left lung", "liver"]
    assert sitk.ReadImage(str(path)).GetMetaData("Segment2_Name") == NAMES[4]
    lung, liver, other = found["segments"]
    assert [segment["labelValue"] for segment in found["segments"]] == [1, 3, 4]
    assert lung["extent"] == [1, 3, 2, 4, 3, 4]
    assert liver["extent"] == [5, 6, 0, 1, 0, 0]
    np.testing.assert_allclose(lung["color"], np.array(colour_of(1)) / 255, atol=1e-5)
    assert lung["terminology"]["type"] == ["SCT", "39607008", "Lung"]
    assert lung["terminology"]["typeModifier"] == ["SCT", "7771000", "Left"]
    assert liver["terminology"]["category"][0] == "SCT"
    assert other["extent"] == [0, -1, 0, -1, 0, -1]


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(1, 6)] * 3))
def test_every_voxel_lies_where_it_did(tmp_path_factory, seed, shape):
    """For any grid, sheared ones too: the centre of each voxel, in LPS+, as ITK and slicerio compute it."""
    random = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3] = random.normal(size=(3, 4)) * [1, 1, 1, 100] + np.eye(3, 4)
    values = torch.as_tensor(random.integers(0, 3, (1, *shape)), dtype=torch.uint8)
    label = MetaTensor(values, affine=torch.as_tensor(affine))
    path = write_seg_nrrd(tmp_path_factory.mktemp("grid") / "a.seg.nrrd", label, {1: "a", 2: "b"})
    image = sitk.ReadImage(str(path))
    found = slicerio.read_segmentation(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(image).T, values[0].numpy())
    for index in np.ndindex(shape):
        expected = (affine @ [*index, 1.0])[:3] * [-1, -1, 1]
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), expected, atol=1e-6)
        np.testing.assert_allclose((found["ijkToLPS"] @ [*index, 1.0])[:3], expected, atol=1e-6)


def test_regions_that_overlap_are_layers(tmp_path):
    """As in BraTS: the whole tumour holds the core, which holds what enhances."""
    label = labelled()
    label[0, 2, 2, 3], label[0, 3, 3, 4] = 3, 4
    regions = {"whole tumour": (1, 3, 4), "core": (3, 4), "enhancing": (4,), "rest": (1,)}
    path = write_seg_nrrd(tmp_path / "case.seg.nrrd", label, NAMES, regions)
    found = slicerio.read_segmentation(str(path))
    assert slicerio.segment_names(found) == list(regions)
    assert found["voxels"].shape == (3, 7, 6, 5)
    assert b"kinds: list domain domain domain" in path.read_bytes()[:4000]
    for segment, values in zip(found["segments"], regions.values(), strict=True):
        mask = found["voxels"][segment["layer"]] == segment["labelValue"]
        assert np.array_equal(mask, np.isin(label[0].numpy(), values)), segment["name"]


def test_regions_apart_share_a_layer(tmp_path):
    path = write_seg_nrrd(tmp_path / "case.seg.nrrd", labelled(), NAMES, {"lungs": (1,), "abdomen": (3, 4)})
    found = slicerio.read_segmentation(str(path))
    assert found["voxels"].shape == (7, 6, 5)
    masks = [found["voxels"] == segment["labelValue"] for segment in found["segments"]]
    assert np.array_equal(masks[0], labelled()[0].numpy() == 1)
    assert np.array_equal(masks[1], labelled()[0].numpy() == 3)


def test_what_cannot_be_written_leaves_no_file(tmp_path):
    with pytest.raises(ImageError, match="values \\[1, 3\\], which have no name"):
        write_seg_nrrd(tmp_path / "a.seg.nrrd", labelled(), {0: "background", 2: "liver"})
    flat = MetaTensor(torch.ones(1, 4, 5, dtype=torch.uint8), affine=torch.eye(4))
    with pytest.raises(ImageError, match="a picture has no place in space"):
        write_seg_nrrd(tmp_path / "a.seg.nrrd", flat, NAMES)
    assert list(tmp_path.iterdir()) == []
