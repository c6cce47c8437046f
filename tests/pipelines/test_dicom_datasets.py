"""Datasets of DICOM CT with DICOM labels: listed, checked, stored and evaluated like the same labels in NIfTI."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import tests.dicom_label_files as lf
import tests.dicom_phantom as ph
from pipelines.data.cases import DatasetError
from pipelines.data.check import check
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.patch_store import PatchStore
from pipelines.data.stored_case import StoreError
from pipelines.data.volume_dataset import VolumeDataset
from tests.dicom_phantom import Phantom, write_series
from tests.pipelines.tumours import IGNORE, REGIONS, nested
from transforms.dicom.rtstruct_writer import write_rtstruct
from transforms.dicom.seg import write_seg
from transforms.dicom.series import scan_series
from transforms.preprocess import Preprocess

LABELS = {"0": "background", "1": "liver", "2": "left_lung", "3": "tumor"}
NAMES = {int(key): name for key, name in LABELS.items()}
SEGMENTS = {1: "Tumor", 2: "Liver", 3: "Left lung"}  # not the order of the classes
CLASS_OF = {1: 3, 2: 1, 3: 2}


def write(root, split_items, **more):
    (root / "dataset.json").write_text(json.dumps({"labels": LABELS, **more, **split_items}))
    return root


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three cases, labelled as a SEG file, a folder with an RTSTRUCT, and a SEG written by us; and NIfTI twins."""
    root = tmp_path_factory.mktemp("cohort")
    items = []
    for number, kind in enumerate(("seg", "rtstruct", "written")):
        ct = Phantom(
            shape=(40, 36, 14), axes=ph.rotation((5 * number, -4, 8)), origin=(-20.0 - number, 5, -90)
        )
        slices = ct.slices()
        write_series(root / "ct" / f"p{number}", slices, seed=number)
        series = scan_series(root / "ct" / f"p{number}")
        array = lf.label_map(ct.shape, ct.affine)
        label = MetaTensor(torch.from_numpy(array[None]), affine=torch.from_numpy(series.affine))
        (root / "twins").mkdir(exist_ok=True)
        twin = nib.Nifti1Image(array, series.affine)
        nib.save(twin, root / "twins" / f"p{number}.nii.gz")
        if kind == "seg":
            frames = []
            for segment, index in CLASS_OF.items():
                cut, cosines, spacing = lf.frames_of(array == index, ct.affine)
                frames += [(segment, p, f) for p, f in cut if f.any()]
            path = root / "labels" / "p0.dcm"
            lf.seg_file(
                path, SEGMENTS, frames, cosines, spacing, frame_of_reference=slices[0].FrameOfReferenceUID
            )
        elif kind == "rtstruct":
            path = root / "labels" / "p1"
            write_rtstruct(path / "rs.dcm", label, series, NAMES)
        else:
            path = root / "labels" / "p2.dcm"
            write_seg(path, label, series, NAMES)
        items.append({"image": f"ct/p{number}", "label": str(path.relative_to(root)), "case": f"p{number}"})
    return write(root, {"training": items[:2], "validation": items[2:]})


def twins(root, data):
    return [{**case, "label": str(root / "twins" / f"{case['case']}.nii.gz")} for case in data]


def test_the_patch_store_holds_the_same_as_from_nifti(cohort, tmp_path):
    dataset = load_dataset(cohort)
    data = dataset.as_dicts("training") + dataset.as_dicts("validation")
    preprocess = Preprocess(spacing=1.5)
    store = PatchStore(tmp_path / "a", preprocess, data, dataset.labels, 0, False).build()
    twin = PatchStore(tmp_path / "b", preprocess, twins(cohort, data), dataset.labels, 0, False).build()
    for ours, theirs in zip(store, twin, strict=True):
        assert ours.shape == theirs.shape
        assert set(ours.classes) == {0, 1, 2, 3}
        whole = [slice(0, size) for size in ours.spatial_shape]
        np.testing.assert_array_equal(ours.read(whole), theirs.read(whole))
        np.testing.assert_array_equal(ours.read_label(whole), theirs.read_label(whole))
        for index in ours.foreground:
            np.testing.assert_array_equal(ours.positions(index), theirs.positions(index))


def test_evaluation_reads_the_same_label_on_the_grid_of_the_file(cohort, tmp_path):
    dataset = load_dataset(cohort)
    data = dataset.as_dicts("training") + dataset.as_dicts("validation")
    for root in (None, tmp_path / "store"):
        ours = VolumeDataset(data, Preprocess(), root, dataset.labels)
        theirs = VolumeDataset(twins(cohort, data), Preprocess(), None, dataset.labels)
        for index in range(3):
            np.testing.assert_array_equal(ours[index]["label"], theirs[index]["label"])
            np.testing.assert_allclose(ours[index]["label"].affine, theirs[index]["label"].affine, atol=1e-4)


def test_other_names_are_another_entry_of_the_store(cohort, tmp_path):
    data = load_dataset(cohort).as_dicts("training")[:1]
    swapped = {**NAMES, 1: "left_lung", 2: "liver"}
    first = PatchStore(tmp_path, Preprocess(), data, NAMES, 0, False).build()
    second = PatchStore(tmp_path, Preprocess(), data, swapped, 0, False)
    assert first.folder == second.folder
    assert not second.complete
    second.build()
    assert first.digest() != second.digest()
    whole = [slice(0, size) for size in first.case(0).spatial_shape]
    mapping = np.array([0, 2, 1, 3], np.uint8)
    np.testing.assert_array_equal(second.case(0).read_label(whole), mapping[first.case(0).read_label(whole)])
    assert PatchStore(tmp_path, Preprocess(), data, NAMES, 0, False).complete
    by_ids = PatchStore(tmp_path / "ids", Preprocess(), data, range(4), 0, False)
    with pytest.raises(StoreError, match="needs the grid of its image and the names of the classes"):
        by_ids.build()
    nifti = twins(cohort, data)
    PatchStore(tmp_path, Preprocess(), nifti, NAMES, 0, False).build()
    assert PatchStore(tmp_path, Preprocess(), nifti, swapped, 0, False).complete  # names are nothing to NIfTI


def test_series_and_allow_reach_reading_and_identity(cohort, tmp_path):
    items = json.loads((cohort / "dataset.json").read_text())["training"]
    plain = load_dataset(cohort, validation_fraction=0)
    root = tmp_path / "other"
    root.mkdir()
    for item in items:
        item["image"], item["label"] = str(cohort / item["image"]), str(cohort / item["label"])
    changed = [{**items[0], "series": "1.2.3", "allow": ["spacing", "tilt"]}, items[1]]
    write(root, {"training": changed})
    dataset = load_dataset(root, validation_fraction=0, check=False)
    assert dataset.training[0].series == "1.2.3"
    assert dataset.training[0].allow == ("spacing", "tilt")
    first, second = dataset.as_dicts("training")
    assert (first["series"], first["allow"]) == ("1.2.3", ["spacing", "tilt"])
    assert "series" not in second
    assert "allow" not in second
    write(root, {"training": items})
    assert load_dataset(root, validation_fraction=0, check=False).digest() != dataset.digest()

    class Asked(Preprocess):
        def read(self, path, series=None, allow=()):
            asked.append((series, list(allow)))
            return super().read(path)

    asked = []
    stated = PatchStore(tmp_path / "s", Asked(), [first], NAMES, 0, False).build()
    assert asked == [("1.2.3", ["spacing", "tilt"])]
    without = PatchStore(tmp_path / "s", Asked(), plain.as_dicts("training")[:1], NAMES, 0, False)
    assert not without.complete
    assert stated.digest() != without.build().digest()
    assert asked[1:] == [(None, [])]
    VolumeDataset([first], Asked(), None, NAMES)[0]
    assert asked[2:] == [("1.2.3", ["spacing", "tilt"])]


@pytest.mark.parametrize("entry", [{"series": 3}, {"series": ""}, {"allow": "tilt"}, {"allow": [1]}])
def test_series_and_allow_of_another_kind(cohort, tmp_path, entry):
    item = {"image": str(cohort / "ct/p0"), "label": str(cohort / "labels/p0.dcm"), **entry}
    write(tmp_path, {"training": [item]})
    with pytest.raises(DatasetError, match=rf'"training" item 0: "{next(iter(entry))}" is'):
        load_dataset(tmp_path, check=False)


def problem(root):
    with pytest.raises(DatasetError) as error:
        load_dataset(root, validation_fraction=0)
    return str(error.value)


def test_headers_of_dicom_labels_are_checked(cohort, tmp_path):
    def dataset(label, **changes):
        item = {"image": str(cohort / "ct/p0"), "label": str(label), "case": "a"}
        (tmp_path / "dataset.json").write_text(
            json.dumps({"labels": changes.get("labels", LABELS), "training": [item]})
        )
        return tmp_path

    good = cohort / "labels/p0.dcm"
    load_dataset(dataset(good), validation_fraction=0)
    assert "label " in problem(dataset(tmp_path / "absent.dcm"))
    assert "no such file" in problem(dataset(tmp_path / "absent.dcm"))
    assert "neither a DICOM SEG nor an RTSTRUCT (CT Image Storage)" in problem(
        dataset(cohort / "ct/p0/IM0000.dcm")
    )
    assert "no DICOM SEG or RTSTRUCT in this folder" in problem(dataset(cohort / "ct/p1"))
    assert "none of its segments has the name of a class" in problem(
        dataset(good, labels={"0": "background", "1": "kidney"})
    )
    assert "its frame of reference" in problem(dataset(cohort / "labels/p2.dcm"))
    text = problem(dataset(cohort / "labels/p1"))
    assert "case 'a': label " in text
    assert "its frame of reference" in text


def test_folders_of_images_and_dicom_labels(cohort, tmp_path):
    for number, label in enumerate(("p0.dcm", "p1", "p2.dcm")):
        shutil.copytree(cohort / "ct" / f"p{number}", tmp_path / "imagesTr" / f"p{number}")
        source, target = cohort / "labels" / label, tmp_path / "labelsTr" / label
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    assert "write a dataset.json" in problem(tmp_path)  # whose names?
    write(tmp_path, {})
    dataset = load_dataset(tmp_path, validation_fraction=0)
    assert [case.id for case in dataset.training] == ["p0", "p1", "p2"]
    assert [case.label.name for case in dataset.training] == ["p0.dcm", "p1", "p2.dcm"]


def test_image_and_label_in_one_folder(cohort, tmp_path):
    for number, label in enumerate(("p0.dcm", "p1/rs.dcm", "p2.dcm")):
        shutil.copytree(cohort / "ct" / f"p{number}", tmp_path / f"p{number}")
        shutil.copy(cohort / "labels" / label, tmp_path / f"p{number}" / "label")
    write(tmp_path, {"training": [{"image": f"p{n}", "label": f"p{n}"} for n in range(3)]})
    data = load_dataset(tmp_path, validation_fraction=0).as_dicts("training")
    store = PatchStore(tmp_path / "a", Preprocess(), data, NAMES, 0, False).build()
    twin = PatchStore(tmp_path / "b", Preprocess(), twins(cohort, data), NAMES, 0, False).build()
    for ours, theirs in zip(store, twin, strict=True):
        whole = [slice(0, size) for size in ours.spatial_shape]
        np.testing.assert_array_equal(ours.read_label(whole), theirs.read_label(whole))


@pytest.mark.parametrize("writer", [write_seg, write_rtstruct])
def test_labels_of_regions_become_the_classes_that_make_them_up(tmp_path, writer):
    """Segments that overlap, one of each region and one of what nobody annotated: read, checked, stored, evaluated."""
    ct = Phantom(shape=(20, 18, 8))
    write_series(tmp_path / "ct", ct.slices(), seed=1)
    series = scan_series(tmp_path / "ct")
    array = nested(ct.shape)
    array[..., :2] = IGNORE
    label = MetaTensor(torch.from_numpy(array[None]), affine=torch.from_numpy(series.affine))
    names = {1: "a", 2: "b", 3: "c", IGNORE: "d"}
    writer(tmp_path / "label.dcm", label, series, names, regions={**REGIONS, "ignore": [IGNORE]})
    case = {"image": "ct", "label": "label.dcm"}
    content = {"labels": {"background": 0, **REGIONS, "ignore": IGNORE}, "training": [case]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    data = load_dataset(tmp_path, validation_fraction=0)
    items = data.as_dicts("training")
    (found,) = check(tmp_path).cases
    assert found.problems == []
    voxels = {name: int((array == value).sum()) for value, name in data.labels.items()}
    assert found.classes == {**voxels, "ignore": int((array == IGNORE).sum())}
    stored = PatchStore(tmp_path / "store", Preprocess(), items, data.labels, 0, False).build().case(0)
    assert stored.classes == {value: int((array == value).sum()) for value in range(5)}
    volume = VolumeDataset(items, Preprocess(), labels=data.labels)[0]
    np.testing.assert_array_equal(volume["label"][0].numpy(), array)
