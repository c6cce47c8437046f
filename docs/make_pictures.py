"""Draw the pictures of README and docs from a trained model: `make pictures`."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from pipelines.data.demo import prepare_demo
from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.inference.trained_model import TrainedModel
from pipelines.metrics.overlap import case_dice
from transforms.io.header import spacing_of
from transforms.io.readers import read_image
from transforms.spatial.geometry import orient, to_oriented

COLOURS = {1: "#e8503a", 2: "#3a8fe8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("bundles/r2unet/models/model.pt"))
    parser.add_argument("--output", type=Path, default=Path("docs/images/demo_prediction.png"))
    arguments = parser.parse_args()
    model = TrainedModel(arguments.model)
    root = prepare_demo()
    data = [
        {
            "image": str(root / "imagesTr" / "ctchest.nrrd"),
            "label": str(root / "labelsTr" / "ctchest.nii.gz"),
            "case": "ctchest",
        }
    ]
    dataset = VolumeDataset(data, model.preprocess)
    evaluator = SegEvaluator(
        "cpu",
        volume_loader(dataset),
        model.network,
        model.preprocess,
        model.class_names,
        SlidingWindow(model.patch_size, 1),
        precision="auto",
    )
    item = dataset[0]
    prediction = evaluator.predict(item)[0]
    dice = case_dice(prediction, item["label"][0], len(model.labels))
    image = read_image(data[0]["image"])
    geometry = orient(image.shape[1:], image.affine.numpy())
    planes = [
        to_oriented(v[None], geometry)[0].numpy() for v in (image[0].as_tensor(), prediction.as_tensor())
    ]
    reference = to_oriented(item["label"].as_tensor(), geometry)[0].numpy()
    spacing = [spacing_of(image.affine.numpy(), 3)[axis] for axis in geometry.axes]
    draw(planes[0], planes[1], reference, spacing, dice, model, arguments.output)
    print(arguments.output)


def draw(
    image: np.ndarray,
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: list[float],
    dice: torch.Tensor,
    model: TrainedModel,
    path: Path,
) -> None:
    """Axial, coronal and sagittal slice through the middle of the reference, prediction filled, reference outlined."""
    centre = np.round(np.argwhere(reference > 0).mean(0)).astype(int)
    centre[0] = np.round(np.argwhere(reference == 2)[:, 0].mean())
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), facecolor="black")
    views = (("axial", 2, (0, 1)), ("coronal", 1, (0, 2)), ("sagittal", 0, (1, 2)))
    for axis, (name, normal, (across, up)) in zip(axes, views, strict=True):
        take = [np.take(v, centre[normal], normal).T for v in (image, prediction, reference)]
        # Radiological display: the patient's right is on the left of the picture.
        flip = slice(None, None, -1) if across == 0 else slice(None)
        take = [v[:, flip] for v in take]
        axis.imshow(
            take[0], cmap="gray", vmin=-1000, vmax=400, origin="lower", aspect=spacing[up] / spacing[across]
        )
        for value, colour in COLOURS.items():
            shade = np.zeros((*take[1].shape, 4))
            shade[take[1] == value] = matplotlib.colors.to_rgba(colour, 0.45)
            axis.imshow(shade, origin="lower", aspect=spacing[up] / spacing[across])
            if (take[2] == value).any():
                axis.contour(take[2] == value, [0.5], colors="white", linewidths=0.9)
        axis.set_title(name, color="white")
        axis.axis("off")
    scores = ", ".join(f"{model.labels[v].replace('_', ' ')} {float(dice[v]):.3f}" for v in COLOURS)
    figure.suptitle(f"Dice on the demo's validation case: {scores}", color="white")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75, facecolor="black")


if __name__ == "__main__":
    main()
