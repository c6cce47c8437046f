"""nnU-Net's splits_final.json: what it says of cases, and what it must not say."""

import json
from pathlib import Path

import pytest

from pipelines.data.cases import Case, DatasetError
from pipelines.data.conversion.splits import splits_of, with_splits
from pipelines.data.dataset_json import Item


def items(names, split="training"):
    return [Item(Case(name, (Path(name),), None, name), split) for name in names]


def applied(tmp_path, content, names="abcd", tests=""):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(content))
    problems = []
    return with_splits(items(names) + items(tests, "test"), path, problems), problems


def test_folds_are_given_to_cases_and_found_again(tmp_path):
    content = [{"train": ["c", "d"], "val": ["a", "b"]}, {"train": ["a", "b"], "val": ["c", "d"]}]
    found, problems = applied(tmp_path, content, tests="t")
    assert problems == []
    assert [(item.case.id, item.split, item.fold) for item in found] == [
        ("a", "training", 0),
        ("b", "training", 0),
        ("c", "training", 1),
        ("d", "training", 1),
        ("t", "test", None),
    ]
    assert splits_of(found) == content


def test_a_single_split_is_a_validation_list(tmp_path):
    content = [{"train": ["a", "c"], "val": ["b"]}]
    found, problems = applied(tmp_path, content, "abc")
    assert problems == []
    assert [item.split for item in found] == ["training", "validation", "training"]
    assert splits_of(found) == content
    assert splits_of(items("abc")) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            [{"train": ["a"], "val": ["b", "z"]}],
            ["names z, which", "has c, d in both of its lists or in none"],
        ),
        ([{"train": ["a", "b"], "val": ["b", "c", "d"]}], ["has b in both"]),
        (
            [{"train": ["c", "d"], "val": ["a", "b"]}, {"train": ["a", "d"], "val": ["b", "c"]}],
            ["case 'b': ", "in the folds 0 and 1", "case 'd': ", "holds it out in no fold"],
        ),
    ],
)
def test_cases_that_are_in_the_wrong_lists_are_named(tmp_path, content, said):
    _, problems = applied(tmp_path, content)
    assert all(words in "\n".join(problems) for words in said)


@pytest.mark.parametrize("content", [{}, [], ["a"], [{"train": ["a"]}], [{"train": "a", "val": [1]}]])
def test_another_file_is_refused(tmp_path, content):
    with pytest.raises(DatasetError, match=r"no splits_final\.json of nnU-Net"):
        applied(tmp_path, content)
