"""The patch store: what is written, when it is written again, and what happens when things go wrong."""

import contextlib
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.patch_build import MAX_POSITIONS
from pipelines.data.patch_store import PatchStore
from pipelines.data.stored_case import StoreError
from pipelines.utils.file_names import is_portable
from tests.file_systems import refuse_folder_sync
from tests.pipelines.cohort import LABELS, Light, built, entries, leftovers, make_cases, save
from tests.waiting import runs, wait_for
from transforms.preprocess import Preprocess


def python(script, *arguments, **options):
    """A process that runs `script` in the repository."""
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cases(tmp_path_factory.mktemp("cohort"), 3)


@pytest.fixture(scope="module")
def store(cohort, tmp_path_factory):
    return PatchStore(tmp_path_factory.mktemp("store"), Preprocess(), cohort, LABELS, 0, False).build()


# -- content -----------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(draw=st.data())
def test_a_region_equals_the_slice_of_the_preprocessed_volume(store, cohort, draw):
    index = draw.draw(st.integers(0, 2))
    region = []
    for size in store.case(index).spatial_shape:
        a, b = sorted((draw.draw(st.integers(0, size)), draw.draw(st.integers(0, size))))
        region.append(slice(a, b))
    prepared = Preprocess().image(cohort[index]["image"])
    label = Preprocess().label(cohort[index]["label"], prepared.geometry)
    codes = store.case(index).read(region)
    values = store.case(index).read_label(region)
    assert codes.dtype == np.int16
    assert values.dtype == np.uint8
    assert np.array_equal(codes, prepared.codes[(slice(None), *region)])
    assert np.array_equal(values, label[tuple(region)])


def test_case_knows_geometry_intensity_and_classes(store, cohort):
    case = store.case(1)
    prepared = Preprocess().image(cohort[1]["image"])
    label = Preprocess().label(cohort[1]["label"], prepared.geometry)
    assert case.id == "case1"
    assert case.shape == prepared.codes.shape
    assert type(prepared.geometry).from_dict(case.geometry) == prepared.geometry
    assert case.intensity == prepared.intensity
    assert case.classes == {c: int((label == c).sum()) for c in range(3)}
    assert case.foreground == (1, 2)


def test_positions_lie_on_their_class_all_of_a_small_one_and_a_capped_sample_of_a_large_one(store):
    case = store.case(2)
    label = case.read_label([slice(0, s) for s in case.spatial_shape])
    assert case.classes[1] > MAX_POSITIONS
    assert case.num_positions(1) == MAX_POSITIONS
    assert np.array_equal(case.positions(2), np.argwhere(label == 2))
    large = case.positions(1)
    assert len(np.unique(large, axis=0)) == MAX_POSITIONS
    assert (label[tuple(large.T)] == 1).all()
    # a sample of the whole organ, not of its beginning
    assert np.allclose(large.mean(0), np.argwhere(label == 1).mean(0), atol=0.5)
    assert case.position(1, 17) == tuple(large[17])
    assert case.positions(9).shape == (0, 3)
    with pytest.raises(IndexError, match="stores 120 positions of class 2"):
        case.position(2, 120)


def test_2d_images_and_more_than_255_classes(tmp_path):
    image = np.random.default_rng(0).integers(0, 200, (300, 90)).astype(np.int16)
    label = (np.arange(300)[:, None] * np.ones((1, 90))).astype(np.int16)
    for name, array in (("image", image), ("label", label)):
        save(tmp_path / f"{name}.nii.gz", array)
    data = [{"image": tmp_path / "image.nii.gz", "label": tmp_path / "label.nii.gz"}]
    store = PatchStore(tmp_path / "store", Light(), data, range(300), progress=False).build()
    case = store.case(0)
    assert case.id == "image"
    assert case.shape == (1, 300, 90)
    whole = case.read_label([slice(0, 300), slice(0, 90)])
    assert whole.dtype == np.uint16
    assert sorted(np.unique(whole)) == list(range(300))
    assert (whole[tuple(case.positions(299).T)] == 299).all()


def test_cases_without_labels(cohort, tmp_path):
    data = [{"image": c["image"]} for c in cohort[:1]]
    case = PatchStore(tmp_path, Preprocess(), data, progress=False).build().case(0)
    assert case.classes == {}
    assert not case.has_label
    with pytest.raises(StoreError, match="stored without a label"):
        case.read_label([slice(0, 1)] * 3)


# -- when it is built --------------------------------------------------------------------------------------


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


def test_the_digest_does_not_depend_on_where_the_files_lie(cohort, store, tmp_path):
    moved = []
    for case in cohort:
        moved.append({"case": case["case"]})
        for key in ("image", "label"):
            moved[-1][key] = shutil.copy(case[key], tmp_path / os.path.basename(case[key]))
    other = PatchStore(tmp_path / "s", Preprocess(), moved, LABELS, 0, False).build()
    assert other.digest() == store.digest()
    assert PatchStore(tmp_path / "s", Preprocess(), moved[:2], LABELS).build().digest() != store.digest()


@pytest.mark.parametrize("change", ["touch", "add", "remove"])
def test_a_dicom_folder_counts_with_all_its_files(tmp_path, change):
    folder = tmp_path / "series" / "nested"
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.dcm").write_bytes(b"slice")
    data = [{"image": folder.parent, "case": "a"}]
    before = PatchStore(tmp_path / "s", Preprocess(), data)._missing[0].entry
    assert before == PatchStore(tmp_path / "s", Preprocess(), data)._missing[0].entry
    if change == "touch":
        os.utime(folder / "1.dcm", ns=(0, 1))
    elif change == "add":
        (folder / "3.dcm").write_bytes(b"slice")
    else:
        (folder / "1.dcm").unlink()
    after = PatchStore(tmp_path / "s", Preprocess(), data)._missing[0].entry
    assert after != before
    assert after.rpartition("-")[0] == before.rpartition("-")[0]


def test_the_voxel_file_of_a_detached_header_counts(tmp_path):
    sitk.WriteImage(sitk.Image(3, 4, 5, sitk.sitkInt16), str(tmp_path / "a.mhd"))
    data = [{"image": tmp_path / "a.mhd"}]
    before = PatchStore(tmp_path / "s", Preprocess(), data)._missing[0].entry
    os.utime(tmp_path / "a.raw", ns=(0, 1))
    assert PatchStore(tmp_path / "s", Preprocess(), data)._missing[0].entry != before


@pytest.mark.parametrize("half", ["a.hdr", "a.img"])
def test_both_files_of_a_pair_count(tmp_path, half):
    values = np.full((6, 5, 4), -1000, np.int16)
    nib.save(nib.Nifti1Pair(values, np.eye(4)), tmp_path / "a.img")
    data = [{"image": tmp_path / half, "case": "a"}]
    store = PatchStore(tmp_path / "s", Preprocess(), data, num_workers=0, progress=False).build()
    before = store.digest()
    nib.save(nib.Nifti1Pair(values + np.int16(50), np.eye(4)), tmp_path / "b.img")
    os.replace(tmp_path / "b.img", tmp_path / "a.img")
    after = PatchStore(tmp_path / "s", Preprocess(), data, num_workers=0, progress=False)
    assert not after.complete, "the header alone is as it was"
    assert after.build().digest() != before
    assert (after.case(0).read([slice(None)] * 3) == -950).all()


def test_another_way_of_preparing_is_another_store(tmp_path, cohort):
    old = Preprocess.from_parameters({**Preprocess().parameters(), "version": 1})
    stores = [PatchStore(tmp_path, preprocess, cohort, LABELS) for preprocess in (old, Preprocess())]
    assert stores[0].folder != stores[1].folder


def test_ids_and_paths_that_no_folder_could_be_called(cohort, tmp_path):
    data = [cohort[0] | {"case": name} for name in ("a/b", "a_b", "../x", ".tmp-1", "ü" * 300, "-")]
    store = PatchStore(tmp_path, Preprocess(), data, LABELS, 0, False).build()
    assert [c.id for c in store] == [c["case"] for c in data]
    assert len(entries(store)) == len(data)


# -- what goes wrong ---------------------------------------------------------------------------------------


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


def test_a_vanished_or_truncated_entry_is_an_error_that_says_so(cohort, tmp_path):
    store = PatchStore(tmp_path, Preprocess(), cohort[:2], LABELS, 0, False).build()
    path = store.case(0).path
    (path / "image.b2nd").write_bytes((path / "image.b2nd").read_bytes()[:100])
    with pytest.raises(StoreError, match=r"case case0 cannot be read"):
        store.case(0).read([slice(0, 5)] * 3)
    path = store.folder / store._entries[1].decode() / "image.b2nd"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 4 :: 7] = bytes(len(damaged[len(damaged) // 4 :: 7]))
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"case case1 cannot be read"):
        store.case(1).read([slice(0, s) for s in store.case(1).spatial_shape])
    store = PatchStore(tmp_path, Preprocess(), cohort[:2], LABELS, 0, False)
    shutil.rmtree(store.folder / store._entries[1].decode())
    with pytest.raises(StoreError, match="not in the store"):
        store.case(1)


def test_a_worker_reads_but_does_not_build(store):
    other = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 20_000
    assert np.array_equal(other.case(0).read([slice(0, 9)] * 3), store.case(0).read([slice(0, 9)] * 3))
    assert other.digest() == store.digest()
    other._missing = [object()]
    with pytest.raises(RuntimeError, match="not build"):
        other.build()


FULL_DISK = """
import resource, sys
from tests.pipelines.cohort import *
from pipelines.data import patch_store as patches
from pipelines.data.patch_store import *
folder, log = sys.argv[1:]
data = make_cases(Path(folder) / "data", 3)
save(data[0]["image"], np.zeros((70, 66, 40), np.int16))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = PatchStore(folder + "/s", Light(log), data, LABELS, 0, False)
try:
    store.build()
except StoreError as error:
    print(error)
print(len(entries(store)), len(leftovers(store)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_ends_the_build_at_once_and_leaves_no_half_entry(tmp_path):
    process = python(FULL_DISK, tmp_path, tmp_path / "log")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    message, counts = output.strip().splitlines()
    assert message.startswith("no room to store case case1 in ")
    assert "free some space" in message
    assert counts == "1 0"
    assert built(tmp_path / "log") == ["image-case0.nii.gz", "image-case1.nii.gz"]


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


BUILD = """
import os, sys
from tests.pipelines.cohort import *
from pipelines.data.patch_store import *
folder, log, workers, lock, *endless = sys.argv[1:]
if lock == "no":
    del os.lockf
data = case_paths(folder + "/data", 6)
store = PatchStore(folder + "/s", Light(log, endless=endless), data, LABELS, int(workers), False)
print("built", flush=True)
store.build()
assert store.complete and [c.id for c in store] == [c["case"] for c in data]
"""


@pytest.mark.parametrize("lock", ["yes", "no"])
def test_two_processes_at_once(tmp_path, lock):
    data = make_cases(tmp_path / "data", 6)
    log = tmp_path / "log"
    processes = [python(BUILD, tmp_path, log, 0, lock) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    store = PatchStore(tmp_path / "s", Light(log), data, LABELS)
    assert store.complete
    assert leftovers(store) == []
    for i in range(6):
        codes = store.case(i).read([slice(0, s) for s in store.case(i).spatial_shape])
        assert np.array_equal(codes, Light().image(data[i]["image"]).codes)
    if lock == "yes":
        assert len(built(log)) == 6, "each case is built by one of the two"


def test_killed_half_way_then_built(tmp_path):
    data = make_cases(tmp_path / "data", 6)
    log = tmp_path / "log"
    process = python(BUILD, tmp_path, log, 2, "yes", "image-case2", "image-case3")
    store = PatchStore(tmp_path / "s", Light(log), data, LABELS, 0, False)
    wait_for(lambda: len(built(log)) == 4 and len(entries(store)) == 2, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    try:
        # They end with the process that they work for, and by nothing else.
        wait_for(lambda: not any(worker.is_running() and runs(worker.pid) for worker in workers))
    finally:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
    assert len(leftovers(store)) == 2, "the cases in work leave temporary folders"

    log.unlink()
    store = PatchStore(tmp_path / "s", Light(log), data, LABELS, 0, False).build()
    assert len(built(log)) == 4
    assert leftovers(store) == []
    assert len(entries(store)) == 6


def test_another_machines_temporary_folder_is_left_alone_for_a_day(cohort, tmp_path):
    store = PatchStore(tmp_path, Preprocess(), cohort[:1], LABELS, 0, False)
    for name in ("young", "old"):
        (store.folder / f".tmp-{name}-1-abc").mkdir(parents=True)
    os.utime(store.folder / ".tmp-old-1-abc", (time.time() - 90_000,) * 2)
    store.build()
    assert leftovers(store) == [".tmp-young-1-abc"]


def test_a_worker_that_dies_names_the_cases_in_work(tmp_path):
    data = make_cases(tmp_path / "data", 4)
    store = PatchStore(tmp_path / "s", Light(deadly="case2"), data, LABELS, 2, False)
    with pytest.raises(StoreError, match=r"lack of memory.*case2.*fewer num_workers"):
        store.build()


# -- many cases --------------------------------------------------------------------------------------------

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
