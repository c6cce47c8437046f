"""What a training takes of another one's weights, and what it says of the rest."""

import json
import tempfile
import zipfile

import pytest
import torch

from networks import R2UNet, UPerNet
from pipelines.inference.trained_model import CheckpointError
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.initial_weights import InitialWeights, network_of, read_weights
from tests.answers import answering
from transforms.errors import SettingError
from transforms.preprocess import Preprocess


def r2unet(in_channels=1, classes=3, features=(4, 8, 16)):
    torch.manual_seed(classes)
    return R2UNet(3, in_channels, classes, features=features, deep_supervision=True)


def saved(folder, network, labels=None):
    if labels is None:
        torch.save(network.state_dict(), folder / "model.pt")
        return folder / "model.pt"
    features = [network.stem.project.out_channels, *(level.project.out_channels for level in network.encoder)]
    definition = {"_target_": "networks.R2UNet", "spatial_dims": 3, "in_channels": 1, "features": features}
    card = {
        "format": 1,
        "network": {**definition, "out_channels": len(labels), "deep_supervision": True},
        "labels": {str(value): name for value, name in labels.items()},
        "preprocessing": Preprocess().parameters(),
        "patch_size": [16, 16, 16],
    }
    return Checkpoints(folder).save_model(network.state_dict(), card)


@pytest.mark.parametrize("make", [r2unet, lambda: UPerNet(3, 1, 3, encoder="resnet18", fpn_channels=8)])
def test_the_same_network_begins_as_the_other(tmp_path, make):
    source = make()
    network = make()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    begun = InitialWeights(network, saved(tmp_path, source))
    assert begun.report.new == begun.report.left == []
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_other_classes_take_the_outputs_of_equal_names(tmp_path):
    """By name, not by number: liver is class 2 in the one and class 1 in the other."""
    source, network = r2unet(classes=3), r2unet(classes=4)
    before = network.state_dict()["heads.0.weight"].clone()
    path = saved(tmp_path, source, {0: "background", 1: "lung", 2: "liver"})
    labels = {0: "background", 1: "liver", 2: "spleen", 3: "lung"}
    begun = InitialWeights(network, path, labels)
    weight, theirs = network.state_dict()["heads.0.weight"], source.state_dict()["heads.0.weight"]
    assert torch.equal(weight[[0, 1, 3]], theirs[[0, 2, 1]])
    assert torch.equal(weight[2], before[2])
    assert begun.report.partly["heads.0.weight"] == "background, liver, lung"
    assert "taken in part: heads.0.weight (background, liver, lung)" in str(begun.report)
    assert torch.equal(network.stem.project.weight, source.stem.project.weight)


def test_exchanged_names_exchange_the_outputs(tmp_path):
    source, network = r2unet(), r2unet()
    path = saved(tmp_path, source, {0: "background", 1: "left", 2: "right"})
    InitialWeights(network, path, {0: "background", 1: "right", 2: "left"})
    assert torch.equal(network.state_dict()["heads.0.bias"], source.state_dict()["heads.0.bias"][[0, 2, 1]])


def test_a_grey_image_in_every_channel_gives_what_it_gave(tmp_path):
    source, network = r2unet(1).eval(), r2unet(4).eval()
    begun = InitialWeights(network, saved(tmp_path, source))
    image = torch.randn(1, 1, 8, 8, 8)
    assert torch.allclose(network(image.expand(-1, 4, -1, -1, -1)), source(image), atol=1e-5)
    assert "1 to 4 input channels" in str(begun.report)


def test_what_is_not_loaded_is_named(tmp_path):
    source, network = r2unet(features=(4, 8, 16)), r2unet(features=(4, 8, 16, 32))
    begun = InitialWeights(network, saved(tmp_path, source))
    assert any(name.startswith("encoder.2.") for name in begun.report.new)
    assert "new, from a random start: " in str(begun.report)


def test_another_network_is_refused_and_stays_as_it_was(tmp_path):
    path = saved(tmp_path, torch.nn.Conv3d(1, 2, 3))
    network = r2unet()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"model\.pt has only 0% of this network's weights"):
        InitialWeights(network, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "network"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_of_other_trainers(tmp_path, wrapper, prefix):
    source = r2unet()
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "checkpoint.pth")
    network = r2unet(classes=3)
    torch.nn.init.zeros_(network.stem.project.weight)
    InitialWeights(network, tmp_path / "checkpoint.pth")
    assert torch.equal(network.stem.project.weight, source.stem.project.weight)


def test_a_folder_stands_for_the_model_in_it(tmp_path):
    (tmp_path / "models").mkdir()
    path = saved(tmp_path / "models", r2unet(), {0: "background", 1: "a", 2: "b"})
    assert read_weights(tmp_path).file == path
    assert network_of(tmp_path)["features"] == [4, 8, 16]
    assert network_of(saved(tmp_path, r2unet())) == {}


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere.pt", "there are no weights at"), ("", "holds no model.pt"), ("text.pt", "text.pt")],
)
def test_what_is_none_is_refused_in_a_sentence(tmp_path, name, said):
    (tmp_path / "text.pt").write_text("no weights", encoding="utf-8")
    with pytest.raises(CheckpointError, match=said):
        InitialWeights(r2unet(), tmp_path / name)


def test_loaded_parameters_learn_at_another_rate(tmp_path):
    source, network = r2unet(classes=3), r2unet(classes=5)
    path = saved(tmp_path, source, {0: "background", 1: "a", 2: "b"})
    begun = InitialWeights(network, path, dict(enumerate(["background", "c", "d", "e", "f"])))
    fresh, loaded = begun.groups(network, 0.01, 0.1)
    assert loaded["lr"] == pytest.approx(0.001)
    assert "lr" not in fresh or fresh["lr"] == 0.01
    assert len(fresh["params"]) + len(loaded["params"]) == len(list(network.parameters()))
    heads = {id(p) for p in network.heads.parameters()}
    assert {id(p) for p in fresh["params"]} <= heads


def test_without_weights_there_is_one_group():
    network = r2unet()
    (group,) = InitialWeights(network).groups(network, 0.01, 0.1)
    assert group == {"params": list(network.parameters())}


def test_frozen_parameters_stay(tmp_path):
    network = r2unet()
    begun = InitialWeights(network, saved(tmp_path, r2unet()), freeze=["encoder", "stem"])
    frozen = {name.split(".")[0] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"encoder", "stem"}
    assert begun.tags()["init.sha256"]


@pytest.mark.parametrize(
    ("freeze", "said"), [(["nothing"], "the network has decoder, encoder"), (["encoder"], "begin at random")]
)
def test_freezing_what_is_not_loaded_is_refused(tmp_path, freeze, said):
    path = saved(tmp_path, r2unet(features=(4, 8, 16)))
    with pytest.raises(SettingError, match=said):
        InitialWeights(r2unet(features=(4, 8, 16, 32)), path, freeze=freeze)
    with pytest.raises(SettingError, match="freeze needs weights"):
        InitialWeights(r2unet(), None, freeze=freeze)


def test_a_damaged_card_is_refused(tmp_path):
    path = saved(tmp_path, r2unet())
    path.with_suffix(".json").write_text(json.dumps({"network": 3}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model\.json"):
        InitialWeights(r2unet(), path)


def registry_with(file):
    """The address of a server like MLflow's whose only model is one file, of that name."""
    version = {"name": "theirs", "version": "1", "source": "mlflow-artifacts:/1/model"}
    answers = {
        "registered-models/alias?": {"model_version": version},
        "registered-models/get?": {"registered_model": {"name": "theirs"}},
        "model-versions/get-download-uri?": {"artifact_uri": version["source"]},
        "model-versions/get?": {"model_version": version},
        "mlflow-artifacts/artifacts?": {"files": [{"path": file, "is_dir": False, "file_size": 4}]},
    }

    def answer(path):
        found = next((each for part, each in answers.items() if part in path), "evil")
        return 200, json.dumps(found).encode()

    return answering(answer, "application/json")


@pytest.mark.parametrize(
    "name", ["../../evil.pt", "%2e%2e/%2e%2e/evil.pt", "models/../../../evil.pt", "{}/evil.pt"]
)
def test_a_file_of_a_registry_that_climbs_out_of_its_folder_is_refused(tmp_path, monkeypatch, name):
    (tmp_path / "deep" / "down").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "deep" / "down"))
    with registry_with(name.format(tmp_path)) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(CheckpointError, match=r"cannot be had from MLflow .*Invalid path"):
            read_weights("models:/theirs@best")
    assert not list(tmp_path.rglob("*evil*"))


def test_the_zip_of_a_bundle_is_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "r2unet.zip", "w") as archive:
        archive.writestr("r2unet/models/model.pt", b"weights")
    with pytest.raises(
        CheckpointError, match=r"is the zip of a bundle; unpack it, and name r2unet/models/model.pt in it"
    ):
        read_weights(tmp_path / "r2unet.zip")
