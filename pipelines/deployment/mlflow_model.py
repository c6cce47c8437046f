"""Writes a trained model as a folder that is both a standard MONAI bundle and an MLflow model.

`monai.bundle run --config_file configs/inference.json` runs it from the root of the folder, and
`mlflow.pyfunc.load_model("models:/r2unet@best")` loads it without this repository: the folder contains the code.
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import platform
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from pipelines.deployment.packaging import assemble, bundle_files, copy_code, copy_model, trusted_by
from pipelines.deployment.requests import Answer, ModelInputError, answer, image_file, rows_of
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.memory_format import place
from pipelines.inference.model_card import read_card
from pipelines.inference.precision import AUTO
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.inference.trained_model import BEST, CARD, TrainedModel
from pipelines.utils.cores import use_cores
from transforms.preprocess import Prepared, PreparedCase

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

logger = logging.getLogger(__name__)

PARAMETERS = ("precision", "overlap")
"""Of a request, as `python -m pipelines predict` takes them."""
EXAMPLE = "input_example.json"
# The model holds a copy of the code, in which this module has its short name.
_MODULE = "pipelines.deployment.mlflow_model"
_DEFAULTS: dict[str, Any] = {"precision": AUTO, "overlap": None, "channels_last": AUTO, "mirror_axes": None}


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
    environment = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    (root / "python_env.yaml").write_text(json.dumps(environment) + "\n", encoding="utf-8")
    model = Model(signature=_signature(), saved_input_example_info=_example(root))
    add_to_model(model, loader_module=_MODULE, code=".", python_env="python_env.yaml")
    model.save(str(root / "MLmodel"))
    return root


def _signature() -> ModelSignature:
    """What a request may say and what is answered.

    There is no schema of the input: MLflow would refuse arrays and paths that are not in a table.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Map

    answers: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "labels"),
        ColSpec(DataType.string, "format"),
        ColSpec(Map(DataType.string), "names"),
        ColSpec(AnyType(), "volumes"),
    ]
    params = [ParamSpec("precision", DataType.string, AUTO), ParamSpec("overlap", DataType.double, None)]
    return ModelSignature(outputs=Schema(answers), params=ParamSchema(params))


def _example(root: Path) -> dict[str, Any]:
    """Write a request that any machine can make, an empty image in base64, and say where it is."""
    card = read_card(root / "models" / CARD)
    image = nib.Nifti1Image(np.zeros((8,) * max(3, len(card["patch_size"])), np.int16), np.eye(4))
    text = base64.b64encode(gzip.compress(image.to_bytes(), mtime=0)).decode("ascii")
    channels = int(card["preprocessing"].get("channels", 1))
    columns = ["image", *(f"channel_{index}" for index in range(1, channels))]
    table = {"columns": columns, "data": [[text] * channels]}
    (root / EXAMPLE).write_text(json.dumps(table), encoding="utf-8")
    (root / f"serving_{EXAMPLE}").write_text(json.dumps({"dataframe_split": table}), encoding="utf-8")
    return {
        "artifact_path": EXAMPLE,
        "serving_input_path": f"serving_{EXAMPLE}",
        "type": "dataframe",
        "pandas_orient": "split",
    }


class Predictor:
    """The object that MLflow's `load_model` returns: it predicts label maps for CTs.

    Args:
        root: folder written by `write_model`.
    """

    def __init__(self, root: Path) -> None:
        use_cores()
        self.trained = TrainedModel(root / "models" / BEST)
        self.settings = dict(_DEFAULTS)
        config = root / "configs" / "inference.json"
        if config.is_file():
            given = json.loads(config.read_text(encoding="utf-8"))
            self.settings |= {key: given[key] for key in self.settings if key in given}
        self._evaluators: dict[tuple[Any, ...], SegEvaluator] = {}
        self._one_at_a_time = threading.Lock()

    def _evaluator(self, params: Mapping[str, Any] | None) -> SegEvaluator:
        """The evaluator for the settings of a request; it is kept for the next one."""
        settings = self.settings | {k: v for k, v in (params or {}).items() if v is not None and v != AUTO}
        unknown = sorted(settings.keys() - _DEFAULTS.keys())
        if unknown:
            raise ModelInputError(f"there is no parameter '{unknown[0]}'; known are {', '.join(PARAMETERS)}")
        key = tuple(map(str, settings.values()))
        if key not in self._evaluators:
            self._evaluators[key] = self._made(**settings)
        return self._evaluators[key]

    def _made(self, precision: str, overlap: Any, channels_last: Any, mirror_axes: Any) -> SegEvaluator:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trained = self.trained
        return SegEvaluator(
            device=device,
            val_data_loader=[],
            network=place(trained.network, device, channels_last, precision),
            preprocess=trained.preprocess,
            class_names=trained.class_names,
            regions=trained.regions,
            inferer=SlidingWindow(
                trained.patch_size,
                overlap=trained.overlap if overlap is None else overlap,
                mirror_axes=trained.mirror_axes if mirror_axes is None else mirror_axes,
            ),
            precision=str(precision),
        )

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Segment one image or several.

        Args:
            data: path of an image file or of a folder of DICOM slices; or an array (X, Y, Z) of HU, or (C, X, Y, Z);
                or {"image": array, "affine": 4x4 voxel to RAS+ millimetres}; or {"image": [path, path]}, the files
                of its channels; or a list of these. An array without an affine is taken to have voxels of 1 mm
                along R, A and S. Requests to a server come as a DataFrame or an array of texts: paths on its machine,
                or NIfTI files in base64.
            params: "precision" and "overlap", as `python -m pipelines predict` takes them.

        Returns:
            label map, uint8 or uint16 (X, Y, Z), on the grid of the input; a list of them for a list of inputs; for a
            table of texts a list of `pipelines.deployment.requests.Answer`.

        Raises:
            ModelInputError: `data` is none of these, or there is no such parameter.
            ImageError: the image cannot be read, or its geometry is ambiguous.
        """
        rows = rows_of(data)
        if rows is not None:
            return [self._answer(row, params) for row in rows]
        if isinstance(data, Sequence) and not isinstance(data, str):
            return [self.predict(each, params) for each in data]
        prepared, name = self._prepared(data)
        return self._segmented(prepared, name, params).as_tensor().cpu().numpy()[0]

    def _answer(self, texts: Sequence[str], params: Mapping[str, Any] | None) -> Answer:
        with tempfile.TemporaryDirectory() as folder:
            files = [image_file(text, folder, number) for number, text in enumerate(texts)]
            prepared = self.trained.preprocess.image(files)
            labels = self._segmented(prepared, files[0].name, params)
            return answer(labels, files[0], self.trained.labels, self.trained.regions)

    def _segmented(self, prepared: Prepared, name: str, params: Mapping[str, Any] | None) -> MetaTensor:
        preprocess = self.trained.preprocess
        item: PreparedCase = {
            "image": preprocess.normalise(prepared.codes, prepared.intensity)[None],
            "geometry": prepared.geometry.to_dict(),
            "padding": preprocess.padding_value(prepared.intensity),
            "case": name,
        }
        # A server answers its clients from several threads; an evaluator holds one case.
        with self._one_at_a_time:
            return self._evaluator(params).predict(item)

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
