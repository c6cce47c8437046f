"""What a dataset folder says of itself, in every spelling, and what is refused."""

import pytest

from pipelines.data.cases import DatasetError
from pipelines.data.dataset_folder import load_dataset
from pipelines.data.integrity import check_headers
from tests.pipelines.data.dataset_files import LABELS, describe, ids, pair, write


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


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, '"labels" is missing'),
        ([], '"labels" is missing or not an object'),
        ({"0": "background"}, r"ids \[0\]; .*at least one class"),
        ({"0": "background", "2": "a"}, r"ids \[0, 2\]; they must run from 0 .*Renumber"),
        ({"1": "a", "2": "b"}, r"ids \[1, 2\]"),
        ({"background": 0, "a": 1, "b": 3}, r"ids \[0, 1, 3\]"),
        (
            {"background": 0, "whole": [1, 3], "core": [3]},
            r"regions of the values \[1, 3\]; .*cover 1 to K-1",
        ),
        ({"whole": [1, 2], "core": [2]}, r'regions of the values .*besides "background": 0'),
        ({"background": 0, "a": 1, "ignore": 1}, "ignore label 1; it must be one value above all others, 2"),
        ({"background": 0, "a": 1, "ignore": 3}, "no gap between"),
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


def test_regions_and_voxels_to_ignore(root):
    labels = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [2, 3], "enhancing": 3, "ignore": 4}
    describe(root, labels=labels, regions_class_order=[1, 2, 3], training=[pair(root, "a"), pair(root, "b")])
    dataset = load_dataset(root)
    assert dataset.labels == {
        0: "background",
        1: "whole_tumor without tumor_core",
        2: "tumor_core without enhancing",
        3: "enhancing",
    }
    assert dataset.num_classes == 4
    assert dataset.regions == {"whole_tumor": (1, 2, 3), "tumor_core": (2, 3), "enhancing": (3,)}
    assert dataset.structures == dataset.regions
    assert dataset.ignore == 4
    segments = {0: "background", 1: "whole_tumor", 2: "tumor_core", 3: "enhancing", 4: "ignore"}
    item = dataset.as_dicts("training")[0]
    assert (item["ignore"], item["segments"]) == (4, segments)
    plain = load_dataset(describe(root, labels=LABELS, training=[pair(root, "a"), pair(root, "b")]))
    assert plain.structures == {"liver": (1,), "spleen": (2,)}
    assert not {"ignore", "segments"} & plain.as_dicts("training")[0].keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"labels": ', "not valid JSON .*line 1"),
        ("[1, 2]", "must hold one JSON object"),
        ('{"labels": {"0": "b", "1": "a"}, "training": []}', "training list is empty"),
        ('{"labels": {"0": "b", "1": "a"}, "training": {}}', '"training" must be a list'),
        ('{"labels": {"0": "b", "1": "a"}}', 'no "training" list'),
        ('{"labels": {"0": "b", "0": "a"}}', "'0' occurs twice"),
        ('{"labels": {"0": "b", "1": "a"}, "training": [3]}', "neither a path nor an object"),
        ('{"labels": {"0": "b", "1": "a"}, "training": ["x.nii.gz"]}', 'item 0 has no label; add "label"'),
        ('{"labels": {"0": "b", "1": "a"}, "training": [{"label": "x"}]}', "has no image"),
        (
            '{"labels": {"0": "b", "1": "a"}, "training": [{"image": "a", "label": ["x", "y"]}]}',
            "label is a list of 2 files",
        ),
        ('{"labels": {"0": "b", "1": "a"}, "training": [{"image": [], "label": "x"}]}', "empty list"),
    ],
)
def test_broken_json(root, text, message):
    (root / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_dataset(root)


def test_missing_channels_and_lone_files_in_folders(root):
    pair(root, "a", channel="_0000")
    write(root / "imagesTr" / "a_0002.nii.gz")
    write(root / "imagesTr" / "b.nii.gz")
    write(root / "labelsTr" / "c.nii.gz")
    with pytest.raises(DatasetError, match="3 problems") as error:
        load_dataset(root)
    text = "\n".join(error.value.problems)
    assert "case 'a'" in text
    assert "files of the channels 0000, 0002, and needs one each of 0000 to 0002" in text
    assert "b.nii.gz has no label" in text
    assert "c.nii.gz has no image" in text


TWO = {"0": "FLAIR", "1": "T1"}


def channels(root, name, count=2, images="imagesTr"):
    for channel in range(count):
        write(root / images / f"{name}_{channel:04d}.nii.gz")
    write(root / "labelsTr" / f"{name}.nii.gz")
    return [f"{images}/{name}_{channel:04d}.nii.gz" for channel in range(count)]


def test_a_file_for_each_channel_in_every_spelling(root):
    names = ["a", "b"]
    files = {name: channels(root, name) for name in names}
    label = {name: f"labelsTr/{name}.nii.gz" for name in names}
    for name in ("t_0000", "t_0001"):
        write(root / "imagesTs" / f"{name}.nii.gz")
    spellings = {
        "nnU-Net": {"channel_names": TWO, "file_ending": ".nii.gz"},
        "left out": {
            "modality": TWO,
            "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": label[n]} for n in names],
            "test": ["./imagesTs/t.nii.gz"],
        },
        "lists": {
            "training": [{"image": files[n], "label": label[n]} for n in names],
            "test": [{"image": ["imagesTs/t_0000.nii.gz", "imagesTs/t_0001.nii.gz"]}],
        },
        "explicit": {"dataset": {n: {"images": files[n], "label": label[n]} for n in names}},
    }
    for spelling, content in spellings.items():
        dataset = load_dataset(describe(root, labels=LABELS, **content), validation_fraction=0)
        assert ids(dataset.training) == names, spelling
        assert [list(case.images) for case in dataset.training] == [
            [root / path for path in files[name]] for name in names
        ]
        assert dataset.num_channels == 2
        assert dataset.as_dicts("training")[0]["image"] == [str(root / path) for path in files["a"]]
        if spelling != "explicit":
            assert [(case.id, len(case.images)) for case in dataset.test] == [("t", 2)]
    (root / "dataset.json").unlink()
    assert load_dataset(root, validation_fraction=0).num_channels == 2


def test_channels_that_are_not_all_there(root):
    channels(root, "a")
    channels(root, "b", 1)
    describe(root, labels=LABELS, channel_names=TWO)
    with pytest.raises(
        DatasetError, match=r"case 'b'.*1 channel\(s\), but dataset\.json lists 2; add the files"
    ):
        load_dataset(root)
    describe(root, labels=LABELS)
    with pytest.raises(
        DatasetError, match=r"has 1 channels, but most cases have 2|has 2 channels, but most cases have 1"
    ):
        load_dataset(root)
    listed = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in "ab"]
    three = {**TWO, "2": "T2"}
    write(root / "imagesTr" / "b_0001.nii.gz")
    describe(root, labels=LABELS, modality=three, training=listed)
    with pytest.raises(DatasetError, match=r"a_0002\.nii\.gz: no such file"):
        load_dataset(root)


def test_channels_on_other_grids_and_files_in_two_cases(root):
    a, b = channels(root, "a"), channels(root, "b")
    write(root / a[1], (4, 5, 4))
    label = "labelsTr/b.nii.gz"
    items = [{"image": a, "label": "labelsTr/a.nii.gz"}, {"image": b, "label": label}]
    with pytest.raises(DatasetError, match=r"a_0001.*not on the grid of .*a_0000.*of whose image"):
        load_dataset(describe(root, labels=LABELS, training=items))
    write(root / a[1])
    for twice in ([b[0], a[1]], [b[0], b[0]]):
        items[1]["image"] = twice
        with pytest.raises(DatasetError, match="is listed twice"):
            load_dataset(describe(root, labels=LABELS, training=items))


def test_test_images_are_named_as_those_of_the_training(root):
    """Case numbers of four digits are no channels where the training has none."""
    for name in ("case_0000", "case_0001"):
        pair(root, name)
    for name in ("case_0002", "case_0003"):
        write(root / "imagesTs" / f"{name}.nii.gz")
    dataset = load_dataset(describe(root, labels=LABELS))
    assert ids(dataset.test) == ["case_0002", "case_0003"]
