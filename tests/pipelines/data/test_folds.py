"""Training, validation and folds: patients stay together, and the same seed deals the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.cases import DatasetError
from pipelines.data.dataset_folder import load_dataset
from tests.pipelines.data.dataset_files import LABELS, bare, describe, ids, pair

some = settings(max_examples=30)


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
        with pytest.raises(DatasetError, match=f"{folds} folds need at least {folds} patients"):
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
    with pytest.raises(DatasetError, match=r"fold 3 was requested, but the cases have the folds \[0, 1, 2\]"):
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
