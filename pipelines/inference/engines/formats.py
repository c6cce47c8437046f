"""What all formats of exported networks share: names, errors, and the texts that a file says of itself."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from pipelines.inference.model_card import CardError, ModelCard, checked
from transforms.errors import UserError

FORMAT = 1
"""Of `Texts`; exports of another format are made anew."""
CARD_KEY, EXPORT_KEY = "model_card", "export"
"""Names of the two texts in every format: extra files of TorchScript, metadata of ONNX, `rt_info` of OpenVINO."""
SIZES = ("any batch and size", "any batch", "one size")
"""What an exported network may take, the most useful first; a size is that of the window and, for `SIZES[0]`, more."""
INPUT, OUTPUT = "image", "logits"
"""Names of the input and output of an exported network."""
_NEEDED = ("format", "network", "labels", "regions", "preprocessing", "patch_size", "overlap", "mirror_axes")
_ORIGIN = ("sha256", "run_id", "epoch")


class EngineError(UserError, RuntimeError):
    """A network cannot be exported, or an exported one cannot be used; the message says why and what to do."""


class MissingError(EngineError):
    """What a format needs is not on this machine: a package, or a GPU."""


class Texts(NamedTuple):
    """What an exported file says of itself, as JSON.

    Attributes:
        card: what is needed to use the network: labels, preprocessing, size of the window. Of `model.json` without
            the ids of validation cases and the figures of the training data.
        export: `format`; `weights`, see `weights_digest`; `sizes`, one of `SIZES`; `int8`.
    """

    card: str
    export: str


class Export(NamedTuple):
    """`Texts` as they were read from a file.

    Attributes:
        card: the card, checked as that of a `model.json`.
        weights: digest of the weights that were exported.
        sizes: what the network takes, one of `SIZES`.
        int8: whether it computes in whole numbers of 8 bits.
    """

    card: ModelCard
    weights: str
    sizes: str
    int8: bool


def texts_of(card: Mapping[str, Any], weights: str, sizes: str, int8: bool = False) -> Texts:
    """The texts for the export of a network."""
    kept = {name: card[name] for name in (*_NEEDED, *_ORIGIN) if name in card}
    export = {"format": FORMAT, "weights": weights, "sizes": sizes, "int8": int8}
    return Texts(json.dumps(kept), json.dumps(export))


def read_texts(texts: Mapping[str, str], path: object) -> Export:
    """The texts of a file.

    Raises:
        EngineError: they are missing or damaged.
    """
    try:
        export = json.loads(texts[EXPORT_KEY])
        if export["format"] != FORMAT:
            raise EngineError(f"{path} was exported by another version; export the model again")
        card = checked(json.loads(texts[CARD_KEY]))
        return Export(card, str(export["weights"]), str(export["sizes"]), bool(export["int8"]))
    except EngineError:
        raise
    except (KeyError, TypeError, ValueError, CardError) as error:
        raise EngineError(
            f"{path} does not say of which model it is ({error}); export it with: python -m pipelines export MODEL"
        ) from error


def weights_digest(network: torch.nn.Module, definition: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 of the weights of a network, on whatever device and in whatever memory format, and its definition."""
    digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode())
    for name, value in sorted(network.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def needed(package: str, extra: str) -> Any:
    """A package that is not among the requirements.

    Raises:
        MissingError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingError(
            f"this needs the package {package} ({error}); install it with: pip install 'segbundles[{extra}]'"
        ) from error


def one_line(error: BaseException | None) -> str:
    """What an error of a library says, as a part of a sentence."""
    return " ".join(str(error).split())[:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what exporters say of themselves; what goes wrong is raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
