"""Where a packaged bundle lies, seen from a config of its own."""

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out

from pipelines.config.bundle_root import bundle_root
from pipelines.utils.call_stack import beside_running_config

CONFIG = {
    "imports": ["$import torch", "$import pipelines"],
    "bundle_root": "$pipelines.bundle_root()",
    "network_def": "$torch.nn.Conv3d(1, int(@bundle_root.endswith('packed')), 1)",
    "initialize": [
        "$pipelines.preflight()",
        "$__import__('tests.pipelines.config.test_bundle_root', fromlist=['x']).advise()",
    ],
}


def advise() -> str:
    return beside_running_config("train.json")


def packed(folder: Path) -> Path:
    (folder / "configs").mkdir(parents=True)
    path = folder / "configs" / "inference.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    return path


def test_it_is_the_folder_above_the_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "packed")
    monkeypatch.chdir(tmp_path)
    for file in (str(path), "packed/configs/inference.json", [str(path), str(path)]):
        workflow = ConfigWorkflow(file, workflow_type="inference", logging_file=False)
        workflow.initialize()
        assert Path(workflow.bundle_root).resolve() == tmp_path / "packed"
        assert Path(workflow.initialize()[1]).resolve() == path.with_name("train.json")
        assert Path(workflow.parser.get_parsed_content("bundle_root")).resolve() == tmp_path / "packed"


def test_a_config_of_a_flat_folder_lies_in_its_root(tmp_path: Path) -> None:
    path = tmp_path / "inference.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    workflow = ConfigWorkflow(str(path), workflow_type="inference", logging_file=False)
    workflow.initialize()
    assert workflow.bundle_root == str(tmp_path)


def test_the_commands_that_export_find_it_too(tmp_path: Path) -> None:
    path = packed(tmp_path / "packed")
    data = {"num_channels": 1, "spatial_shape": [4, 4, 4], "dtype": "float32", "value_range": [0, 1]}
    out = {"num_channels": 1, "spatial_shape": [4, 4, 4], "dtype": "float32", "value_range": []}
    formats = {"network_data_format": {"inputs": {"image": data}, "outputs": {"pred": out}}}
    path.with_name("metadata.json").write_text(json.dumps(formats), encoding="utf-8")
    verify_net_in_out(
        "network_def", meta_file=str(path.with_name("metadata.json")), config_file=str(path), device="cpu"
    )


def test_where_no_file_is_known_it_is_the_working_directory() -> None:
    assert bundle_root() == ConfigParser(dict(CONFIG)).get_parsed_content("bundle_root") == "."
    assert beside_running_config("train.json") == "bundles/r2unet/train.json"
