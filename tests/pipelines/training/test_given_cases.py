"""Lists of cases in a config become its dataset, with the classes of the model that is there."""

import json

import pytest
from monai.bundle import ConfigParser

from pipelines.config.executed import ExecutedConfig
from pipelines.training import given_cases
from pipelines.training.given_cases import TRAINING, VALIDATION, adopt_cases
from tests.pipelines import tiny_model
from tests.pipelines.small import write_ct


@pytest.fixture
def cases(tmp_path):
    written = [write_ct(tmp_path / "cohort", f"ct{number}") for number in range(3)]
    return [{"image": case["image"], "label": case["label"]} for case in written]


def adopted(monkeypatch, folder, training, validation):
    parser = ConfigParser(
        {
            "imports": ["$import pipelines"],
            "dataset_dir": "data/demo",
            "data": "$pipelines.open_dataset(@dataset_dir)",
            "train": {"dataset": {"data": training}},
            "validate": {"dataset": {"data": validation}},
        }
    )
    parser.parse()
    monkeypatch.setattr(given_cases, "executed_config", lambda: ExecutedConfig(parser))
    adopt_cases(folder)
    return parser


def test_the_cases_are_the_dataset_with_the_classes_of_the_model(cases, tmp_path, monkeypatch):
    tiny_model.write_model(tmp_path / "models")
    parser = adopted(monkeypatch, tmp_path / "models", cases[:2], cases[2:])
    data = parser.get_parsed_content("data")
    card = json.loads((tmp_path / "models" / "model.json").read_text(encoding="utf-8"))
    assert {str(value): name for value, name in data.labels.items()} == card["labels"]
    assert [item["case"] for item in parser.get_parsed_content("train#dataset#data")] == ["ct0", "ct1"]
    assert [item["case"] for item in parser.get_parsed_content("validate#dataset#data")] == ["ct2"]
    assert parser.get("dataset_dir") is None


def test_without_a_model_and_a_list_of_validation_cases(cases, tmp_path, monkeypatch):
    parser = adopted(monkeypatch, tmp_path, cases, VALIDATION)
    data = parser.get_parsed_content("data")
    assert list(data.labels) == [0, 1, 2]
    assert [len(data.training), len(data.validation)] == [2, 1]


def test_a_config_without_lists_stays_as_it_is(tmp_path, monkeypatch):
    parser = adopted(monkeypatch, tmp_path, TRAINING, VALIDATION)
    assert parser.get("dataset_dir") == "data/demo"


@pytest.mark.parametrize("bundle", ["r2unet", "upernet"])
def test_the_bundles_say_what_the_lists_replace(bundle):
    with open(f"bundles/{bundle}/train.json", encoding="utf-8") as file:
        config = json.load(file)
    assert config["train"]["dataset"]["data"] == TRAINING
    assert config["validate"]["dataset"]["data"] == VALIDATION
