"""A stranger's model is data: nothing in it runs, and nothing in it asks for all memory or all time."""

import copy
import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from networks import R2UNet, UPerNet
from pipelines.deployment.mlflow_model import Predictor
from pipelines.deployment.packaging import assemble
from pipelines.inference.ensemble import trained_model
from pipelines.inference.model_card import CardError, checked, read_card, read_content
from pipelines.inference.trained_model import CheckpointError, TrainedModel, load_tensors
from pipelines.training.checkpoints import KINDS, Checkpoints, Progress, load_state, require_whole
from tests.pipelines import small
from tests.pipelines.inference.test_training_data import CT
from transforms.preprocess import Preprocess
from transforms.utils.files import sha256_of

DEFINITION = {
    "_target_": "networks.R2UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "features": [4, 8],
    "norm": ["group", {"num_groups": 2}],
    "strides": [[2, 2, 1]],
}
CARD = {
    "format": 1,
    "network": DEFINITION,
    "labels": {"0": "background", "1": "lung"},
    "preprocessing": Preprocess(spacing=[2.0, 2.0, 5.0], crop_above=-500).parameters(),
    "patch_size": [32, 32, 16],
    "run_id": "0123456789abcdef0123456789abcdef",
    "experiment": "r2unet",
    "epoch": 7,
    "validation": [
        {"case": "a", "dice": {"lung": 0.9}, "confidence": {"lung": 0.95}},
        {"case": "b", "dice": {"lung": None}},
    ],
    "training_data": CT,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    arguments = {key: value for key, value in DEFINITION.items() if key != "_target_"}
    torch.save(R2UNet(**arguments).state_dict(), path)
    return path


@pytest.fixture
def model(weights, tmp_path):
    """Writes a model whose card was changed; returns the path of its weights."""

    def write(change=None, text=None):
        (tmp_path / "models").mkdir(exist_ok=True)
        path = tmp_path / "models" / "model.pt"
        path.write_bytes(weights.read_bytes())
        card = {**copy.deepcopy(CARD), "sha256": sha256_of(path)}
        if change is not None:
            change(card)
        (tmp_path / "models" / "model.json").write_text(text or json.dumps(card), encoding="utf-8")
        return path

    return write


def test_an_honest_card_is_taken_as_it_is(model):
    trained = TrainedModel(model())
    assert trained.card == {**CARD, "sha256": sha256_of(model())}
    assert trained.preprocess.parameters() == CARD["preprocessing"]
    assert trained.network(torch.zeros(1, 1, 4, 4, 4)).shape == (1, 2, 4, 4, 4)
    assert TrainedModel(model(lambda card: card["network"].update(_target_="networks.r2unet.R2UNet"))).network


def touch(path):
    return {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(path)]}}


def calls(path):
    return {"_target_": "builtins.open", "file": str(path), "mode": "w"}


@pytest.mark.parametrize("hostile", [touch, calls])
@pytest.mark.parametrize(
    "place",
    [
        "network",
        "network/num_steps",
        "network/features",
        "network/features/0",
        "network/norm",
        "network/norm/1",
        "network/norm/1/num_groups",
        "network/strides/0/2",
        "network/added",
        "labels",
        "labels/1",
        "patch_size",
        "patch_size/0",
        "preprocessing",
        "preprocessing/spacing",
        "preprocessing/spacing/0",
        "preprocessing/intensity",
        "preprocessing/intensity/lower",
        "preprocessing/crop_above",
        "preprocessing/channels",
        "sha256",
        "epoch",
        "run_id",
        "experiment",
        "validation",
        "validation/0/dice/lung",
        "validation/0/confidence/lung",
        "training_data",
        "training_data/spacing/0/low",
        "training_data/channels/0/name",
        "training_data/volumes/lung",
    ],
)
def test_a_target_anywhere_in_a_card_is_never_called(model, tmp_path, place, hostile):
    witness = tmp_path / "ran"

    def change(card):
        *names, last = place.split("/")
        inside = card
        for name in names:
            inside = inside[int(name) if isinstance(inside, list) else name]
        inside[int(last) if isinstance(inside, list) else last] = hostile(witness)

    with pytest.raises(CheckpointError, match=r"model\.json is not the description of a trained model: "):
        TrainedModel(model(change))
    assert not witness.exists()


@pytest.mark.parametrize("prefix", ["$", "@", "%"])
def test_expressions_are_no_values(model, prefix):
    with pytest.raises(CheckpointError, match="an expression"):
        TrainedModel(model(lambda card: card["network"].update(recurrence=f"{prefix}print(1)")))


def test_a_module_is_not_imported_because_a_card_names_it(model, tmp_path, monkeypatch):
    (tmp_path / "strange_module.py").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "import torch\nclass Net(torch.nn.Module): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match=r"not a network of this project .*SEGBUNDLES_NETWORKS"):
        TrainedModel(model(lambda card: card["network"].update(_target_="strange_module.Net")))
    assert "strange_module" not in sys.modules
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "target",
    ["torch.nn.Conv3d", "monai.networks.nets.UNet", "networks.strides_for", "networks.layers.ConvNormAct"],
)
def test_other_classes_are_refused_unless_the_user_names_them(model, monkeypatch, target):
    path = model(lambda card: card["network"].update(_target_=target))
    with pytest.raises(CheckpointError, match="not a network of this project"):
        TrainedModel(path)


def test_a_network_that_the_user_trusts(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    torch.save(small.Tiny(2).state_dict(), path)
    definition = {"_target_": "tests.pipelines.small.Tiny", "out_channels": 2}
    card = {**CARD, "network": definition, "sha256": sha256_of(path)}
    path.with_suffix(".json").write_text(json.dumps(card))
    monkeypatch.setenv("SEGBUNDLES_NETWORKS", "other.Net, tests.pipelines.small.Tiny")
    assert isinstance(TrainedModel(path).network, small.Tiny)
    monkeypatch.setenv("SEGBUNDLES_NETWORKS", "tests.pipelines.small")
    with pytest.raises(CheckpointError, match="not a network of this project"):
        TrainedModel(path)
    assert isinstance(TrainedModel(path, [definition["_target_"]]).network, small.Tiny)


BEYOND = [
    ("network/num_steps", 10**9),
    ("network/num_steps", 65),
    ("network/num_steps", 1e300),
    ("network/num_steps", "9" * 300),
    ("network/features", [10**9, 10**9]),
    ("network/features", [8] * 1000),
    ("network/features/0", 30000),
    ("network/strides", 10**9),
    ("network/dropout", float("nan")),
    ("network/layer_scale", float("inf")),
    ("network/norm", ["localresponse", {"size": 10**6}]),
    ("network/norm", ["group", {"num_groups": [[[[1]]]]}]),
    ("network/act", ["prelu", {"num_parameters": 10**9}]),
    ("network/upsample", "x" * 10**5),
    ("network/unknown", 1),
    ("network/in_channels", 2),
    ("network/out_channels", 3),
    ("network/spatial_dims", 2),
    ("regions", [1]),
    ("regions", {"": [1]}),
    ("regions", {"a\x1b": [1]}),
    ("regions", {"a": 1}),
    ("regions", {"a": []}),
    ("regions", {"a": [0]}),
    ("regions", {"a": [2]}),
    ("regions", {"a": [1.5]}),
    ("regions", {"a": [1] * 10**5}),
    ("regions", {str(number): [1] for number in range(2000)}),
    ("overlap", "0.5"),
    ("overlap", 0.99),
    ("overlap", -0.1),
    ("overlap", [0.5, 0.5]),
    ("overlap", [0.5, 0.5, float("nan")]),
    ("mirror_axes", "0"),
    ("mirror_axes", [3]),
    ("mirror_axes", [-1]),
    ("mirror_axes", [0, 0]),
    ("mirror_axes", [0.5]),
    ("mirror_axes", [0] * 10**5),
    ("preprocessing/spacing", 1e-4),
    ("preprocessing/spacing", [1e-4, 1, 1]),
    ("preprocessing/spacing", [1, 1, 0]),
    ("preprocessing/spacing", -1),
    ("preprocessing/spacing", float("nan")),
    ("preprocessing/spacing", 1e9),
    ("preprocessing/spacing", [1, 1]),
    ("preprocessing/spacing", "1"),
    ("preprocessing/spacing", True),
    ("preprocessing/orientation", "LPS"),
    ("preprocessing/intensity", {"kind": "ct_window", "lower": -1e300, "upper": 1e300}),
    ("preprocessing/intensity", {"kind": "ct_window", "lower": 5, "upper": 5}),
    ("preprocessing/intensity", {"kind": "z_score", "step": 0.5, "limit": 32.0}),
    ("preprocessing/intensity", {"kind": "no_norm"}),
    ("preprocessing/intensity", {"kind": "per_channel", "channels": []}),
    ("preprocessing/intensity", {"kind": "per_channel", "channels": [{"kind": "no_norm"}] * 2}),
    ("preprocessing/intensity", {"kind": "per_channel", "channels": [{"kind": "no_norm", "more": 1}]}),
    ("preprocessing/intensity", {"kind": "per_channel", "channels": [3]}),
    (
        "preprocessing/intensity",
        {"kind": "per_channel", "channels": [{"kind": "ct_window", "lower": 1, "upper": 1e9}]},
    ),
    ("preprocessing/intensity", {"kind": "per_channel", "channels": {"0": {"kind": "no_norm"}}}),
    ("preprocessing/crop_above", float("-inf")),
    ("preprocessing/crop_margin", 1e300),
    ("preprocessing/crop_margin", -50),
    ("preprocessing/channels", 10**9),
    ("preprocessing/added", 1),
    ("patch_size", [10**5] * 3),
    ("patch_size", [1024] * 3),
    ("patch_size", [1, 1, 1]),
    ("patch_size", [32, 0, 32]),
    ("patch_size", [32, -1, 32]),
    ("patch_size", [32] * 4),
    ("patch_size", [32, 32, 16.5]),
    ("patch_size", "large"),
    ("labels", {}),
    ("labels", {"0": "background", "2": "lung"}),
    ("labels", {"0": "background", "01": "lung"}),
    ("labels", {"0": "background", "1": "background"}),
    ("labels", {"0": "background", "1": ""}),
    ("labels", {"0": "background", "1": "a\x1b[2Jb"}),
    ("labels", {"0": "background", "1": "a\nb"}),
    ("labels", {"0": "background", "1": "\ud800"}),
    ("labels", {"0": "background", "1": "x" * 10**6}),
    ("labels", {"9" * 5000: "x"}),
    ("labels", ["background", "lung"]),
    ("epoch", 10**400),
    ("epoch", -1),
    ("run_id", "' or true"),
    ("experiment", "x\ny"),
    ("sha256", 7),
    ("sha256", "f" * 63),
    ("format", 2),
    ("validation", [{"case": "a"}]),
    ("validation", [{"case": "a", "dice": {"lung": 7}}]),
    ("validation", [{"case": "a", "dice": {}, "confidence": {"lung": -1}}]),
    ("validation", "all"),
    ("training_data", {"cases": 3}),
]


@pytest.mark.parametrize(("place", "value"), BEYOND, ids=[f"{p}={ascii(v)[:30]}" for p, v in BEYOND])
def test_values_beyond_the_bounds_are_refused_by_name(model, place, value):
    def change(card):
        *names, last = place.split("/")
        inside = card
        for name in names:
            inside = inside[name]
        inside[int(last) if isinstance(inside, list) else last] = value

    with pytest.raises(CheckpointError) as caught:
        TrainedModel(model(change))
    said = str(caught.value)
    assert "model.json is not the description of a trained model: " in said
    assert len(said) < 800
    assert said.isascii()
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5000 + "]" * 5000, "nested deeper than 100 levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper than 100 levels"),
        ("", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}", "'labels' is missing"),
        ('{"labels": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_files_that_are_no_card(model, text, said):
    with pytest.raises(CheckpointError, match=said):
        TrainedModel(model(text=text or " "))


def test_a_card_that_fills_the_disk_is_not_read_into_memory(model):
    path = model()
    with path.with_suffix(".json").open("r+b") as stream:
        stream.truncate(1 << 40)  # sparse
    with pytest.raises(CheckpointError, match="more than 64 MB"):
        TrainedModel(path)


def test_regions(model):
    trained = TrainedModel(model(lambda card: card.update(regions={"tumour": [1]})))
    assert trained.regions == trained.structures == {"tumour": (1,)}
    assert trained.card["regions"] == {"tumour": [1]}
    assert TrainedModel(model()).regions == {}
    with pytest.raises(CardError, match="names a class twice"):
        checked({**read_content(model().with_suffix(".json")), **_three_classes(), "regions": {"a": [1, 1]}})


def _three_classes():
    network = {**CARD["network"], "out_channels": 3}
    return {"labels": {"0": "background", "1": "a", "2": "b"}, "network": network}


def test_what_nobody_knows_is_left_out(model):
    card = TrainedModel(model(lambda card: card.update(comment="mine", members=["f" * 64]))).card
    assert "comment" not in card
    assert "members" not in card, "it would stand for other models' digests in a report"


def test_pretrained_weights_that_a_training_began_with_are_not_opened_again(tmp_path):
    network = UPerNet(3, 1, 2, encoder="resnet18", fpn_channels=8)
    path = tmp_path / "model.pt"
    torch.save(network.state_dict(), path)
    definition = {
        "_target_": "networks.UPerNet",
        **dict(spatial_dims=3, in_channels=1, out_channels=2, encoder="resnet18", fpn_channels=8),
        "encoder_weights": "/another/machine/resnet18.pth",
    }
    path.with_suffix(".json").write_text(
        json.dumps({**CARD, "network": definition, "sha256": sha256_of(path)})
    )
    found = TrainedModel(path).network.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in network.state_dict().items())


# -- weights ---------------------------------------------------------------------------------------------------------


def repacked(source, target, grow=b""):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        if grow:
            new.writestr("archive/data/99", grow)


def test_a_file_that_would_grow_is_refused_before_it_does(model, tmp_path):
    path = model()
    repacked(path, tmp_path / "bomb.pt", grow=bytes(50_000_000))
    with pytest.raises(CheckpointError, match=r"would grow to .* compressed"):
        load_tensors(tmp_path / "bomb.pt")
    with pytest.raises(CheckpointError, match=r"would grow to .* compressed"):
        load_state(tmp_path / "bomb.pt")


def test_a_network_larger_than_its_file_is_not_built(model, tmp_path):
    """A tensor of one number can call itself 10^9 numbers, so sizes in the file prove nothing."""
    definition = {**DEFINITION, "features": [512, 1024, 2048], "strides": 2}
    with torch.device("meta"):
        network = R2UNet(**{key: value for key, value in definition.items() if key != "_target_"})
    state = {name: torch.zeros(()).expand(value.shape) for name, value in network.state_dict().items()}
    path = tmp_path / "model.pt"
    torch.save(state, path)
    card = {**CARD, "network": definition, "sha256": sha256_of(path)}
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="more weights than a file of"):
        TrainedModel(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, torch.zeros(3), "text"])
def test_files_that_hold_no_weights(model, content):
    path = model()
    torch.save(content, path)
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "sha256": sha256_of(path)}))
    with pytest.raises(CheckpointError, match=r"does not fit the network of model\.json|more weights than"):
        TrainedModel(path)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 10**30},
        {"inside": -1},
        {"history": [1, 2]},
        {"history": {"epoch": 1}},
        {"ranks": [{}]},
        {"work": "digest"},
        {"run_id": 7},
        {"finished": "no"},
    ],
)
def test_a_state_of_other_kinds_of_values_is_not_gone_on_with(tmp_path, change):
    Checkpoints(tmp_path).save({"network": {}, "epoch": 1, **change})
    with pytest.raises(
        CheckpointError, match=rf"last\.ckpt is not the state of a training \({next(iter(change))} "
    ):
        load_state(tmp_path / "last.ckpt")


@pytest.mark.parametrize("name", Progress.__annotations__)
def test_a_state_without_one_of_its_parts_is_not_gone_on_with(tmp_path, name):
    whole = dict.fromkeys(Progress.__annotations__)
    require_whole(whole, tmp_path)
    del whole[name]
    with pytest.raises(CheckpointError, match=rf"not the state of a training \({name} is missing\)"):
        require_whole(whole, tmp_path)


def test_every_part_of_a_state_has_a_kind():
    assert set(KINDS) == set(Progress.__annotations__)


def test_torchscript_is_no_file_of_weights(model, tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / "net.ts")
    with pytest.raises(CheckpointError, match=r"net\.ts"):
        load_tensors(tmp_path / "net.ts")


# -- routes ----------------------------------------------------------------------------------------------------------


def nested(card):
    card["network"]["num_steps"] = {"_target_": "builtins.exit", "_args_": [7]}


ROUTES = {
    "predict, evaluate and both configs": lambda path: trained_model(path),
    "ensemble": lambda path: trained_model([path, path]),
    "packaging": lambda path: assemble(Path("bundles/r2unet"), path.parents[1] / "out", path.parent),
    "MLflow model": lambda path: Predictor(path.parents[1]),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_by_which_a_model_is_opened(model, repository, monkeypatch, route):
    monkeypatch.chdir(repository)
    with pytest.raises(CheckpointError, match="num_steps holds '_target_'"):
        ROUTES[route](model(nested))


def test_a_waiting_card_of_a_stranger_is_checked_too(model):
    path = model()
    card = json.loads(path.with_suffix(".json").read_text())
    nested(card)
    path.with_name("model.next.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="num_steps holds '_target_'"):
        TrainedModel(path)
    path.with_name("model.next.json").write_text("[" * 5000)
    assert TrainedModel(path).network is not None
    Checkpoints(path.parent).repair()
    assert not path.with_name("model.next.json").exists()


def test_a_card_by_itself_is_named_in_what_is_wrong_with_it(model):
    path = model(nested).with_suffix(".json")
    with pytest.raises(CardError, match=f"^{path} is not the description"):
        read_card(path)


def test_what_is_done_to_each_channel_is_taken_as_it_is():
    preprocess = Preprocess(channels=3, normalization=["CT", "T1", "rgb_to_0_1"])
    card = {**copy.deepcopy(CARD), "sha256": "0" * 64, "preprocessing": preprocess.parameters()}
    card["network"] |= {"in_channels": 3}
    assert checked(card)["preprocessing"] == preprocess.parameters()
    card["preprocessing"] |= {"channels": 2}
    with pytest.raises(CardError, match="does not say what is done to each of 2 channels"):
        checked(card)
