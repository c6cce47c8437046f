"""What `python -m pipelines export` does: a model in other formats, each checked, with a line for each."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from pipelines.inference.engines.export import FORMATS, Check, checked_export
from pipelines.inference.engines.formats import EngineError
from pipelines.inference.engines.quantisation import INT8, MARK, Int8Check, export_int8
from pipelines.inference.engines.sample_windows import made_up_window, windows_of
from pipelines.inference.ensemble_file import ensemble_file
from pipelines.inference.trained_model import BEST, CARD, TrainedModel
from transforms.errors import DONE, FAILED
from transforms.utils.files import require_folder

__all__ = ["export_model"]

_MOST_PACKED = 200
"""Bytes that one byte of a zip may become: weights and code become 10 at most, and 1000 is what a zip can hold."""


def export_model(
    model: Path,
    formats: Sequence[str],
    output: Path | None = None,
    data: Path | None = None,
    int8: bool = False,
) -> int:
    """Export a model, and print a line for each file; returns the exit status.

    A format that cannot be written does not stop the others.

    Args:
        model: a bundle folder, flat or packaged, the zip of one, or a `model.pt` with its `model.json`.
        formats: names of `FORMATS`.
        output: folder for the files; by default that of the model.
        data: images whose windows the check takes, any input of `predict`; without it a made-up one.
        int8: convolutions in 8 bits, for which there must be data.

    Raises:
        EngineError: `model` is none of these.
        CheckpointError: its files are damaged.
        InputError: there is no image at `data`.
        FolderError: the folder cannot be written to.
    """
    with _weights_of(model) as (weights, beside):
        trained = TrainedModel(weights)
        folder = require_folder(output or beside, "the exports", "choose another --output")
        windows = [made_up_window(trained)] if data is None else list(windows_of(trained, data))
        kind = "a made-up window" if data is None else f"a window of {data}"
        stem = weights.stem if model.suffix != ".zip" else model.stem
        failed = False
        for name in dict.fromkeys(formats):
            path = folder / f"{stem}{MARK if int8 else ''}{FORMATS[name].suffix}"
            try:
                if int8:
                    if name not in INT8:
                        raise EngineError(f"{name} has no 8 bits here; --int8 is for {' and '.join(INT8)}")
                    print(_told_int8(path, export_int8(trained, {name: path}, windows)[name]))
                else:
                    print(_told(path, checked_export(trained, name, path, windows[0]), kind))
            except EngineError as error:
                print(f"{name}: not written: {error}")
                failed = True
    return FAILED if failed else DONE


def _told(path: Path, check: Check, kind: str) -> str:
    return (
        f"{path}: takes {check.sizes}; on {kind} its logits differ by up to {check.difference:.2g} (the largest is "
        f"{check.largest:.3g}), {100 * check.labels:.3f}% of the labels are the same"
    )


def _told_int8(path: Path, check: Int8Check) -> str:
    dice = ", ".join(
        f"{name} {'absent' if value is None else format(value, '.4f')}" for name, value in check.dice.items()
    )
    return (
        f"{path}: takes {check.sizes}; on {check.windows} other windows {100 * check.labels:.3f}% of the labels are the "
        f"same, Dice with those of the model: {dice}"
    )


@contextlib.contextmanager
def _weights_of(model: Path) -> Iterator[tuple[Path, Path]]:
    """The `model.pt` that a path stands for, and the folder where its exports belong."""
    if model.suffix == ".zip":
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            yield _unpacked(model, Path(folder)), model.parent
        return
    if ensemble_file(model) is not None:
        raise EngineError(f"{model} is an ensemble; export its models one by one")
    places = [model / "models" / BEST, model / BEST] if model.is_dir() else [model]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise EngineError(
            f"there is no trained model in {model}; give a bundle with models/{BEST}, or a {BEST} with its {CARD}"
        )
    yield found, found.parent


def _unpacked(archive: Path, folder: Path) -> Path:
    """`model.pt` and `model.json` of a packaged bundle, and nothing else of it, in a folder."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                _require_harmless(archive, entry)
            for name in (BEST, CARD):
                inside = [
                    each for each in opened.namelist() if PurePosixPath(each).parts[-2:] == ("models", name)
                ]
                if len(inside) != 1:
                    raise EngineError(f"{archive} is no packaged bundle: it has no models/{name}")
                (folder / name).write_bytes(opened.read(inside[0]))
    except zipfile.BadZipFile as error:
        raise EngineError(f"{archive} is no packaged bundle: {error}") from error
    return folder / BEST


def _require_harmless(archive: Path, entry: zipfile.ZipInfo) -> None:
    """Raise EngineError for a name that leads out of the folder it is unpacked in, anywhere, and for what would fill it."""
    posix, windows = PurePosixPath(entry.filename), PureWindowsPath(entry.filename)
    if ".." in (*posix.parts, *windows.parts) or posix.is_absolute() or windows.anchor:
        raise EngineError(
            f"{archive} is no packaged bundle: {entry.filename[:200]!r} in it leads out of its folder; do not unpack it"
        )
    if entry.file_size > _MOST_PACKED * max(entry.compress_size, 1):
        raise EngineError(
            f"{archive} is no packaged bundle: {entry.filename[:200]!r} in it would grow to {entry.file_size} bytes; do "
            "not unpack it"
        )
