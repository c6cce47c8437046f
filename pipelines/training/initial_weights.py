"""Fine-tuning: a training that begins with the weights of another one, whatever of them fits."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipelines.inference.model_card import CardError, read_card
from pipelines.inference.trained_model import BEST, CheckpointError, load_tensors
from pipelines.tracking.client import first_line
from pipelines.utils.modules import unwrapped
from transforms.errors import SettingError
from transforms.utils.files import sha256_of
from transforms.utils.sentences import few_of

logger = logging.getLogger(__name__)

REGISTRY = ("models:/", "runs:/", "mlflow-artifacts:/")
HEADS = ("heads.", "classifiers.")
"""What names of the last layers begin with, whose output channels are classes."""
LEAST = 0.1
"""Share of the network's weights that has to be loaded: less is another network, taken by mistake."""
_WRAPPERS = ("state_dict", "model_state_dict", "network", "model", "net")
_SHOWN = 6


@dataclass(frozen=True)
class Source:
    """Weights on disk.

    Attributes:
        file: the state dict.
        tensors: by name.
        labels: class names by id, of a model of this project; None of any other state dict.
        run_id: MLflow run of the training that they are of, where that is known.
    """

    file: Path
    tensors: dict[str, torch.Tensor]
    labels: dict[int, str] | None = None
    run_id: str | None = None


@dataclass
class Report:
    """What was loaded, by names of the state dict.

    Attributes:
        loaded: taken as they are.
        adapted: changed to fit, and how.
        partly: of the last layers, and the classes that were taken.
        new: of this network alone, so they keep their random start.
        left: of the file alone, or of another shape.
    """

    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    partly: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded as they are"]
        for what, names in (("adapted", self.adapted), ("taken in part", self.partly)):
            if names:
                parts.append(f"{what}: {few_of([f'{name} ({how})' for name, how in names.items()], _SHOWN)}")
        if self.new:
            parts.append(f"new, from a random start: {few_of(self.new, _SHOWN)}")
        if self.left:
            parts.append(f"not used: {few_of(self.left, _SHOWN)}")
        return "; ".join(parts)


class InitialWeights:
    """The network of a training with the weights that it begins with.

    Args:
        network: as its definition makes it, with random weights.
        init: the weights: a `model.pt`, a bundle or another folder that holds one, a model of MLflow's registry
            (`models:/r2unet@best`), or any file with a state dict; None keeps the random weights.
        labels: class id to name, of the dataset that is trained on. Outputs for classes of the same names are taken,
            in whatever order.
        freeze: names, or beginnings of names, of loaded parameters that stay as they are.

    Attributes:
        network: the same network.
        report: what was loaded; None without `init`.
        source: where from; None without `init`.

    Raises:
        CheckpointError: there are no such weights, they are damaged, or of another network.
        SettingError: `freeze` names what is not there.

    Examples:
        >>> network = torch.nn.Conv3d(1, 2, 3)
        >>> InitialWeights(network).network is network
        True
    """

    def __init__(
        self,
        network: torch.nn.Module,
        init: str | os.PathLike | None = None,
        labels: Mapping[int, str] | None = None,
        freeze: Sequence[str] = (),
    ) -> None:
        self.network = network
        self.report: Report | None = None
        self.source: Source | None = None
        if init is not None:
            self.source = read_weights(init)
            self.report = load_what_fits(network, self.source, labels or {})
            logger.info("the weights begin as those of %s: %s", self.source.file, self.report)
        elif freeze:
            raise SettingError("freeze needs weights to begin with: name them with --init")
        for beginning in freeze:
            _freeze(network, beginning, self._known)

    @property
    def _known(self) -> set[str]:
        """Names of what was loaded whole: a layer with outputs that are new has to learn like a new one."""
        return set() if self.report is None else {*self.report.loaded, *self.report.adapted}

    def groups(
        self, network: torch.nn.Module, learning_rate: float, factor: float = 1.0
    ) -> list[dict[str, Any]]:
        """The parameters of a network for its optimiser: loaded ones learn at another rate.

        Args:
            network: the network, perhaps placed on a device or distributed since.
            learning_rate: of what begins at random.
            factor: what the learning rate is multiplied with for parameters that were loaded.
        """
        parameters = list(unwrapped(network).parameters())
        names = _names_in_files(unwrapped(network))
        loaded = [p for p in parameters if names.get(id(p)) in self._known]
        fresh = [p for p in parameters if names.get(id(p)) not in self._known]
        if factor == 1.0 or not loaded:
            return [{"params": parameters}]
        groups: list[dict[str, Any]] = [{"params": fresh}, {"params": loaded, "lr": learning_rate * factor}]
        return [group for group in groups if group["params"]]

    def tags(self) -> dict[str, str]:
        """Where the weights are from, as tags of the training's run."""
        if self.source is None:
            return {}
        found = {"init.file": str(self.source.file), "init.sha256": sha256_of(self.source.file)}
        return found | ({"init.run_id": self.source.run_id} if self.source.run_id else {})


def read_weights(init: str | os.PathLike) -> Source:
    """Read weights to begin with.

    Raises:
        CheckpointError: there are none, or they are damaged.
    """
    file = _file(init)
    card = file.with_suffix(".json")
    labels = run_id = None
    if card.is_file():
        try:
            content = read_card(card)
        except CardError as error:
            raise CheckpointError(str(error)) from error
        labels = {int(value): name for value, name in content["labels"].items()}
        run_id = content.get("run_id")
    return Source(file, _state_dict(load_tensors(file), file), labels, run_id)


def network_of(init: str | os.PathLike) -> dict[str, Any]:
    """The arguments of the network that weights belong to; nothing where no card lies beside them.

    Raises:
        CheckpointError: there are no such weights.
    """
    card = _file(init).with_suffix(".json")
    return dict(read_card(card)["network"]) if card.is_file() else {}


def _file(init: str | os.PathLike) -> Path:
    if isinstance(init, str) and init.startswith(REGISTRY):
        return _below(_downloaded(init), init)
    path = Path(init)
    if path.is_file():
        return path
    if path.is_dir():
        return _below(path, str(init))
    raise CheckpointError(
        f"there are no weights at {init}; name a model.pt, a folder that holds one, or a model such as models:/r2unet@best"
    )


def _below(folder: Path, init: str) -> Path:
    for file in (folder / BEST, folder / "models" / BEST):
        if file.is_file():
            return file
    raise CheckpointError(
        f"{init} holds no {BEST}, neither directly nor in models/; name the file with the weights"
    )


def _downloaded(uri: str) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        store = mlflow.get_tracking_uri()
        raise CheckpointError(
            f"{uri} cannot be had from MLflow at {store} ({first_line(error)}); see `mlflow ui` for what is there"
        ) from error


def _state_dict(content: Any, file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, out of the wrappers that trainers put around them."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file} holds no state dict; name a file with the weights of a network")
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise CheckpointError(f"{file} holds no tensors; name a file with the weights of a network")
    return tensors


@torch.no_grad()
def load_what_fits(network: torch.nn.Module, source: Source, labels: Mapping[int, str]) -> Report:
    """Put the tensors of a file into a network wherever names and shapes allow it.

    - A kernel of other input channels is summed over them and spread evenly: the same image in every channel gives
      what it gave in the file's.
    - Of the last layers the outputs of classes with the same names are taken, whatever their ids.

    Args:
        network: filled in place.
        source: the tensors.
        labels: class id to name, of the network.

    Raises:
        CheckpointError: less than `LEAST` of the network's weights are there; it is left as it was.
    """
    report = Report()
    own = network.state_dict()
    found: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        value = source.tensors.get(name)
        how = None
        if value is not None and name.startswith(HEADS) and source.labels is not None and labels:
            value, how = _by_class(value, tensor, source.labels, labels)
        elif value is not None and value.shape != tensor.shape:
            value, how = _by_channel(value, tensor)
        if value is None:
            report.new.append(name)
        elif how is None:
            report.loaded.append(name)
        else:
            (report.partly if name.startswith(HEADS) else report.adapted)[name] = how
        if value is not None:
            found[name] = value.to(tensor.dtype)
    report.left = [name for name in source.tensors if name not in found]
    loaded = sum(own[name].numel() for name in found)
    share = loaded / sum(tensor.numel() for tensor in own.values())
    if share < LEAST:
        raise CheckpointError(
            f"{source.file} has only {share:.0%} of this network's weights: it is of another network; {report}"
        )
    network.load_state_dict(found, strict=False)
    return report


def _by_channel(value: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor | None, str | None]:
    """A kernel (out, in, ...) for another number of input channels; None where more than that differs."""
    same = value.ndim == own.ndim and value.ndim >= 4
    if not same or value.shape[0] != own.shape[0] or value.shape[2:] != own.shape[2:]:
        return None, None
    spread = (value.sum(1, keepdim=True) / own.shape[1]).expand_as(own).clone()
    return spread, f"{value.shape[1]} to {own.shape[1]} input channels"


def _by_class(
    value: torch.Tensor, own: torch.Tensor, theirs: Mapping[int, str], ours: Mapping[int, str]
) -> tuple[torch.Tensor | None, str | None]:
    """The outputs of classes that both know, the others as they are in `own`; None where nothing fits."""
    if value.shape[1:] != own.shape[1:] or len(value) != len(theirs) or len(own) != len(ours):
        return None, None
    if dict(theirs) == dict(ours):
        return value, None
    ids = {name: number for number, name in theirs.items()}
    merged = own.clone()
    taken = []
    for number, name in ours.items():
        if name in ids or number == 0:
            merged[number] = value[ids.get(name, 0)]
            taken.append(name)
    return merged, f"{', '.join(taken)}"


def _freeze(network: torch.nn.Module, beginning: str, loaded: set[str]) -> None:
    """Keep parameters as they are; only loaded ones, for random ones would stay random."""
    chosen = {n: p for n, p in network.named_parameters() if f"{n}.".startswith(f"{beginning.rstrip('.')}.")}
    if not chosen:
        parts = sorted({name.split(".")[0] for name, _ in network.named_parameters()})
        raise SettingError(f"freeze names {beginning!r}, but the network has {', '.join(parts)}")
    names = _names_in_files(network)
    random = [name for name, parameter in chosen.items() if names.get(id(parameter)) not in loaded]
    if random:
        raise SettingError(
            f"freeze names {beginning!r}, of which {few_of(random, _SHOWN)} begin at random and have to learn"
        )
    for parameter in chosen.values():
        parameter.requires_grad_(False)


def _names_in_files(network: torch.nn.Module) -> dict[int, str]:
    """Name in the state dict by the identity of a parameter: a network may give the two different names."""
    return {id(tensor): name for name, tensor in network.state_dict(keep_vars=True).items()}
