"""MONAI's own tools on a packaged bundle, from a directory that is neither its root nor the repository."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from mlflow import MlflowClient

from tests.docs.pages import python_blocks
from tests.e2e.commands import EVERYWHERE, PRECISE, Workplace
from tests.e2e.page_commands import PAGES

Tool = Callable[[str], Any]


@pytest.fixture
def tool(packaged: Path, lungs_like: Path, tmp_path: Path) -> Tool:
    """Runs Python in a process of its own and an empty directory; returns what it gave to `answer`."""

    def run(code: str) -> Any:
        begin = f"""
            import json, sys
            from pathlib import Path
            root, data = Path({str(packaged)!r}), {str(lungs_like)!r}
            sys.path.insert(0, str(root))
            answer = lambda value: Path({str(tmp_path / "answer.json")!r}).write_text(json.dumps(value))
        """
        words = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(begin) + textwrap.dedent(code)]
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri}
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        done = subprocess.run(words, cwd=elsewhere, env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))

    return run


def test_load_gives_the_trained_network_and_makes_nothing(tool: Tool, tmp_path: Path) -> None:
    """`load` runs `initialize` of the config, which neither plans nor looks for the data of a training."""
    same = tool("""
        import torch
        from monai.bundle import load
        weights = torch.load(root / "models" / "model.pt", weights_only=True)
        same = {}
        for kind in ("train", "inference"):
            network = load("r2unet", bundle_dir=root.parent, workflow_type=kind, source="monaihosting", device="cpu")
            found = network.state_dict()
            same[kind] = found.keys() == weights.keys() and all(torch.equal(found[n], weights[n]) for n in weights)
        answer(same)
    """)
    assert same == {"train": True, "inference": True}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_properties_of_the_specification_are_there_and_can_be_overridden(tool: Tool) -> None:
    wrong, roots, loader = tool("""
        from monai.bundle import ConfigWorkflow
        given = {"dataset_dir": data, "precision": "fp32"}
        loader = {"train#dataloader#num_workers": 1, "train#dataloader#batch_size": 2}
        kinds = (("train", "train", loader), ("inference", "inference", {}), ("evaluation", "evaluate", {}))
        wrong, roots = {}, set()
        for kind, config, more in kinds:
            workflow = ConfigWorkflow(str(root / "configs" / f"{config}.json"), workflow_type=kind, **given, **more)
            workflow.initialize()
            wrong[config] = workflow.check_properties()
            roots.add(workflow.bundle_root == str(root))
            if more:
                loader = workflow.parser.get_parsed_content("train#dataloader")
        answer((wrong, list(roots), (loader.num_workers, loader.batch_size)))
    """)
    assert wrong == {"train": [], "inference": [], "evaluate": []}
    assert roots == [True]
    assert loader == [1, 2]


def test_a_federated_client_trains_and_evaluates_with_its_defaults(tool: Tool) -> None:
    """MONAI's client for NVFlare: its evaluator comes from [train.json, evaluate.json]."""
    rounds, measured, cases = tool("""
        import numpy as np
        from monai.fl.client.monai_algo import MonaiAlgo
        from monai.fl.utils.constants import ExtraItems
        from monai.fl.utils.exchange_object import ExchangeObject
        from monai.networks.utils import get_state_dict
        given = {"dataset_dir": data, "precision": "fp32"}
        client = MonaiAlgo(bundle_root=str(root), train_kwargs=given | {"epochs": 2}, eval_kwargs=dict(given))
        client.initialize({ExtraItems.CLIENT_NAME: "site"})
        weights = {name: value.numpy().copy() for name, value in get_state_dict(client.trainer.network).items()}
        rounds = []
        for _ in range(2):
            client.train(ExchangeObject(weights=weights), {})
            difference = client.get_weights().weights
            changed = any(np.abs(value).max() > 0 for value in difference.values())
            trainer = client.trainer
            rounds.append((trainer.state.iteration, trainer.lr_scheduler.last_epoch, int(trainer.average.n_averaged), changed))
            weights = {name: weights[name] + np.asarray(difference[name]) for name in weights}
        measured = client.evaluate(ExchangeObject(weights=weights), {}).metrics
        answer((rounds, sorted(measured), len(client.evaluator.state.cases)))
        client.finalize()
    """)
    # The schedule goes on, and the moving average begins anew with the weights of each round.
    assert rounds == [[2, 2, 2, True], [4, 4, 2, True]]
    assert measured == ["val_dice_left_lung", "val_dice_right_lung", "val_mean_dice"]
    assert cases == 2


def test_the_script_of_the_page_gives_the_labels_of_a_prediction(
    tool: Tool, packaged: Path, lungs_like: Path, tmp_path: Path
) -> None:
    """docs/use_a_model.md; MONAI Label and Deploy do the same: they read the config and run its parts themselves."""
    image = next((lungs_like / "images").iterdir())
    (script,) = python_blocks(PAGES / "use_a_model.md")
    named = {
        '"ct.nii.gz"': repr(str(image)),
        '["bundle_root"] = BUNDLE': '["bundle_root"] = BUNDLE\nparser.config |= more',
    }
    for text, own in named.items():
        assert text in script
        script = script.replace(text, own)
    shape = tool(
        textwrap.dedent("""
            BUNDLE, more = str(root), {"precision": "fp32", "device": "cpu"}
            %s
            answer(data["pred"].shape)
        """)
        % script
    )
    place = Workplace(tmp_path / "predicted")
    expected = nib.load(place.predict(image, packaged / "models" / "model.pt", *PRECISE))
    found = nib.load(tmp_path / "elsewhere" / "predictions" / image.name)
    assert found.shape == expected.shape == tuple(shape[1:])
    assert np.array_equal(found.get_fdata(), expected.get_fdata())
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)


def test_cases_in_place_of_the_dataset_are_trained_on_and_named(
    tool: Tool, packaged: Path, lungs_like: Path, tmp_path: Path
) -> None:
    """As MONAI Label starts a training: lists of cases, its epochs, a checkpoint loader, over the model that is there."""
    own = shutil.copytree(packaged, tmp_path / "own")
    before = (own / "models" / "model.pt").read_bytes()
    tool(f"""
        import monai.bundle
        root = Path({str(own)!r})
        sys.path.insert(0, str(root))
        cases = [{{"image": str(path), "label": str(Path(data) / "labels" / path.name)}}
                 for path in sorted((Path(data) / "images").iterdir())]
        loader = {{"_target_": "CheckpointLoader", "load_path": str(root / "models" / "model.pt"),
                   "load_dict": {{"model": "$@network"}}, "strict": False}}
        handlers = json.loads((root / "configs" / "train.json").read_text())["train"]["handlers"]
        monai.bundle.run(run_id="run", init_id=None, final_id=None, meta_file=str(root / "configs" / "metadata.json"),
            config_file=str(root / "configs" / "train.json"), **{{"bundle_root": str(root), "device": "cpu",
            "train#trainer#max_epochs": 1, "train#dataset#data": cases[:1], "validate#dataset#data": cases[1:],
            "train#handlers": [loader, *handlers], "precision": "fp32"}})
        answer(sorted(sys.modules["pipelines"].__path__)[0].startswith(str(root)))
    """)
    assert (own / "models" / "model.pt").read_bytes() != before
    card = json.loads((own / "models" / "model.json").read_text(encoding="utf-8"))
    images = sorted(path.name.split(".")[0] for path in (lungs_like / "images").iterdir())
    assert [case["case"] for case in card["validation"]] == images[1:]
    assert not (tmp_path / "elsewhere" / "data" / "demo").exists()
    run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_runs(["1"])[0]
    assert run.inputs.dataset_inputs[0].dataset.name.startswith(f"{len(images)} cases of images")
    assert "demo" not in json.dumps(run.to_dictionary())


def test_a_network_is_exported_from_anywhere(tool: Tool) -> None:
    shape = tool("""
        import torch
        from monai.bundle import ckpt_export
        ckpt_export("network_def", filepath="model.ts", config_file=str(root / "configs" / "inference.json"),
                    bundle_root=str(root))
        answer(torch.jit.load("model.ts")(torch.zeros(1, 1, 32, 32, 32)).shape)
    """)
    assert shape == [1, 3, 32, 32, 32]


def test_a_package_names_its_own_paths_and_none_of_the_machine(packaged: Path) -> None:
    for path in (
        *packaged.glob("configs/*"),
        packaged / "docs" / "README.md",
        packaged / "models" / "model.json",
    ):
        text = path.read_text(encoding="utf-8")
        assert "bundles/r2unet" not in text, path
        assert str(packaged.parent) not in text, path
    config = json.loads((packaged / "configs" / "train.json").read_text(encoding="utf-8"))
    assert "auto" not in {config[name] for name in ("epochs", "learning_rate", "schedule", "augmentation")}
    assert config["dataset_dir"] == "data/demo"
    assert EVERYWHERE.items() <= config.items()
