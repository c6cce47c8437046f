"""Fixtures that every test shares."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]

# Networks of the tests; what they start has them from the environment too.
os.environ["SEGBUNDLES_NETWORKS"] = "tests.pipelines.small.Tiny,tests.pipelines.tiny_model.Halting"

# Threads of several test processes on few cores only wait for each other, and a trainer that is free to choose their
# number may choose another one the second time: then two trainings are not equal bit by bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow machine finds no errors that a fast one does not: no example has a time limit. Fixtures that examples share
# hold what they only read, or folders in which every example writes anew.
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `cuda` are skipped on a machine without a GPU."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C works in tests and in what they start, also where a shell that runs them in the background ignores it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def template() -> Path:
    """An MLflow database without runs, to be copied."""
    from tests.pipelines.tracked_runs import template_database

    return template_database()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real CT that is not part of the repository: `SEGBUNDLES_DATA`, or `../shared/data` beside it."""
    path = Path(os.environ.get("SEGBUNDLES_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}; set SEGBUNDLES_DATA to its folder")
    return path


@pytest.fixture(scope="session")
def lungs_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset in MSD form: bodies with two air-filled ellipsoids, named left and right."""
    return make_dataset(tmp_path_factory.mktemp("lungs_like"))


def make_dataset(root: Path, training: int = 3, validation: int = 2, size: int = 48) -> Path:
    """Write the dataset of `lungs_like`: NIfTI, 8 mm voxels, HU, random positions and orientations."""
    random = np.random.default_rng(7)
    listed: dict[str, list[dict[str, str]]] = {"training": [], "validation": []}
    for split, count in (("training", training), ("validation", validation)):
        for index in range(count):
            image, label, affine = _lungs(random, size)
            name = f"{split}_{index}.nii.gz"
            for folder, array in (("images", image), ("labels", label)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, affine), root / folder / name)
            listed[split].append({"image": f"images/{name}", "label": f"labels/{name}"})
    names = {"0": "background", "1": "left_lung", "2": "right_lung"}
    content = {"name": "two lungs", "modality": {"0": "CT"}, "labels": names, **listed}
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def _lungs(random: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij"))
    shift = random.uniform(-0.08, 0.08, 3)[:, None, None, None]

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        offset = (axes - shift - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
        return (offset**2).sum(0) < 1

    image = np.full((size,) * 3, -1000.0)
    image[ellipsoid((0, 0, 0), (0.85, 0.7, 0.85))] = 40
    label = np.zeros((size,) * 3, np.uint8)
    label[ellipsoid((-0.4, 0, 0), (0.25, 0.4, 0.55))] = 1
    label[ellipsoid((0.4, 0, 0), (0.3, 0.4, 0.6))] = 2
    image[label > 0] = -850
    image += random.normal(0, 20, image.shape)
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = random.uniform(-300, -100, 3)
    flips = random.integers(0, 2, 3).astype(bool)
    for axis in np.flatnonzero(flips):
        affine[:3, 3] += affine[:3, axis] * (size - 1)
        affine[:3, axis] *= -1
        image, label = np.flip(image, axis), np.flip(label, axis)
    return np.ascontiguousarray(image.astype(np.int16)), np.ascontiguousarray(label), affine
