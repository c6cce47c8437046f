"""Ensembles: the logits of several trained models are averaged for each window."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np
import torch

from pipelines.inference.ensemble_file import ensemble_file, read_ensemble, require_members
from pipelines.inference.trained_model import CheckpointError, TrainedModel

PathLike = str | os.PathLike


class Ensemble(torch.nn.Module):
    """The mean of the logits of several networks with the same classes, in float32.

    Examples:
        >>> Ensemble([torch.nn.Identity(), torch.nn.Conv2d(1, 1, 1)])(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(self, networks: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, *window) to logits (B, classes, *window)."""
        first, *others = self.networks
        total = first(x).float()
        for number, network in enumerate(others):
            # In place only in memory of our own.
            total = total.add_(network(x)) if number else total + network(x)
        return total.div_(len(self.networks)) if others else total


class TrainedEnsemble(TrainedModel):
    """Models of several trainings, for example of the folds of a cross-validation, as one `TrainedModel`.

    Args:
        paths: paths of `model.pt` files, each with its `model.json` in the same folder.

    Raises:
        CheckpointError: a model cannot be loaded, or differs from the first in labels, preprocessing or patch size.
    """

    def __init__(self, paths: Sequence[PathLike]) -> None:
        members = [TrainedModel(path) for path in paths]
        first = members[0]
        for path, member in zip(paths, members, strict=True):
            for what, one, other in (
                ("labels", member.labels, first.labels),
                ("regions", member.regions, first.regions),
                ("preprocessing", member.preprocess.parameters(), first.preprocess.parameters()),
                ("patch size", member.patch_size, first.patch_size),
            ):
                if one != other:
                    raise CheckpointError(
                        f"{path} has the {what} {one}, but {paths[0]} has {other}; only models of the same "
                        "labels, preprocessing and patch size make an ensemble"
                    )
        self.path, self.members = first.path, members
        self.labels, self.regions = first.labels, first.regions
        self.preprocess = first.preprocess
        self.patch_size = first.patch_size
        self.network = Ensemble([member.network for member in members]).eval()
        digests = [str(member.card["sha256"]) for member in members]
        shared = set.intersection(*(set(member.mirror_axes) for member in members))
        self.card = {
            **first.card,
            "overlap": max((member.overlap for member in members), key=np.max),
            "mirror_axes": sorted(shared),
            "members": digests,
            "sha256": hashlib.sha256("".join(digests).encode()).hexdigest(),
        }


def trained_model(path: PathLike | Sequence[PathLike]) -> TrainedModel:
    """The model at `path`, or several as one.

    Args:
        path: a `model.pt`; a folder of a cross-validation or its `ensemble.json`; a list of models, or a text of paths with
            commas between them.

    Raises:
        CheckpointError: a model cannot be loaded, or those of an ensemble do not belong together.
        EnsembleError: see `pipelines.inference.ensemble_file`.
    """
    paths = (
        [path] if isinstance(path, os.PathLike) else path.split(",") if isinstance(path, str) else list(path)
    )
    file = ensemble_file(paths[0]) if len(paths) == 1 else None
    if file is None:
        return TrainedModel(paths[0]) if len(paths) == 1 else TrainedEnsemble(paths)
    members, postprocessing = read_ensemble(file)
    require_members(members, file)
    found = TrainedModel(members[0]) if len(members) == 1 else TrainedEnsemble(members)
    found.postprocessing = postprocessing
    return found
