"""CT series for MONAI's `LoadImage`; separate from `transforms.dicom.series`, which does not import MONAI."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader

from transforms.dicom.series import read_series, scan_series
from transforms.errors import ImageError

__all__ = ["DicomSeriesReader"]


class DicomSeriesReader(ImageReader):
    """MONAI image reader for a folder of CT slices: ``LoadImaged(keys, reader=DicomSeriesReader)``.

    Values are Hounsfield units, the affine is RAS+. ``read`` only returns the path and ``get_data`` reads the series:
    after an error in ``read`` MONAI's LoadImage tries its own DICOM readers, which would silently read a refused
    series without these checks.

    Args:
        series, allow: as `transforms.dicom.series.scan_series`.

    Examples:
        >>> from monai.transforms import LoadImage
        >>> from pydicom.data import get_testdata_file
        >>> LoadImage(reader=DicomSeriesReader)(get_testdata_file("CT_small.dcm")).shape
        torch.Size([128, 128, 1])
    """

    def __init__(self, series: str | int | None = None, allow: Collection[str] = ()) -> None:
        super().__init__()
        self.series, self.allow = series, allow

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Return True for a folder or a ``.dcm`` file, or a sequence that holds one."""
        names = _as_sequence(filename)
        return len(names) == 1 and (os.path.isdir(names[0]) or str(names[0]).lower().endswith(".dcm"))

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any) -> tuple[Path, ...]:
        """Return the path without reading it."""
        return tuple(Path(name) for name in _as_sequence(data))

    def get_data(self, img: tuple[Path, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the volume ``(X, Y, Z)`` and its meta data.

        Raises:
            ImageError: as `transforms.dicom.series.read_series`.
        """
        names = _as_sequence(img)
        if len(names) != 1:
            raise ImageError(
                f"{names[0]}: {len(names)} paths were given for one image; give the folder of the series."
            )
        found = scan_series(names[0], self.series, self.allow)
        array, affine = read_series(found)
        return array, {
            "affine": affine,
            "original_affine": affine.copy(),
            "spatial_shape": np.asarray(array.shape),
            "original_channel_dim": float("nan"),
            "space": "RAS",
            "series_uid": found.uid,
            "series_description": found.description,
        }


def _as_sequence(names: Any) -> list[Any]:
    return [names] if isinstance(names, (str, os.PathLike)) else list(names)
