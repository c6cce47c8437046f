"""Datasets in other layouts, by the command that a user types: same cases, labels and channels, and no voxel copied."""

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.__main__ import main
from pipelines.data.conversion.convert import convert
from pipelines.data.dataset_folder import load_dataset
from tests.pipelines.data.dataset_files import LABELS, describe, ids, pair, subject, write
from tests.pipelines.tumours import IGNORE, REGIONS, write_tumours
from transforms.errors import UserError
from transforms.io.readers import read_label


def real(data, split="training"):
    """What a list leads to: id, the real files of the image, and the real label."""
    return [
        (
            case.id,
            [os.path.realpath(image) for image in case.images],
            case.label and os.path.realpath(case.label),
        )
        for case in data.cases(split)
    ]


def everything(data):
    return sorted(each for split in ("training", "validation") for each in real(data, split))


@pytest.fixture
def msd(root):
    entries = [pair(root, name) for name in ("a", "b", "c", "d")]
    write(root / "imagesTs" / "t.nii.gz")
    entries[0]["patient"] = "p"
    return describe(
        root,
        name="Liver",
        modality={"0": "CT"},
        labels=LABELS,
        training=entries[:3],
        validation=entries[3:],
        test=["imagesTs/t.nii.gz"],
        licence="CC0",
    )


@pytest.fixture
def subjects(root):
    for number, split in enumerate(("train", "train", "val", "test"), start=1):
        subject(root, f"s{number}", seed=number)
        with (root / "meta.csv").open("a") as stream:
            stream.write(f"s{number};{split}\n" if number > 1 else f"image_id;split\ns1;{split}\n")
    return root


def run(*words):
    return main(["convert", *map(str, words)])


def test_there_and_back_gives_the_same_cases_labels_and_channels(msd, tmp_path, capsys):
    raw, back = tmp_path / "raw" / "Dataset007_Liver", tmp_path / "back"
    assert run(msd, raw, "--to", "nnunet") == 0
    said = capsys.readouterr().out
    assert "by symbolic links: 3 training, 1 validation, 1 test cases" in said
    assert "splits_final.json belongs into nnUNet_preprocessed/Dataset007_Liver" in said
    assert sorted(path.name for path in (raw / "imagesTr").iterdir()) == [f"{n}_0000.nii.gz" for n in "abcd"]
    assert all(path.is_symlink() for folder in ("imagesTr", "labelsTr") for path in (raw / folder).iterdir())
    assert json.loads((raw / "dataset.json").read_text()) == {
        "name": "Liver",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    assert json.loads((raw / "splits_final.json").read_text()) == [{"train": ["a", "b", "c"], "val": ["d"]}]
    original, theirs = load_dataset(msd), load_dataset(raw)
    assert everything(theirs) == everything(original)
    assert (theirs.labels, theirs.channel_names) == (original.labels, original.channel_names)
    assert run(raw, back) == 0
    ours = load_dataset(back)
    for split in ("training", "validation", "test"):
        assert real(ours, split) == real(original, split)
    assert (ours.labels, ours.channel_names, ours.name) == (original.labels, ["CT"], "Liver")
    assert main(["check", str(raw)]) == 0
    assert main(["check", str(back)]) == 0
    assert "5 cases, 0 refused" in capsys.readouterr().out


def test_a_dataset_json_of_ours_keeps_what_the_dataset_says(msd, tmp_path):
    convert(msd, tmp_path / "copy")
    content = json.loads((tmp_path / "copy" / "dataset.json").read_text())
    assert content["training"][0] == {
        "case": "a",
        "image": "../data #1/imagesTr/a.nii.gz",
        "label": "../data #1/labelsTr/a.nii.gz",
        "patient": "p",
    }
    assert (content["licence"], content["modality"]) == ("CC0", {"0": "CT"})
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["dataset.json"]


def test_masks_of_cases_are_kept_where_they_have_a_place(root, tmp_path):
    entries = [pair(root, name) | {"mask": f"masks/{name}.nii.gz"} for name in ("a", "b")]
    data = describe(root, modality={"0": "CT"}, labels=LABELS, training=entries[:1], validation=entries[1:])
    write(root / "masks" / "a.nii.gz")
    with pytest.raises(UserError, match=r"case 'b': .*b\.nii\.gz: no such file"):
        convert(data, tmp_path / "ours")
    write(root / "masks" / "b.nii.gz")
    convert(data, tmp_path / "ours")
    copy = load_dataset(tmp_path / "ours")
    masks = [os.path.realpath(case.mask or "") for case in (*copy.training, *copy.validation)]
    assert masks == [os.path.realpath(root / "masks" / f"{name}.nii.gz") for name in ("a", "b")]
    notice = convert(data, tmp_path / "Dataset001_A", to="nnunet").notices[-1]
    assert "no place for the masks of 2 cases" in notice


def test_paths_hold_where_the_destination_is_behind_a_link(msd, tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    convert(msd, tmp_path / "near" / "Dataset001_A", to="nnunet")
    convert(msd, tmp_path / "near" / "ours")
    for folder in ("Dataset001_A", "ours"):
        assert everything(load_dataset(tmp_path / "near" / folder)) == everything(load_dataset(msd))


def test_a_second_call_completes_and_replaces_nothing(msd, tmp_path, capsys):
    raw = tmp_path / "Dataset007_Liver"
    assert run(msd, raw, "--to", "nnunet") == 0
    before = {path: path.lstat().st_mtime_ns for path in raw.rglob("*")}
    assert run(msd, raw, "--to", "nnunet") == 0
    assert {path: path.lstat().st_mtime_ns for path in raw.rglob("*")} == before
    for name in ("dataset.json", "labelsTr/b.nii.gz", "imagesTr/d_0000.nii.gz"):
        (raw / name).unlink()
    assert run(msd, raw, "--to", "nnunet") == 0
    assert sorted(raw.rglob("*")) == sorted(before)
    (raw / "labelsTr" / "b.nii.gz").unlink()
    write(raw / "labelsTr" / "b.nii.gz")
    write(raw / "imagesTr" / "z_0000.nii.gz")
    (raw / "splits_final.json").write_text("[]")
    stays = (raw / "labelsTr" / "b.nii.gz").read_bytes()
    capsys.readouterr()
    assert run(msd, raw, "--to", "nnunet") == 1
    said = capsys.readouterr().err
    assert "3 problems" in said
    assert "b.nii.gz is there and is not" in said
    assert "z_0000.nii.gz is no part of the dataset" in said
    assert "splits_final.json is there and says something else" in said
    assert (raw / "labelsTr" / "b.nii.gz").read_bytes() == stays
    assert run(msd, tmp_path / "ours") == 0
    assert run(msd, tmp_path / "ours") == 0
    describe(tmp_path / "ours", labels=LABELS)
    with pytest.raises(UserError, match="says something else"):
        convert(msd, tmp_path / "ours")
    with pytest.raises(UserError, match="is the dataset itself"):
        convert(msd, msd)


def test_hard_links_where_symbolic_ones_cannot_be_made(msd, tmp_path, monkeypatch):
    shutil.move(msd / "imagesTr" / "a.nii.gz", msd / "stored.nii.gz")
    (msd / "imagesTr" / "a.nii.gz").symlink_to(msd / "stored.nii.gz")

    def refuse(*_, **__):
        raise OSError("no right to do that")

    monkeypatch.setattr(os, "symlink", refuse)
    raw = tmp_path / "Dataset007_Liver"
    for _ in range(2):
        assert convert(msd, raw, to="nnunet").by == "hard links"
    image = raw / "imagesTr" / "a_0000.nii.gz"
    assert not image.is_symlink()
    assert image.samefile(msd / "stored.nii.gz")
    assert ids(load_dataset(raw, validation_fraction=0).training) == ["a", "b", "c", "d"]
    monkeypatch.setattr(os, "link", refuse)
    bare = tmp_path / "Dataset008_Liver"
    for _ in range(2):
        made = convert(msd, bare, to="nnunet")
    assert made.by == "paths"
    assert made.cases == {"training": 3, "validation": 1, "test": 0}
    assert "the 1 test cases are left out" in made.notices[1]
    assert sorted(path.name for path in bare.iterdir()) == ["dataset.json", "splits_final.json"]
    entry = json.loads((bare / "dataset.json").read_text())["dataset"]["b"]
    assert entry == {
        "images": ["../data #1/imagesTr/b.nii.gz"],
        "label": "../data #1/labelsTr/b.nii.gz",
    }
    assert everything(load_dataset(bare)) == everything(load_dataset(msd))


def test_folds_go_both_ways(root, tmp_path):
    entries = [{**pair(root, f"c{n}"), "fold": n % 3} for n in range(6)]
    describe(root, labels=LABELS, channel_names={"0": "CT"}, training=entries)
    raw, back = tmp_path / "Dataset001_A", tmp_path / "back"
    convert(root, raw, to="nnunet")
    convert(raw, back)
    for fold in range(3):
        assert ids(load_dataset(back, fold=fold).validation) == [f"c{fold}", f"c{fold + 3}"]
    elsewhere = shutil.move(raw / "splits_final.json", tmp_path / "splits.json")
    convert(raw, tmp_path / "again", splits=elsewhere)
    assert (tmp_path / "again" / "dataset.json").read_text() == (back / "dataset.json").read_text()
    convert(raw, tmp_path / "without")
    assert "fold" not in (tmp_path / "without" / "dataset.json").read_text()


def test_channels_in_files_of_their_own(root, tmp_path):
    for name in ("a", "b"):
        write(root / "labelsTr" / f"{name}.nii.gz")
        for channel in range(2):
            write(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
    describe(root, labels={"background": 0, "liver": 1, "spleen": 2}, channel_names={"0": "T1", "1": "T2"})
    ours, raw = tmp_path / "ours", tmp_path / "Dataset001_A"
    convert(root, ours)
    convert(ours, raw, to="nnunet")
    for folder in (ours, raw):
        data = load_dataset(folder)
        assert everything(data) == everything(load_dataset(root))
        assert data.channel_names == ["T1", "T2"]
    assert main(["check", str(raw)]) == 0
    content = json.loads((ours / "dataset.json").read_text())
    content["training"][1]["image"] = content["training"][1]["image"][:1]
    (ours / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"case 'b': .* holds 2 channels \(T1, T2\), and nnU-Net takes a file for"
    ):
        convert(ours, tmp_path / "Dataset002_A", to="nnunet")


def test_subjects_become_a_dataset_json_and_nnunet_raw_with_label_maps(subjects, tmp_path, capsys):
    ours, raw = tmp_path / "ours", tmp_path / "Dataset003_Organs"
    assert run(subjects, ours, "--classes", "spleen") == 0
    data = load_dataset(ours)
    assert [ids(data.cases(split)) for split in ("training", "validation", "test")] == [
        ["s1", "s2"],
        ["s3"],
        ["s4"],
    ]
    assert data.labels == {0: "background", 1: "spleen"}
    assert main(["check", str(ours)]) == 0
    assert run(subjects, raw, "--to", "nnunet") == 1
    assert "say --write-labels to have their label maps written" in capsys.readouterr().err
    assert not raw.exists()
    assert run(subjects, raw, "--to", "nnunet", "--write-labels") == 0
    assert "1 test cases, 4 label maps written" in capsys.readouterr().out
    assert (raw / "imagesTs" / "s4_0000.nii.gz").is_symlink()
    assert not (raw / "labelsTs" / "s4.nii.gz").is_symlink()
    found = load_dataset(raw)
    names = {value: name for value, name in found.labels.items()}
    for case in (*found.training, *found.validation, *found.test):
        wanted = read_label(subjects / case.id / "segmentations", labels=names)
        np.testing.assert_array_equal(read_label(case.label).numpy(), wanted.numpy())
    assert main(["check", str(raw)]) == 0
    assert run(raw, tmp_path / "back") == 0
    assert [ids(load_dataset(tmp_path / "back").cases(split)) for split in ("training", "validation")] == [
        ["s1", "s2"],
        ["s3"],
    ]


def test_classes_are_chosen_of_masks_only_and_by_names_that_there_are(subjects, msd_copy, tmp_path):
    with pytest.raises(UserError, match="there is no class 'lung'; choose among liver, spleen"):
        convert(subjects, tmp_path / "x", classes=["lung"])
    with pytest.raises(UserError, match="named twice"):
        convert(subjects, tmp_path / "x", classes=["liver", "liver"])
    with pytest.raises(UserError, match="is a label map whose numbers would have to be written anew"):
        convert(msd_copy, tmp_path / "x", classes=["liver"])
    with pytest.raises(UserError, match="--write-labels is for nnU-Net"):
        convert(subjects, tmp_path / "x", write_labels=True)
    assert not (tmp_path / "x").exists()


@pytest.fixture
def msd_copy(tmp_path):
    root = tmp_path / "maps"
    return describe(root, labels=LABELS, training=[pair(root, "a")])


def test_all_that_nnunet_cannot_have_is_said_at_once(root, tmp_path):
    entries = [pair(root, name) for name in ("a", "a_0000", "b", "c")]
    write(root / "imagesTr" / "d.nii")
    entries.append({"image": "imagesTr/d.nii", "label": "labelsTr/c.nii.gz", "case": "d"})
    (root / "labelsTr" / "b.nii.gz").unlink()
    describe(root, labels=LABELS, training=entries)
    with pytest.raises(UserError) as error:
        convert(root, tmp_path / "organs", to="nnunet")
    said = "\n".join(error.value.problems)
    assert "case 'a_0000': its name is that of a file of channel 0 of the case 'a'" in said
    assert "labelsTr/b.nii.gz: no such file or folder" in said
    assert "call the folder so, not 'organs'" in said
    assert "one ending for all images" in said
    assert 'add "channel_names"' in said
    assert len(error.value.problems) == 5
    assert not (tmp_path / "organs").exists()


def test_names_that_clash_or_cannot_be_files_are_refused(root, tmp_path):
    entries = [{**pair(root, "a"), "case": "one"}, {**pair(root, "b"), "case": "ONE"}]
    entries.append({**pair(root, "c"), "case": "a/b"})
    describe(root, labels=LABELS, channel_names={"0": "CT"}, training=entries)
    for to, name in (("msd", "x"), ("nnunet", "Dataset001_X")):
        with pytest.raises(UserError) as error:
            convert(root, tmp_path / name, to=to)
        assert len(error.value.problems) == 2
        assert not (tmp_path / name).exists()


def test_a_dataset_without_names_of_classes_is_refused(root, tmp_path):
    pair(root, "a")
    with pytest.raises(UserError, match="its classes have no names"):
        convert(root, tmp_path / "x")


NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters='<>:"/\\|?*', exclude_categories=["C", "Z"]), min_size=1, max_size=12),
    min_size=1,
    max_size=4,
    unique_by=str.casefold,
)  # fmt: skip


@given(NAMES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_survives_or_is_refused(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("names")
    write(root / "i.nii.gz")
    entries = []
    for number, name in enumerate(names):
        for kind in ("i", "l"):
            shutil.copy(root / "i.nii.gz", root / f"{kind}{number}.nii.gz")
        entries.append({"case": name, "image": f"i{number}.nii.gz", "label": f"l{number}.nii.gz"})
    describe(root, labels=LABELS, channel_names={"0": "CT"}, training=entries)
    raw, back = root / "Dataset001_A", root / "back"
    try:
        convert(root, raw, to="nnunet")
    except UserError:
        assert not raw.exists()
        return
    convert(raw, back)
    before, after = (load_dataset(folder, validation_fraction=0) for folder in (root, back))
    assert sorted(real(before)) == sorted(real(after))


def test_a_public_dataset_there_and_back(shared_data, tmp_path):
    raw, back = tmp_path / "Dataset004_Hippocampus", tmp_path / "back"
    convert(shared_data / "hippocampus", raw, to="nnunet")
    convert(raw, back)
    original, theirs, ours = (load_dataset(folder) for folder in (shared_data / "hippocampus", raw, back))
    assert everything(theirs) == everything(original)
    assert (theirs.labels, theirs.channel_names) == (original.labels, original.channel_names)
    for split in ("training", "validation", "test"):
        assert sorted(real(ours, split)) == sorted(real(original, split))


@pytest.mark.parametrize("layout", ["msd", "nnunet"])
def test_regions_and_what_is_to_be_ignored_are_kept(tmp_path, layout):
    source = write_tumours(tmp_path / "data")
    wanted = load_dataset(source)
    words = ["--to", "nnunet"] if layout == "nnunet" else []
    assert run(source, tmp_path / "Dataset001_There", *words) == 0
    content = json.loads((tmp_path / "Dataset001_There" / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, **REGIONS, "ignore": IGNORE}
    assert layout == "msd" or content["regions_class_order"] == [1, 2, 3]
    found = load_dataset(tmp_path / "Dataset001_There")
    assert (found.labels, found.regions, found.ignore) == (wanted.labels, wanted.regions, wanted.ignore)
