"""Cases and datasets as the rest of the workflow sees them: their digest, and the error of many."""

import os

import pytest

from pipelines.data.cases import DatasetError
from pipelines.data.dataset_folder import load_dataset
from tests import dicom_phantom as ph
from tests.pipelines.data.dataset_files import LABELS, bare, describe, pair, write


def test_at_most_twenty_are_shown_and_all_are_counted(root):
    with pytest.raises(DatasetError, match=r"60 problems:(.|\n)*\.\.\. and 40 more") as error:
        load_dataset(describe(root, **bare(30)))
    assert str(error.value).count("\n  - ") == 20
    assert len(error.value.problems) == 60


def test_digest_follows_files_description_and_split(root, tmp_path):
    items = [pair(root, f"c{n}") for n in range(4)]
    describe(root, labels=LABELS, training=items)
    first = load_dataset(root).digest()
    assert load_dataset(root).digest() == first
    assert load_dataset(root, fold=1, num_folds=2).digest() != first
    os.utime(root / items[0]["image"], (1, 1))
    touched = load_dataset(root).digest()
    assert touched != first
    describe(root, labels=LABELS | {"3": "kidney"}, training=items)
    assert load_dataset(root).digest() not in (first, touched)
    describe(root, labels=LABELS, training=items)
    moved = root.rename(tmp_path / "moved")
    assert load_dataset(moved).digest() == touched


def test_digest_looks_into_dicom_folders(root):
    items = []
    for name in ("a", "b"):
        ph.write_series(root / name, ph.Phantom().slices())
        write(root / f"{name}.nii.gz", ph.Phantom().shape, ph.Phantom().affine)
        items.append({"image": name, "label": f"{name}.nii.gz"})
    dataset = load_dataset(describe(root, labels=LABELS, training=items))
    first = dataset.digest()
    os.utime(root / "a" / "IM0002.dcm", (1, 1))
    touched = dataset.digest()
    assert touched != first
    (root / "a" / "more").mkdir()
    (root / "a" / "IM0003.dcm").rename(root / "a" / "more" / "IM0003.dcm")
    nested = dataset.digest()
    assert nested not in (first, touched)
    os.utime(root / "a" / "more" / "IM0003.dcm", (1, 1))
    assert dataset.digest() not in (first, touched, nested)


def test_the_number_of_channels_is_stated_or_that_of_the_images(root):
    items = [pair(root, f"c{n}") for n in range(2)]
    for item in items:
        write(root / item["image"], (4, 5, 3, 2))
    stated = load_dataset(describe(root, labels=LABELS, channel_names={"0": "a", "1": "b"}, training=items))
    assert (stated.num_channels, stated.channel_names) == (2, ["a", "b"])
    for item in items:
        write(root / item["image"])
    plain = load_dataset(describe(root, labels=LABELS, modality="MR", training=items))
    assert (plain.num_channels, plain.channel_names) == (1, ["MR"])
    (root / items[0]["image"]).unlink()
    (root / items[1]["image"]).unlink()
    with pytest.raises(DatasetError, match="no such file"):
        _ = load_dataset(root, check=False).num_channels


def test_digest_looks_at_every_channel(root):
    items = []
    for name in "ab":
        pair(root, name, channel="_0000")
        write(root / "imagesTr" / f"{name}_0001.nii.gz")
        images = [f"imagesTr/{name}_{channel:04d}.nii.gz" for channel in range(2)]
        items.append({"image": images, "label": f"labelsTr/{name}.nii.gz"})
    describe(root, labels=LABELS, training=items)
    before = load_dataset(root).digest()
    os.utime(root / "imagesTr" / "a_0001.nii.gz", (1, 1))
    assert load_dataset(root).digest() != before
