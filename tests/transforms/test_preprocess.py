"""One definition from the file to the network and back."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from tests.pipelines.small import OBLIQUE
from transforms.io.readers import ImageError, read_image, read_label
from transforms.preprocess import Preprocess, require_same_grid
from transforms.spatial.geometry import Geometry, GeometryError, orient

SHAPE = (40, 24, 32)


def write(path, array, affine=OBLIQUE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def ct(tmp_path):
    """A body of soft tissue in air with an organ of another density in one corner of it."""
    values = np.full(SHAPE, -1000, np.int16)
    values[8:32, 4:20, 6:26] = 40
    label = np.zeros(SHAPE, np.uint8)
    label[12:24, 7:17, 9:23] = 2
    values[label == 2] = 150
    return write(tmp_path / "ct.nii.gz", values), write(tmp_path / "label.nii.gz", label), values, label


def test_an_untouched_ct_keeps_its_hounsfield_units(ct):
    image, label, values, classes = ct
    preprocess = Preprocess()
    prepared = preprocess.image(image)
    assert prepared.codes.dtype == np.int16
    assert sorted(prepared.codes.shape[1:]) == sorted(SHAPE)
    assert np.bincount(prepared.codes.ravel() + 1000).tolist() == np.bincount(values.ravel() + 1000).tolist()
    network = preprocess.normalise(prepared.codes, prepared.intensity)
    torch.testing.assert_close(network, torch.from_numpy(prepared.codes) / 1000.0)
    on_grid = preprocess.label(label, prepared.geometry)
    assert on_grid.dtype == np.uint8
    assert (prepared.codes[0][on_grid == 2] == 150).all()
    assert (on_grid == 2).sum() == (classes == 2).sum()
    assert preprocess.padding_code(prepared.intensity) == [-1000]
    assert preprocess.padding_value(prepared.intensity) == [-1.0]


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(spacing=(2.0, None, 1.0), window=(-160, 240), crop_above=-500, crop_margin=3, channels=1),
        Preprocess(spacing=1.5, window=None, channels=3),
        Preprocess(window=(-160, 240), channels=4, normalization=["CT", "T1", "noNorm", "rescale_to_0_1"]),
    ],
    ids=["defaults", "ct", "z-score", "each its own"],
)
def test_parameters_make_the_same_definition_through_json(preprocess):
    parameters = json.loads(json.dumps(preprocess.parameters()))
    again = Preprocess.from_parameters(parameters)
    assert again.parameters() == preprocess.parameters()
    volume = MetaTensor(torch.randn(preprocess.channels, 9, 8, 7) * 500, affine=torch.from_numpy(OBLIQUE))
    one, two = preprocess.volume(volume), again.volume(volume)
    np.testing.assert_array_equal(one.codes, two.codes)
    assert one.geometry == two.geometry
    assert one.intensity == two.intensity
    # the store keeps both as JSON
    assert Geometry.from_dict(json.loads(json.dumps(one.geometry.to_dict()))) == one.geometry
    assert json.loads(json.dumps(one.intensity)) == one.intensity


def test_parameters_of_another_version_are_refused():
    with pytest.raises(ValueError, match="version 0 is not supported"):
        Preprocess.from_parameters({**Preprocess().parameters(), "version": 0})


@pytest.mark.parametrize("spacing", [None, 2.5, (1.0, 3.0, 2.0)])
@pytest.mark.parametrize("crop_above", [None, -500])
def test_a_perfect_prediction_comes_back_on_the_files_grid(ct, spacing, crop_above):
    image, label, _, classes = ct
    preprocess = Preprocess(spacing=spacing, crop_above=crop_above, crop_margin=2)
    prepared = preprocess.image(image)
    on_grid = torch.from_numpy(preprocess.label(label, prepared.geometry)).long()
    logits = torch.nn.functional.one_hot(on_grid, 3).movedim(-1, 0).float() * 20
    restored = preprocess.restore(logits, prepared.geometry)
    assert isinstance(restored, MetaTensor)
    assert restored.shape == (1, *SHAPE)
    np.testing.assert_array_equal(restored.affine.numpy(), read_image(image).affine.numpy())
    found, true = restored[0].numpy() == 2, classes == 2
    dice = 2 * (found & true).sum() / (found.sum() + true.sum())
    assert dice == 1.0 if spacing is None else dice > 0.9
    if spacing is None:
        np.testing.assert_array_equal(restored[0].numpy(), classes)


def test_a_prediction_on_another_grid_is_refused():
    with pytest.raises(GeometryError, match=r"\(4, 4, 5\) but the prepared image has \(4, 4, 4\)"):
        Preprocess().restore(torch.zeros(2, 4, 4, 5), orient((4, 4, 4), np.eye(4)))


def test_the_crop_keeps_the_body_and_its_margin(ct):
    image, label, values, _ = ct
    whole = Preprocess().image(image)
    for margin in (0.0, 2.0, 1000.0):
        prepared = Preprocess(crop_above=-500, crop_margin=margin).image(image)
        geometry = prepared.geometry
        box = tuple(slice(a, b) for a, b in geometry.crop)
        np.testing.assert_array_equal(prepared.codes[0], whole.codes[0][box])
        assert (prepared.codes > -500).sum() == (values > -500).sum()
        spacing = np.linalg.norm(OBLIQUE[:3, :3], axis=0)[list(geometry.axes)]
        body = [20, 24, 16]  # (L, P, S) of the file in the order R, A, S
        expected = [
            min(n, b + 2 * round(margin / s))
            for n, b, s in zip(geometry.oriented_shape, body, spacing, strict=True)
        ]
        assert list(geometry.grid) == expected
        assert Preprocess(crop_above=-500).label(label, geometry).shape == geometry.grid


def test_an_image_of_nothing_but_air_stays_whole():
    volume = MetaTensor(torch.full((1, 5, 6, 7), -1000.0), affine=torch.eye(4))
    assert Preprocess(crop_above=-500).volume(volume).codes.shape == (1, 5, 6, 7)


def test_a_label_on_another_grid_is_refused(ct, tmp_path):
    image, _, _, classes = ct
    preprocess = Preprocess()
    geometry = preprocess.image(image).geometry
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 0.8
    for name, array, affine in (
        ("shape", classes[:-1], OBLIQUE),
        ("shifted", classes, shifted),
        ("flipped", classes, OBLIQUE @ np.diag([-1, 1, 1, 1])),
        ("spacing", classes, OBLIQUE @ np.diag([1, 1, 1.1, 1])),
    ):
        path = write(tmp_path / f"{name}.nii.gz", array, affine)
        with pytest.raises(ImageError, match=name):
            preprocess.label(path, geometry)
    rounded = write(tmp_path / "rounded.nii.gz", classes, OBLIQUE + 1e-6 * np.sign(OBLIQUE) * (OBLIQUE != 1))
    assert preprocess.label(rounded, geometry).shape == geometry.grid


def test_a_label_of_two_channels_is_refused(ct):
    geometry = Preprocess().image(ct[0]).geometry
    two = MetaTensor(torch.zeros(2, *SHAPE), affine=torch.from_numpy(OBLIQUE))
    with pytest.raises(ImageError, match="2 channels; a label map has one integer per voxel"):
        require_same_grid("a.nii.gz", two, geometry)


def test_more_classes_than_a_byte_holds(ct, tmp_path):
    image, _, _, classes = ct
    many = classes.astype(np.uint16) * 600
    path = write(tmp_path / "many.nii.gz", many)
    assert read_label(path).dtype == torch.uint16
    preprocess = Preprocess(spacing=2.0)
    on_grid = preprocess.label(path, preprocess.image(image).geometry)
    assert on_grid.dtype == np.uint16
    assert np.unique(on_grid).tolist() == [0, 1200]
    geometry = Preprocess().image(image).geometry
    with pytest.raises(ImageError, match="0 to 70000 are not class ids"):
        preprocess.label(write(tmp_path / "more.nii.gz", classes.astype(np.int32) * 35000), geometry)


def test_another_number_of_channels_or_axes_is_refused(ct):
    volume = MetaTensor(torch.zeros(2, 4, 4, 4), affine=torch.eye(4))
    with pytest.raises(ImageError, match=r"scan\.nii has 2 channel\(s\) but 1 are expected"):
        Preprocess().volume(volume, "scan.nii")
    with pytest.raises(ImageError, match=r"ct\.nii\.gz: spacing .* has 2 numbers for an image of 3 axes"):
        Preprocess(spacing=(1.0, 1.0)).image(ct[0])


def test_a_colour_picture_goes_there_and_back(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (30, 44, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    mask = np.zeros((30, 44), np.uint8)
    mask[5:20, 10:40] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    preprocess = Preprocess(window=None, channels=3)
    prepared = preprocess.image(tmp_path / "photo.png")
    assert prepared.codes.shape == (3, 44, 30)
    network = preprocess.normalise(prepared.codes, prepared.intensity)
    assert network.mean().abs() < 0.05
    assert abs(float(network.std()) - 1) < 0.05
    label = preprocess.label(tmp_path / "mask.png", prepared.geometry)
    logits = torch.nn.functional.one_hot(torch.from_numpy(label).long(), 2).movedim(-1, 0).float()
    np.testing.assert_array_equal(preprocess.restore(logits, prepared.geometry)[0].numpy().T, mask)


def test_a_volume_and_its_patch_are_normalised_alike(ct):
    """A patch out of the store meets the very values that inference on the whole volume meets."""
    for preprocess in (Preprocess(window=(-160, 240)), Preprocess(window=None)):
        prepared = preprocess.image(ct[0])
        whole = preprocess.normalise(prepared.codes, prepared.intensity)
        patch = preprocess.normalise(prepared.codes[:, 2:7, 3:8, 1:6], prepared.intensity)
        assert torch.equal(patch, whole[:, 2:7, 3:8, 1:6])


# -- padding around the field of view ------------------------------------------------------------------------


def scan(padding, affine=OBLIQUE):
    """A lung in a body in a round field of view; what lies outside of that is padding. Returns a MetaTensor."""
    x, y, _ = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    middle = (np.array(SHAPE) - 1) / 2
    radius = np.hypot(x - middle[0], (y - middle[1]) * 1.5)
    values = np.where(radius < 16, -850, 40) + np.random.default_rng(0).normal(0, 20, SHAPE)
    values = np.where(radius < 18, values, padding)
    return MetaTensor(
        torch.from_numpy(np.rint(values).astype(np.int16))[None], affine=torch.as_tensor(affine)
    )


def tilted(degrees=15):
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    affine[1, 2] = 3 * np.tan(np.deg2rad(degrees))
    return affine


@pytest.mark.parametrize("padding", [-1024, -2000, -2048, -3024, -32768])
@pytest.mark.parametrize("affine", [OBLIQUE, tilted()], ids=["oblique", "tilted"])
@pytest.mark.parametrize(
    "options",
    [
        {"spacing": 2.5},
        {"spacing": 0.9, "crop_above": -500},
        {"spacing": 2.5, "window": (-160, 240), "crop_above": -500},
        {"spacing": None, "crop_above": -900, "crop_margin": 3},
        {"spacing": 2.5, "window": (-600, 1500), "crop_above": -200},
    ],
    ids=str,
)
def test_padding_does_not_bleed_into_the_field_of_view(padding, affine, options):
    """A scanner's padding is the same as air, whatever its value: -1000 around the same scan changes no voxel."""
    preprocess = Preprocess(**options)
    padded, plain = (preprocess.volume(scan(value, affine)) for value in (padding, -1000))
    assert padded.geometry == plain.geometry
    np.testing.assert_array_equal(padded.codes, plain.codes)
    assert [padded.codes.min()] == preprocess.padding_code({})


def test_metal_does_not_bleed_either():
    bright, dim = scan(-1000), scan(-1000)
    bright[0, 18:22, 10:14, 12:20] = 30000
    dim[0, 18:22, 10:14, 12:20] = 1000
    preprocess = Preprocess(spacing=2.5)
    np.testing.assert_array_equal(preprocess.volume(bright).codes, preprocess.volume(dim).codes)


def test_without_resampling_clipping_first_changes_nothing():
    volume = scan(-2000, np.diag([1.0, 1, 1, 1]))
    np.testing.assert_array_equal(Preprocess().volume(volume).codes, volume.numpy().clip(-1000, 1000))


def test_a_model_of_the_first_version_meets_the_voxels_that_it_was_trained_on():
    new = Preprocess(spacing=2.5)
    old = Preprocess.from_parameters({**new.parameters(), "version": 1})
    assert old.parameters() == {**new.parameters(), "version": 1} != new.parameters()
    volume = scan(-3024)
    assert (old.volume(volume).codes != new.volume(volume).codes).sum() > 500, "padding bled in"
    np.testing.assert_array_equal(old.volume(scan(-1000)).codes, new.volume(scan(-1000)).codes)


def test_more_voxels_than_any_scan_are_refused():
    volume = scan(-1000, np.diag([60.0, 60, 60, 1]))
    with pytest.raises(
        ImageError, match=r"which does not fit into memory; give a spacing near its own, 60 x 60 x 60 mm"
    ):
        Preprocess(spacing=0.1).volume(volume, "a.nii")


# -- labels in another order ---------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SLA", "IPR", "ASL"])
@pytest.mark.parametrize("kind", ["label.nii.gz", "label.nii"])
def test_a_label_in_another_order_of_axes_is_the_same_label(tmp_path, ct, axes, kind):
    image, label, _, _ = ct
    preprocess = Preprocess(spacing=2.0)
    prepared = preprocess.image(image)
    wanted = preprocess.label(label, prepared.geometry)
    stored = nib.load(label)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(stored.affine), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(stored.as_reoriented(turn), tmp_path / kind)
    np.testing.assert_array_equal(preprocess.label(tmp_path / kind, prepared.geometry), wanted)


# -- several channels ----------------------------------------------------------------------------------------


def test_words_that_say_what_was_done_before_change_no_store():
    """A plan names the words of every training: entries and models made without them stay what they are."""
    assert Preprocess(normalization=["CT"]).parameters() == Preprocess().parameters()
    assert Preprocess(normalization="ct", channels=2).parameters() == Preprocess(channels=2).parameters()
    assert Preprocess(normalization=["T1"]).parameters() == Preprocess(window=None).parameters()
    assert Preprocess(normalization="T1", channels=2).parameters()["version"] == 3


def test_a_ct_among_other_channels_alone_is_cropped_by_and_warned_of(caplog):
    ct = torch.full((20, 18, 16), -1000.0)
    ct[5:15, 4:14, 3:13] = torch.linspace(-80, 60, 1000).reshape(10, 10, 10)
    pet = torch.rand(20, 18, 16) * 30
    volume = MetaTensor(torch.stack([pet, ct]), affine=torch.eye(4))
    preprocess = Preprocess(channels=2, normalization=["PET", "CT"], crop_above=-500, crop_margin=0)
    prepared = preprocess.volume(volume)
    assert prepared.codes.shape == (2, 10, 10, 10)
    assert caplog.records == []
    assert not preprocess.shows_ct
    assert preprocess.ct_channels == [1]
    shown = preprocess.hounsfield(preprocess.normalise(prepared.codes, prepared.intensity))
    assert torch.allclose(shown[1], ct[5:15, 4:14, 3:13], atol=0.5001)
    preprocess.volume(MetaTensor(torch.stack([pet, pet / 30]), affine=torch.eye(4)), "scan")
    assert "scan: not a CT in Hounsfield units" in caplog.text


def test_every_channel_is_padded_with_its_own_value():
    volume = MetaTensor(torch.rand(3, 6, 6, 6) * 255, affine=torch.eye(4))
    preprocess = Preprocess(channels=3, normalization=["CT", "rgb_to_0_1", "T2"])
    prepared = preprocess.volume(volume)
    network = preprocess.normalise(prepared.codes, prepared.intensity)
    padding = preprocess.padding_value(prepared.intensity)
    assert padding == [-1.0, 0.0, pytest.approx(float(network[2].min()))]
    assert Preprocess(channels=3).padding_value({}) == [-1.0] * 3
