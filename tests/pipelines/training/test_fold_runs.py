"""The commands of a cross-validation; what they do together is in tests/e2e/test_crossval.py."""

import json

import pytest

from pipelines.training.fold_runs import Crossvalidation, CrossvalidationError, summary_of
from tests.pipelines.small import write_dataset


@pytest.fixture
def work(tmp_path):
    return Crossvalidation(
        bundle=tmp_path / "bundle",
        dataset=write_dataset(tmp_path / "data", training=4, validation=0),
        output=tmp_path / "out",
        folds=2,
        seed=3,
        overrides={"minutes": "30", "overlap": "0.25", "precision": "bf16"},
    )


def test_every_fold_has_a_folder_and_the_same_settings(work, tmp_path):
    first, second = work.training(0), work.training(1)
    assert first[first.index("--bundle_root") + 1] == str(tmp_path / "out" / "fold_0")
    different = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    assert [first[i - 1] for i in different] == ["--bundle_root", "--fold"]
    assert first[first.index("--minutes") + 1] == "30"


def test_an_evaluation_gets_only_the_settings_that_it_has(work):
    words = work.evaluation(1)
    assert "--minutes" not in words
    assert words[words.index("--overlap") + 1] == "0.25"
    assert words[words.index("--precision") + 1] == "bf16"


def test_what_was_trained_by_another_command_is_trained_anew(work):
    folder = work.folder(0)
    folder.mkdir(parents=True)
    (folder / "command.json").write_text(json.dumps(["other"]), encoding="utf-8")
    assert not work.trained(0)
    assert not work.evaluated(0)


def test_a_fold_that_does_not_exist_is_refused(work):
    with pytest.raises(CrossvalidationError, match="there is no fold 2; the 2 folds are 0 to 1"):
        work.run([0, 2])


def test_the_end_in_words(tmp_path):
    card = {"postprocessing": {}, "dice": {"before": {"liver": 0.9}, "after": {"liver": 0.9}}}
    (tmp_path / "ensemble.json").write_text(json.dumps(card), encoding="utf-8")
    assert summary_of(tmp_path / "ensemble.json").splitlines()[-1] == "no post-processing helps"
    card["postprocessing"] = {"largest_component": ["liver"]}
    card["dice"]["after"] = {"liver": 0.95}
    (tmp_path / "ensemble.json").write_text(json.dumps(card), encoding="utf-8")
    assert summary_of(tmp_path / "ensemble.json").splitlines()[-1] == "liver  0.9500"
