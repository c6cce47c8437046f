"""When a training makes a plan and when it keeps one; from the command line in tests/e2e/test_plan.py."""

import json
import logging

import pytest

from pipelines.planning.plan_file import PlanError, write_plan
from pipelines.utils.locks import Lock
from tests.pipelines import small

PLANNED = {
    "initialize": [
        "$pipelines.preflight()",
        "$pipelines.apply_plan(@bundle_root + '/models', @resume)",
        "$pipelines.seed_everything(@seed)",
    ],
    "data": "$pipelines.open_dataset(@dataset_dir, fold=@fold)",
    "minutes": 2,
    "memory_gb": "auto",
    "planning": {"learning_rate": 0.01},
    "spacing": "auto",
    "val_interval": "auto",
    "preprocessing": {"_target_": "pipelines.Preprocess", "spacing": "@spacing"},
    "epochs": 1,
}


def config(folder, dataset, fold=None, **given):
    values = {
        **PLANNED,
        "store_dir": str(folder / "store"),
        "fold": fold,
        "train__dataset__root": "@store_dir",
        **given,
    }
    return small.config(folder / f"fold_{fold}", dataset, **values)


def kept(folder, fold=None):
    return json.loads((folder / f"fold_{fold}" / "models" / "plan.json").read_text(encoding="utf-8"))


@pytest.fixture
def dataset(tmp_path):
    return small.write_dataset(tmp_path / "data", training=5, validation=0)


def test_folds_share_one_plan_and_another_wish_gets_another(dataset, tmp_path, monkeypatch):
    """They are one experiment, so that the second must not be planned for the cases that happen to be its own."""
    monkeypatch.chdir(tmp_path)
    small.run(config(tmp_path, dataset, fold=0))
    plan = kept(tmp_path, 0)
    assert plan["spacing"] == [1.0, 1.0, 1.0]
    assert plan["_desc_planned"]["reasons"]["spacing"].endswith("cases have it")
    (shared,) = (tmp_path / "store" / "plans").glob("*.json")
    changed = json.loads(shared.read_text(encoding="utf-8"))
    changed["_desc_planned"]["values"]["spacing"] = changed["spacing"] = [2.0, 2.0, 2.0]
    shared.write_text(json.dumps(changed), encoding="utf-8")
    small.run(config(tmp_path, dataset, fold=1))
    assert kept(tmp_path, 1)["spacing"] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("resume", [True, "new"])
def test_a_fold_waits_for_the_plan_that_another_is_making(dataset, tmp_path, monkeypatch, caplog, resume):
    """Also where it is begun anew."""
    monkeypatch.chdir(tmp_path)
    small.run(config(tmp_path, dataset, fold=0))
    (shared,) = (tmp_path / "store" / "plans").glob("*.json")
    plan = json.loads(shared.read_text(encoding="utf-8"))
    plan["_desc_planned"]["values"]["spacing"] = plan["spacing"] = [2.0, 2.0, 2.0]
    if resume is True:
        shared.unlink()
    other = Lock(shared.with_suffix(".lock"))
    assert other.take()

    class EndOther(logging.Handler):
        """The other fold ends its planning once this one says that it waits."""

        def emit(self, record):
            if "waiting for the plan" in record.getMessage():
                write_plan(shared, plan)
                other.release()

    handler, logger = EndOther(), logging.getLogger("pipelines.training.planning")
    logger.addHandler(handler)
    caplog.set_level(logging.INFO, logger.name)
    try:
        small.run(config(tmp_path, dataset, fold=1, resume=resume))
    finally:
        logger.removeHandler(handler)
        other.release()
    assert kept(tmp_path, 1)["spacing"] == [2.0, 2.0, 2.0]


def test_a_fold_begun_anew_takes_no_plan_from_before(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.run(config(tmp_path, dataset, fold=0))
    (shared,) = (tmp_path / "store" / "plans").glob("*.json")
    plan = json.loads(shared.read_text(encoding="utf-8"))
    write_plan(shared, plan | {"spacing": [2.0, 2.0, 2.0]})
    small.run(config(tmp_path, dataset, fold=1, resume="new"))
    assert kept(tmp_path, 1)["spacing"] == [1.0, 1.0, 1.0]


def test_a_damaged_plan_is_named(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "fold_None" / "models" / "plan.json"
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    # MONAI wraps what an expression raises.
    with pytest.raises(RuntimeError, match="apply_plan") as caught:
        small.run(config(tmp_path, dataset))
    assert isinstance(caught.value.__cause__, PlanError)
    assert str(caught.value.__cause__).startswith(f"{path} is no plan")
