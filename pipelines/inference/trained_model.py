"""Loads a trained network, and the description of its input and output, from `model.pt` and `model.json`."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from pipelines.inference.model_card import CardError, ModelCard, build_network, checked, read_content
from pipelines.metrics.confidence import factors
from pipelines.utils.call_stack import beside_running_config
from transforms.errors import UserError
from transforms.label_values import structures_of
from transforms.preprocess import Preprocess
from transforms.utils.files import sha256_of

BEST, CARD, SETTINGS = "model.pt", "model.json", "settings.json"


class CheckpointError(UserError, ValueError):
    """A checkpoint or model file cannot be used; the message names the file and what to do."""

    impersonal = True


def _next(path: Path) -> Path:
    """The temporary path of `model.pt` or `model.json` until both are complete."""
    return path.with_name(f"{path.stem}.next{path.suffix}")


class TrainedModel:
    """A trained network with the description of its input and output.

    The files may come from an untrusted source: no code in them is executed, see `pipelines.inference.model_card` and
    docs/security.md.

    Args:
        path: path of a `model.pt`, with its `model.json` in the same folder.
        trusted: further networks that the description may name, see `model_card.build_network`.

    Attributes:
        path: of its weights; of an ensemble, those of its first model.
        members: the models of an ensemble, otherwise the model alone.
        network: the network with its weights, in evaluation mode, on the CPU.
        preprocess: the preprocessing with which it was trained.
        labels: names of the classes by class id, background included.
        regions: name to the class ids that make it up; empty if it was trained for classes alone.
        patch_size: window size for sliding-window inference in voxels.
        overlap: of neighbouring windows as a fraction of their size, as in the validations of the training.
        mirror_axes: axes along which windows are mirrored too, as in these validations.
        card: the content of `model.json`.
        postprocessing: arguments of `pipelines.Postprocess` that a cross-validation chose; empty without one.

    Raises:
        CheckpointError: a file is missing or damaged, or the two files do not belong together.
    """

    # Here, for an ensemble is made without `__init__`.
    postprocessing: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, path: str | os.PathLike, trusted: Iterable[str] = ()) -> None:
        self.path = path = Path(path)
        self.members: list[TrainedModel] = [self]
        beside = path.with_suffix(".json")
        for file in (path, beside):
            if not file.is_file():
                raise CheckpointError(
                    f"there is no trained model at {path} ({file.name} is missing); train one first, for example "
                    f"with: python -m monai.bundle run training --config_file {beside_running_config('train.json')}"
                )
        try:
            self.card: ModelCard = checked(_card_of(path, beside))
            self.labels = {int(value): name for value, name in self.card["labels"].items()}
            self.regions = {name: tuple(values) for name, values in self.card.get("regions", {}).items()}
            self.patch_size = tuple(self.card["patch_size"])
            self.preprocess = Preprocess.from_parameters(self.card["preprocessing"])
            if sha256_of(path) != self.card["sha256"]:
                raise CheckpointError(
                    f"{path} is not the file that {beside.name} describes (sha256 differs); the two must come from "
                    "the same training"
                )
            self.network = build_network(self.card, path.stat().st_size, trusted)
        except CheckpointError:
            raise
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{beside} is not the description of a trained model: {error}") from error
        weights = load_tensors(path)
        try:
            self.network.load_state_dict(weights)
        except Exception as error:  # torch raises various errors for an object that is not a state dict
            raise CheckpointError(f"{path} does not fit the network of {beside.name}: {error}") from error
        self.network.eval()

    @property
    def class_names(self) -> list[str]:
        """Names of the foreground classes 1, 2, ... in order."""
        return [self.labels[value] for value in sorted(self.labels) if value != 0]

    @property
    def confidence_factors(self) -> dict[str, float]:
        """What the confidence of each class is multiplied by, see `pipelines.metrics.confidence.factors`."""
        return factors(self.card.get("validation", []), self.class_names)

    @property
    def overlap(self) -> float | list[float]:
        return self.card.get("overlap", 0.5)

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        return tuple(self.card.get("mirror_axes", ()))

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """What is measured: name to its class ids; the regions, or without any each foreground class for itself."""
        return structures_of(self.labels, self.regions)

    def require_labels(
        self, labels: Mapping[int, str], regions: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Raise CheckpointError unless a dataset has exactly the classes and regions that the model predicts."""
        if dict(labels) != self.labels:
            raise CheckpointError(
                f"the dataset's labels {dict(labels)} are not those of the model {self.labels}; evaluate on a "
                "dataset with the labels of the training"
            )
        wanted = structures_of(labels, regions)
        if wanted != self.structures:
            raise CheckpointError(
                f"the dataset measures {wanted}, the model was trained for {self.structures}; evaluate on a dataset"
                " with the regions of the training"
            )


def _card_of(path: Path, beside: Path) -> dict[str, object]:
    """The description of the weights at `path`: `model.json`, or the one that a killed training had not yet renamed."""
    return _waiting_card(path, beside) or read_content(beside)


def _waiting_card(path: Path, beside: Path) -> dict[str, object] | None:
    """The description of the weights at `path` if it still has its temporary name; None otherwise."""
    with contextlib.suppress(FileNotFoundError, CardError):
        card = read_content(_next(beside))
        if not _next(path).is_file() and card.get("sha256") == sha256_of(path):
            return card
    return None


def load_tensors(path: str | os.PathLike) -> dict[str, Any]:
    """Load a file of tensors and plain types onto the CPU, without executing code or decompressing data.

    Raises:
        CheckpointError: the file is damaged, or was not written by `torch.save`.
    """
    try:
        _require_uncompressed(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it or move it away") from error
    except Exception as error:  # the types of pickle's errors depend on the version of torch
        raise CheckpointError(f"{path} is not a checkpoint of tensors: {error}") from error


def _require_uncompressed(path: str | os.PathLike) -> None:
    """Raise CheckpointError for a compressed archive, which could fill the memory; `torch.save` does not compress."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        packaged = next((name for name in archive.namelist() if name.endswith(f"models/{BEST}")), None)
    if packaged is not None:
        raise CheckpointError(f"{path} is the zip of a bundle; unpack it, and name {packaged} in it")
    if unpacked > os.path.getsize(path):
        raise CheckpointError(
            f"{path} would grow to {unpacked} bytes, since it is compressed, unlike the checkpoints of this program; "
            "restore it or move it away"
        )
