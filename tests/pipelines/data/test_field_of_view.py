"""Where in a picture pixels count: the dataset's masks, a folder of masks, or what is found."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.dataset_folder import load_dataset
from pipelines.data.volume_dataset import VolumeDataset
from transforms.errors import ImageError, SettingError
from transforms.preprocess import Preprocess

SHAPE = (60, 50)
"""X, Y."""


def disc(radius):
    x, y = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (x - 30) ** 2 + (y - 25) ** 2 < radius**2


@pytest.fixture
def photographs(tmp_path):
    """Two photographs of a round field; dataset.json has a mask of the second, which is smaller than the field."""
    root = tmp_path / "data"
    (root / "masks").mkdir(parents=True)
    items = []
    for index in range(2):
        save(root / f"eye_{index}.png", np.where(disc(24), 120 + index, 0))
        save(root / f"eye_{index}_vessels.png", disc(3))
        items.append({"image": f"eye_{index}.png", "label": f"eye_{index}_vessels.png"})
    save(root / "eye_1_fov.png", 255 * disc(12))
    items[1]["mask"] = "eye_1_fov.png"
    content = {"labels": {"background": 0, "vessel": 1}, "training": items[:1], "validation": items[1:]}
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def save(path, array):
    Image.fromarray(np.asarray(array, np.uint8).T).save(path)


def volumes(root, given, split="validation", store=None):
    data = load_dataset(root)
    preprocess = Preprocess(spacing=None, window=None)
    return VolumeDataset(data.as_dicts(split), preprocess, store, data.labels, 0, field_of_view=given)


@pytest.mark.parametrize("stored", [False, True])
def test_a_mask_of_the_dataset_comes_before_what_is_found(photographs, tmp_path, stored):
    store = tmp_path / "store" if stored else None
    masked = volumes(photographs, "auto", store=store)[0]["inside"]
    assert masked.dtype == torch.bool
    assert np.array_equal(masked[0].numpy(), disc(12))
    found = volumes(photographs, "auto", "training", store)[0]["inside"]
    assert (found[0].numpy() ^ disc(24)).mean() < 0.01
    assert "inside" not in volumes(photographs, None)[0]


@pytest.mark.parametrize("name", ["eye_1.png", "eye_1_mask.png", "eye_1_fov.bmp"])
def test_a_folder_of_masks(photographs, name):
    save(photographs / "masks" / name, disc(7))
    save(photographs / "masks" / "eye_10_mask.png", disc(5))
    inside = volumes(photographs, photographs / "masks")[0]["inside"]
    assert np.array_equal(inside[0].numpy(), disc(7))


def test_mistakes_are_said_in_a_sentence(photographs):
    with pytest.raises(SettingError, match=r"no such folder; give a folder of masks, 'auto'"):
        volumes(photographs, photographs / "nowhere")
    with pytest.raises(SettingError, match=r"one mask of case eye_1, .*it has none"):
        volumes(photographs, photographs / "masks")[0]
    for name in ("eye_1.png", "eye_1_mask.png"):
        save(photographs / "masks" / name, disc(7))
    with pytest.raises(SettingError, match=r"it has eye_1.png, eye_1_mask.png"):
        volumes(photographs, photographs / "masks")[0]
    save(photographs / "eye_1_fov.png", disc(12)[:-3])
    with pytest.raises(ImageError, match=r"eye_1_fov.png: the mask has 57 x 50 pixels and its image 60 x 50"):
        volumes(photographs, "auto")[0]
    content = json.loads((photographs / "dataset.json").read_text(encoding="utf-8"))
    content["validation"][0]["mask"] = ["eye_1_fov.png"]
    (photographs / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r'"mask" is \[.*it must be the path of one file'):
        load_dataset(photographs)


def test_another_mask_is_other_data(photographs):
    before = load_dataset(photographs).digest()
    save(photographs / "eye_1_fov.png", 255 * disc(13))
    assert load_dataset(photographs).digest() != before
