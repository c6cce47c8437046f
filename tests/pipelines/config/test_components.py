"""What the components of a config take, and what they take when it says nothing."""

import pytest
from monai.inferers import SimpleInferer
from torch.optim import AdamW

from pipelines.config.components import defaults, find_component, keywords
from pipelines.training.trainer import SegTrainer


def test_components_are_found_by_their_place_or_by_monais_name():
    assert find_component("torch.optim.AdamW") is AdamW
    assert find_component("SimpleInferer") is SimpleInferer
    assert find_component("pipelines.SegTrainer") is SegTrainer
    assert find_component("NoSuchThing") is find_component("no.such.thing") is None


@pytest.mark.parametrize(
    ("target", "some"),
    [
        # what a constructor hands on by **kwargs counts
        ("pipelines.SegTrainer", {"max_grad_norm", "max_epochs", "loss_function"}),
        (
            "pipelines.lr_schedule",
            {"optimizer", "kind", "total_steps", "warmup_steps", "power", "decay_share"},
        ),
        # built-in types say nothing of what they take
        ("dict", None),
    ],
)
def test_keywords_of_classes_and_functions(target, some):
    found = keywords(find_component(target))
    assert found is None if some is None else found is not None and some <= found.keys() - {"self"}


def test_defaults_have_the_ids_and_the_spelling_of_the_config():
    flat = {
        "train.transform._target_": "transforms.PatchAugmentation",
        "train.transform.rotation": "20",
        "other._target_": "$torch.nn.Identity",
        "handlers.0._target_": "pipelines.Validation",
        "nothing._target_": "no.such.thing",
    }
    found = defaults(flat)
    assert found["train.transform.rotation"] == "15"
    assert found["train.transform.low_resolution"] == "[0.35, 1.0]"
    assert found["train.transform.strength"] == "strong"
    assert found["train.transform.image_key"] == "image"
    assert found["train.transform.spacing"] == "null"
    assert "train.transform.patch_size" not in found
    assert {name.split(".")[0] for name in found} <= {"train", "handlers"}
