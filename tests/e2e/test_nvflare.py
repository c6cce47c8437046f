"""NVFlare's simulator trains a packaged bundle at two sites: the script of examples/."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.deployment.packaging import assemble
from tests.conftest import REPOSITORY
from tests.e2e.clients import client_of_page
from tests.e2e.commands import SMALL, Workplace
from tests.e2e.page_commands import EXAMPLES, page_commands, run_commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

SCRIPT = REPOSITORY / "examples" / "nvflare" / "simulate.py"
BRIGHT, DARK = 400.0, -400.0
"""HU of the organ in the scans of the two sites: with and without a contrast agent, as it were."""
ROUNDS, LOCAL_EPOCHS = 10, 4


def write_site(root: Path, organs: Sequence[float], training: int, validation: int, seed: int) -> Path:
    """A dataset of bodies with one organ each, whose HU are those of `organs` in turn; 8 mm voxels."""
    random = np.random.default_rng(seed)
    listed: dict[str, list[dict[str, str]]] = {"training": [], "validation": []}
    for split, count in (("training", training), ("validation", validation)):
        for index in range(count):
            axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij"))
            image = np.where((axes**2).sum(0) < 0.9, 0.0, -1000.0)
            centre, radii = random.uniform(-0.35, 0.35, (3, 1, 1, 1)), random.uniform(0.2, 0.4, (3, 1, 1, 1))
            organ = (((axes - centre) / radii) ** 2).sum(0) < 1
            image[organ] = organs[index % len(organs)]
            image += random.normal(0, 60, image.shape)
            name = f"{split}_{index}.nii.gz"
            for folder, array in (("images", image.astype(np.int16)), ("labels", organ.astype(np.uint8))):
                (root / folder).mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, np.diag([8.0, 8.0, 8.0, 1.0])), root / folder / name)
            listed[split].append({"image": f"images/{name}", "label": f"labels/{name}"})
    content = {
        "name": root.name,
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ"},
        **listed,
    }
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return root


class Federation:
    """Two sites, a bundle that was packaged after a training of seconds, and an environment with NVFlare."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Folders of users have spaces in their names.
        self.sites = [
            write_site(folder / "a clinic", [BRIGHT], 3, 1, seed=1),
            write_site(folder / "another clinic", [DARK], 3, 1, seed=2),
        ]
        self.held_out = write_site(folder / "held out", [BRIGHT, DARK], 1, 6, seed=3)
        self.image = self.held_out / "images" / "validation_0.nii.gz"
        self.place = Workplace(folder / "trained")
        short = {
            "epochs": 1,
            "features": "[8,16]",
            "batch_size": 2,
            "warmup_steps": 4,
            "augmentation": "moderate",
            "pictures": 0,
            "dataset_dir": self.sites[0],
        }
        self.place.run(self.place.training("r2unet", **(SMALL | short)))
        self.bundle = assemble(
            REPOSITORY / "bundles" / "r2unet", folder / "r2unet", self.place.root / "models"
        )
        install, self.page = page_commands(
            "use_a_model.md",
            "Federated learning",
            {
                **EXAMPLES,
                "BUNDLE": self.bundle,
                "CLINIC_A": shlex.quote(str(self.sites[0])),
                "CLINIC_B": shlex.quote(str(self.sites[1])),
                "--rounds 20": "--rounds 2",
                "predict CT": f"predict {shlex.quote(str(self.image))}",
                "bundles/r2unet": REPOSITORY / "bundles" / "r2unet",
            },
        )
        self.python = client_of_page("federated", install, folder / "clients")

    def simulate(self, output: str, *words: object, sites: Sequence[Path], check: bool = True) -> str:
        """Run the script; returns what it said."""
        line = [
            self.python,
            "-W",
            "ignore",
            SCRIPT,
            "--bundle",
            self.bundle,
            "--output",
            self.folder / output,
        ]
        for site in sites:
            line += ["--site", site]
        done = subprocess.run(
            [str(word) for word in (*line, *words)],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            encoding="utf-8",
        )
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == check, said[-6000:]
        return said

    def dice(self, output: str) -> Mapping[str, float]:
        """Mean Dice of a model on the held-out cases: of all, and of those as in the scans of each site."""
        to = self.folder / f"{output} evaluated"
        given = {"model": self.folder / output / "model.pt", "dataset_dir": self.held_out, "output_dir": to}
        self.place.bundle("r2unet", "evaluate.json", track=False, pictures=0, **given)
        cases = json.loads((to / "metrics.json").read_text(encoding="utf-8"))["cases"]
        found = [case["dice"]["organ"] for case in sorted(cases, key=lambda case: case["case"])]
        return {"all": np.mean(found), "bright": np.mean(found[::2]), "dark": np.mean(found[1::2])}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("federation"))


def test_two_sites_beat_each_alone(federation: Federation) -> None:
    """With as many steps at each site, on cases that none has seen, half of them as at each."""
    length = [
        "--from-scratch",
        "--rounds",
        ROUNDS,
        "--local-epochs",
        LOCAL_EPOCHS,
        "--set",
        "patches_per_epoch=10",
    ]
    federation.simulate("both", *length, sites=federation.sites)
    dice = {"both": federation.dice("both")}
    for name, site in zip(("bright", "dark"), federation.sites, strict=True):
        federation.simulate(name, *length, sites=[site])
        dice[name] = federation.dice(name)
        assert dice[name][name] > 0.8, (name, dice)  # it has learned what it was shown
    assert dice["both"]["all"] > 0.8, dice
    assert dice["both"]["all"] > max(dice["bright"]["all"], dice["dark"]["all"]) + 0.1, dice

    image = federation.image
    labels = federation.place.predict(image, federation.folder / "both" / "model.pt")
    found = nib.load(labels).get_fdata()
    truth = nib.load(federation.held_out / "labels" / image.name).get_fdata()
    assert 2 * (found * truth).sum() / (found.sum() + truth.sum()) > 0.8


def test_the_commands_of_the_page(federation: Federation, tmp_path: Path) -> None:
    (tmp_path / "federated").symlink_to(federation.python.parents[1])
    run_commands(federation.page, tmp_path)
    assert nib.load(tmp_path / "predictions" / federation.image.name).shape == (32, 32, 32)


def test_a_federation_goes_on_from_the_model_of_the_bundle(federation: Federation) -> None:
    """Rounds without steps that count leave it as it was; each begins with its Dice at every site."""
    said = federation.simulate("kept", "--rounds", 2, "--set", "learning_rate=0", sites=federation.sites)
    for site in ("site-1", "site-2"):
        first, second = re.findall(rf"{site}, round [01]: (.*)", said)
        assert first == second
        assert "val_dice_organ" in first
    card = json.loads((federation.folder / "kept" / "model.json").read_text(encoding="utf-8"))
    assert "validation" not in card
    before = (federation.bundle / "models" / "model.json").read_text(encoding="utf-8")
    assert card["preprocessing"] == json.loads(before)["preprocessing"]
    place = federation.place.root / "models" / "model.pt"
    assert _weights(federation.folder / "kept" / "model.pt") == pytest.approx(_weights(place), abs=1e-6)


def test_what_cannot_be_averaged_is_refused_in_one_sentence(federation: Federation, lungs_like: Path) -> None:
    said = federation.simulate("other", sites=[federation.sites[0], lungs_like], check=False)
    assert "error: the dataset's labels {0: 'background', 1: 'left_lung', 2: 'right_lung'} are not" in said
    assert "Traceback" not in said
    for word, why in {
        "spacing=[1,1,1]": "--set spacing cannot be given: it is settled by the bundle's model",
        "epoch=3": "--set epoch cannot be given: it is not in",
        "schedule=auto": "leaves schedule to a plan, which each site would make of its own data",
    }.items():
        said = federation.simulate("refused", "--set", word, sites=federation.sites, check=False)
        assert why in said
    assert not (federation.folder / "refused").exists()
    said = federation.simulate("with spaces", sites=federation.sites, check=False)
    assert "takes no folder with spaces" in said


def _weights(path: Path) -> np.ndarray:
    import torch

    tensors = torch.load(path, weights_only=True).values()
    return np.concatenate([value.double().numpy().ravel() for value in tensors])
