"""The bundle folders: their JSON, MONAI's verifiers, and that no logic is copied between them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser

from pipelines.planning.knobs import PLANNED
from transforms.augmentation.patch_augmentation import PatchAugmentation

BUNDLES = ["r2unet", "upernet"]
# What makes a bundle: its network, what that wants of a plan, and its name. Everything else is shared wiring.
OWN = {"bundle_root", "experiment", "network_def", "planning", "features", "optimizer"}
FILES = [
    "train.json",
    "demo.json",
    "evaluate.json",
    "inference.json",
    "multi_gpu_train.json",
    "metadata.json",
]


@pytest.fixture(params=BUNDLES)
def bundle(request: pytest.FixtureRequest, repository: Path) -> Path:
    return repository / "bundles" / request.param


def test_a_bundle_has_every_file(bundle: Path) -> None:
    for name in [*FILES, "logging.conf", "README.md", "LICENSE"]:
        assert (bundle / name).is_file(), name


@pytest.mark.parametrize("name", ["train.json", "evaluate.json", "inference.json", "multi_gpu_train.json"])
def test_bundles_differ_only_in_what_is_their_own(repository: Path, name: str) -> None:
    first, second = (json.loads((repository / "bundles" / b / name).read_text()) for b in BUNDLES)
    assert first.keys() ^ second.keys() <= OWN
    assert {key for key in first if first[key] != second.get(key)} <= OWN


def test_the_demos_overlay_leaves_nothing_to_a_plan(bundle: Path) -> None:
    """`make train` takes the same time and gives the same Dice whatever else runs on the machine."""
    train, demo = (
        json.loads((bundle / name).read_text(encoding="utf-8")) for name in ("train.json", "demo.json")
    )
    planned = {name for name in PLANNED if train.get(name) == "auto"}
    assert planned == demo.keys() - {"_desc_demo", "network_def#norm"}


def test_any_part_of_the_augmentation_can_be_overridden(bundle: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(bundle / "train.json"))
    place = "train#preprocessing"
    size = {"patch_size": [32, 32, 16], "spacing": [1.0, 1.0, 2.0]}
    parser.update(
        {
            **size,
            "flip_axes": [1],
            "augmentation": "strong",
            f"{place}#rotation": 20,
            f"{place}#probability#noise": 0.5,
            f"{place}#gamma": None,
        }
    )
    parser.parse()
    parser.get_parsed_content("imports")
    augmentation = parser.get_parsed_content(place)
    plain = PatchAugmentation(parser["patch_size"], flip_axes=[1], spacing=parser["spacing"])
    assert augmentation.probability == plain.probability | {"noise": 0.5}
    assert np.rad2deg(augmentation.rotation).tolist() == pytest.approx([20, 20, 20])
    assert augmentation.gamma is None
    assert (augmentation.scale, augmentation.flip_axes) == (plain.scale, (1,))


@pytest.mark.parametrize(
    ("name", "most"), [("train.json", 120), ("evaluate.json", 60), ("inference.json", 60)]
)
def test_a_config_reads_like_a_recipe(bundle: Path, name: str, most: int) -> None:
    text = (bundle / name).read_text()
    assert len(text.splitlines()) <= most
    keys = list(json.loads(text))
    # Each knob belongs to a group that says what it is about.
    knobs = keys[keys.index("bundle_root") + 1 : keys.index("device")]
    assert knobs[0].startswith("_desc_")
    assert len([key for key in knobs if key.startswith("_desc_")]) >= 3


def test_json_has_no_duplicate_keys(bundle: Path) -> None:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), keys
        return dict(pairs)

    for name in FILES:
        json.loads((bundle / name).read_text(), object_pairs_hook=unique)


def test_model_zoo_ids(bundle: Path) -> None:
    train = ConfigParser.load_config_file(bundle / "train.json")
    for key in ("bundle_root", "device", "dataset_dir", "network_def", "network", "initialize", "training"):
        assert key in train
    assert train["run"] == "%training"
    for key in ("trainer", "dataset", "handlers", "inferer"):
        assert key in train["train"]
    assert "data" in train["train"]["dataset"]
    assert "max_epochs" in train["train"]["trainer"]
    for key in ("evaluator", "dataset", "inferer"):
        assert key in train["validate"]
    knobs = (
        "epochs",
        "learning_rate",
        "batch_size",
        "patch_size",
        "spacing",
        "precision",
        "seed",
        "experiment",
    )
    first = list(train).index("device")
    for key in (*knobs, "run_name"):
        assert list(train).index(key) < first, f"{key} should be among the knobs at the top"


def test_verify_metadata(bundle: Path, repository: Path) -> None:
    """MONAI's verifier against the keys and types of the MONAI Bundle Specification, "metadata.json file"."""
    schema = repository / "tests" / "bundles" / "metadata.schema.json"
    _bundle_command("verify_metadata", "--meta_file", bundle / "metadata.json", "--filepath", schema)


def test_metadata_schema_refuses_a_broken_file(bundle: Path, repository: Path, tmp_path: Path) -> None:
    schema = repository / "tests" / "bundles" / "metadata.schema.json"
    broken = json.loads((bundle / "metadata.json").read_text())
    broken["network_data_format"]["outputs"]["pred"].pop("num_channels")
    (tmp_path / "metadata.json").write_text(json.dumps(broken))
    with pytest.raises(subprocess.CalledProcessError):
        _bundle_command("verify_metadata", "--meta_file", tmp_path / "metadata.json", "--filepath", schema)


def test_verify_net_in_out(bundle: Path, lungs_like: Path, tmp_path: Path) -> None:
    """With a plan, as a training has it."""
    plan = {"patch_size": [112, 96, 28], "spacing": [3.0, 3.0, 10.0], "features": [8, 16, 32, 64, 128]}
    known = json.loads((bundle / "train.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({name: plan[name] for name in plan if name in known}))
    configs = f"['{bundle / 'train.json'}','{tmp_path / 'plan.json'}']"
    arguments = ["--meta_file", bundle / "metadata.json", "--config_file", configs]
    _bundle_command(
        "verify_net_in_out", "--net_id", "network_def", *arguments, "--n", 1, "--dataset_dir", lungs_like
    )


def _bundle_command(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "monai.bundle", *map(str, arguments)], check=True, capture_output=True
    )
