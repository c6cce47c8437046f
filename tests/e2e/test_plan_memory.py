"""A training never takes more memory than its plan was given: one step of each kind of dataset, weighed from outside."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.e2e.commands import Workplace

GIGABYTES = {"r2unet": 0.6, "upernet": 1.2}
"""Little for the larger images here; weights, gradients and moments of a UPerNet in 3D alone take 0.6."""
SMALLEST = {"features": "[2,4]", "batch_size": 1}


def blobs(random: np.random.Generator, shape: tuple[int, ...], classes: int) -> np.ndarray:
    """A label map: boxes of random places and sizes, each class once."""
    label = np.zeros(shape, np.uint8)
    for value in range(1, classes + 1):
        size = [max(2, n // random.integers(4, 8)) for n in shape]
        start = [random.integers(0, n - s) for n, s in zip(shape, size, strict=True)]
        label[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))] = value
    return label


def volumes(
    root: Path,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    classes: int,
    modality: str,
    cases: int = 2,
    channels: int = 1,
) -> None:
    random = np.random.default_rng(5)
    listed = []
    for index in range(cases + 1):
        label = blobs(random, shape, classes)
        image = np.where(label > 0, 100 + label, -1000 if modality == "CT" else 0) + random.normal(
            0, 10, shape
        )
        image[tuple(slice(n // 8, -n // 8) for n in shape)] += 500
        if channels > 1:
            image = np.stack([image + echo for echo in range(channels)], -1)
        for folder, array in (("images", image.astype(np.int16)), ("labels", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), root / folder / f"c{index}.nii.gz")
        listed.append({"image": f"images/c{index}.nii.gz", "label": f"labels/c{index}.nii.gz"})
    named = {"0": modality} if channels == 1 else {str(n): f"{modality} {n}" for n in range(channels)}
    describe(root, classes, listed, modality=named)


def pictures(root: Path, shape: tuple[int, ...], channels: int, cases: int = 2) -> None:
    random = np.random.default_rng(6)
    listed = []
    for index in range(cases + 1):
        label = blobs(random, shape, 1)
        colour = shape if channels == 1 else (*shape, channels)
        image = random.integers(0, 100, colour) + 100 * label.reshape(*shape, *[1] * (len(colour) - 2))
        for folder, array in (("images", image), ("labels", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8).swapaxes(0, 1)).save(root / folder / f"c{index}.png")
        listed.append({"image": f"images/c{index}.png", "label": f"labels/c{index}.png"})
    describe(root, 1, listed)


def describe(root: Path, classes: int, listed: list[dict[str, str]], **more: object) -> None:
    """Write `dataset.json`; the last case is for validation."""
    labels = {"0": "background"} | {str(value): f"class {value}" for value in range(1, classes + 1)}
    content = {
        "name": root.name,
        "labels": labels,
        "training": listed[:-1],
        "validation": listed[-1:],
        **more,
    }
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


DATASETS: dict[str, Callable[[Path], None]] = {
    "photographs": lambda root: pictures(root, (300, 200), 3),
    "microscopy": lambda root: pictures(root, (1000, 1000), 1),
    "5 mm slices": lambda root: volumes(root, (256, 256, 24), (0.8, 0.8, 5.0), 2, "CT"),
    "large CT": lambda root: volumes(root, (256, 256, 160), (1.0, 1.0, 1.0), 3, "CT"),
    "tiny volumes": lambda root: volumes(root, (35, 50, 35), (1.0, 1.0, 1.0), 2, "MRI"),
    "105 classes": lambda root: volumes(root, (128, 128, 128), (1.5, 1.5, 1.5), 105, "CT"),
    "100 channels": lambda root: volumes(root, (48, 48, 40), (2.0, 2.0, 2.0), 1, "MRI", channels=100),
    "one case": lambda root: volumes(root, (160, 160, 100), (1.0, 1.0, 2.0), 1, "MRI", cases=1),
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the peak of a child process is known on POSIX only")
@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("bundle", ["r2unet", "upernet"])
def test_a_step_keeps_the_memory_that_its_plan_was_given(bundle: str, name: str, tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    DATASETS[name](tmp_path / "data")
    plan = tmp_path / "plan.json"
    words = ["-m", "pipelines", "plan", str(tmp_path / "data"), "--minutes", "10", "--bundle", bundle]
    words += [
        "--memory_gb",
        str(GIGABYTES[bundle]),
        "--store_dir",
        str(tmp_path / "store"),
        "--output",
        str(plan),
    ]
    place.run(words)
    planned = json.loads(plan.read_text(encoding="utf-8"))
    dims = len(planned["patch_size"])
    step = {"epochs": 1, "patches_per_epoch": planned["batch_size"], "num_workers": 0, "pictures": 0}
    # What the libraries, the cases and the folder of models take, with a network of next to nothing.
    least = step | {"patch_size": str([32] * dims).replace(" ", ""), "batch_size": 1, "patches_per_epoch": 1}

    def peak_of(kind: str, given: Mapping[str, object]) -> int:
        places = {"bundle_root": tmp_path / f"{kind} {len(given)}", "dataset_dir": tmp_path / "data"}
        return peak(place, place.planned_training(kind, str(plan), **places, **given))

    grown = peak_of(bundle, step) - peak_of("r2unet", least | SMALLEST)
    assert grown <= GIGABYTES[bundle] * 1e9, planned


def peak(place: Workplace, words: list[str]) -> int:
    """Bytes that a command has in memory at most."""
    with (
        (place.folder / "said").open("w+", encoding="utf-8") as said,
        place.started(words, {}, stdout=said) as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        assert process.returncode == 0, said.read()[-3000:]
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
