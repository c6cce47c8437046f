"""Where in a photograph pixels count: a mask of the dataset or of a folder, or the round field that is found."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from monai.data import MetaTensor

from pipelines.data.cases import CaseItem, first_image
from pipelines.data.dataset_json import image_stem
from transforms.errors import ImageError, SettingError
from transforms.io.header import Header, image_suffix
from transforms.io.readers import read_label
from transforms.spatial.field_of_view import round_field

__all__ = ["AUTO", "FieldsOfView"]

AUTO = "auto"
_ENDINGS = ("", "_mask", "_fov")


class FieldsOfView:
    """The fields of view of the images of a dataset.

    Args:
        given: a folder with a mask for each case, named as the case or its image, with or without "_mask" or "_fov";
            or "auto": the "mask" of each case in dataset.json, and where it has none, the round field within a dark
            surround of a photograph, see `transforms.spatial.field_of_view.round_field`.

    Raises:
        SettingError: the folder is not there.
    """

    def __init__(self, given: str | os.PathLike[str] = AUTO) -> None:
        self.folder = None if str(given) == AUTO else Path(given)
        if self.folder is not None and not self.folder.is_dir():
            raise SettingError(
                f"field_of_view is '{given}', and there is no such folder; give a folder of masks, 'auto', or '$None'"
            )

    def of(self, item: CaseItem, image: MetaTensor) -> torch.Tensor | None:
        """bool (1, *shape) on the grid of the image's file; None where all of it counts.

        Args:
            item: the case.
            image: (C, *shape), as its file has it.

        Raises:
            ImageError: the mask has another size.
            SettingError: the folder has no mask of the case, or several.
        """
        path = item.get("mask") if self.folder is None else self._file(item)
        if path is None:
            found = round_field(image.as_tensor().numpy()) if image.ndim == 3 else None
            return None if found is None else torch.from_numpy(found)[None]
        grid = Header(tuple(image.shape[1:]), image.shape[0], image.affine.cpu().numpy())
        mask = read_label(path, grid, image=first_image(item))
        if mask.shape[1:] != image.shape[1:]:
            raise ImageError(
                f"{path}: the mask has {_size(mask)} pixels and its image {_size(image)}; give the mask of this image"
            )
        return mask.as_tensor() != 0

    def _file(self, item: CaseItem) -> Path:
        assert self.folder is not None
        names = {item["case"], image_stem(Path(first_image(item)))}
        wanted = {name + ending for name in names for ending in _ENDINGS}
        found = sorted(
            path for path in self.folder.iterdir() if image_suffix(path) and image_stem(path) in wanted
        )
        if len(found) != 1:
            there = "none" if not found else ", ".join(path.name for path in found)
            raise SettingError(
                f"the folder {self.folder} must have one mask of case {item['case']}, named as it or with _mask; it has {there}"
            )
        return found[0]


def _size(image: MetaTensor) -> str:
    return " x ".join(map(str, image.shape[1:]))
