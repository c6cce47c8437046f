"""Writes a trained network in other formats; each file is checked against the network itself before it is kept."""

from __future__ import annotations

import contextlib
import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pipelines.inference.engines import onnx, openvino, tensorrt, torchscript
from pipelines.inference.engines.formats import (
    SIZES,
    EngineError,
    Export,
    MissingError,
    Texts,
    one_line,
    texts_of,
    weights_digest,
)
from pipelines.inference.trained_model import TrainedModel
from transforms.utils.files import put_in_place, replacing

__all__ = [
    "FORMATS",
    "Check",
    "Format",
    "checked_export",
    "compared",
    "export_path",
    "format_of",
    "placing",
    "plain_copy",
]

TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
"""Largest difference from the logits of torch in the same precision, as a fraction of the largest logit."""
_STEP = 32
"""Voxels by which the size of a window is changed for the check where the network does not name a step."""


class Format(NamedTuple):
    """A format of exported networks.

    Attributes:
        suffix: end of the name of its file, or of its folder.
        write: writes a network and its texts, see `pipelines.inference.engines.onnx.write`.
        load: the network of a file, and what the file says of itself.
        sizes: which of `SIZES` are tried, in this order.
        folder: whether it is a folder.
    """

    suffix: str
    write: Callable[[torch.nn.Module, torch.Tensor, Path, Texts, str], None]
    load: Callable[..., tuple[torch.nn.Module, Export]]
    sizes: Sequence[str] = SIZES
    folder: bool = False


FORMATS = {
    "torchscript": Format(torchscript.SUFFIX, torchscript.write, torchscript.load),
    "onnx": Format(onnx.SUFFIX, onnx.write, onnx.load),
    "openvino": Format(openvino.SUFFIX, openvino.write, openvino.load, folder=True),
    "tensorrt": Format(tensorrt.SUFFIX, tensorrt.write, tensorrt.load, SIZES[1:]),
}


class Check(NamedTuple):
    """An exported network beside the network itself on the same windows.

    Attributes:
        difference: largest absolute difference of the logits.
        largest: largest absolute logit of the network itself.
        labels: fraction of the voxels with the same class.
        sizes: what the exported network takes, one of `SIZES`.
    """

    difference: float
    largest: float
    labels: float
    sizes: str

    def close(self, precision: str = "fp32") -> bool:
        """Whether the two are the same but for rounding."""
        # False for NaN.
        return self.difference <= TOLERANCE[precision] * max(self.largest, 1e-6)


def export_path(model: Path, name: str) -> Path:
    """Where the export of a model lies unless another folder is asked for: `model.onnx` beside `model.pt`."""
    return model.with_name(f"{model.stem}{FORMATS[name].suffix}")


def format_of(path: Path) -> str:
    """The format of an exported file or folder, by its name.

    Raises:
        EngineError: it has the name of none.
    """
    name = path.parent.name if path.name == openvino.MODEL else path.name
    # The longest first: a TorchScript is not all that ends on .ts.
    for format_, made in sorted(FORMATS.items(), key=lambda each: -len(each[1].suffix)):
        if name.endswith(made.suffix):
            return format_
    ends = ", ".join(made.suffix for made in FORMATS.values())
    raise EngineError(f"{path} is no exported network, whose names end on one of {ends}")


def compared(
    network: torch.nn.Module, other: torch.nn.Module, windows: Sequence[torch.Tensor], sizes: str = SIZES[0]
) -> Check:
    """Another network beside a network, window by window (N, C, *window)."""
    difference = largest = 0.0
    same = voxels = 0
    with torch.inference_mode():
        for window in windows:
            expected, found = network(window).float().cpu(), other(window).float().cpu()
            if expected.shape != found.shape:
                raise EngineError(f"it gives logits of {tuple(found.shape)}, not {tuple(expected.shape)}")
            apart = float((expected - found).abs().max())
            # A comparison with NaN is false: it must not be passed over.
            difference = apart if not apart <= difference else difference
            largest = max(largest, float(expected.abs().max()))
            equal = expected.argmax(1) == found.argmax(1)
            same, voxels = same + int(equal.sum()), voxels + equal.numel()
    return Check(difference, largest, same / max(voxels, 1), sizes)


def checked_export(
    trained: TrainedModel, name: str, path: Path, window: torch.Tensor, network: torch.nn.Module | None = None
) -> Check:
    """Write the network of a model in a format, and keep the file if it computes the same.

    It is compared on the window, and where it should take other batches and sizes on such ones too. If it cannot
    take them, it is written for less. A file at `path` stays until the new one is checked.

    Args:
        trained: the model.
        name: one of `FORMATS`.
        path: the new file; for "openvino" a folder.
        window: window (1, C, *window) for the check, float32 on the CPU.
        network: the network where it is not that of `trained`.

    Raises:
        EngineError: the network cannot be exported, or the export computes something else.
        MissingError: a package, or for TensorRT a GPU, is missing.
        OSError: the file cannot be written.
    """
    network = plain_copy(trained.network if network is None else network)
    digest = weights_digest(network, trained.card["network"])
    made, problem = FORMATS[name], None
    for sizes in made.sizes:
        try:
            with placing(path, made.folder) as temporary:
                made.write(network, window, temporary, texts_of(trained.card, digest, sizes), sizes)
                exported, _ = made.load(temporary)
                check = compared(network.cpu(), exported, _windows_for(network, window, sizes), sizes)
                if not check.close():
                    raise EngineError(
                        f"its logits differ by up to {check.difference:.3g} from those of torch, whose largest is "
                        f"{check.largest:.3g}"
                    )
                # Windows keeps an open file where it is.
                del exported
            return check
        except (OSError, MissingError):
            raise
        except Exception as error:  # exporters raise errors of many kinds
            problem = error
    raise EngineError(f"the network cannot be exported to {name}: {one_line(problem)}") from problem


def plain_copy(network: torch.nn.Module) -> torch.nn.Module:
    """A copy on the CPU, channels-first, in float32 and evaluation mode, as exporters expect it."""
    made = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    return made.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _windows_for(network: torch.nn.Module, window: torch.Tensor, sizes: str) -> list[torch.Tensor]:
    """The window, and windows of other batches and sizes that an export must take."""
    windows = [window]
    if sizes == SIZES[1]:
        windows.append(torch.cat([window, window.flip(-1)]))
    if sizes == SIZES[0]:
        step = getattr(network, "size_divisor", _STEP)
        steps = [step] * (window.ndim - 2) if isinstance(step, int) else list(step)
        margin = [n for each in reversed(steps) for n in (0, each)]
        windows.append(torch.nn.functional.pad(torch.cat([window, window.flip(-1)]), margin))
    return windows


@contextlib.contextmanager
def placing(path: Path, folder: bool) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if the block ends without an error."""
    if not folder:
        with replacing(path) as temporary:
            yield temporary
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as around:
        new, old = Path(around) / path.name, Path(around) / "old"
        new.mkdir()
        yield new
        # A folder cannot take the place of another; between these two lines there is none.
        if path.exists():
            put_in_place(path, old)
        put_in_place(new, path)
        shutil.rmtree(old, ignore_errors=True)
