"""What an id of a config means where configs are compared: every purpose asks the one table."""

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from pipelines.config.executed import ExecutedConfig
from pipelines.config.knobs import KNOBS, Knob, knobs_of
from pipelines.data.cases import Case, Dataset
from pipelines.training.crossvalidation import parent_of
from pipelines.training.resume import differences, training_identity

UNLISTED = ("learning_rate", "patch_size", "seed")


@pytest.mark.parametrize("name", [*KNOBS, *UNLISTED])
def test_a_training_goes_on_where_nothing_has_changed_but_what_may(name):
    before, now = (training_identity({name: value}, "digest") for value in ("1", "2"))
    expected = [] if name in knobs_of(Knob.RESUMING) else [f"{name}: 1 in the checkpoint, 2 now"]
    assert differences(before, now) == expected


@pytest.mark.parametrize("name", [*sorted(KNOBS.keys() - {"_meta_"}), *UNLISTED])
def test_folds_are_of_one_cross_validation_where_nothing_differs_but_what_may(name):
    case = Case("a", (Path("a.nii.gz"),), Path("b.nii.gz"), "a")
    data = Dataset(Path(), "d", {0: "background", 1: "liver"}, (case,))
    keys = {parent_of(ExecutedConfig(ConfigParser({name: value})), data)["key"] for value in (1, 2)}
    assert len(keys) == (1 if name in knobs_of(Knob.FOLDS) else 2)


def test_a_fold_and_its_early_stopping_are_told_apart():
    """They are named here a second time because a training begun before has to go on."""
    assert set(knobs_of(Knob.RESUMING)) - set(knobs_of(Knob.FOLDS)) == {"epochs", "patience", "min_delta"}
    assert set(knobs_of(Knob.FOLDS)) - set(knobs_of(Knob.RESUMING)) == {"fold"}


def test_every_id_is_used_by_a_bundle_or_read_by_monai(repository):
    used = set()
    for path in repository.glob("bundles/*/*.json"):
        used |= json.loads(path.read_text()).keys()
    assert set(KNOBS) - used <= set(knobs_of(Knob.ENTRY))
