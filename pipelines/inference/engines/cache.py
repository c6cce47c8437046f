"""Exports that predictions make for themselves, in a folder `engines` beside the model, and find again."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from importlib import metadata
from pathlib import Path

import torch

from pipelines.inference.engines import onnx, openvino
from pipelines.inference.engines.export import FORMATS, checked_export, format_of
from pipelines.inference.engines.formats import FORMAT, EngineError, weights_digest
from pipelines.inference.trained_model import TrainedModel
from pipelines.utils.locks import waiting_for
from transforms.utils.files import try_folder

logger = logging.getLogger(__name__)

FOLDER = "engines"


class Cache:
    """The export of one network in one format, made where it is absent.

    Its name holds a digest of the weights, so that a model that was trained on never uses the export of an earlier one,
    and of the versions that wrote it.

    Keep it as long as what it loads is in use.

    Args:
        trained: the model of the network.
        network: the network as it is used.
        name: "onnx" or "openvino".
    """

    def __init__(self, trained: TrainedModel, network: torch.nn.Module, name: str) -> None:
        self.trained, self.network, self.name = trained, network, name
        self.weights = weights_digest(network, trained.card["network"])
        runtime = {"onnx": onnx.RUNTIME, "openvino": openvino.RUNTIME}[name]
        with contextlib.suppress(metadata.PackageNotFoundError):
            runtime = metadata.version(runtime)
        key = f"{self.weights[:24]}-{FORMAT}-{torch.__version__}-{runtime}".replace("+", "-")
        self._stem = f"{trained.path.stem}-{name}-"
        self.path = trained.path.parent / FOLDER / f"{self._stem}{key}{FORMATS[name].suffix}"

    def is_there(self) -> bool:
        """Whether no export has to be made."""
        return self.path.exists()

    def load(self, window: torch.Tensor, precision: str) -> torch.nn.Module:
        """The exported network.

        Args:
            window: window (1, C, *window) with which a new export is checked.
            precision: in which it computes.

        Raises:
            EngineError: the network cannot be exported.
        """
        folder = self.path.parent
        try:
            try_folder(folder)
        except OSError as error:
            logger.info("%s cannot be written (%s): the network is exported again each time", folder, error)
            # Removed when this object is: the export is read again for windows of another shape.
            self._temporary = tempfile.TemporaryDirectory(prefix="engines-", ignore_cleanup_errors=True)
            return self._loaded(Path(self._temporary.name) / self.path.name, window, precision)
        # Processes that start together wait for the first; where there are no locks, each makes the same file.
        with waiting_for(folder / ".lock", unlocked=lambda error: None):
            return self._loaded(self.path, window, precision)

    def _loaded(self, path: Path, window: torch.Tensor, precision: str) -> torch.nn.Module:
        made = FORMATS[self.name]
        if path.exists():
            try:
                network, export = made.load(path, precision)
                if export.weights == self.weights:
                    return network
            except EngineError as error:
                logger.info("%s: it is exported again", error)
        started = time.perf_counter()
        checked_export(self.trained, self.name, path, window, self.network)
        logger.info("engine: exported to %s in %.0f s", path, time.perf_counter() - started)
        self._remove_others(path)
        return made.load(path, precision)[0]

    def _remove_others(self, path: Path) -> None:
        """Remove the exports of earlier weights of this model, and of earlier versions."""
        for other in path.parent.glob(f"{self._stem}*{FORMATS[self.name].suffix}"):
            if other == path:
                continue
            if other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink(missing_ok=True)


def given_export(
    path: Path, network: torch.nn.Module, trained: TrainedModel, precision: str
) -> tuple[torch.nn.Module, str]:
    """The network of an export that the user named, and the number format in which it computes.

    Args:
        path: a file `.onnx`, or the folder or `model.xml` of OpenVINO.
        network, trained: what it must be an export of.
        precision: in which it computes, apart from convolutions in 8 bits.

    Raises:
        EngineError: it cannot be opened, or is an export of other weights.
    """
    exported, export = FORMATS[format_for_engine(path)].load(path, precision)
    if export.weights != weights_digest(network, trained.card["network"]):
        raise EngineError(
            f"{path} is an export of other weights than {trained.path}; export that again with: python -m pipelines "
            f"export {trained.path}"
        )
    return exported, "int8" if export.int8 else precision


def format_for_engine(path: Path) -> str:
    """ "onnx" or "openvino" by the name of an export.

    Raises:
        EngineError: it is an export of another format.
    """
    name = format_of(path)
    if name not in ("onnx", "openvino"):
        raise EngineError(f"{path}: predictions run exports to onnx and openvino, not to {name}")
    return name
