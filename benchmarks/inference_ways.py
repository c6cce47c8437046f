"""The implementations of inference that `benchmarks.inference` compares."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.inference_case import FOLDER
from pipelines.inference.precision import autocast
from pipelines.inference.sliding_window import SlidingWindow
from transforms.spatial.geometry import Geometry
from transforms.spatial.restore import Restorer, slab_axis

GROUP = 15

Network = Callable[[torch.Tensor], torch.Tensor]


class Task(NamedTuple):
    """What is to be predicted, and how.

    Attributes:
        image: (1, 1, *grid) on the CPU.
        stitching: where MONAI holds the logits of the whole volume.
        at_once: windows of ours in a forward pass; 0 for what inference does by itself.
    """

    image: torch.Tensor
    geometry: Geometry
    classes: int
    overlap: float
    window: tuple[int, int, int]
    device: torch.device
    precision: str
    stitching: torch.device
    at_once: int = 0

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"


def ours(task: Task, network: Network) -> np.ndarray:
    restorer = Restorer(task.geometry, task.classes, slab_axis(task.geometry))
    # None is what bundles/*/inference.json has; a CPU takes one window at a time then.
    window = SlidingWindow(task.window, task.at_once or None, task.overlap, sw_device=task.device)
    with autocast(task.device, task.precision):
        for rows in window.rows(task.image, network, restorer.axis, restorer.needs_softmax):
            restorer.push_logits(rows)
    return restorer.labels()[0].numpy()


def monai(task: Task, network: Network) -> np.ndarray:
    from monai.data import MetaTensor
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import Compose, Invertd, Orientationd, ResampleToMatchd

    geometry, classes = task.geometry, task.classes
    affine = torch.as_tensor(np.asarray(geometry.affine))
    target = MetaTensor(torch.zeros(1, *geometry.grid), affine=torch.as_tensor(geometry.prepared_affine))
    chain = Compose(
        [
            Orientationd("image", "RAS", labels=None),
            ResampleToMatchd("image", key_dst="target", mode="bilinear"),
        ]
    )
    placed = chain({"image": MetaTensor(torch.zeros(1, *geometry.shape), affine=affine), "target": target})
    inferer = SlidingWindowInferer(
        task.window,
        4 if task.cuda else 1,
        task.overlap,
        mode="gaussian",
        cval=-1.0,
        sw_device=task.device,
        device=task.stitching,
    )
    with autocast(task.device, task.precision):
        logits = inferer(task.image.to(task.stitching), network)
    probabilities = torch.softmax(logits[0], 0)
    del logits
    best = torch.empty(0)
    labels = torch.zeros(geometry.shape, dtype=torch.uint8, device=task.stitching)
    for start in range(0, classes, GROUP):
        part = MetaTensor(probabilities[start : start + GROUP], meta=placed["image"].meta)
        part.applied_operations = placed["image"].applied_operations
        invert = Invertd("part", chain, orig_keys="image", nearest_interp=False, to_tensor=True)
        restored = invert({"part": part, "image": placed["image"]})["part"].as_tensor()
        if classes <= GROUP:
            return restored.argmax(0).to(torch.uint8).cpu().numpy()
        largest = restored.max(0)
        if start == 0:
            best, labels = largest.values, largest.indices.to(torch.uint8)
        else:
            better = largest.values > best
            labels[better] = (largest.indices[better] + start).to(torch.uint8)
            best[better] = largest.values[better]
    return labels.cpu().numpy()


def nnunet(task: Task, network: Network) -> np.ndarray:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(FOLDER))
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as convert,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    geometry = task.geometry
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": False}
    configuration = {
        "patch_size": list(task.window),
        "spacing": list(geometry.prepared_spacing),
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    plans = PlansManager(
        {
            "plans_name": "benchmark",
            "configurations": {"3d_fullres": configuration},
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
        }
    )
    names = {"background": 0, **{f"class_{c}": c for c in range(1, task.classes)}}

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return network(x)

    predictor = nnUNetPredictor(
        task.overlap, use_gaussian=True, use_mirroring=False, device=task.device, allow_tqdm=False
    )
    configured = plans.get_configuration("3d_fullres")
    predictor.manual_initialization(Module(), plans, configured, None, {"labels": names}, "none", None)
    # As its predict_logits_from_preprocessed_data gives them to what follows.
    logits = predictor.predict_sliding_window_return_logits(task.image[0]).to("cpu")
    shape = geometry.oriented_shape
    properties = {
        "spacing": [np.linalg.norm(np.asarray(geometry.affine)[:3, axis]) for axis in geometry.axes],
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, n] for n in shape],
    }
    threads = torch.get_num_threads()
    labels = convert(
        logits, plans, configured, predictor.label_manager, properties, num_threads_torch=threads
    )
    labels = np.flip(labels, [axis for axis in range(3) if geometry.flips[axis]])
    return np.ascontiguousarray(labels.transpose(np.argsort(geometry.axes)))


WAYS: dict[str, Callable[[Task, Network], np.ndarray]] = {"ours": ours, "monai": monai, "nnunet": nnunet}
