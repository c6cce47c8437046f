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
