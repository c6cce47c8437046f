"""A bundle's inference.json, run; what it does is tested with `predict`, tests/e2e/test_predict.py."""

import pytest

from pipelines.inference.bundle_inference import as_literal


@pytest.mark.parametrize("name", ["$(rm -rf x)", "@model", "%macro"])
def test_a_path_is_no_expression(name):
    assert as_literal(name).startswith("./")
    assert as_literal(f"/data/{name}") == f"/data/{name}"
