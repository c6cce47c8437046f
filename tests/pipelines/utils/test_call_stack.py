"""What is found among the callers of an expression in a bundle's config."""

import json

import pytest
from monai.bundle import ConfigParser, run

from pipelines.utils.call_stack import running_command, running_parser
from pipelines.utils.provenance import invocation

FOUND = []


def look():
    FOUND.append((running_parser(), running_command(), invocation()))


@pytest.fixture
def found():
    FOUND.clear()
    return FOUND


def test_outside_of_a_bundle_there_is_nothing():
    assert running_parser() is None
    assert running_command() is None
    assert (invocation()["config_files"], invocation()["overrides"]) == ([], {})


def test_the_parser_is_that_of_the_expression(found):
    parser = ConfigParser(
        {"run": "$__import__('tests.pipelines.utils.test_call_stack', fromlist=['x']).look()"}
    )
    parser.get_parsed_content("run")
    assert found[0][:2] == (parser, None)


def test_the_words_of_the_command_are_those_given_and_those_of_its_file(found, tmp_path):
    config, words = tmp_path / "train.json", tmp_path / "words.json"
    expression = "$__import__('tests.pipelines.utils.test_call_stack', fromlist=['x']).look()"
    config.write_text(json.dumps({"run": [expression], "epochs": 1, "api_token": ""}))
    words.write_text(json.dumps({"epochs": 3}))
    run(config_file=str(config), args_file=str(words), run_id="run", api_token="secret")
    parser, command, called = found[0]
    assert (parser.get("epochs"), command["epochs"], command["config_file"]) == (3, 3, str(config))
    assert called["config_files"] == [str(config)]
    assert called["overrides"] == {"epochs": 3, "api_token": "***"}
