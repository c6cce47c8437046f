"""Folders held together by links, as data managers make them: what is read is what is digested, what is missing fails."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from pipelines.data.check import check
from pipelines.data.dataset_folder import describe
from pipelines.data.inputs import find_inputs
from pipelines.data.patch_store import PatchStore
from pipelines.evaluation.pairs import find_pairs
from pipelines.inference.case_reports import fingerprint
from tests.pipelines.small import LEVELS, write_ct, write_dataset
from tests.pipelines.tiny_model import write_dicom
from transforms.io.readers import read_image
from transforms.preprocess import Preprocess

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")


@pytest.fixture
def linked(tmp_path):
    """A case `ct` whose slices lie in `store`, behind a linked subfolder."""
    write_dicom(tmp_path / "store")
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "series").symlink_to(tmp_path / "store")
    return tmp_path / "ct"


def change(folder):
    """Another series takes the place of a folder's, under the same names; returns its voxels."""
    shutil.rmtree(folder)
    write_dicom(folder, label=np.full((14, 12, 10), 2, np.uint8))


def test_a_changed_series_behind_a_linked_folder_is_built_again(linked, tmp_path):
    data = [{"image": str(linked), "case": "ct"}]

    def built():
        return PatchStore(tmp_path / "patches", Preprocess(), data, num_workers=0, progress=False).build()

    before = built()
    digest, content = before.digest(), before.case(0).sha256["image"]
    assert content != hashlib.sha256(b"").hexdigest()
    change(tmp_path / "store")
    again = PatchStore(tmp_path / "patches", Preprocess(), data, num_workers=0, progress=False)
    assert not again.complete
    stored = built()
    assert stored.digest() != digest
    assert stored.case(0).sha256["image"] != content
    assert (stored.case(0).read((slice(None),) * 3) == LEVELS[2]).all()


def test_a_changed_series_behind_a_linked_folder_is_another_dataset_and_another_input(linked, tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "imagesTr" / "ct").symlink_to(linked)
    (tmp_path / "labelsTr" / "ct.nii.gz").touch()
    dataset = describe(tmp_path, [])[1]
    digest, seen = dataset.digest(), fingerprint(linked)
    assert seen["files"] == len(read_image(linked)[0, 0, 0])
    change(tmp_path / "store")
    assert dataset.digest() != digest
    assert fingerprint(linked)["digest"] != seen["digest"]


def test_digests_that_were_right_stay_valid(tmp_path):
    """As they were computed before links to folders were followed, for a folder without such links."""
    folder = tmp_path / "ct"
    write_dicom(folder / "a")
    write_dicom(folder / "a-b", series="other")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "a" / ".dark").mkdir()
    (folder / "a" / ".dark" / "file").write_bytes(b"y")
    names = sorted(os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)
    rows = [(os.path.relpath(name, folder), os.stat(name)) for name in names]
    state = "\n".join(f"{name} {info.st_size} {info.st_mtime_ns}" for name, info in rows)
    store = PatchStore(tmp_path / "patches", Preprocess(), [{"image": str(folder), "case": "ct"}])
    (entry,) = store._entries
    assert entry.decode().endswith("-" + hashlib.sha256(state.encode()).hexdigest()[:16])
    triples = sorted((name, info.st_size, info.st_mtime_ns) for name, info in rows)
    assert fingerprint(folder)["digest"] == hashlib.sha256(json.dumps(triples).encode()).hexdigest()


def test_a_circle_of_links_ends_in_a_digest(linked, tmp_path):
    digest = fingerprint(linked)["digest"]
    (tmp_path / "store" / "back").symlink_to(linked)
    (linked / "self").symlink_to(linked)
    assert fingerprint(linked)["digest"] == digest
    store = PatchStore(
        tmp_path / "patches", Preprocess(), [{"image": str(linked), "case": "ct"}], progress=False
    )
    assert store.build().case(0).shape[1:] == tuple(read_image(linked).shape[1:])


def test_a_link_to_nothing_beside_the_slices_changes_no_digest_until_it_is_filled(linked, tmp_path):
    before = PatchStore(tmp_path / "patches", Preprocess(), [{"image": str(linked), "case": "ct"}])._entries
    (linked / "notes").symlink_to(tmp_path / "absent")
    data = [{"image": str(linked), "case": "ct"}]
    assert PatchStore(tmp_path / "patches", Preprocess(), data)._entries == before
    (tmp_path / "absent").write_text("here now")
    assert PatchStore(tmp_path / "patches", Preprocess(), data)._entries != before


# -- what is missing -------------------------------------------------------------------------------------------------


def problems(folder, **options):
    return {case["case"]: case.get("problem", "") for case in find_inputs(folder, **options)}


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nrrd", "x.dcm", "x", "Patient.01"])
def test_a_link_to_nothing_beside_images_is_a_case_that_fails(tmp_path, name):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / name).symlink_to("/absent/file")
    found = problems(tmp_path)
    assert set(found) == {"a", name if name == "Patient.01" else "x"}
    assert found["a"] == ""
    said = found[next(case for case in found if case != "a")]
    assert said == f"{tmp_path / name}: a link to nothing (/absent/file); fetch what belongs there"


@pytest.mark.parametrize("name", ["README.md", "notes.txt", "cases.csv", "labels.json", ".x.nii.gz"])
def test_a_link_to_nothing_that_is_no_image_by_its_name_is_passed_over(tmp_path, name):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / name).symlink_to("/absent/file")
    assert problems(tmp_path) == {"a": ""}


def test_a_link_to_itself_is_a_case_that_fails(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "x.nii.gz").symlink_to("x.nii.gz")
    assert "a link to nothing (x.nii.gz)" in problems(tmp_path)["x"]


@pytest.mark.parametrize("name", ["ct.nii.gz", "IM1", "IM1.dcm"])
def test_a_subfolder_with_nothing_but_a_link_to_nothing_is_a_case_that_fails(tmp_path, name):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "p2").mkdir()
    (tmp_path / "p2" / name).symlink_to("/absent/file")
    assert set(problems(tmp_path)) == {"a", "p2"}
    (row,) = (case for case in check(tmp_path).cases if case.case == "p2")
    assert row.problems


def test_empty_and_cut_files_named_as_slices_beside_images_are_cases_that_fail(tmp_path):
    write_ct(tmp_path, "a")
    folder = tmp_path / "imagesTr"
    (folder / "b.dcm").touch()
    (folder / "c").mkdir()
    (folder / "c" / "1.dcm").touch()
    (folder / "d.nii.gz").touch()
    found = {case.case: case.problems for case in check(folder).cases}
    assert found.pop("a") == []
    assert set(found) == {"b", "c", "d"}
    assert all(found.values())


def test_what_cannot_be_opened_is_a_case_that_fails(tmp_path, monkeypatch):
    """Root may open everything, so the refusal of the system is played."""
    for name in ("a.nii.gz", "b.nii.gz", "IM1", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "p2").mkdir()
    real_open, real_scan = type(tmp_path).open, os.scandir

    def refusing(path, *arguments, **options):
        if path.name in ("b.nii.gz", "IM1", "notes.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *arguments, **options)

    def listing(path="."):
        if os.path.basename(path) == "p2":
            raise PermissionError(13, "Permission denied", str(path))
        return real_scan(path)

    monkeypatch.setattr(type(tmp_path), "open", refusing)
    monkeypatch.setattr(os, "scandir", listing)
    found = problems(tmp_path)
    assert set(found) == {"a", "b", "IM1", "p2"}
    assert "IM1: cannot be opened (Permission denied)" in found["IM1"]
    assert "b.nii.gz: cannot be opened (Permission denied)" in found["b"]
    assert found["p2"] == f"{tmp_path / 'p2'}: cannot be listed (Permission denied)"


def test_links_to_folders_are_cases(tmp_path):
    write_dicom(tmp_path / "store" / "one")
    write_ct(tmp_path / "store", "two")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p1").symlink_to(tmp_path / "store" / "one")
    (tmp_path / "in" / "p2").symlink_to(tmp_path / "store" / "imagesTr")
    assert problems(tmp_path / "in") == {"p1": "", "p2": ""}


@pytest.mark.parametrize("name", ["x.nii.gz", "x"])
def test_evaluate_pairs_a_link_to_nothing_whichever_side_it_is_on(tmp_path, name):
    for side in ("predictions", "references"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.nii.gz").touch()
        (tmp_path / side / name).symlink_to("/absent/file")
        (tmp_path / side / "case").mkdir()
        (tmp_path / side / "case" / "seg.nii.gz").symlink_to("/absent/file")
    found = find_pairs(tmp_path / "predictions", tmp_path / "references")
    assert [pair.case for pair in found.found] == ["a", "case", "x"]


@pytest.mark.parametrize("name", ["lost.nii.gz", "lost"])
def test_a_dataset_of_folders_names_a_link_to_nothing(tmp_path, name):
    write_dataset(tmp_path)
    os.unlink(tmp_path / "dataset.json")
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTs" / name).symlink_to("/absent/file")
    found = check(tmp_path)
    assert [case.case for case in found.refused] == ["lost"]
    assert str(tmp_path / "imagesTs" / name) in found.refused[0].problems[0]
