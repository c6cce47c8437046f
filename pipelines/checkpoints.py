"""The state of a training on disk, and the trained model that comes out of it."""

from __future__ import annotations

import json
import logging
import os
import pydoc
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from pipelines.engines import SegTrainer, unwrapped
from pipelines.files import replacing, sha256_of
from pipelines.preprocess import Preprocess

logger = logging.getLogger(__name__)

LAST, BEST, CARD = "last.pt", "model.pt", "model.json"


class CheckpointError(ValueError):
    """A checkpoint or model file cannot be used; the message names it and says what to do."""


class Checkpoints:
    """Writes and reads the files of one training in one folder.

    - `last.pt`: everything needed to go on, after every epoch;
    - `model.pt`: the weights with the best validation Dice, a plain state dict as MONAI's tools expect;
    - `model.json`: what those weights need around them: network, labels, preprocessing, patch size, run.

    Every file is written whole or not at all and holds only tensors and plain types.

    Args:
        folder: where they lie.
        work: what is trained, a digest of the config; a `last.pt` of other work is never continued.
    """

    def __init__(self, folder: str | os.PathLike, work: str) -> None:
        self.folder = Path(folder)
        self.work = work

    def unfinished(self, epochs: int) -> dict[str, Any] | None:
        """The state to go on from: `last.pt` of the same work with fewer than `epochs` done, else None."""
        path = self.folder / LAST
        if not path.is_file():
            return None
        state = load_tensors(path)
        if not isinstance(state, dict) or "work" not in state:
            raise CheckpointError(f"{path} is not the state of a training; move it away")
        same = state["work"] == self.work and not state.get("finished", False)
        return state if same and state["epoch"] < epochs else None

    def set_aside(self) -> Path | None:
        """Move the files of an earlier training to `previous/<run>`, so that nothing is overwritten."""
        present = [self.folder / name for name in (LAST, BEST, CARD) if (self.folder / name).exists()]
        if not present:
            return None
        parent = self.folder / "previous"
        number = 1 + max((int(p.name) for p in parent.glob("*") if p.name.isdigit()), default=0)
        target = parent / f"{number:03d}"
        target.mkdir(parents=True)
        for path in present:
            shutil.move(path, target / path.name)
        return target

    def save(self, trainer: SegTrainer, progress: Mapping[str, Any], finished: bool = False) -> None:
        """Write `last.pt`: weights, average, optimiser, schedule, scaler, random state and `progress`."""
        state: dict[str, Any] = {
            **progress,
            "work": self.work,
            "finished": finished,
            "epoch": trainer.state.epoch,
            "network": unwrapped(trainer.network).state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "lr_scheduler": trainer.lr_scheduler.state_dict() if trainer.lr_scheduler is not None else None,
            "grad_scaler": trainer.grad_scaler.state_dict(),
            "average": trainer.average.state_dict() if trainer.average is not None else None,
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        if state["lr_scheduler"] is not None:
            state["lr_scheduler"] = {
                k: v for k, v in state["lr_scheduler"].items() if not k.startswith("lr_lambda")
            }
        with replacing(self.folder / LAST) as temporary:
            torch.save(state, temporary)

    def restore(self, trainer: SegTrainer, state: Mapping[str, Any]) -> None:
        """Put a state from `unfinished` into the trainer, which then goes on with the epoch after it."""
        unwrapped(trainer.network).load_state_dict(state["network"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        if trainer.lr_scheduler is not None and state["lr_scheduler"] is not None:
            trainer.lr_scheduler.load_state_dict({**state["lr_scheduler"], "lr_lambdas": [None]})
        trainer.grad_scaler.load_state_dict(state["grad_scaler"])
        if trainer.average is not None and state["average"] is not None:
            trainer.average.load_state_dict(state["average"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and len(state["rng_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["rng_cuda"])
        trainer.state.epoch = int(state["epoch"])
        trainer.state.iteration = int(state["epoch"]) * (trainer.state.epoch_length or 0)

    def save_model(self, network: torch.nn.Module, card: Mapping[str, Any]) -> Path:
        """Write `model.pt` and then `model.json`, which carries the sha256 of the weights it belongs to."""
        path = self.folder / BEST
        weights = {name: value.detach().cpu() for name, value in plain_network(network).state_dict().items()}
        with replacing(path) as temporary:
            torch.save(weights, temporary)
        with replacing(self.folder / CARD) as temporary:
            temporary.write_text(json.dumps({**card, "sha256": sha256_of(path)}, indent=2) + "\n")
        return path


class TrainedModel:
    """A trained network with everything that its input and output need.

    Args:
        path: a `model.pt` with its `model.json` beside it, as a training leaves them.

    Attributes:
        network: the network with its weights, in evaluation mode, on the CPU.
        preprocess: the definition of preprocessing that it was trained with.
        labels: class id to name, background included.
        patch_size: the window for sliding-window inference.
        card: the whole content of `model.json`.

    Raises:
        CheckpointError: a file is missing, damaged, or the two do not belong together.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        path = Path(path)
        beside = path.with_suffix(".json")
        for file in (path, beside):
            if not file.is_file():
                raise CheckpointError(
                    f"there is no trained model at {path} ({file.name} is missing); train one first, for example "
                    "with: python -m monai.bundle run training --config_file bundles/r2unet/train.json"
                )
        try:
            self.card: dict[str, Any] = json.loads(beside.read_text())
            self.labels = {int(value): str(name) for value, name in self.card["labels"].items()}
            self.patch_size = tuple(int(n) for n in self.card["patch_size"])
            self.preprocess = Preprocess.from_parameters(self.card["preprocessing"])
            definition, expected = self.card["network"], self.card["sha256"]
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{beside} is not the description of a trained model: {error!r}") from error
        if sha256_of(path) != expected:
            raise CheckpointError(
                f"{path} is not the file that {beside.name} describes (sha256 differs); the two must come from "
                "the same training"
            )
        _require_plain(definition, beside)
        parser = ConfigParser({"network": definition})
        self.network: torch.nn.Module = parser.get_parsed_content("network")
        try:
            self.network.load_state_dict(load_tensors(path))
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not fit the network of {beside.name}: {error}") from error
        self.network.eval()

    @property
    def class_names(self) -> list[str]:
        """Names of the foreground classes 1, 2, ... in order."""
        return [self.labels[value] for value in sorted(self.labels) if value != 0]

    def require_labels(self, labels: Mapping[int, str]) -> None:
        """Raise CheckpointError unless a dataset has the very classes that the model predicts."""
        if dict(labels) != self.labels:
            raise CheckpointError(
                f"the dataset's labels {dict(labels)} are not those of the model {self.labels}; evaluate on a "
                "dataset with the labels of the training"
            )


def _require_plain(definition: Mapping[str, Any], path: Path) -> None:
    """Refuse a network definition that could run code: it comes with a model, perhaps a stranger's."""
    target = pydoc.locate(str(definition.get("_target_")))
    if not (isinstance(target, type) and issubclass(target, torch.nn.Module)):
        raise CheckpointError(
            f"{path} names '{definition.get('_target_')}', which is not a network that is installed"
        )
    texts = [text for text in _texts(definition) if text.startswith(("$", "@", "%"))]
    if texts:
        raise CheckpointError(
            f"{path} holds an expression, '{texts[0]}'; a model's description is plain values"
        )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def load_tensors(path: str | os.PathLike) -> dict[str, Any]:
    """Load a file of tensors and plain types onto the CPU; nothing in it can run code.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it or move it away") from error
    except Exception as error:  # torch wraps pickle's own error types differently from version to version
        raise CheckpointError(f"{path} is not a checkpoint of tensors: {error}") from error


def plain_network(network: torch.nn.Module) -> torch.nn.Module:
    """The network whose state dict a user expects: no wrapper of distribution, compiling or averaging."""
    network = unwrapped(network)
    if isinstance(network, torch.optim.swa_utils.AveragedModel):
        network = unwrapped(network.module)
    return network
