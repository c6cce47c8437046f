"""One case of a patch store: the same voxels as the prepared volume, read by the region."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.patch_store import PatchStore
from pipelines.data.stored_case import StoreError
from tests.pipelines.cohort import LABELS, Light, save
from transforms.preprocess import Preprocess


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
