"""Reads and checks `model.json`, the description of trained weights, which may come from an untrusted source.

Nothing in the file is executed, and every value has a limit. The limits are far above the values of real models; they
prevent that a small description makes the program use all memory or run without end.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import pydoc
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from pipelines.inference.card_plan import CardPlan, checked_card_plan
from pipelines.inference.card_preprocessing import checked_preprocessing
from pipelines.inference.card_values import CardError, mapping, matching, number, shown, text, whole
from pipelines.inference.training_data import TrainingData, checked_training_data
from pipelines.utils.installed import PREFIX, name_here
from pipelines.utils.json_files import JsonError, read_json
from transforms.preprocess import PreprocessParameters

if TYPE_CHECKING:
    from typing import NotRequired

    # Needed for a type only; importing it loads scipy.stats, which is slow.
    from pipelines.metrics.summary import CaseMetrics

VARIABLE = "SEGBUNDLES_NETWORKS"
"""Environment variable with the trusted networks of other packages: dotted names, separated by commas."""
FORMAT = 1
LARGEST_FILE = 64 << 20
CLASSES = 65_536
REGIONS = 1024
PATCH_VOXELS = 64, 1 << 27
MOST_OVERLAP = 0.9
LOGITS = 1 << 32
"""Limit of classes times voxels of a patch."""
_AXIS = 1 << 14
_STEPS = {"num_steps": 64, "strides": 64, "pool_scales": 64}
"""Limits of arguments that increase time or memory without increasing the size of the weights."""
_WIDTH, _DETAIL = 65_536, 1024
_ITEMS, _LETTERS = 64, 256
# Arguments with the initial weights of a training. They are ignored: the path may be on another machine, and the
# trained weights replace them.
_INITIAL_WEIGHTS = ("encoder_weights",)


class Card(TypedDict):
    """The description needed to use trained weights, and their origin.

    Attributes:
        network: definition of the network, `_target_` and arguments, as in a MONAI bundle.
        labels: names of the classes by class id (as text).
        regions: name to the class ids that make it up, if the training was for regions.
        overlap: of neighbouring windows in the validations, as a fraction of their size, or one for each axis.
        mirror_axes: axes along which windows were mirrored too in the validations.
        patch_size: size of the sliding window in voxels.
        run_id, experiment: MLflow run and experiment of the training.
        validation: Dice and confidence of the cases of the validation by which the weights were selected.
        training_data: summary of the training cases.
        plan: the settings of the training that were planned, with the reason of each.
    """

    format: int
    network: dict[str, Any]
    labels: dict[str, str]
    preprocessing: PreprocessParameters
    patch_size: list[int]
    regions: NotRequired[dict[str, list[int]]]
    overlap: NotRequired[float | list[float]]
    mirror_axes: NotRequired[list[int]]
    run_id: NotRequired[str | None]
    experiment: NotRequired[str | None]
    epoch: NotRequired[int]
    validation: NotRequired[list[CaseMetrics]]
    training_data: NotRequired[TrainingData]
    plan: NotRequired[CardPlan]


class ModelCard(Card):
    """The card of certain weights, identified by the SHA-256 of their file; for an ensemble, over its members' SHA-256."""

    sha256: str
    members: NotRequired[list[str]]


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read and check a description; unknown keys are removed.

    Raises:
        CardError: the file is not a valid description; the message names the file.
        OSError: the file cannot be read.
    """
    try:
        return checked(read_content(path))
    except CardError as error:
        raise CardError(f"{path} is not the description of a trained model: {error}") from None


def read_content(path: str | os.PathLike[str]) -> dict[str, object]:
    """Read the JSON object of a description without checking its values.

    Raises:
        CardError: the file is not a JSON object, or is too large.
        OSError: the file cannot be read.
    """
    try:
        content = read_json(path, largest=LARGEST_FILE)
    except JsonError as error:
        raise CardError(f"it is {error}") from None
    return dict(mapping(content, "it"))


def checked(content: Mapping[str, object]) -> ModelCard:
    """Check the content of a description; unknown keys are removed.

    Raises:
        CardError: see `read_card`.
    """
    missing = [
        key for key in ("labels", "patch_size", "preprocessing", "network", "sha256") if key not in content
    ]
    if missing:
        raise CardError(f"'{missing[0]}' is missing")
    if content.get("format", FORMAT) != FORMAT:
        raise CardError(f"its format is {shown(content['format'])}, but this version reads format {FORMAT}")
    found: ModelCard = {
        "format": FORMAT,
        "network": _plain(mapping(content["network"], "network"), "network"),
        "labels": _labels(content["labels"]),
        "preprocessing": checked_preprocessing(content["preprocessing"]),
        "patch_size": _patch_size(content["patch_size"]),
        "sha256": matching(content["sha256"], "sha256", "[0-9a-f]{64}"),
    }
    if content.get("regions"):
        found["regions"] = _regions(content["regions"], len(found["labels"]))
    if content.get("overlap") is not None:
        found["overlap"] = _overlap(content["overlap"], len(found["patch_size"]))
    if content.get("mirror_axes"):
        found["mirror_axes"] = _mirror_axes(content["mirror_axes"], len(found["patch_size"]))
    voxels = math.prod(found["patch_size"])
    if voxels * len(found["labels"]) > LOGITS:
        raise CardError(f"patch_size {found['patch_size']} is too large for {len(found['labels'])} classes")
    spacing = found["preprocessing"]["spacing"]
    if isinstance(spacing, list) and len(spacing) < len(found["patch_size"]):
        raise CardError(f"spacing {spacing} has fewer axes than patch_size {found['patch_size']}")
    if content.get("run_id") is not None:
        found["run_id"] = matching(content["run_id"], "run_id", "[A-Za-z0-9_-]{1,100}")
    if content.get("experiment") is not None:
        found["experiment"] = text(content["experiment"], "experiment", 500)
    if content.get("epoch") is not None:
        found["epoch"] = whole(content["epoch"], "epoch", 0, 10**9)
    if content.get("validation") is not None:
        found["validation"] = _validation(content["validation"])
    if content.get("training_data") is not None:
        found["training_data"] = checked_training_data(content["training_data"])
    if content.get("plan") is not None:
        found["plan"] = checked_card_plan(content["plan"])
    _require_own_sizes(found)
    return found


def build_network(card: ModelCard, file_size: int, trusted: Iterable[str] = ()) -> torch.nn.Module:
    """Create the network of a checked description, with untrained weights.

    Args:
        card: result of `checked`.
        file_size: size of the weights file in bytes; a network of this project with more weights is refused.
        trusted: dotted names of further networks that the description may name, in addition to this project's
            networks and those in the environment variable SEGBUNDLES_NETWORKS.

    Raises:
        CardError: the network is not trusted or not installed, does not accept the arguments, or is too large for
            its file.
    """
    definition = dict(card["network"])
    target = definition.pop("_target_")
    ours = _our_networks()
    if target not in ours and target not in {*trusted, *_named_by_the_user()}:
        names = ", ".join(name for name in ours if name.count(".") == 1)
        raise CardError(
            f"it names '{target}', which is not a network of this project ({names}); if you trust that class, name "
            f"it in the environment variable {VARIABLE}"
        )
    network: Any = ours.get(target) or pydoc.locate(target)
    if not (isinstance(network, type) and issubclass(network, torch.nn.Module)):
        raise CardError(f"it names '{target}', which is not a network that is installed")
    arguments = {key: value for key, value in definition.items() if key not in _INITIAL_WEIGHTS}
    try:
        inspect.signature(network).bind(**arguments)
        if target in ours:
            # Tensors on this device use no memory.
            with torch.device("meta"):
                state = network(**arguments).state_dict()
            # Every number format needs at least one byte per number.
            if sum(tensor.numel() for tensor in state.values()) > file_size:
                raise CardError(f"its network has more weights than a file of {file_size} bytes holds")
        return network(**arguments)
    except CardError:
        raise
    except Exception as error:  # a constructor may raise any error for arguments that do not fit
        raise CardError(f"its network {target} cannot be built ({error})") from error


def _our_networks() -> dict[str, type[torch.nn.Module]]:
    """This project's networks by their short and long names."""
    # Imported by name, since `pipelines` otherwise gets networks only from a config and does not import `networks`.
    package = importlib.import_module(name_here("networks"))
    found: dict[str, type[torch.nn.Module]] = {}
    for name in package.__all__:
        value = getattr(package, name)
        if isinstance(value, type) and issubclass(value, torch.nn.Module):
            long = f"{value.__module__}.{value.__qualname__}"
            found[f"networks.{name}"] = found[long.removeprefix(PREFIX)] = value
    return found


def _named_by_the_user() -> set[str]:
    return {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}


# -- values ------------------------------------------------------------------------------------------------


def _plain(definition: Mapping[str, object], where: str) -> dict[str, Any]:
    """The checked definition of a network: a `_target_`, and arguments that are plain values."""
    target = text(definition.get("_target_"), f"{where}#_target_", _LETTERS)
    # As a config may name a network where a wheel is installed.
    if target.startswith("segbundles.networks."):
        target = target.removeprefix("segbundles.")
    if definition.get("_disabled_", False) is not False:
        raise CardError(f"{where}#_disabled_ is {shown(definition['_disabled_'])}")
    plain = {
        key: _argument(value, f"{where}#{key}", _STEPS.get(key, _WIDTH))
        for key, value in definition.items()
        if key not in ("_target_", "_desc_", "_disabled_")
    }
    _keys(plain, where)
    return {"_target_": target, **plain}


def _argument(value: Any, where: str, most: float, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return number(value, where, -most, most)
    if isinstance(value, str):
        if value.startswith(("$", "@", "%")):
            raise CardError(
                f"{where} is an expression, {shown(value)}; the description of a model may contain only plain values"
            )
        return text(value, where, 4096 if where.rpartition("#")[2] in _INITIAL_WEIGHTS else _LETTERS)
    if depth == 3 or not isinstance(value, (list, Mapping)):
        raise CardError(f"{where} is not a plain value")
    if len(value) > _ITEMS:
        raise CardError(f"{where} has {len(value)} items; at most {_ITEMS} are allowed")
    if isinstance(value, list):
        return [_argument(item, f"{where}#{i}", most, depth + 1) for i, item in enumerate(value)]
    # Arguments of a norm or an activation: ["group", {"num_groups": 8}]
    _keys(value, where)
    return {
        key: _argument(item, f"{where}#{key}", min(most, _DETAIL), depth + 1) for key, item in value.items()
    }


def _keys(found: Mapping[str, object], where: str) -> None:
    """Raise CardError for a key with a special meaning in MONAI or Python, such as `_target_`."""
    for key in found:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,99}", key):
            raise CardError(f"{where} holds {shown(key)}, so it is not a plain value")


def _require_own_sizes(card: ModelCard) -> None:
    """Raise CardError if dimensions or channels of this project's network contradict the rest of the description."""
    definition = card["network"]
    if not definition["_target_"].startswith("networks."):
        return
    for name, value in (
        ("spatial_dims", len(card["patch_size"])),
        ("in_channels", card["preprocessing"]["channels"]),
        ("out_channels", len(card["labels"])),
    ):
        if definition.get(name, value) != value:
            raise CardError(
                f"network#{name} is {definition[name]}, but the rest of the file requires {value}"
            )


def _labels(content: Any) -> dict[str, str]:
    labels = mapping(content, "labels")
    if not 1 <= len(labels) <= CLASSES:
        raise CardError(f"labels has {len(labels)} classes; 1 to {CLASSES} are allowed")
    ids = {str(value) for value in range(len(labels))}
    if set(labels) != ids:
        raise CardError(f"labels must name each of the classes 0 to {len(labels) - 1} once")
    names = {key: text(labels[key], f"labels#{key}", _LETTERS) for key in sorted(labels, key=int)}
    if len(set(names.values())) < len(names):
        raise CardError("labels gives one name to two classes")
    return names


def _regions(content: Any, classes: int) -> dict[str, list[int]]:
    regions = mapping(content, "regions")
    if len(regions) > REGIONS:
        raise CardError(f"regions has {len(regions)} entries; {REGIONS} can be")
    found = {}
    for name, values in regions.items():
        where = f"regions#{text(name, 'regions', _LETTERS)}"
        if not isinstance(values, list) or not 0 < len(values) < classes:
            raise CardError(
                f"{where} is {shown(values)}, no list of some of the {classes - 1} foreground classes"
            )
        found[name] = [whole(value, where, 1, classes - 1) for value in values]
        if len(set(found[name])) < len(values):
            raise CardError(f"{where} names a class twice")
    return found


def _patch_size(content: Any) -> list[int]:
    if not isinstance(content, list) or len(content) not in (2, 3):
        raise CardError(f"patch_size is {shown(content)}, not two or three numbers of voxels")
    size = [whole(value, "patch_size", 1, _AXIS) for value in content]
    if not PATCH_VOXELS[0] <= math.prod(size) <= PATCH_VOXELS[1]:
        raise CardError(
            f"patch_size {size} is {math.prod(size)} voxels; {PATCH_VOXELS[0]} to {PATCH_VOXELS[1]} are allowed"
        )
    return size


def _overlap(content: Any, dims: int) -> float | list[float]:
    if not isinstance(content, list):
        return number(content, "overlap", 0, MOST_OVERLAP)
    if len(content) != dims:
        raise CardError(f"overlap is {shown(content)}, not one fraction for each of {dims} axes")
    return [number(value, "overlap", 0, MOST_OVERLAP) for value in content]


def _mirror_axes(content: Any, dims: int) -> list[int]:
    if not isinstance(content, list) or not 0 < len(content) <= dims:
        raise CardError(f"mirror_axes is {shown(content)}, no list of some of {dims} axes")
    axes = [whole(value, "mirror_axes", 0, dims - 1) for value in content]
    if len(set(axes)) < len(axes):
        raise CardError("mirror_axes names an axis twice")
    return axes


def _validation(content: Any) -> list[CaseMetrics]:
    if not isinstance(content, list):
        raise CardError("validation is not a list of cases")
    cases: list[CaseMetrics] = []
    for item in content:
        case = mapping(item, "validation")
        found: CaseMetrics = {
            "case": text(case.get("case"), "validation#case", 500),
            "dice": _shares(case.get("dice"), "validation#dice"),
        }
        if case.get("confidence") is not None:
            found["confidence"] = _shares(case["confidence"], "validation#confidence")
        cases.append(found)
    return cases


def _shares(content: Any, where: str) -> dict[str, float | None]:
    """A number from 0 to 1 for each class, or None."""
    return {
        text(name, where, _LETTERS): None if value is None else number(value, where, 0, 1)
        for name, value in mapping(content, where).items()
    }
