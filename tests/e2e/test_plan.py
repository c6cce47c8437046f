"""A labelled folder is enough: plans by the command, by a training, and of a training that goes on."""

import json
from pathlib import Path

import pytest

from pipelines.inference.model_card import read_card
from tests.conftest import make_dataset
from tests.e2e.commands import EVERYWHERE, INTERRUPTIBLE, Workplace

# What a person may give beside the dataset; all else is planned.
SHORT = {"epochs": 2, "patches_per_epoch": 2}
GIVEN = {"patch_size": "[32,32,32]", **SHORT}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("planned"))
    make_dataset(place.folder / "data", training=2, validation=1, size=32)
    return place


def training(place: Workplace, *overlays: str, **given: object) -> list[str]:
    """The training command with nothing but the dataset and what is given."""
    values = {"dataset_dir": place.folder / "data", **EVERYWHERE, "num_workers": 0, **given}
    return place.planned_training("r2unet", *overlays, **values)


@pytest.fixture(scope="module")
def planned(place: Workplace) -> Path:
    """The command's plan with a patch that was given."""
    words = ["-m", "pipelines", "plan", str(place.folder / "data"), "--minutes", "5"]
    words += ["--store_dir", str(place.folder / "store"), "--output", str(place.folder / "plan.json")]
    result = place.run([*words, "--patch_size", "[32,32,32]"])
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert lines["spacing"].endswith("all 2 cases have it")
    assert lines["patch_size"].endswith("[32, 32, 32]: given")
    assert "left_lung and right_lung are left and right" in lines["flip_axes"]
    assert "is the plan as a config" in result.stdout
    return place.folder / "plan.json"


def test_the_page_shows_plan_and_dataset(planned: Path) -> None:
    page = planned.with_suffix(".html").read_text(encoding="utf-8")
    for text in ("Plan for two lungs", "learning_rate", "millimetres per voxel", "left_lung", "training_0"):
        assert text in page, text
    assert "<svg" in page


def test_a_training_takes_the_plan_as_an_overlay(place: Workplace, planned: Path) -> None:
    plan = json.loads(planned.read_text(encoding="utf-8"))
    assert plan["patch_size"] == [32, 32, 32], "what was given to the command is part of its plan"
    result = place.run(training(place, str(planned), **SHORT, bundle_root=place.folder / "overlay"))
    assert "measuring" not in result.stdout + result.stderr
    (run,) = [r for r in place.runs("r2unet") if "overlay" in r.data.params["bundle_root"]]
    for name in ("spacing", "window", "patch_size", "flip_axes", "learning_rate", "features"):
        assert json.loads(run.data.params[name]) == plan[name], name
    assert run.data.params["epochs"] == "2"
    kept = json.loads((place.folder / "overlay" / "models" / "plan.json").read_text(encoding="utf-8"))
    assert kept["spacing"] == plan["spacing"]
    assert "epochs" not in kept, "a value that was given beside the plan is none of it"
    reason = plan["_desc_planned"]["reasons"]["spacing"]
    assert kept["_desc_planned"]["reasons"]["spacing"] == reason
    card = read_card(place.folder / "overlay" / "models" / "model.json")
    assert card["plan"]["settings"]["spacing"] == {"value": plan["spacing"], "reason": reason}
    assert not {"epochs", "patches_per_epoch", "patch_size"} & set(card["plan"]["settings"])


def test_a_training_plans_by_itself_and_keeps_its_plan(place: Workplace) -> None:
    """Stopped in the middle it goes on with the plan that it began with, though another one is asked for."""
    words = training(place, INTERRUPTIBLE, **GIVEN, minutes=5)
    stopped = place.run(words, check=False, SMALL_STOP_AT="2", SMALL_STOP_BY="SIGTERM")
    assert stopped.returncode != 0
    assert "all 2 cases have it" in stopped.stdout
    plan = (place.root / "models" / "plan.json").read_text(encoding="utf-8")

    again = place.run(training(place, INTERRUPTIBLE, **GIVEN, minutes=50))
    assert "goes on with its own plan" in again.stdout
    assert "all 2 cases have it" not in again.stdout
    assert (place.root / "models" / "plan.json").read_text(encoding="utf-8") == plan
    runs = [r for r in place.runs("r2unet") if r.data.params["bundle_root"] == str(place.root)]
    assert [run.info.status for run in runs] == ["FINISHED"]
    names = {item.path for item in place.client.list_artifacts(runs[0].info.run_id)}
    assert "plan.json" in names


def test_an_impossible_wish_is_one_sentence(place: Workplace) -> None:
    result = place.run(training(place, **GIVEN, memory_gb=0.001, resume="new"), check=False)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "memory" in result.stderr.splitlines()[-1]
