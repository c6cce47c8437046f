"""A bundle's inference.json, found and run; what it does is tested with `predict`, tests/e2e/test_predict.py."""

import pytest

from pipelines.inference.bundle_inference import as_literal, inference_config


@pytest.mark.parametrize("inside", ["", "configs"])
def test_the_config_of_a_bundle(tmp_path, inside):
    assert inference_config(tmp_path) is None
    (tmp_path / inside).mkdir(exist_ok=True)
    (tmp_path / inside / "inference.json").write_text("{}")
    assert inference_config(str(tmp_path)) == tmp_path / inside / "inference.json"


@pytest.mark.parametrize("name", ["$(rm -rf x)", "@model", "%macro"])
def test_a_path_is_no_expression(name):
    assert as_literal(name).startswith("./")
    assert as_literal(f"/data/{name}") == f"/data/{name}"
