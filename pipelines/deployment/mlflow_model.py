"""Writes a trained model as a folder that is both a standard MONAI bundle and an MLflow model.

`monai.bundle run --config_file configs/inference.json` runs it from the root of the folder, and
`mlflow.pyfunc.load_model("models:/r2unet@best")` loads it without this repository: the folder contains the code.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from pipelines.deployment.packaging import assemble, bundle_files, copy_code, copy_model, trusted_by
from pipelines.deployment.requirements import pinned_requirements
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.memory_format import place
from pipelines.inference.precision import AUTO
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.inference.trained_model import BEST, TrainedModel
from pipelines.utils.cores import use_cores
from transforms.errors import UserError
from transforms.preprocess import Prepared, PreparedCase

logger = logging.getLogger(__name__)

_DEFAULTS: dict[str, Any] = {"precision": AUTO, "overlap": None, "channels_last": AUTO, "mirror_axes": None}


class ModelInputError(UserError, ValueError):
    """The input of `Predictor.predict` is not an image."""


def write_model(
    root: Path, models: Path, source: Path | None, executed: Mapping[str, Any] | None = None
) -> Path:
    """Write the model folder.

    Args:
        root: the folder to create.
        models: folder with `model.pt` and `model.json`.
        source: the flat bundle folder; with None, or a folder in which files of a bundle are missing, the model
            folder contains no configs.
        executed: the config of the training, see `pipelines.deployment.packaging.assemble`.

    Raises:
        CheckpointError: the trained model is missing or damaged.
    """
    from mlflow.models import Model
    from mlflow.pyfunc import add_to_model

    if source is not None and None not in bundle_files(source).values():
        assemble(source, root, models, executed)
    else:
        TrainedModel(models / BEST, trusted_by(executed))
        root.mkdir(parents=True)
        copy_code(root)
        copy_model(models, root)
    (root / "requirements.txt").write_text(pinned_requirements(), encoding="utf-8")
    environment = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    (root / "python_env.yaml").write_text(json.dumps(environment) + "\n", encoding="utf-8")
    model = Model()
    add_to_model(model, loader_module=__name__, code=".", python_env="python_env.yaml")
    model.save(str(root / "MLmodel"))
    return root


class Predictor:
    """The object that MLflow's `load_model` returns: it predicts label maps for CTs.

    Args:
        root: folder written by `write_model`.
    """

    def __init__(self, root: Path) -> None:
        use_cores()
        trained = TrainedModel(root / "models" / BEST)
        settings = dict(_DEFAULTS)
        config = root / "configs" / "inference.json"
        if config.is_file():
            given = json.loads(config.read_text(encoding="utf-8"))
            settings |= {key: given[key] for key in settings if key in given}
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        overlap, mirrored = settings["overlap"], settings["mirror_axes"]
        self.trained = trained
        self.evaluator = SegEvaluator(
            device=device,
            val_data_loader=[],
            network=place(trained.network, device, settings["channels_last"], settings["precision"]),
            preprocess=trained.preprocess,
            class_names=trained.class_names,
            regions=trained.regions,
            inferer=SlidingWindow(
                trained.patch_size,
                overlap=trained.overlap if overlap is None else overlap,
                mirror_axes=trained.mirror_axes if mirrored is None else mirrored,
            ),
            precision=str(settings["precision"]),
        )

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Segment one image or several.

        Args:
            data: path of an image file or of a folder of DICOM slices; or an array (X, Y, Z) of HU, or (C, X, Y, Z);
                or {"image": array, "affine": 4x4 voxel to RAS+ millimetres}; or {"image": [path, path]}, the files
                of its channels; or a list of these. An array without an affine is taken to have voxels of 1 mm
                along R, A and S.
            params: not used.

        Returns:
            label map, uint8 or uint16 (X, Y, Z), on the grid of the input; a list of them for a list of inputs.

        Raises:
            ModelInputError: `data` is none of these.
            ImageError: the image cannot be read, or its geometry is ambiguous.
        """
        if isinstance(data, Sequence) and not isinstance(data, str):
            return [self.predict(each) for each in data]
        prepared, name = self._prepared(data)
        preprocess = self.trained.preprocess
        item: PreparedCase = {
            "image": preprocess.normalise(prepared.codes, prepared.intensity)[None],
            "geometry": prepared.geometry.to_dict(),
            "padding": preprocess.padding_value(prepared.intensity),
            "case": name,
        }
        return self.evaluator.predict(item).as_tensor().cpu().numpy()[0]

    def _prepared(self, data: Any) -> tuple[Prepared, str]:
        if isinstance(data, (str, Path)):
            return self.trained.preprocess.image(data), str(data)
        affine = np.eye(4)
        if isinstance(data, Mapping) and "image" in data:
            affine = np.asarray(data.get("affine", affine), dtype=np.float64)
            data = data["image"]
            paths = data if isinstance(data, (list, tuple)) else [data]
            if paths and all(isinstance(path, (str, Path)) for path in paths):
                return self.trained.preprocess.image(paths), str(paths[0])
        if not isinstance(data, (np.ndarray, torch.Tensor)):
            raise ModelInputError(
                f"the input is of type {type(data).__name__}; give a path, an array, or a mapping with 'image' and "
                "'affine'"
            )
        if isinstance(data, MetaTensor):
            affine = data.affine.cpu().numpy()
        values, dims = torch.as_tensor(np.asarray(data)), len(self.trained.patch_size)
        # With a 2D network a 3D array may be a volume, to be segmented slice by slice, or an image with channels.
        lacks_channel = values.ndim == 2 or (
            values.ndim == 3 and (dims == 3 or len(values) != self.trained.preprocess.channels)
        )
        volume = MetaTensor(values[None] if lacks_channel else values, affine=torch.as_tensor(affine))
        return self.trained.preprocess.volume(volume), "the image"


def _load_pyfunc(path: str) -> Predictor:
    """The loader function that MLflow calls with the folder of the model."""
    return Predictor(Path(path))
