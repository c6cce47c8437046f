"""Dataset folders in every spelling, splits that keep patients together, and one error that tells all."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.cases import Case, Dataset, DatasetError
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.integrity import check_headers
from tests import dicom_phantom as ph

LABELS = {"0": "background", "1": "liver", "2": "spleen"}
some = settings(max_examples=30)


def write(path: Path, shape=(4, 5, 3), affine=None, values=3) -> Path:
    """A small NIfTI: an image and a label map alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = (np.arange(np.prod(shape)) % values).reshape(shape).astype(np.uint8)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 3, 1]) if affine is None else affine), path)
    return path


def pair(root: Path, name: str, images="imagesTr", labels="labelsTr", channel="") -> dict[str, str]:
    write(root / images / f"{name}{channel}.nii.gz")
    write(root / labels / f"{name}.nii.gz")
    return {"image": f"{images}/{name}{channel}.nii.gz", "label": f"{labels}/{name}.nii.gz"}


def describe(root: Path, **content: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "data #1"
    path.mkdir()
    return path


def ids(cases) -> list[str]:
    return [case.id for case in cases]


def bare(count: int, per_patient: int = 1) -> dict[str, object]:
    """A description without files, for what never opens one (check=False)."""
    items = [
        {"image": f"i/c{n}.nii.gz", "label": f"l/c{n}.nii.gz", "patient": f"p{n // per_patient}"}
        for n in range(count)
    ]
    return {"labels": LABELS, "training": items}


# --- spellings ------------------------------------------------------------------------------------------------------


def test_msd(root):
    training = [pair(root, f"case_{n}") for n in range(3)]
    validation = [pair(root, "case_9")]
    write(root / "imagesTs" / "case_7.nii.gz")
    describe(root, name="Liver", labels=LABELS, modality={"0": "CT"}, training=training, validation=validation,
             test=["./imagesTs/case_7.nii.gz"])  # fmt: skip
    dataset = load_dataset(root)
    assert (dataset.name, dataset.num_classes, dataset.channels) == ("Liver", 3, 1)
    assert dataset.class_names == ["background", "liver", "spleen"]
    assert (ids(dataset.training), ids(dataset.validation), ids(dataset.test)) == (
        ["case_0", "case_1", "case_2"],
        ["case_9"],
        ["case_7"],
    )
    assert dataset.as_dicts("training")[1] == {
        "image": str(root / "imagesTr" / "case_1.nii.gz"),
        "label": str(root / "labelsTr" / "case_1.nii.gz"),
        "case": "case_1",
    }
    assert "label" not in dataset.as_dicts("test")[0]
    assert load_dataset(root / "dataset.json") == dataset
    with pytest.raises(ValueError, match="no split 'train'"):
        dataset.as_dicts("train")
    check_headers(dataset)


def test_nnunet(root):
    for n in range(3):
        pair(root, f"case_{n}", channel="_0000")
    write(root / "imagesTs" / "case_8_0000.nii.gz")
    write(root / "imagesTr" / "._case_0_0000.nii.gz")
    describe(root, labels={"background": 0, "liver": 1, "spleen": 2}, channel_names={"0": "CT"}, numTraining=3,
             file_ending=".nii.gz")  # fmt: skip
    dataset = load_dataset(root)
    assert sorted(ids(dataset.training + dataset.validation)) == ["case_0", "case_1", "case_2"]
    assert len(dataset.validation) == 1
    assert ids(dataset.test) == ["case_8"]
    assert dataset.class_names == ["background", "liver", "spleen"]


def test_nnunet_lists(root):
    """The first edition leaves the channel out of the list, the second may name files by case."""
    items = [pair(root, f"case_{n}", channel="_0000") for n in range(2)]
    for item in items:
        item["image"] = "./" + item["image"].replace("_0000", "")
    dataset = load_dataset(describe(root, labels=LABELS, training=items))
    assert sorted(ids(dataset.training + dataset.validation)) == ["case_0", "case_1"]
    explicit = {
        f"c{n}": {"images": [f"imagesTr/case_{n}_0000.nii.gz"], "label": f"labelsTr/case_{n}.nii.gz"}
        for n in range(2)
    }
    dataset = load_dataset(describe(root, labels=LABELS, channel_names={"0": "CT"}, dataset=explicit))
    assert sorted(ids(dataset.training + dataset.validation)) == ["c0", "c1"]


def test_folders_without_description(root):
    for n in range(3):
        pair(root, f"case_{n}")
    dataset = load_dataset(root)
    assert dataset.labels == {0: "background", 1: "class_1", 2: "class_2"}
    assert dataset.name == "data #1"
    write(root / "labelsTr" / "case_1.nii.gz", values=5)
    write(root / "labelsTr" / "case_2.nii.gz", values=60)
    assert load_dataset(root).num_classes == 60


def test_folders_without_description_and_with_gaps(root):
    for n in range(2):
        pair(root, f"case_{n}")
    array = np.zeros((4, 5, 3), np.uint8)
    array[0, 0, 0] = 255
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 3, 1])), root / "labelsTr" / "case_0.nii.gz")
    with pytest.raises(DatasetError, match=r"these hold \[0, 1, 2, 255\]; they must run from 0 to K-1"):
        load_dataset(root)


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


def test_absolute_paths_and_ids_of_ones_own(root, tmp_path):
    items = []
    for n in range(2):
        image = write(tmp_path / "elsewhere" / str(n) / "ct.nii.gz")
        label = write(tmp_path / "elsewhere" / str(n) / "seg.nii.gz")
        items.append({"image": str(image), "label": str(label)})
    with pytest.raises(DatasetError, match=r"same case id .*\"case\": \"name\""):
        load_dataset(describe(root, labels=LABELS, training=items))
    for n, item in enumerate(items):
        item["case"] = f"patient {n}"
    dataset = load_dataset(describe(root, labels=LABELS, training=items))
    assert sorted(ids(dataset.training + dataset.validation)) == ["patient 0", "patient 1"]


# --- broken descriptions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, '"labels" is missing'),
        ([], '"labels" is missing or no object'),
        ({"0": "background"}, r"ids \[0\]; .*one class or more"),
        ({"0": "background", "2": "a"}, r"ids \[0, 2\]; they must run from 0 .*Renumber"),
        ({"1": "a", "2": "b"}, r"ids \[1, 2\]"),
        ({"background": 0, "a": 1, "b": 3}, r"ids \[0, 1, 3\]"),
        ({"background": 0, "whole": [1, 2], "core": [2]}, r"regions .*whole, core"),
        ({"background": 0, "a": 1, "ignore": 2}, "ignore label"),
        ({"0": "background", "1": "a", "2": "a"}, "same name"),
        ({"0": "background", "1": 7}, "name for every id"),
        ({"background": 0, "a": "x"}, "does not map class ids"),
    ],
)
def test_labels_that_cannot_be_trained(root, labels, message):
    describe(root, labels=labels, training=[pair(root, "a")])
    with pytest.raises(DatasetError, match=message) as error:
        load_dataset(root)
    assert "dataset.json" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"labels": ', "not valid JSON .*line 1"),
        ("[1, 2]", "must hold one JSON object"),
        ('{"labels": {"0": "b", "1": "a"}, "training": []}', "training list is empty"),
        ('{"labels": {"0": "b", "1": "a"}, "training": {}}', '"training" must be a list'),
        ('{"labels": {"0": "b", "1": "a"}}', 'no "training" list'),
        ('{"labels": {"0": "b", "0": "a"}}', "'0' stands twice"),
        ('{"labels": {"0": "b", "1": "a"}, "training": [3]}', "neither a path nor an object"),
        ('{"labels": {"0": "b", "1": "a"}, "training": ["x.nii.gz"]}', 'item 0 names no label; add "label"'),
        ('{"labels": {"0": "b", "1": "a"}, "training": [{"label": "x"}]}', "names no image"),
        (
            '{"labels": {"0": "b", "1": "a"}, "training": [{"image": ["a", "b"], "label": "x"}]}',
            "list of 2 files",
        ),
        ('{"labels": {"0": "b", "1": "a"}, "training": [{"image": [], "label": "x"}]}', "empty list"),
    ],
)
def test_broken_json(root, text, message):
    (root / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_dataset(root)


def test_no_dataset_at_all(root, tmp_path):
    with pytest.raises(DatasetError, match="no such dataset folder"):
        load_dataset(tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"neither a dataset\.json nor folders imagesTr and labelsTr"):
        load_dataset(root)
    (root / "imagesTr").mkdir()
    (root / "labelsTr").mkdir()
    with pytest.raises(DatasetError, match="imagesTr: no images here"):
        load_dataset(root)


def test_further_channels_and_lone_files_in_folders(root):
    pair(root, "a", channel="_0000")
    write(root / "imagesTr" / "a_0001.nii.gz")
    write(root / "imagesTr" / "b.nii.gz")
    write(root / "labelsTr" / "c.nii.gz")
    with pytest.raises(DatasetError, match="3 problems") as error:
        load_dataset(root)
    text = "\n".join(error.value.problems)
    assert "case 'a'" in text
    assert "further channel" in text
    assert "b.nii.gz has no label" in text
    assert "c.nii.gz has no image" in text


# --- broken cases ---------------------------------------------------------------------------------------------------


def test_one_error_lists_every_broken_case(root):
    items = [pair(root, f"c{n}") for n in range(6)]
    (root / items[0]["image"]).unlink()
    write(root / items[1]["label"], (4, 5, 4))
    write(root / items[2]["label"], affine=np.diag([-2.0, 2, 3, 1]))
    (root / items[3]["image"]).write_bytes(b"junk")
    write(root / items[4]["image"], (4, 5))
    write(root / items[4]["label"], (4, 5))
    describe(root, labels=LABELS, training=items)
    with pytest.raises(DatasetError, match=r"dataset\.json: 5 problems:") as error:
        load_dataset(root)
    for problem, parts in zip(
        sorted(error.value.problems),
        (
            ("case 'c0'", "c0.nii.gz", "no such file"),
            ("case 'c1'", "c1.nii.gz", "size (4, 5, 3) against (4, 5, 4)", "resample the label"),
            ("case 'c2'", "c2.nii.gz", "12 mm apart"),
            ("case 'c3'", "c3.nii.gz", "not a NIfTI file"),
            ("case 'c4'", "c4.nii.gz", "2 axes, most cases have 3"),
        ),
        strict=True,
    ):
        for part in parts:
            assert part in problem
    assert load_dataset(root, check=False).num_classes == 3


def test_at_most_twenty_are_shown_and_all_are_counted(root):
    with pytest.raises(DatasetError, match=r"60 problems:(.|\n)*\.\.\. and 40 more") as error:
        load_dataset(describe(root, **bare(30)))
    assert str(error.value).count("\n  - ") == 20
    assert len(error.value.problems) == 60


@given(shift=st.floats(-1, 1), axis=st.integers(0, 2))
@some
def test_grids_are_compared_in_voxels(tmp_path, shift, axis):
    affine = np.diag([2.0, 2, 3, 1])
    write(tmp_path / "i" / "a.nii.gz", affine=affine)
    moved = affine.copy()
    moved[axis, 3] += shift * affine[axis, axis]
    write(tmp_path / "l" / "a.nii.gz", affine=moved)
    case = Case("a", tmp_path / "i" / "a.nii.gz", tmp_path / "l" / "a.nii.gz", "a")
    dataset = Dataset(tmp_path, "x", {0: "b", 1: "a"}, (case,))
    if abs(shift) < 0.0499:
        check_headers(dataset)
    elif abs(shift) > 0.0501:
        with pytest.raises(DatasetError, match="mm apart"):
            check_headers(dataset)


@pytest.mark.parametrize("case", ["../a", "a/b", "a:b", "", "a ", ".", "x" * 121, "a\nb", "肺" * 67, "NUL"])
def test_ids_have_to_be_file_names(root, case):
    items = [pair(root, "a") | {"case": case or "."}, pair(root, "b")]
    with pytest.raises(DatasetError, match="no safe file name"):
        load_dataset(describe(root, labels=LABELS, training=items))


def test_ids_and_images_are_unique(root):
    items = [pair(root, "a"), pair(root, "b")]
    with pytest.raises(DatasetError, match=r"listed twice \(in training and validation\)"):
        load_dataset(describe(root, labels=LABELS, training=items, validation=[items[0]]))
    items.append(pair(root, "A", "other", "otherL"))
    with pytest.raises(DatasetError, match="upper and lower case"):
        load_dataset(describe(root, labels=LABELS, training=items))


# --- splits ---------------------------------------------------------------------------------------------------------


@given(
    count=st.integers(2, 60),
    per_patient=st.integers(1, 4),
    seed=st.integers(0, 1000),
    fraction=st.floats(0.01, 0.99),
)
@some
def test_seeded_split_never_divides_a_patient(tmp_path, count, per_patient, seed, fraction):
    describe(tmp_path, **bare(count, per_patient))
    if count <= per_patient:
        with pytest.raises(DatasetError, match="one patient"):
            load_dataset(tmp_path, check=False, seed=seed)
        return
    dataset = load_dataset(tmp_path, check=False, seed=seed, validation_fraction=fraction)
    training, validation = ({case.group for case in part} for part in (dataset.training, dataset.validation))
    assert training
    assert validation
    assert not training & validation
    assert sorted(ids(dataset.training + dataset.validation)) == sorted(f"c{n}" for n in range(count))
    again = load_dataset(tmp_path, check=False, seed=seed, validation_fraction=fraction)
    assert again == dataset
    wanted = max(1, round(fraction * count))
    assert len(dataset.validation) < wanted + per_patient


@given(
    patients=st.integers(2, 25),
    per_patient=st.integers(1, 3),
    folds=st.integers(2, 6),
    seed=st.integers(0, 1000),
)
@some
def test_folds_never_leak_and_cover_all(tmp_path, patients, per_patient, folds, seed):
    count = patients * per_patient
    describe(tmp_path, **bare(count, per_patient))
    if patients < folds:
        with pytest.raises(DatasetError, match=f"{folds} folds need as many patients"):
            load_dataset(tmp_path, fold=0, num_folds=folds, seed=seed, check=False)
        return
    seen: list[str] = []
    sizes = []
    for fold in range(folds):
        dataset = load_dataset(tmp_path, fold=fold, num_folds=folds, seed=seed, check=False)
        assert not {case.group for case in dataset.training} & {case.group for case in dataset.validation}
        assert len(dataset.training) + len(dataset.validation) == count
        seen += ids(dataset.validation)
        sizes.append(len(dataset.validation))
    assert sorted(seen) == sorted(f"c{n}" for n in range(count))
    assert max(sizes) - min(sizes) <= per_patient


def test_the_order_of_the_list_does_not_change_the_split(tmp_path):
    content = bare(20)
    first = load_dataset(describe(tmp_path, **content), check=False, seed=3)
    content["training"].reverse()
    second = load_dataset(describe(tmp_path, **content), check=False, seed=3)
    assert set(ids(first.validation)) == set(ids(second.validation))
    other = load_dataset(tmp_path, check=False, seed=4)
    assert set(ids(first.validation)) != set(ids(other.validation))
    assert len(first.validation) == 4


def test_folds_pool_training_and_validation(tmp_path):
    content = bare(10)
    content["validation"] = content["training"][7:]
    content["training"] = content["training"][:7]
    describe(tmp_path, **content)
    assert len(load_dataset(tmp_path, check=False).validation) == 3
    found = [case.id for k in range(5) for case in load_dataset(tmp_path, fold=k, check=False).validation]
    assert sorted(found) == [f"c{n}" for n in range(10)]


def test_folds_that_the_items_carry(tmp_path):
    content = bare(6)
    for n, item in enumerate(content["training"]):
        item["fold"] = n % 3
    describe(tmp_path, **content)
    assert ids(load_dataset(tmp_path, check=False, fold=2).validation) == ["c2", "c5"]
    assert ids(load_dataset(tmp_path, check=False).validation) == ["c0", "c3"]
    with pytest.raises(
        DatasetError, match=r"fold 3 was asked for, and the cases carry the folds \[0, 1, 2\]"
    ):
        load_dataset(tmp_path, check=False, fold=3)
    content["training"][1]["patient"] = "p0"
    with pytest.raises(DatasetError, match="patient 'p0' is in several folds"):
        load_dataset(describe(tmp_path, **content), check=False, fold=0)
    del content["training"][0]["fold"]
    with pytest.raises(DatasetError, match="case 'c0' has no fold"):
        load_dataset(describe(tmp_path, **content), check=False, fold=0)
    content["training"][0]["fold"] = "0"
    with pytest.raises(DatasetError, match="\"fold\" is '0'"):
        load_dataset(describe(tmp_path, **content), check=False, fold=0)


def test_patient_in_two_lists(tmp_path):
    content = bare(4)
    content["validation"] = [content["training"].pop()]
    content["validation"][0]["patient"] = "p0"
    with pytest.raises(DatasetError, match="patient 'p0' is in both training and validation"):
        load_dataset(describe(tmp_path, **content), check=False)


def test_one_case_and_no_validation(root):
    describe(root, labels=LABELS, training=[pair(root, "a")])
    with pytest.raises(DatasetError, match='one case and no "validation" list; name at least one case'):
        load_dataset(root)
    assert load_dataset(root, validation_fraction=0).validation == ()


@pytest.mark.parametrize(
    "arguments", [{"fold": 5}, {"fold": -1}, {"fold": 0, "num_folds": 1}, {"validation_fraction": 1}]
)
def test_arguments_out_of_range(tmp_path, arguments):
    with pytest.raises(ValueError, match="must be"):
        load_dataset(describe(tmp_path, **bare(9)), check=False, **arguments)


# --- digest ---------------------------------------------------------------------------------------------------------


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


# --- real data ------------------------------------------------------------------------------------------------------


def test_openkbp(shared_data):
    dataset = load_dataset(shared_data / "openkbp")
    assert (len(dataset.training), len(dataset.validation), dataset.num_classes) == (146, 25, 5)
    assert dataset.class_names == ["background", "Brainstem", "SpinalCord", "RightParotid", "LeftParotid"]
    assert len(dataset.digest()) == 64


def test_many_cases_are_parsed_and_split_in_seconds(tmp_path):
    describe(tmp_path, **bare(20_000))
    dataset = load_dataset(tmp_path, check=False, fold=0)
    assert len(dataset.training) + len(dataset.validation) == 20_000


# --- pairs of header and voxels, labels in another order ------------------------------------------------------------


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


@pytest.mark.parametrize("axes", ["LAS", "RAS", "PSL"])
def test_a_label_on_the_same_voxels_in_another_order_is_taken(root, axes):
    item = pair(root, "a")
    stored = nib.load(root / item["label"])
    turn = nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], nib.orientations.axcodes2ornt(axes))
    nib.save(stored.as_reoriented(turn), root / item["label"])
    describe(root, labels=LABELS, training=[item])
    assert ids(load_dataset(root, validation_fraction=0).training) == ["a"]
    moved = stored.affine.copy()
    moved[0, 3] += 2
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), moved).as_reoriented(turn), root / item["label"])
    with pytest.raises(DatasetError, match="is not on the grid of image"):
        load_dataset(root, validation_fraction=0)
