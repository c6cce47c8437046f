"""What a served model is asked, and how it answers: images as paths or in base64, label maps in base64, volumes."""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from monai.data import MetaTensor

from pipelines.metrics.volumes import Volume, measure
from transforms.errors import UserError
from transforms.io.header import PICTURE_SUFFIXES, image_suffix
from transforms.io.writers import write_label

__all__ = ["Answer", "ModelInputError", "answer", "image_file", "rows_of"]

_GZIP = b"\x1f\x8b"
_NIFTI = (b"n+1\0", b"n+2\0")
_SHOWN = 60


class ModelInputError(UserError, ValueError):
    """The input of a model in MLflow is not an image."""


class Answer(TypedDict):
    """The segmentation of one image, of values that JSON has.

    Attributes:
        labels: the label map as a file, in base64, on the grid of the image.
        format: of that file: "nii.gz", or "png" for a picture.
        names: class id, as text, to name; the background included.
        volumes: structure to its voxels and millilitres.
    """

    labels: str
    format: str
    names: dict[str, str]
    volumes: dict[str, Volume]


def rows_of(data: Any) -> list[list[str]] | None:
    """The images of a request as rows of texts, one text for each file; None where the input is no table of texts.

    Args:
        data: a DataFrame, or an array of texts; each further column, or second axis, is a file with more channels.
    """
    if hasattr(data, "to_numpy") and hasattr(data, "columns"):
        table = data.to_numpy(dtype=object)
    elif isinstance(data, np.ndarray) and data.dtype.kind in "UO":
        table = data.astype(object)
        table = table.reshape(-1, 1) if table.ndim < 2 else table
    else:
        return None
    if table.ndim != 2 or not all(isinstance(value, str) for value in table.ravel()):
        raise ModelInputError(
            "an image of a request is a text: a path on the machine that serves the model, or a NIfTI file in base64; "
            "files of more channels are further columns"
        )
    return [list(row) for row in table]


def image_file(text: str, folder: str | os.PathLike[str], number: int = 0) -> Path:
    """The file that a text of a request names or holds.

    Args:
        text: a path that exists here, or a NIfTI file (.nii, .nii.gz) in base64.
        folder: where a file that came with the request is written.
        number: of the file in the request, for its name.

    Raises:
        ModelInputError: it is neither.
    """
    # No path is as long as an image, and the system refuses to look for it.
    if text and len(text) < 4096 and "\0" not in text and Path(text).exists():
        return Path(text)
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if content[:2] == _GZIP:
        ending = ".nii.gz"
    elif content[344:348] in _NIFTI or content[4:8] in _NIFTI:
        ending = ".nii"
    else:
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
        raise ModelInputError(
            f"{shown!r} is neither a file or folder on the machine that serves the model nor a NIfTI file in base64"
        )
    path = Path(folder) / f"request{number}{ending}"
    path.write_bytes(content)
    return path


def answer(
    labels: MetaTensor, image: Path, names: Mapping[int, str], regions: Mapping[str, Sequence[int]]
) -> Answer:
    """The answer to a request.

    Args:
        labels: label map (1, *shape of the image).
        image: the file that was segmented, whose forms a NIfTI label map gets.
        names: class id to name.
        regions: name to class ids.
    """
    kind = "png" if image_suffix(image) in PICTURE_SUFFIXES else "nii.gz"
    with tempfile.TemporaryDirectory() as folder:
        file = write_label(Path(folder) / f"labels.{kind}", labels, like=image)
        encoded = base64.b64encode(file.read_bytes()).decode("ascii")
    return {
        "labels": encoded,
        "format": kind,
        "names": {str(value): name for value, name in sorted(names.items())},
        "volumes": measure(labels, names, regions),
    }
