"""The patch store: what is built, what is built again, and what is told of broken cases."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.patch_store import PatchStore
from pipelines.data.stored_case import StoreError
from pipelines.utils.file_names import is_portable
from tests.file_systems import refuse_folder_sync
from tests.pipelines.cohort import LABELS, Light, built, entries, leftovers, make_cases, save
from tests.pipelines.data.test_patch_build import python
from transforms.preprocess import Preprocess


def test_nothing_is_built_twice(cohort, tmp_path):
    log = tmp_path / "log"
    store = PatchStore(tmp_path / "s", Light(log), cohort, LABELS, 0, False)
    assert not store.complete
    store.build()
    files = [p for p in sorted(store.folder.rglob("*.*")) if p.parent != store.folder]
    before = [(p, p.stat().st_mtime_ns, p.stat().st_ino) for p in files]
    again = PatchStore(tmp_path / "s", Light(log), cohort, LABELS, 0, False)
    assert again.complete
    again.build()
    assert len(built(log)) == 3
    assert before == [(p, p.stat().st_mtime_ns, p.stat().st_ino) for p in files]
    # a subset, another order, and a case more reuse what is there
    more = [*reversed(cohort), *make_cases(tmp_path / "more", 1)]
    PatchStore(tmp_path / "s", Light(log), more, LABELS, 0, False).build()
    assert len(built(log)) == 4
    assert len(entries(store)) == 4


def test_only_what_changed_is_built_again(tmp_path):
    data = make_cases(tmp_path / "data", 3)
    log = tmp_path / "log"
    store = PatchStore(tmp_path / "s", Light(log), data, LABELS, 0, False).build()
    old = entries(store)
    digest = store.digest()

    os.utime(data[1]["label"], ns=(0, 1))
    touched = PatchStore(tmp_path / "s", Light(log), data, LABELS, 0, False).build()
    assert built(log)[3:] == ["image-case1.nii.gz"]
    assert len(set(old) & set(entries(touched))) == 2
    assert len(entries(touched)) == 3, "the superseded entry is removed"
    assert touched.digest() == digest, "the content is the same"

    changed = make_cases(tmp_path / "other", 1, seed=5)[0]
    shutil.copy(changed["image"], data[0]["image"])
    store = PatchStore(tmp_path / "s", Light(log), data, LABELS, 0, False).build()
    assert built(log)[4:] == ["image-case0.nii.gz"]
    assert store.digest() != digest
    whole = [slice(0, s) for s in store.case(0).spatial_shape]
    assert np.array_equal(store.case(0).read(whole), Preprocess().image(changed["image"]).codes)


def test_a_case_that_broke_keeps_its_old_entry_and_the_others_lose_theirs(tmp_path):
    data = make_cases(tmp_path / "data", 2)
    store = PatchStore(tmp_path / "s", Light(), data, LABELS, 0, False).build()
    old = entries(store)
    os.utime(data[0]["image"], ns=(0, 1))
    Path(data[1]["image"]).write_bytes(b"broken")
    with pytest.raises(StoreError, match="1 case cannot"):
        PatchStore(tmp_path / "s", Light(), data, LABELS, 0, False).build()
    now = entries(store)
    assert len(now) == 2
    assert old[0] not in now
    assert old[1] in now


def test_other_parameters_have_their_own_entries(cohort, tmp_path):
    one = PatchStore(tmp_path, Preprocess(), cohort, LABELS, 0, False).build()
    kept = entries(one)
    two = PatchStore(tmp_path, Preprocess(spacing=2.0), cohort, LABELS, 0, False)
    assert not two.complete
    two.build()
    assert two.case(0).spatial_shape == (35, 33, 20)
    assert entries(one) == kept
    assert one.digest() != two.digest()


def test_another_way_of_preparing_is_another_store(tmp_path, cohort):
    old = Preprocess.from_parameters({**Preprocess().parameters(), "version": 1})
    stores = [PatchStore(tmp_path, preprocess, cohort, LABELS) for preprocess in (old, Preprocess())]
    assert stores[0].folder != stores[1].folder


def test_ids_and_paths_that_no_folder_could_be_called(cohort, tmp_path):
    data = [cohort[0] | {"case": name} for name in ("a/b", "a_b", "../x", ".tmp-1", "ü" * 300, "-")]
    store = PatchStore(tmp_path, Preprocess(), data, LABELS, 0, False).build()
    assert [c.id for c in store] == [c["case"] for c in data]
    assert len(entries(store)) == len(data)


def test_one_error_names_every_broken_case_and_keeps_the_good_ones(tmp_path):
    data = make_cases(tmp_path / "data", 4)
    log = tmp_path / "log"
    Path(data[1]["image"]).write_bytes(b"not an image")
    wrong = np.zeros((70, 66, 40), np.uint8)
    wrong[3, 4, 5] = 7
    save(data[3]["label"], wrong)
    store = PatchStore(tmp_path / "s", Light(log), data, LABELS, 0, False)
    with pytest.raises(StoreError) as error:
        store.build()
    message = str(error.value)
    assert message.startswith("2 cases cannot be preprocessed:")
    assert "case1: " in message
    assert "image-case1.nii.gz" in message
    assert "label-case3.nii.gz" in message
    assert "label value(s) 7 are not among the classes" in message
    assert len(entries(store)) == 2
    assert leftovers(store) == []

    good = make_cases(tmp_path / "good", 4)
    shutil.copy(good[1]["image"], data[1]["image"])
    shutil.copy(good[3]["label"], data[3]["label"])
    PatchStore(tmp_path / "s", Light(log), data, LABELS, 0, False).build()
    assert sorted(built(log)[4:]) == ["image-case1.nii.gz", "image-case3.nii.gz"]


def test_missing_files_are_all_listed_before_anything_is_built(cohort, tmp_path):
    data = [
        *cohort,
        {"image": tmp_path / "a.nii.gz", "case": "a"},
        cohort[0] | {"label": str(tmp_path / "b.nii.gz")},
    ]
    with pytest.raises(StoreError, match="2 cases cannot be found") as error:
        PatchStore(tmp_path / "s", Preprocess(), data)
    assert str(tmp_path / "a.nii.gz") in str(error.value)
    assert str(tmp_path / "b.nii.gz") in str(error.value)
    with pytest.raises(StoreError, match="empty"):
        PatchStore(tmp_path / "s", Preprocess(), [])


def test_a_worker_reads_but_does_not_build(store):
    other = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 20_000
    assert np.array_equal(other.case(0).read([slice(0, 9)] * 3), store.case(0).read([slice(0, 9)] * 3))
    assert other.digest() == store.digest()
    other._missing = [object()]
    with pytest.raises(RuntimeError, match="not build"):
        other.build()


def test_a_store_on_a_file_system_that_syncs_no_folders(cohort, tmp_path, monkeypatch):
    refused = refuse_folder_sync(monkeypatch, errno.EINVAL)
    store = PatchStore(tmp_path, Light(), cohort, LABELS, 0, False).build()
    assert len(refused) == 3
    assert len(entries(store)) == 3
    assert leftovers(store) == []


def test_what_is_being_read_on_windows_costs_no_build(cohort, tmp_path, monkeypatch):
    image = str(tmp_path / "image.nii.gz")
    for value in (1, 2):
        save(image, np.full((5, 5, 5), value, np.int16))
        os.utime(image, (value, value))
        store = PatchStore(tmp_path / "s", Light(), [{"image": image}], None, 0, False)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", refuse_as_windows)
            store.build()
        assert store.complete
    assert len(entries(store)) == 2, "the superseded entry stays for the next build"
    PatchStore(tmp_path / "s", Light(), [{"image": image}, cohort[0]], None, 0, False).build()
    assert len(entries(store)) == 2
    assert store.case(0).read([slice(0, 1)] * 3).item() == 2


def refuse_as_windows(source, target):
    raise PermissionError(13, "The process cannot access the file because it is being used", source)


def test_an_entry_is_called_as_every_system_takes_it(tmp_path):
    path = str(tmp_path / "CON.1.nii.gz")
    save(path, np.zeros((5, 5, 5), np.int16))
    store = PatchStore(tmp_path / "s", Light(), [{"image": path, "case": "CON.1"}], None, 0, False).build()
    (name,) = entries(store)
    assert name.startswith("_CON.1-")
    assert is_portable(name)
    assert store.case(0).id == "CON.1"


OPEN = """
import json, sys, psutil
from tests.pipelines.cohort import *
from pipelines.data import patch_store as patches
from pipelines.data.patch_store import *
folder, count = Path(sys.argv[1]), int(sys.argv[2])
data = [{"image": str(folder / f"{i}.nii.gz"), "case": f"case-{i:06d}"} for i in range(count)]
looked = []
def note(event, given):
    if event in ("open", "os.listdir", "os.scandir") and given and str(folder) in str(given[0]):
        looked.append([event, str(given[0])])
sys.addaudithook(note)
before = psutil.Process().memory_info().rss
store = PatchStore(folder / "s", Light(), data)
memory = psutil.Process().memory_info().rss - before
done = list(looked)
print(json.dumps([store.complete, len(store), store.case(count - 1).id, done, memory]))
"""


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_opening_many_cases_is_one_listing_and_takes_little_memory(cohort, tmp_path, count):
    image = Path(cohort[0]["image"]).read_bytes()[:10]
    data = [{"image": str(tmp_path / f"{i}.nii.gz"), "case": f"case-{i:06d}"} for i in range(count)]
    for case in data:
        Path(case["image"]).write_bytes(image)
    store = PatchStore(tmp_path / "s", Light(), data)
    for source in store._missing:
        os.makedirs(store.folder / source.entry)
    last = store.folder / store._missing[-1].entry
    one = PatchStore(tmp_path / "one", Light(), cohort[:1], None, 0, False).build().case(0).path
    shutil.copytree(one, last, dirs_exist_ok=True)
    process = python(OPEN, tmp_path, count)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    complete, length, case, looked, memory = json.loads(output)
    assert complete
    assert length == count
    assert case == "case0"
    assert looked == [["os.listdir", str(store.folder)]]
    assert memory < 100e6
