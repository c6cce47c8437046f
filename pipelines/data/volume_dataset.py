"""Preprocessed whole volumes of a dataset, one at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from pipelines.config.errors import problem
from pipelines.data.cases import CaseItem, UnreadableCase, first_image, reading, segment_names
from pipelines.data.field_of_view import FieldsOfView
from pipelines.data.patch_store import PatchStore
from pipelines.utils.ranks import rank
from transforms.io.header import Header
from transforms.io.readers import Original, read_label
from transforms.preprocess import PreparedCase, Preprocess

logger = logging.getLogger(__name__)


class VolumeDataset(Dataset):
    """Preprocessed images; label maps, if any, on the original grid of their image.

    An item is a `PreparedCase`. With `problems_as_items` set, the item of a case that cannot be read is an
    `UnreadableCase` instead of an error. With `keep_originals` set, an item also holds the image as it was read.

    Args:
        data: the cases.
        preprocess: the definition of preprocessing.
        root: folder of a patch store from which the preprocessed images are read (missing cases are built first);
            None to preprocess each image when it is read.
        labels: class ids and names of the dataset. Other values are an error, see `PatchStore`; the segments of
            DICOM labels get their class ids by these names.
        num_workers: number of processes for building the store.
        field_of_view: where pixels count, see `pipelines.data.field_of_view.FieldsOfView`; None where all do.
    """

    def __init__(
        self,
        data: Sequence[CaseItem],
        preprocess: Preprocess,
        root: str | os.PathLike[str] | None = None,
        labels: Mapping[int, str] | None = None,
        num_workers: int | None = None,
        field_of_view: str | os.PathLike[str] | None = None,
    ) -> None:
        self.data = list(data)
        self.preprocess = preprocess
        self.labels = labels
        self.problems_as_items = False
        self.keep_originals = False
        self.fields = None if field_of_view is None else FieldsOfView(field_of_view)
        self.store: PatchStore | None = None
        if root is not None and self.data:
            self.store = PatchStore(root, preprocess, self.data, labels, num_workers).build()
            for remark in self.store.remarks(training=False) if rank() == 0 else ():
                logger.warning(remark)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> PreparedCase | UnreadableCase:
        try:
            return self._item(index)
        except Exception as error:  # an error of one case must not stop the others
            if not self.problems_as_items:
                raise
            item = self.data[index]
            return {"case": item["case"], "problem": problem(error, first_image(item))}

    def _item(self, index: int) -> PreparedCase:
        item = self.data[index]
        original: Original | None = None
        if self.store is None or self.keep_originals or self.fields is not None:
            original = self.preprocess.read(item["image"], **reading(item))
        if self.store is not None:
            case = self.store.case(index)
            codes, geometry, intensity = (
                case.read([slice(None)] * len(case.spatial_shape)),
                case.geometry,
                case.intensity,
            )
        else:
            assert original is not None
            prepared = self.preprocess.volume(original.image, first_image(item))
            codes, geometry, intensity = prepared.codes, prepared.geometry.to_dict(), prepared.intensity
        inside = None
        if self.fields is not None:
            assert original is not None
            inside = self.fields.of(item, original.image)
        if not self.keep_originals:
            original = None  # frees its voxels before the normalised ones are computed
        result: PreparedCase = {
            "image": self.preprocess.normalise(codes, intensity)[None],
            "geometry": geometry,
            "padding": self.preprocess.padding_value(intensity),
            "case": item["case"],
            "path": first_image(item),
        }
        if inside is not None:
            result["inside"] = inside
        if original is not None:
            result["original"] = original
        if item.get("label"):
            grid = Header(tuple(geometry["shape"]), 1, np.asarray(geometry["affine"]))
            names = segment_names(item, self.labels)
            result["label"] = read_label(item["label"], grid, names, image=first_image(item))
            if "ignore" in item:
                result["ignore"] = item["ignore"]
        return result


def only_item(batch: Sequence[Any]) -> Any:
    """Collate function for batches of one whole case: returns the case itself."""
    return batch[0]
