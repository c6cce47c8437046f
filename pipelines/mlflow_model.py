"""A trained model as a folder that is a standard MONAI bundle and an MLflow model at once.

`monai.bundle run --config_file configs/inference.json` runs it from its own root, and
`mlflow.pyfunc.load_model("models:/r2unet@best")` loads it without this repository: the code lies beside the weights.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.memory_format import place
from pipelines.inference.precision import AUTO
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.inference.trained_model import BEST, TrainedModel
from pipelines.packaging import assemble, bundle_files, copy_code, copy_model, trusted_by
from pipelines.utils.cores import use_cores
from transforms.errors import UserError
from transforms.preprocess import Prepared, PreparedCase

logger = logging.getLogger(__name__)

# What the code beside the weights imports; MLflow builds an environment of it where it serves a model.
_REQUIREMENTS = (
    "blosc2",
    "highdicom",
    "Jinja2",
    "lazy-loader",
    "matplotlib",
    "mlflow",
    "monai",
    "nibabel",
    "numpy",
    "pillow",
    "psutil",
    "pydicom",
    "python-gdcm",
    "pytorch-ignite",
    "PyYAML",
    "scikit-image",
    "scipy",
    "SimpleITK",
    "threadpoolctl",
    "tifffile",
    "torch",
    "tqdm",
)
_KNOBS: dict[str, Any] = {"precision": AUTO, "overlap": 0.5, "channels_last": AUTO}


class ModelInputError(UserError, ValueError):
    """What was given to `predict` is no image."""


def write_model(
    root: Path, models: Path, source: Path | None, executed: Mapping[str, Any] | None = None
) -> Path:
    """Write the folder.

    Args:
        root: the folder, made here.
        models: folder with `model.pt` and `model.json`.
        source: the flat bundle folder; None, or a folder that is no whole bundle, leaves out its configs.
        executed: the config of the training, see `pipelines.packaging.assemble`.

    Raises:
        CheckpointError: there is no trained model, or a damaged one.
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
    lines = []
    for name in _REQUIREMENTS:
        try:
            # Builds such as 2.11.0+cpu are in no package index.
            lines.append(f"{name}=={metadata.version(name).partition('+')[0]}")
        except metadata.PackageNotFoundError:  # conda calls some of them otherwise
            lines.append(name)
    (root / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    environment = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    (root / "python_env.yaml").write_text(json.dumps(environment) + "\n", encoding="utf-8")
    model = Model()
    add_to_model(model, loader_module=__name__, code=".", python_env="python_env.yaml")
    model.save(str(root / "MLmodel"))
    return root


class Predictor:
    """What MLflow's `load_model` gives: label maps for CTs.

    Args:
        root: folder made by `write_model`.
    """

    def __init__(self, root: Path) -> None:
        use_cores()
        trained = TrainedModel(root / "models" / BEST)
        knobs = dict(_KNOBS)
        config = root / "configs" / "inference.json"
        if config.is_file():
            stated = json.loads(config.read_text(encoding="utf-8"))
            knobs |= {key: stated[key] for key in knobs if key in stated}
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.trained = trained
        self.evaluator = SegEvaluator(
            device=device,
            val_data_loader=[],
            network=place(trained.network, device, knobs["channels_last"], knobs["precision"]),
            preprocess=trained.preprocess,
            class_names=trained.class_names,
            regions=trained.regions,
            inferer=SlidingWindow(trained.patch_size, overlap=float(knobs["overlap"])),
            precision=str(knobs["precision"]),
        )

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Classes of one image or of several.

        Args:
            data: path of an image file or of a folder of DICOM slices; or an array (X, Y, Z) of HU, or (C, X, Y, Z);
                or {"image": array, "affine": 4x4 voxel to RAS+ millimetres}; or {"image": [path, path]}, the files
                that hold its channels; or a list of these. An array without affine has voxels of 1 mm along R, A
                and S.
            params: not used.

        Returns:
            uint8 or uint16 (X, Y, Z) on the grid of the input; for a list, a list of them.

        Raises:
            ModelInputError: `data` is something else.
            ImageError: the image cannot be read with certainty.
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
                f"an image is a path, an array, or a mapping with 'image' and 'affine', not {type(data).__name__}"
            )
        if isinstance(data, MetaTensor):
            affine = data.affine.cpu().numpy()
        values, dims = torch.as_tensor(np.asarray(data)), len(self.trained.patch_size)
        # A 2D network also segments volumes, slice by slice.
        bare = values.ndim == 2 or (
            values.ndim == 3 and (dims == 3 or len(values) != self.trained.preprocess.channels)
        )
        volume = MetaTensor(values[None] if bare else values, affine=torch.as_tensor(affine))
        return self.trained.preprocess.volume(volume), "the image"


def _load_pyfunc(path: str) -> Predictor:
    """Called by MLflow with the folder of the model."""
    return Predictor(Path(path))
