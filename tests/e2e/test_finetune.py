"""A training that begins as a model of the registry, on a dataset with other classes."""

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import make_dataset
from tests.e2e.commands import SMALL, Workplace

TINY = {**SMALL, "epochs": 1, "patches_per_epoch": 2, "features": "[4,8,16]"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A model of two lungs, registered in MLflow, and a dataset of one lung and a heart."""
    place = Workplace(tmp_path_factory.mktemp("finetuned"))
    data = make_dataset(place.folder / "data", size=32)
    place.run(place.training("r2unet", dataset_dir=data, **TINY))
    other = make_dataset(place.folder / "other", size=32)
    content = json.loads((other / "dataset.json").read_text(encoding="utf-8"))
    labels = {"0": "background", "1": "heart", "2": "left_lung"}
    (other / "dataset.json").write_text(json.dumps({**content, "labels": labels}), encoding="utf-8")
    return place


def tuned(place: Workplace, name: str, init: str, **given: object) -> tuple[Path, str]:
    root = place.folder / name
    words = place.training(
        "r2unet",
        **{**TINY, "dataset_dir": place.folder / "other", "bundle_root": root, "init": init, **given},
    )
    return root / "models" / "model.pt", place.run(words).stdout


def test_a_registered_model_is_begun_with(place: Workplace) -> None:
    """Frozen parts come out as they went in, and the run tells where they are from."""
    model, said = tuned(place, "registry", "models:/r2unet@best", freeze="['encoder','stem']", ema="$None")
    assert "tensors loaded as they are" in said
    assert "taken in part: heads.0.weight (background, left_lung)" in said
    before = torch.load(place.root / "models" / "model.pt", weights_only=True)
    after = torch.load(model, weights_only=True)
    for name, tensor in after.items():
        same = torch.equal(tensor, before[name])
        assert same if name.startswith(("encoder.", "stem.")) else True, name
    assert not torch.equal(after["decoder.0.up.weight"], before["decoder.0.up.weight"])
    newest = max(place.runs("r2unet"), key=lambda run: run.info.start_time)
    (first,) = [run for run in place.runs("r2unet") if run.info.run_id == newest.data.tags["init.run_id"]]
    assert first.info.start_time < newest.info.start_time
    assert len(newest.data.tags["init.sha256"]) == 64


def test_loaded_parts_can_learn_more_slowly(place: Workplace) -> None:
    """A factor near nothing leaves what was loaded where it was, and lets the new outputs learn."""
    init = str(place.root / "models" / "model.pt")
    model, _ = tuned(place, "slowly", init, init_rate=1e-9, ema="$None", weight_decay=0)
    before = torch.load(init, weights_only=True)
    after = torch.load(model, weights_only=True)
    assert torch.allclose(after["encoder.0.project.weight"], before["encoder.0.project.weight"], atol=1e-7)
    assert not torch.allclose(after["heads.0.weight"][1], before["heads.0.weight"][1], atol=1e-6)


def test_weights_that_are_not_there_are_named(place: Workplace) -> None:
    for init in ("models:/nobody@best", str(place.folder / "nowhere.pt")):
        words = place.training("r2unet", **TINY, dataset_dir=place.folder / "other", init=init)
        result = place.run(words, check=False)
        assert result.returncode != 0
        assert init in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
