"""A dataset looked at: what is kept, what is looked at again, and what is said of cases that cannot be read."""

import json
import os

import numpy as np
import pytest

from pipelines.data.cases import DatasetError
from pipelines.data.dataset_folder import load_dataset
from pipelines.planning.fingerprint import FOLDER, fingerprint
from pipelines.planning.summary import summarise
from tests.pipelines.planning.volumes import LABELS, body, save, write_dataset
from transforms.utils.files import FolderError


def kept(store):
    return {path.name: path.stat().st_mtime_ns for path in sorted((store / FOLDER).iterdir())}


def test_a_dataset(tmp_path):
    data = write_dataset(tmp_path, channel_names={"0": "CT"})
    found = fingerprint(data, tmp_path / "store", 0)
    assert (found["name"], found["channel_names"]) == ("bodies", ["CT"])
    assert found["labels"] == {str(value): name for value, name in LABELS.items()}
    assert [case["case"] for case in found["cases"]] == ["c0", "c1", "c2"]
    assert found["pairs"] == [{"left": 1, "right": 2, "by": "name and place"}]
    assert json.loads(json.dumps(found)) == found
    # Processes of their own find the same, and so does a copy of the dataset elsewhere.
    assert fingerprint(data, tmp_path / "other", 2) == found
    assert fingerprint(write_dataset(tmp_path / "copy", channel_names={"0": "CT"}), tmp_path / "o") == found
    other = write_dataset(tmp_path / "seed", channel_names={"0": "CT"}, seed=9)
    assert fingerprint(other, tmp_path / "o")["digest"] != found["digest"]


def test_only_what_changed_is_looked_at_again(tmp_path):
    data, store = write_dataset(tmp_path), tmp_path / "store"
    first = fingerprint(data, store)
    before = kept(store)
    assert len(before) == 3
    assert fingerprint(data, store) == first
    assert kept(store) == before

    image, label = body()
    save(data.training[1].image, image + np.int16(7), np.diag([2.0, 2.0, 5.0, 1.0]))
    save(data.training[1].label, label, np.diag([2.0, 2.0, 5.0, 1.0]))
    second = fingerprint(data, store)
    after = kept(store)
    assert len(after) == 3, "what was found before is gone"
    assert len(before.items() & after.items()) == 2
    assert second["cases"][1]["channels"][0]["outside"]["quantiles"][0] == -993
    assert [second["cases"][at] for at in (0, 2)] == [first["cases"][at] for at in (0, 2)]


def test_what_is_known_is_not_read(tmp_path):
    data, store = write_dataset(tmp_path), tmp_path / "store"
    first = fingerprint(data, store)
    for case in data.training:
        state = case.image.stat()
        case.image.write_bytes(bytes(state.st_size))
        os.utime(case.image, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert fingerprint(data, store) == first


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "number"])
def test_damaged_files_are_made_again(tmp_path, damage):
    data, store = write_dataset(tmp_path), tmp_path / "store"
    first = fingerprint(data, store)
    path = next((store / FOLDER).iterdir())
    text = path.read_text(encoding="utf-8")
    changed = {
        "cut": text[: len(text) // 2],
        "empty": "",
        "other": "[1, 2]",
        "number": text.replace('"spacing": [2.0', '"spacing": [3.0'),
    }[damage]
    assert changed != text
    path.write_text(changed, encoding="utf-8")
    assert fingerprint(data, store) == first
    assert path.read_text(encoding="utf-8") == text


def test_other_classes_of_the_same_files(tmp_path):
    store = tmp_path / "store"
    fingerprint(write_dataset(tmp_path), store)
    more = write_dataset(tmp_path, labels={**LABELS, 4: "tumour"})
    assert fingerprint(more, store)["cases"][0]["classes"]["4"]["voxels"] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_all_cases_that_cannot_be_read_are_said_at_once(tmp_path, workers):
    data, store = write_dataset(tmp_path), tmp_path / "store"
    data.training[0].image.write_bytes(b"no image")
    _, label = body()
    save(data.training[2].label, label * np.uint8(60), np.diag([2.0, 2.0, 5.0, 1.0]))
    with pytest.raises(DatasetError) as raised:
        fingerprint(data, store, workers)
    assert len(raised.value.problems) == 2
    assert all(f"case 'c{index}'" in said for index, said in zip((0, 2), raised.value.problems, strict=True))
    assert "c2.nii.gz: label value(s) 60, 120, 180 are not among the classes 0 to 3" in str(raised.value)
    assert len(kept(store)) == 1, "what was found of the others is kept"


def test_files_that_are_missing_are_said(tmp_path):
    data = write_dataset(tmp_path)
    for case in data.training[:2]:
        os.remove(case.image)
    with pytest.raises(DatasetError) as raised:
        fingerprint(data, tmp_path / "store")
    assert len(raised.value.problems) == 2


def test_a_store_that_cannot_be_written(tmp_path):
    data = write_dataset(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FolderError, match="--store_dir"):
        fingerprint(data, tmp_path / "file")


def test_one_case(tmp_path):
    found = fingerprint(write_dataset(tmp_path, count=1), tmp_path / "store")
    assert len(found["cases"]) == 1
    assert found["pairs"] == [{"left": 1, "right": 2, "by": "name"}], "one case proves no place"


def die(case):
    os._exit(9)  # as the kernel ends a process that needs too much memory


def test_a_process_that_dies_is_said(tmp_path, monkeypatch):
    data = write_dataset(tmp_path, count=2)
    monkeypatch.setattr("pipelines.planning.fingerprint.look_in_worker", die)
    with pytest.raises(
        DatasetError, match="died, most likely for lack of memory, on one of the cases c0, c1"
    ):
        fingerprint(data, tmp_path / "store", 2)


def test_hippocampus(shared_data, tmp_path):
    root = shared_data / "hippocampus"
    if not root.is_dir():
        pytest.skip(f"no hippocampus in {shared_data}")
    found = summarise(fingerprint(load_dataset(root, check=False), tmp_path))
    assert found["cases"] == 160
    assert found["pairs"] == []
    assert found["orientations"] == {"RAS": 160}
    assert found["anisotropy"]["high"] == 1.0
    volumes = [found["classes"][value]["millilitres"]["median"] for value in ("1", "2")]
    assert all(1 < volume < 3 for volume in volumes)
    assert all(range_["low"] > 20 for range_ in found["shape"])
