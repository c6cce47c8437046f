"""Label maps with voxels that nobody has annotated: what is stored of them, and where patches lie."""

import json

import numpy as np
import pytest

from pipelines.data.dataset_folder import load_dataset
from pipelines.data.patch_dataset import PatchDataset
from pipelines.data.patch_store import PatchStore
from pipelines.data.volume_dataset import VolumeDataset
from tests.pipelines.cohort import save
from tests.pipelines.tumours import IGNORE, SHAPE, nested, write_tumours
from transforms.preprocess import Preprocess

COUNT = 200


@pytest.fixture
def data(tmp_path):
    return load_dataset(write_tumours(tmp_path / "data"))


def patches(data, folder, foreground, size=(3, 3, 3)):
    dataset = PatchDataset(
        data.as_dicts("training"),
        size,
        COUNT,
        Preprocess(),
        folder / "store",
        foreground,
        labels=data.labels,
        num_workers=0,
        progress=False,
    )
    return dataset, [dataset[index]["label"].numpy() for index in range(COUNT)]


@pytest.mark.parametrize("foreground", [0.0, 0.5, 1.0])
def test_no_patch_is_without_an_annotated_voxel(data, tmp_path, foreground):
    _, labels = patches(data, tmp_path, foreground)
    assert all((label != IGNORE).any() for label in labels)
    assert any((label == IGNORE).any() for label in labels)
    inside = np.mean([label[0, 1, 1, 1] in (1, 2, 3) for label in labels])
    share = np.mean([np.isin(nested(seed=i)[..., ::3], (1, 2, 3)).mean() for i in range(3)])
    assert inside == pytest.approx(foreground + (1 - foreground) * share, abs=0.1)


def test_what_is_stored(data, tmp_path):
    store = PatchStore(
        tmp_path / "store", Preprocess(), data.as_dicts("training"), data.labels, 0, False
    ).build()
    for index, case in enumerate(store):
        annotated = nested(seed=index)[..., ::3]
        label = case.read_label([slice(None)] * 3)
        assert label.dtype == np.uint8
        assert (label == IGNORE).sum() == case.classes[IGNORE] == label.size - annotated.size
        assert case.foreground == (1, 2, 3)
        assert case.annotated == {value: int((annotated == value).sum()) for value in range(4)}
        assert {int(label[tuple(at)]) for at in case.positions(0)} == {0}
        assert not len(case.positions(IGNORE))
    assert store.remarks() == []


def test_resampling_keeps_the_value(data):
    preprocess = Preprocess(spacing=1.7)
    item = data.as_dicts("validation")[0]
    prepared = preprocess.image(item["image"])
    label = preprocess.label(item["label"], prepared.geometry, [*data.labels, IGNORE])
    assert set(np.unique(label)) == {0, 1, 2, 3, IGNORE}
    assert (label == IGNORE).mean() == pytest.approx(9 / SHAPE[0], abs=0.05)


def test_a_case_that_nobody_has_looked_at_is_drawn_anywhere(tmp_path):
    root = write_tumours(tmp_path / "data", training=2)
    save(root / "labelsTr" / "tumour_0.nii.gz", np.full(SHAPE, IGNORE, np.uint8))
    _, labels = patches(load_dataset(root), tmp_path, 0.5)
    assert any((label == IGNORE).all() for label in labels)
    assert any((label != IGNORE).any() for label in labels)


def test_the_value_is_an_error_where_the_dataset_does_not_name_it(tmp_path):
    root = write_tumours(tmp_path / "data")
    content = json.loads((root / "dataset.json").read_text())
    del content["labels"]["ignore"]
    (root / "dataset.json").write_text(json.dumps(content))
    data = load_dataset(root)
    with pytest.raises(ValueError, match=r"label value\(s\) 4 are not among the classes 0 to 3"):
        PatchStore(tmp_path / "store", Preprocess(), data.as_dicts("training"), data.labels, 0, False).build()


def test_a_volume_says_what_is_to_be_ignored(data, tmp_path):
    items = VolumeDataset(data.as_dicts("validation"), Preprocess(), tmp_path / "store", data.labels, 0)
    assert items[0]["ignore"] == IGNORE
    assert int(items[0]["label"].max()) == IGNORE
