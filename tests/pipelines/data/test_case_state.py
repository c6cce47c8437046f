"""What counts as a change of the files of a case."""

import hashlib
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.data.case_state import case_state
from pipelines.data.patch_store import PatchStore
from tests.pipelines.cohort import LABELS
from transforms.preprocess import Preprocess


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


def test_every_channel_counts_and_one_file_counts_as_it_did(tmp_path):
    paths = []
    for channel in range(2):
        paths.append(str(tmp_path / f"a_{channel:04d}.nii"))
        nib.save(nib.Nifti1Image(np.full((6, 5, 4), channel, np.int16), np.eye(4)), paths[-1])
    os.utime(paths[0], ns=(0, 7))
    one = case_state({"image": paths[0], "case": "a"})
    assert one.images == (paths[0],)
    digests = [
        hashlib.sha256(text.encode()).hexdigest()
        for text in (f"a\n{paths[0]}\nNone", f"{os.path.getsize(paths[0])} 7")
    ]
    assert one.entry == f"a-{digests[0][:12]}-{digests[1][:16]}", "entries of earlier stores stay valid"
    data = [{"image": paths, "case": "a"}]
    preprocess = Preprocess(window=None, channels=2, normalization="noNorm")
    store = PatchStore(tmp_path / "s", preprocess, data, num_workers=0, progress=False).build()
    assert store.case(0).shape == (2, 6, 5, 4)
    before = store.digest()
    nib.save(nib.Nifti1Image(np.full((6, 5, 4), 9, np.int16), np.eye(4)), paths[1])
    os.utime(paths[1], ns=(0, 1))
    after = PatchStore(tmp_path / "s", preprocess, data, num_workers=0, progress=False)
    assert not after.complete
    assert after.build().digest() != before
    swapped = PatchStore(tmp_path / "s", preprocess, [{"image": paths[::-1], "case": "a"}])
    assert not swapped.complete, "the order of the channels counts"
