"""One case looked at: figures that are known beforehand, however its file stores it."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from pipelines.planning.case_fingerprint import Job, case_fingerprint, outcome_of
from tests.pipelines.planning.volumes import LABELS, body, save, turned
from transforms.errors import ImageError

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def look(folder, image, label, affine=AFFINE, labels=LABELS, channels=None):
    item = {
        "case": "a",
        "image": save(folder / "image.nii.gz", image, affine),
        "label": save(folder / "label.nii.gz", label, affine),
    }
    return case_fingerprint(item, labels, channels)


def test_a_ct(tmp_path):
    image, label = body()
    found = look(tmp_path, image, label)
    assert (found["case"], found["shape"], found["spacing"]) == ("a", [40, 30, 20], [2.0, 2.0, 5.0])
    assert (found["orientation"], found["ignored"]) == ("RAS", 0.0)
    assert found["body"] == [64.0, 40.0, 100.0]
    (channel,) = found["channels"]
    assert channel["inside"]["voxels"] == 2 * 216 + 4 * 4 * 8
    assert channel["outside"]["voxels"] == image.size - channel["inside"]["voxels"]
    assert channel["inside"]["mean"] == pytest.approx(image[label > 0].mean())
    assert channel["inside"]["quantiles"][0] == 40
    assert channel["inside"]["quantiles"][-1] == 300
    assert channel["whole_numbers"]
    assert channel["hounsfield"]
    assert channel["air"] == channel["minimum_share"] == (image == -1000).mean()
    assert found["classes"]["1"] == {
        "voxels": 216,
        "millilitres": pytest.approx(216 * 0.02),
        "components": 1,
        "smallest_component": 216,
        "largest_component": 216,
        "surface": pytest.approx((2 * 12 * 12 + 4 * 12 * 30) / 1.5),
        "extent": [12.0, 12.0, 30.0],
        "centre": pytest.approx([9 / 40, 13 / 30, 8 / 20]),
    }
    assert found["classes"]["2"]["centre"] == pytest.approx([31 / 40, 13 / 30, 8 / 20])
    spine = found["classes"]["3"]
    assert [spine[key] for key in ("components", "smallest_component", "largest_component")] == [2, 32, 96]
    assert spine["extent"] == [8.0, 8.0, 50.0]


@pytest.mark.parametrize(
    ("axes", "flips", "orientation"),
    [
        ((0, 1, 2), (True, True, False), "LPS"),
        ((2, 0, 1), (False, True, False), "SLA"),
        ((1, 2, 0), (True, False, True), "PSL"),
    ],
)
def test_however_the_axes_are_stored(tmp_path, axes, flips, orientation):
    image, label = body()
    wanted = look(tmp_path / "a", image, label)
    stored, affine = turned(image, AFFINE, axes, flips)
    found = look(tmp_path / "b", stored, turned(label, AFFINE, axes, flips)[0], affine)
    assert found["orientation"] == orientation
    assert found["spacing"] == pytest.approx(wanted["spacing"])
    for key in ("shape", "channels", "body"):
        assert found[key] == wanted[key]
    for value, record in wanted["classes"].items():
        assert found["classes"][value] == record | {"centre": pytest.approx(record["centre"])}


def test_a_label_that_is_stored_another_way_than_its_image(tmp_path):
    image, label = body()
    wanted = look(tmp_path, image, label)
    stored, affine = turned(label, AFFINE, (1, 0, 2), (False, True, True))
    other = save(tmp_path / "other.nii.gz", stored, affine)
    item = {"case": "a", "image": str(tmp_path / "image.nii.gz"), "label": other}
    assert case_fingerprint(item, LABELS) == wanted


def test_a_sheared_grid_is_measured_straight(tmp_path):
    image, label = np.full((20, 20, 10), 30, np.int16), np.zeros((20, 20, 10), np.uint8)
    label[8:12, 8:12, :] = 1
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[1, 2] = 1.0  # every slice is moved by a voxel along A
    found = look(tmp_path, image, label, affine, {0: "background", 1: "rod"})
    assert found["shape"][1] >= 29
    assert found["spacing"] == pytest.approx([1, 1, 4])
    assert found["classes"]["1"]["extent"] == pytest.approx([4, 13, 40], abs=1.01)
    assert found["classes"]["1"]["components"] == 1
    assert found["channels"][0]["inside"]["voxels"] == 160


def test_structures_of_a_few_voxels_touch_by_corners(tmp_path):
    image = np.zeros((12, 12, 12), np.float32)
    label = np.zeros(image.shape, np.uint8)
    for at in ((2, 2, 2), (3, 3, 3), (4, 4, 4)):
        label[at] = 1
    label[9, 9, 9] = 2
    found = look(tmp_path, image, label, np.eye(4))["classes"]
    assert [found["1"][key] for key in ("voxels", "components", "smallest_component")] == [3, 1, 3]
    assert found["1"]["extent"] == [3.0, 3.0, 3.0]
    assert found["2"]["extent"] == [1.0, 1.0, 1.0]
    assert found["3"] == {
        "voxels": 0,
        "millilitres": 0.0,
        "components": 0,
        "smallest_component": 0,
        "largest_component": 0,
        "surface": 0.0,
        "extent": [],
        "centre": [],
    }


@pytest.mark.parametrize("scattered", [False, True], ids=["compact", "scattered"])
def test_105_classes(tmp_path, scattered):
    """Whether they lie each in a place of its own, or one voxel of each far from the rest."""
    label = np.zeros((60, 49, 40), np.uint8)
    for value in range(1, 106):
        corner = [4 * n for n in np.unravel_index(value, (15, 12, 10))]
        label[tuple(slice(at, at + 3) for at in corner)] = value
    if scattered:
        label[np.arange(60).repeat(2)[:105], 48, 39 * (np.arange(105) % 2)] = np.arange(1, 106)
    labels = {value: f"class {value}" for value in range(106)}
    found = look(tmp_path, np.zeros(label.shape, np.int16), label, np.eye(4), labels)["classes"]
    assert list(found) == [str(value) for value in range(1, 106)]
    for record in found.values():
        sizes = [record[key] for key in ("components", "smallest_component", "largest_component")]
        assert sizes == ([2, 1, 27] if scattered else [1, 27, 27])


def test_a_colour_picture(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (30, 40, 3), np.uint8)
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 5:8] = 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "label.png")
    item = {"case": "a", "image": str(tmp_path / "a.png"), "label": str(tmp_path / "label.png")}
    found = case_fingerprint(item, {0: "background", 1: "vessel"}, 3)
    assert (found["shape"], found["spacing"], found["orientation"]) == ([40, 30], [1.0, 1.0], "")
    assert found["body"] == [40.0, 30.0]
    assert [channel["inside"]["mean"] for channel in found["channels"]] == pytest.approx(
        pixels[mask > 0].mean(0).tolist()
    )
    record = found["classes"]["1"]
    assert (record["millilitres"], record["extent"]) == (30.0, [3.0, 10.0])
    assert record["centre"] == pytest.approx([6.5 / 40, 0.5])


def test_four_channels_in_one_file(tmp_path):
    random = np.random.default_rng(0)
    image = random.normal(0, 300, (9, 8, 7, 4)).astype(np.float32)
    label = (random.random((9, 8, 7)) < 0.3).astype(np.uint8)
    found = look(tmp_path, image, label, np.eye(4), {0: "background", 1: "tumour"}, channels=4)
    for index, channel in enumerate(found["channels"]):
        assert channel["inside"]["mean"] == pytest.approx(image[..., index][label > 0].mean(), rel=1e-5)
        assert not channel["whole_numbers"]


@pytest.mark.parametrize(
    ("spacing", "surface"),
    [
        ((1.0, 1.0), 2 * np.pi * 15),
        ((0.5, 1.0, 2.0), 4 * np.pi * 15**2),
        ((1.0, 1.0, 1.0), 4 * np.pi * 15**2),
    ],
)
def test_the_surface_of_a_ball_is_known_about_whatever_its_voxels(tmp_path, spacing, surface):
    axes = [np.arange(round(40 / mm)) * mm - 20 for mm in spacing]
    label = (sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) < 15**2).astype(np.uint8)
    affine = np.diag([*spacing, *[1.0] * (4 - len(spacing))])
    found = look(tmp_path, label.astype(np.float32), label, affine, {0: "background", 1: "ball"})
    assert found["classes"]["1"]["surface"] == pytest.approx(surface, rel=0.05)


def test_a_ct_beside_another_image_tells_where_the_patient_is(tmp_path):
    image, label = body()
    activity = np.random.default_rng(1).uniform(0, 9, image.shape)
    found = look(tmp_path, np.stack([image, activity], axis=-1), label, channels=2)
    assert found["body"] == [64.0, 40.0, 100.0]


def test_channels_in_files_of_their_own(tmp_path):
    random = np.random.default_rng(0)
    image = random.integers(0, 900, (9, 8, 7, 2)).astype(np.int16)
    label = (random.random((9, 8, 7)) < 0.3).astype(np.uint8)
    labels = {0: "background", 1: "tumour"}
    wanted = look(tmp_path, image, label, np.eye(4), labels, channels=2)
    files = [save(tmp_path / f"a_000{index}.nii.gz", image[..., index], np.eye(4)) for index in range(2)]
    item = {"case": "a", "image": files, "label": str(tmp_path / "label.nii.gz")}
    assert case_fingerprint(item, labels, 2) == wanted


def test_an_mr_with_negative_values_is_no_ct(tmp_path):
    random = np.random.default_rng(0)
    image = random.normal(0, 1, (20, 20, 20)).astype(np.float32)
    found = look(tmp_path, image, np.zeros(image.shape, np.uint8), np.eye(4))
    (channel,) = found["channels"]
    assert not channel["hounsfield"]
    assert not channel["whole_numbers"]
    assert channel["inside"]["voxels"] == 0
    assert channel["outside"]["quantiles"][0] == image.min()
    assert found["body"] == [20.0, 20.0, 20.0]


def test_a_constant_image(tmp_path):
    image = np.full((5, 6, 7), 3, np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[2, 2, 2] = 1
    (channel,) = look(tmp_path, image, label, np.eye(4))["channels"]
    assert (channel["inside"]["deviation"], channel["minimum_share"], channel["hounsfield"]) == (
        0.0,
        1.0,
        False,
    )


def test_what_cannot_be_used_is_said(tmp_path):
    image, label = body()
    with pytest.raises(ImageError, match="9 are not among the classes"):
        look(tmp_path, image, np.where(label == 3, 9, label).astype(np.uint8))
    item = {"case": "a", "image": str(tmp_path / "image.nii.gz")}
    item["label"] = save(tmp_path / "moved.nii.gz", label, np.diag([2.0, 2.0, 4.0, 1.0]))
    with pytest.raises(ImageError, match=r"moved\.nii\.gz does not lie on the grid of its image"):
        case_fingerprint(item, LABELS)
    (tmp_path / "image.nii.gz").write_bytes(b"no image")
    said = outcome_of(Job(LABELS, None), item)
    assert "image.nii.gz" in said
    assert nib.load(item["label"]).shape == (40, 30, 20)


def test_voxels_that_nobody_annotated_are_of_no_class(tmp_path):
    image, label = body()
    highest = max(LABELS) + 1
    label[20:] = highest
    item = {
        "case": "a",
        "image": save(tmp_path / "image.nii.gz", image, AFFINE),
        "label": save(tmp_path / "label.nii.gz", label, AFFINE),
        "ignore": highest,
    }
    found = case_fingerprint(item, LABELS)
    assert found["ignored"] == 0.5
    voxels = {value: record["voxels"] for value, record in found["classes"].items()}
    assert voxels == {str(value): int((label == value).sum()) for value in LABELS if value}
    assert voxels["2"] == 0
    assert found["channels"][0]["inside"]["voxels"] == sum(voxels.values())
    with pytest.raises(ImageError, match=rf"label value\(s\) {highest} are not among"):
        case_fingerprint({key: value for key, value in item.items() if key != "ignore"}, LABELS)
