"""Packages a flat bundle folder as a standard MONAI bundle: configs, code, weights, TorchScript model and zip file.

The flat folder of `bundles/` holds the configs that a user runs. The package has the layout of the MONAI Bundle
Specification, which other tools (Model Zoo, MONAI Label, Deploy) expect. MONAI's own verifiers check it in a process
that can import no code from outside the bundle.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config.bundle_folders import find_bundle, known_bundles
from pipelines.config.executed import is_evaluated, knob_names, parts
from pipelines.config.knobs import Knob, knobs_of
from pipelines.deployment.requirements import installed_versions, pinned_requirements
from pipelines.inference.model_card import CardError, read_content
from pipelines.inference.trained_model import BEST, CARD, SETTINGS, TrainedModel
from pipelines.utils.import_names import NAMES, with_short_names
from pipelines.utils.installed import PREFIX
from pipelines.utils.passwords import hidden
from pipelines.utils.terminal import take_every_character
from transforms.errors import UserError
from transforms.utils.files import put_in_place, require_folder

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = (
    "train.json",
    "evaluate.json",
    "inference.json",
    "multi_gpu_train.json",
    "metadata.json",
    "logging.conf",
)
# Packages that the Bundle Specification gives an entry of their own.
_OWN_VERSIONS = {"monai": "monai", "torch": "pytorch", "numpy": "numpy"}
_ROOT = "$pipelines.bundle_root()"


class PackagingError(UserError, RuntimeError):
    """A bundle cannot be packaged; the message gives the missing file or the output of MONAI's verifier."""


def package(source: Path, target: Path, models: Path | None = None) -> Path:
    """Write the standard bundle of the flat folder `source` as `target/<name>` and `target/<name>.zip`.

    Args:
        source: a folder of `bundles/`.
        target: folder for the package; an existing package of the same name is replaced.
        models: folder with `model.pt` and `model.json`; by default `models/` in `source`.

    Returns:
        The zip file.

    Raises:
        PackagingError: a file is missing, or MONAI's verifiers refuse the package.
        CheckpointError: the trained model is missing or damaged.
        FolderError: `target` is not writable.
    """
    models = models or source / "models"
    require_folder(target, "the package", "choose another --output")
    with tempfile.TemporaryDirectory(dir=target) as folder:
        root = Path(folder) / source.name
        assemble(source, root, models)
        _verify(root)
        final = target / source.name
        if final.exists():
            shutil.rmtree(final)
        archive = shutil.make_archive(str(Path(folder) / "bundle"), "zip", folder, source.name)
        put_in_place(root, final)
        return put_in_place(archive, target / f"{source.name}.zip")


def assemble(source: Path, root: Path, models: Path, executed: Mapping[str, Any] | None = None) -> Path:
    """Write the standard bundle of the flat folder `source` as the folder `root`, without verifying it.

    Args:
        source: a flat bundle folder.
        root: the folder to create.
        models: folder with `model.pt` and `model.json`.
        executed: the config with which they were trained; it replaces the `train.json` of `source`.

    Returns:
        `root`.

    Raises:
        PackagingError: `source` is not a bundle.
        CheckpointError: the trained model is missing or damaged.
    """
    files = bundle_files(source)
    missing = [name for name, path in files.items() if path is None]
    if missing:
        raise PackagingError(
            f"{source} is not a bundle: {', '.join(missing)} missing; give a folder such as bundles/r2unet"
        )
    trained = TrainedModel(models / BEST, trusted_by(executed))
    (root / "configs").mkdir(parents=True)
    (root / "docs").mkdir()
    for name in CONFIGS:
        text = (source / name).read_text(encoding="utf-8")
        text = with_short_names(hidden(text), name).replace(f'"bundles/{source.name}"', json.dumps(_ROOT))
        (root / "configs" / name).write_text(_from_the_root(text, source), encoding="utf-8")
    _settle(root / "configs" / "train.json", models, trained, executed)
    _describe(root / "configs" / "metadata.json", trained)
    readme, license_ = files["README.md"], files["LICENSE"]
    assert readme is not None
    assert license_ is not None
    text = _from_the_root(readme.read_text(encoding="utf-8"), source)
    (root / "docs" / "README.md").write_text(text, encoding="utf-8")
    shutil.copy(license_, root / "LICENSE")
    copy_code(root)
    copy_model(models, root)
    return root


def _from_the_root(text: str, source: Path) -> str:
    """The text with the paths that its commands have where they run in the root of a standard bundle."""
    return text.replace(f"bundles/{source.name}/models/", "models/").replace(
        f"bundles/{source.name}/", "configs/"
    )


def trusted_by(executed: Mapping[str, Any] | None) -> list[str]:
    """The network class of a config: running a config means to trust it, so its model may be loaded."""
    return [] if executed is None else [str(executed.get("network_def", {}).get("_target_"))]


def bundle_files(source: Path) -> dict[str, Path | None]:
    """The paths of the files of a bundle by name; None for a missing file.

    Args:
        source: a flat bundle folder, or the folder `configs/` of a standard bundle, whose README is in `../docs` and
            whose LICENSE is in `..`.
    """
    places = {"README.md": (source, source.parent / "docs"), "LICENSE": (source, source.parent)}
    return {
        name: next((at / name for at in places.get(name, (source,)) if (at / name).is_file()), None)
        for name in (*CONFIGS, "README.md", "LICENSE")
    }


def copy_code(root: Path) -> None:
    """Copy the code that a bundle needs to its root, where `monai.bundle run` can import it, and name what that needs."""
    for name in NAMES:
        shutil.copytree(
            REPOSITORY / name,
            root / name,
            # `installed` is what only an installation has, see `setup.py`.
            ignore=shutil.ignore_patterns("__pycache__", "installed"),
            copy_function=_copy_with_short_names if PREFIX else shutil.copy2,
        )
    (root / "requirements.txt").write_text(pinned_requirements(), encoding="utf-8")


def _copy_with_short_names(source: str, target: str) -> None:
    text = Path(source).read_text(encoding="utf-8")
    Path(target).write_text(with_short_names(text, source), encoding="utf-8", newline="\n")


def copy_model(models: Path, root: Path) -> None:
    (root / "models").mkdir()
    for name in (BEST, CARD):
        shutil.copy(models / name, root / "models" / name)


def _settle(path: Path, models: Path, trained: TrainedModel, executed: Mapping[str, Any] | None) -> None:
    """Write the training as it was: with the settings that it had, and with the network of the model.

    MONAI's tools build the network of `train.json` for the weights beside it, without the dataset that it came from.
    """
    own = json.loads(path.read_text(encoding="utf-8"))
    config = dict(executed) if executed is not None else own | _settings(models, trained, own)
    # Folders of the machine that trained say nothing elsewhere.
    config |= {name: own[name] for name in ("dataset_dir", "store_dir", "run_name") if name in own}
    config |= {"bundle_root": _ROOT, "network_def": trained.card["network"]}
    for name in knobs_of(Knob.NETWORK):
        config.pop(name, None)
    path.write_text(json.dumps(config, indent=4, default=str) + "\n", encoding="utf-8")


def _settings(models: Path, trained: TrainedModel, own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings beside a model, where they are of this very model.

    Models come from strangers and are data: only values are taken, for ids that the bundle has, and nothing that MONAI
    evaluates.
    """
    try:
        note = read_content(models / SETTINGS)
    except (OSError, CardError):
        return {}
    found = note.get("settings") if note.get("sha256") == trained.card["sha256"] else None
    if not isinstance(found, dict):
        return {}
    known = knob_names(own)
    return {name: value for name, value in found.items() if name in known and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return not any(isinstance(part, dict) or is_evaluated(part) for part in parts(value))


def _describe(path: Path, trained: TrainedModel) -> None:
    """Write what the model needs, its channels, classes and validation Dice to `metadata.json`."""
    metadata = json.loads(path.read_text(encoding="utf-8"))
    versions = {name: version for name, version in installed_versions().items() if version}
    metadata |= {
        f"{key}_version": versions.pop(name) for name, key in _OWN_VERSIONS.items() if name in versions
    }
    metadata["required_packages_version"] = versions
    classes = {str(value): name for value, name in sorted(trained.labels.items())}
    image = metadata["network_data_format"]["inputs"]["image"]
    count, ct = trained.preprocess.channels, trained.preprocess.ct_channels
    image["num_channels"] = count
    if len(ct) < count:
        image |= {"format": "magnitude", "modality": "any", "value_range": []}
    if count > 1:
        image["channel_def"] = {
            str(index): "CT" if index in ct else f"channel {index}" for index in range(count)
        }
    output = metadata["network_data_format"]["outputs"]["pred"]
    output["num_channels"], output["channel_def"] = len(classes), classes
    metadata["label_classes"] = "1 channel: " + ", ".join(
        f"{value} {name}" for value, name in classes.items()
    )
    metadata["pred_classes"] = f"{len(classes)} channels of logits: " + ", ".join(classes.values())
    values = [
        v for case in trained.card.get("validation", []) for v in case["dice"].values() if v is not None
    ]
    metadata["eval_metrics"] = {"mean_dice": round(sum(values) / len(values), 4)} if values else {}
    path.write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")


def _verify(root: Path) -> None:
    meta = ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"]
    export = ["--ckpt_file", f"models/{BEST}", "--filepath", "models/model.ts"]
    for command in (
        ["verify_net_in_out", "--net_id", "network_def", *meta, "--n", "2"],
        ["ckpt_export", "--net_id", "network_def", *export, *meta],
    ):
        result = subprocess.run(
            [sys.executable, "-m", "monai.bundle", *command],
            cwd=root,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if result.returncode != 0:
            raise PackagingError(
                f"MONAI's {command[0]} failed for the bundle {root.name}:\n{result.stderr[-2000:]}"
            )
    for cache in root.rglob("__pycache__"):
        shutil.rmtree(cache)


def main() -> None:
    take_every_character()
    parser = argparse.ArgumentParser(description="Build standard MONAI bundles from bundles/.")
    parser.add_argument(
        "names", nargs="*", help="names of the bundles to build (default: every bundle with a trained model)"
    )
    parser.add_argument("--output", type=Path, default=Path("dist"))
    arguments = parser.parse_args()
    trained = [name for name in known_bundles() if find_bundle(name).model.is_file()]
    names = arguments.names or trained
    if not names:
        sys.exit("error: no folder of bundles/ has a trained model; run make train first")
    try:
        for name in names:
            bundle = find_bundle(name)
            print(package(bundle.configs, arguments.output, bundle.model.parent))
    except UserError as error:
        sys.exit(f"error: {hidden(str(error))}")


if __name__ == "__main__":
    main()
