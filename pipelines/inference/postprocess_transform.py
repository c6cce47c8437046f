"""`Postprocess` as a MONAI dictionary transform."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from pipelines.inference.postprocess import Postprocess

__all__ = ["Postprocessd"]


class Postprocessd(MapTransform):
    """Label maps as `Postprocess` changes them, after `transforms.RestoreLabelsd`.

    Args:
        keys: of the label maps (1, X, Y, Z) or (1, X, Y), each with its affine.
        postprocess: what is done to them.
        labels: names of the classes by class id.

    Raises:
        PostprocessError: it names a class that is not in `labels`.

    Examples:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> labels = MetaTensor(torch.tensor([[[1, 1, 0, 1]]], dtype=torch.uint8))
        >>> largest = Postprocess(largest_component=["liver"])
        >>> Postprocessd("pred", largest, {0: "background", 1: "liver"})({"pred": labels})["pred"].tolist()
        [[[1, 1, 0, 0]]]
    """

    def __init__(self, keys: KeysCollection, postprocess: Postprocess, labels: Mapping[int, str]) -> None:
        super().__init__(keys)
        postprocess.require_names(labels)
        self.postprocess = postprocess
        self.labels = labels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with changed label maps."""
        found = dict(data)
        for key in self.key_iterator(found):
            meta = found[key].meta
            found[key] = self.postprocess(found[key], self.labels)
            found[key].meta |= {name: value for name, value in meta.items() if name not in found[key].meta}
        return found
