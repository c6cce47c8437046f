"""MONAI's `--tracking mlflow` leaves a bundle as it was."""

import copy
import json

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

from pipelines.config.monai_tracking import one_run


def patched(path, tmp_path, **given):
    """The parser of a bundle's config after MONAI has put its handlers in."""
    parser = ConfigParser()
    parser.read_config(str(path))
    parser.update({"bundle_root": str(tmp_path), **given})
    before = ConfigParser(copy.deepcopy(parser.get()))
    before.parse()
    ConfigWorkflow.patch_bundle_tracking(parser, copy.deepcopy(DEFAULT_MLFLOW_SETTINGS))
    return parser, before.get()


@pytest.mark.parametrize("name", ["train.json", "evaluate.json", "inference.json"])
@pytest.mark.parametrize("bundle", ["r2unet", "upernet"])
def test_the_config_is_the_one_without_the_option(bundle, name, repository, tmp_path):
    parser, before = patched(repository / "bundles" / bundle / name, tmp_path)
    assert "MLFlowHandler" in json.dumps(parser.get())
    assert one_run(parser)
    assert parser.get() == before
    assert not one_run(parser), "nothing is left to take out"


def test_what_the_user_gave_with_it_goes_to_our_own_run(repository, tmp_path):
    path = repository / "bundles" / "r2unet" / "train.json"
    parser, before = patched(path, tmp_path, tracking_uri="http://team:5000", experiment_name="lungs")
    one_run(parser)
    for key in ("tracking_uri", "experiment_name"):
        del before[key]
    before["experiment"] = "lungs"
    before["tracking"] = {**before["tracking"], "uri": "http://team:5000"}
    assert parser.get() == before
    assert parser.get_parsed_content("tracking").experiment == "lungs"


def test_other_handlers_stay():
    mine = {"_target_": "StatsHandler"}
    theirs = {"_target_": "monai.handlers.MLFlowHandler"}
    parser = ConfigParser(
        {"train": {"handlers": [mine, theirs]}, "validate": {"evaluator": {"val_handlers": [theirs]}}}
    )
    assert one_run(parser)
    assert parser.get() == {"train": {"handlers": [mine]}, "validate": {"evaluator": {}}}
