"""What `python -m pipelines plan` refuses before it looks at any data; what it does is in tests/e2e/test_plan.py."""

import json

import pytest

from pipelines.planning.command import plan_dataset
from pipelines.planning.plan_file import PlanError


def planned(folder, content, given=None):
    bundle = folder / "train.json"
    bundle.write_text(json.dumps(content), encoding="utf-8")
    plan_dataset(bundle, folder / "data", given or {}, folder / "plan.json", folder / "plan.html")


def test_a_config_that_leaves_nothing_open_is_refused(tmp_path):
    with pytest.raises(
        PlanError, match=r'nothing in .*train\.json is left to a plan; write "auto" for any of spacing'
    ):
        planned(tmp_path, {"spacing": [1, 1, 1], "store_dir": "store"})


def test_a_setting_that_the_config_does_not_have_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"train\.json has no features; leave it out"):
        planned(tmp_path, {"spacing": "auto"}, {"features": [8, 16]})
    assert not (tmp_path / "plan.json").exists()
