"""Dataset folders: files of every kind found, paired and read."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from pipelines.data.cases import DatasetError
from pipelines.data.dataset_folder import load_dataset
from tests import dicom_phantom as ph
from tests.pipelines.data.dataset_files import LABELS, bare, describe, ids, pair, write


def test_dicom_folder_is_an_image(root):
    phantom = ph.Phantom()
    for name in ("one", "two"):
        ph.write_series(root / "scans" / name, phantom.slices())
        write(root / "labels" / f"{name}.nii.gz", phantom.shape, phantom.affine)
    items = [{"image": f"scans/{name}", "label": f"labels/{name}.nii.gz"} for name in ("one", "two")]
    dataset = load_dataset(describe(root, labels=LABELS, training=items))
    assert sorted(ids(dataset.training + dataset.validation)) == ["one", "two"]
    (root / "scans" / "two" / "IM0003.dcm").unlink()
    with pytest.raises(DatasetError, match=r"case 'two': image .*missing"):
        load_dataset(root)


def test_pictures(root):
    for n in range(2):
        for folder, mode in (("i", "RGB"), ("l", "L")):
            (root / folder).mkdir(exist_ok=True)
            Image.new(mode, (6, 4)).save(root / folder / f"{n}.png")
    items = [{"image": f"i/{n}.png", "label": f"l/{n}.png"} for n in range(2)]
    dataset = load_dataset(describe(root, labels={"0": "background", "1": "vessel"}, training=items))
    assert dataset.num_classes == 2


def test_channels_in_a_fourth_axis(root):
    items = [pair(root, f"c{n}") for n in range(2)]
    for item in items:
        write(root / item["image"], (4, 5, 3, 2))
    with pytest.raises(DatasetError, match=r"2 problems:(.|\n)*if the fourth axis is time"):
        load_dataset(describe(root, labels=LABELS, training=items))
    dataset = load_dataset(describe(root, labels=LABELS, modality={"0": "FLAIR", "1": "T1"}, training=items))
    assert dataset.channels == 2


def test_no_dataset_at_all(root, tmp_path):
    with pytest.raises(DatasetError, match="no such dataset folder"):
        load_dataset(tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"neither a dataset\.json nor folders imagesTr and labelsTr"):
        load_dataset(root)
    (root / "imagesTr").mkdir()
    (root / "labelsTr").mkdir()
    with pytest.raises(DatasetError, match="imagesTr: the folder has no images"):
        load_dataset(root)


def test_openkbp(shared_data):
    dataset = load_dataset(shared_data / "openkbp")
    assert (len(dataset.training), len(dataset.validation), dataset.num_classes) == (146, 25, 5)
    assert dataset.class_names == ["background", "Brainstem", "SpinalCord", "RightParotid", "LeftParotid"]
    assert len(dataset.digest()) == 64


def test_many_cases_are_parsed_and_split_in_seconds(tmp_path):
    describe(tmp_path, **bare(20_000))
    dataset = load_dataset(tmp_path, check=False, fold=0)
    assert len(dataset.training) + len(dataset.validation) == 20_000


def halves(path: Path) -> Path:
    """The NIfTI at `path` as a pair of files instead; returns the header."""
    image = nib.load(path)
    stem = path.with_name(path.name.removesuffix(".nii.gz"))
    nib.save(nib.Nifti1Pair(np.asarray(image.dataobj), image.affine), stem.with_suffix(".img"))
    path.unlink()
    return stem.with_suffix(".hdr")


@pytest.mark.parametrize("description", ["lists", "voxels in lists", "nnU-Net", "none"])
def test_pairs_are_images_and_labels(root, description):
    for name in ("a", "b"):
        pair(root, name, channel="_0000" if description == "nnU-Net" else "")
    for path in sorted(root.rglob("*.nii.gz")):
        halves(path)
    if description == "nnU-Net":
        describe(root, labels={"background": 0, "liver": 1, "spleen": 2}, file_ending=".hdr")
    elif description != "none":
        ending = "hdr" if description == "lists" else "img"
        items = [{"image": f"imagesTr/{n}.{ending}", "label": f"labelsTr/{n}.{ending}"} for n in "ab"]
        describe(root, labels=LABELS, training=items)
    dataset = load_dataset(root, validation_fraction=0)
    assert ids(dataset.training) == ["a", "b"]
    digests = [dataset.digest()]
    for path in ("imagesTr/a*.img", "labelsTr/b.img"):
        (voxels,) = root.glob(path)
        os.utime(voxels, ns=(0, voxels.stat().st_mtime_ns + 1_000_000_000))
        digests.append(dataset.digest())
    assert len(set(digests)) == 3


def test_the_two_names_of_a_pair_are_one_image(root):
    pair(root, "a")
    pair(root, "b")
    header = halves(root / "imagesTr" / "a.nii.gz")
    items = [{"image": f"imagesTr/{n}", "label": "labelsTr/a.nii.gz"} for n in (header.name, "a.img")]
    describe(
        root, labels=LABELS, training=[*items, {"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}]
    )
    with pytest.raises(DatasetError, match=r"a\.img is listed twice"):
        load_dataset(root)
