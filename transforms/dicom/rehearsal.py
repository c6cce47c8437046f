"""Check that a SEG or RTSTRUCT can be written for a series, before hours are spent on its label map."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.dicom.source_images import SourceImages
from transforms.errors import ImageError

if TYPE_CHECKING:
    from transforms.dicom.series import Series

__all__ = ["require_writable"]


def require_writable(path: Path, source: Series, names: Mapping[int, str], write: Callable[..., Any]) -> None:
    """Raise if the headers of a series or the names of the classes prevent a label map from being written.

    The headers of all slices are read, and a label map of the first and the last slice is written to a temporary
    folder, to find every error that the writer would raise.

    Args:
        path: the file to be written, for messages.
        source: what `transforms.dicom.series.scan_series` returned.
        names: class id to name.
        write: `transforms.dicom.seg.write_seg` or
            `transforms.dicom.rtstruct_writer.write_rtstruct`.

    Raises:
        ImageError: naming the reason.
    """
    import torch
    from monai.data import MetaTensor

    SourceImages.of(path, source)
    stored = [index for index, place in enumerate(source.sources) if place is not None]
    ends = sorted({stored[0], stored[-1]})
    frames = tuple(source.frames[source.plan[index][0]] for index in ends)
    affine = source.affine.copy()
    affine[:3, 3] = (source.affine @ [0, 0, ends[0], 1])[:3]
    affine[:3, 2] *= max(1, ends[-1] - ends[0])
    plan = tuple((index, index, 0.0) for index in range(len(frames)))
    small = replace(source, shape=(*source.shape[:2], len(frames)), affine=affine, frames=frames, plan=plan)
    array = np.zeros((1, *small.shape), np.uint16)
    array[0, 0, 0] = min(index for index in names if index > 0)
    label = MetaTensor(torch.from_numpy(array.astype(np.int32)), affine=torch.from_numpy(affine))
    with tempfile.TemporaryDirectory() as folder:
        try:
            write(Path(folder) / path.name, label, small, names)
        except ImageError as error:
            raise ImageError(str(error).replace(folder, str(path.parent))) from error
        except OSError:
            raise
        except Exception as error:  # libraries can raise any exception on headers that they copy
            raise ImageError(
                f"{path}: cannot be written for the series of {source.folder} ({type(error).__name__}: {error}); write NIfTI"
                " instead."
            ) from error
