"""Images that are unlike those that a model was trained on are told, with both figures; the training's own kin are not."""

import copy

import numpy as np
import pytest

from pipelines.data.dataset_folder import load_dataset
from pipelines.inference.unlike import unlike_training
from pipelines.planning.card_data import training_data
from pipelines.planning.fingerprint import fingerprint
from tests.pipelines.inference.test_training_data import CT, figures
from tests.pipelines.planning.volumes import body, turned, write_dataset
from transforms.io.readers import read_image
from transforms.spatial.geometry import orient

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies")
    return training_data(fingerprint(write_dataset(folder), folder / "store", 0), [0])


def compared(image, training, affine=AFFINE, **options):
    image = np.asarray(image)
    image = image[None] if image.ndim == 3 else image
    return unlike_training(image, orient(image.shape[1:], affine), training, **options)


def test_an_image_like_the_trainings_is_passed_over_in_silence(training):
    image, _ = body(seed=99)
    assert compared(image, training) == []
    assert compared(image, training, np.diag([2.2, 2.0, 4.5, 1.0])) == []
    assert compared(image, training, ct=True) == []


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_the_order_of_the_axes_in_a_file_does_not_matter(training, axes):
    stored, affine = turned(body(seed=99)[0], AFFINE, axes, (True, False, True))
    assert compared(stored, training, affine) == []


def test_thicker_slices(training):
    image = body(seed=99)[0][:, :, ::2]
    assert compared(image, training, np.diag([2.0, 2.0, 10.0, 1.0])) == [
        "its voxels are 10 mm apart from foot to head; the training's were 5 mm"
    ]


def test_a_part_of_a_body(training):
    image = body(seed=99)[0][:, :, 8:12]
    assert compared(image, training) == [
        "it covers 20 mm from foot to head; the training's images covered 100 mm"
    ]


def test_next_to_nothing(training):
    found = compared(body(seed=99)[0][20:21, 10:11, 4:5], training)
    assert len([each for each in found if each.startswith("it covers")]) == 3


OTHER_VALUES = {
    "scaled to 0..1": (lambda ct: ((ct + 1000) / 1300).astype(np.float32), "lie below 0 HU"),
    "as scanners store them": (lambda ct: ct + 1024, "lie below 24 HU"),
    "an MR": (lambda ct: np.random.default_rng(1).gamma(2.0, 200.0, ct.shape).astype(np.float32), "HU"),
    "nothing": (np.zeros_like, "lie below 0 HU"),
}


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_a_ct_that_is_none(training, name):
    change, told = OTHER_VALUES[name]
    (found,) = compared(change(body(seed=99)[0]), training)
    assert told in found
    assert "of the training's images below" in found


def test_padding_and_metal_are_no_other_intensities(training):
    image = body(seed=99)[0].astype(np.int32)
    image[:5], image[20, 10:12] = -3024, 30000
    assert compared(image, training) == []


def test_intensities_without_a_unit(training):
    """Brightness and contrast are the scanner's; the other way round it is another kind of image."""
    random = np.random.default_rng(0)
    known = copy.deepcopy(training)
    values = random.gamma(2.0, 100.0, (40, 30, 20)).astype(np.float32)
    rows = np.percentile((values - values.mean()) / values.std(), (0.5, 5, 50, 95, 99.5))
    known["channels"][0]["hounsfield"] = False
    known["channels"][0]["image"] = {
        name: figures(value - 0.2, value, value + 0.2)
        for name, value in zip(("0.5", "5", "50", "95", "99.5"), rows.tolist(), strict=True)
    }
    assert compared(values * 17 + 300, known) == []
    (found,) = compared(-values, known)
    assert "0.5% of the voxels lie below" in found
    assert "deviations from its mean; of the training's images below -1." in found
    assert compared(values, known, ct=True) == ["it is a CT, and the training's images were not"]


def test_the_channel_is_named(training):
    known = copy.deepcopy(training)
    known["channels"] = [known["channels"][0], known["channels"][0] | {"name": "late phase"}]
    image = body(seed=99)[0]
    (found,) = compared(np.stack([image, image + 1024]), known)
    assert "of the voxels of channel 2 (late phase) lie below" in found


def test_a_header_that_seems_to_be_wrong():
    image = np.full((400, 90, 400), -1000, np.int16)
    image[50:350, :, 50:350] = np.random.default_rng(0).integers(-100, 100, (300, 90, 300))
    # Another program has lost that the file's second axis runs from foot to head.
    found = compared(image, CT, np.diag([-0.8, 3.0, 0.8, 1.0]))
    assert found[-2 if "HU" in found[-1] else -1] == (
        "its axes run LAS by its header, the training's ran LPS or RAS, and in another order its size would be like"
        " theirs: see whether the header is right"
    )
    right = np.array([[-0.8, 0, 0, 0], [0, 0, 0.8, 0], [0, 3.0, 0, 0], [0, 0, 0, 1]])
    assert not any("axes" in each for each in compared(image, CT, right))


def test_a_picture_for_a_model_of_volumes(training):
    found = unlike_training(np.zeros((1, 8, 8), np.uint8), orient((8, 8), np.eye(4)), training)
    assert found == ["it has 2 axes; the training's images had 3"]


@pytest.mark.parametrize("name", ["hippocampus", "chase", pytest.param("openkbp", marks=pytest.mark.slow)])
def test_real_cases_are_like_those_of_their_own_training(shared_data, tmp_path, name):
    """None of the validation is refused, but all of it is noticed where a program has spoilt it."""
    data = load_dataset(shared_data / name, check=False)
    known = training_data(fingerprint(data, tmp_path), [0] if name == "openkbp" else [])
    told, coarser = [], 0
    cases = data.as_dicts("validation")
    for case in cases:
        image = read_image(case["image"])
        affine = image.affine.numpy()
        values = image.numpy()
        told += [
            f"{case['case']}: {each}"
            for each in unlike_training(values, orient(values.shape[1:], affine), known)
        ]
        half = values[:, ::2, ::2]
        doubled = affine.copy()
        doubled[:3, :2] *= 2 * known["spacing"][0]["high"] / np.linalg.norm(affine[:3, 0])
        coarser += any(
            "apart" in each for each in unlike_training(half, orient(half.shape[1:], doubled), known)
        )
    assert told == []
    assert coarser == len(cases)
