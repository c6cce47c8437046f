"""Federated training of a packaged bundle in NVFlare's simulator: FedAvg over the datasets of several sites.

    python simulate.py --bundle BUNDLE --site DIR --site DIR --rounds 20 --output FOLDER

Each DIR is a dataset of its own, with the classes of the bundle's model. `FOLDER/model.pt` is the averaged model, which
`predict --model` and `evaluate.json --model` take. docs/use_a_model.md says what to install.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv, set_per_site_config

OF_ITS_OWN_TRAINING = ("run_id", "experiment", "validation", "training_data", "plan")
"""What the card of the bundle's model says of the training that it comes from."""
SETTLED = (
    "spacing",
    "normalization",
    "window",
    "crop_above",
    "patch_size",
    "overlap",
    "mirror_axes",
    "network_def",
)
"""What the card says of its inputs, so of those of the averaged model too."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True, help="root of the packaged bundle")
    parser.add_argument("--site", type=Path, action="append", required=True, help="dataset of a site")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--rounds", type=int, default=20, help="of training at all sites and averaging")
    parser.add_argument("--local-epochs", type=int, default=1, help="of each site in each round")
    parser.add_argument(
        "--from-scratch", action="store_true", help="begin with random weights, not with the bundle's model"
    )
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a value of train.json"
    )
    given = parser.parse_args()
    given.bundle, given.output = given.bundle.resolve(), given.output.resolve()
    sys.path.insert(0, str(given.bundle))
    from transforms.errors import UserError

    try:
        print(simulate(given))
    except (UserError, FileExistsError) as error:
        sys.exit(f"error: {error}")


def setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE, whose value is JSON or a text."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def simulate(given: argparse.Namespace) -> Path:
    """Train at all sites in rounds; returns the averaged model."""
    if len(str(given.output).split()) > 1:
        sys.exit(
            f"error: NVFlare's simulator takes no folder with spaces such as {given.output}; give another --output"
        )
    settings = common_settings(given)
    require_one_network(given.bundle, given.site, settings)
    given.output.mkdir(parents=True)
    begin = given.output / "initial.pt"
    seed = settings.get("seed", 0) if given.from_scratch else None
    torch.save(first_weights(given.bundle, seed), begin)
    sites = {f"site-{number}": folder.resolve() for number, folder in enumerate(given.site, start=1)}
    recipe = FedAvgRecipe(
        name="federated",
        min_clients=len(sites),
        num_rounds=given.rounds,
        train_script=str(Path(__file__).with_name("client.py")),
        # The server only adds up numbers: it needs neither the network nor other code of the bundle.
        model_persistor=PTFileModelPersistor(source_ckpt_file_full_name=str(begin)),
        launch_external_process=True,
        command=shlex.join([sys.executable, "-u"]),
        key_metric="val_mean_dice",
    )
    words = {name: arguments(name, sites[name], settings, given) for name in sites}
    set_per_site_config(recipe, {name: {"train_args": words[name]} for name in sites})
    workspace = given.output / "nvflare"
    try:
        recipe.execute(SimEnv(clients=list(sites), workspace_root=str(workspace)))
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    averaged = next(workspace.rglob("FL_global_model.pt"), None)
    if averaged is None:
        sys.exit(f"error: there is no model; what went wrong is in the files log.txt below {workspace}")
    return keep(averaged, given.bundle, given.output, given.rounds * given.local_epochs)


def common_settings(given: argparse.Namespace) -> dict[str, Any]:
    """What train.json has at every site in place of its own values."""
    return {
        # The schedule of the learning rate goes on over all rounds, and ends with the last.
        "epochs": given.rounds * given.local_epochs,
        # Each round begins with an evaluation of the model of all sites; none validates a model of its own.
        "val_interval": 0,
        "ema": None,
        **dict(given.set),
    }


def require_one_network(bundle: Path, sites: list[Path], settings: dict[str, Any]) -> None:
    """Refuse sites with other classes than the model, other inputs, and a bundle that lets each site plan for itself."""
    import pipelines
    from pipelines.planning.knobs import PLANNED

    config = json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8"))
    for name in settings:
        if name not in config or name in SETTLED:
            why = (
                "settled by the bundle's model" if name in SETTLED else f"not in {bundle}/configs/train.json"
            )
            sys.exit(f"error: --set {name} cannot be given: it is {why}")
    planned = [name for name in PLANNED if (config | settings).get(name) == "auto"]
    if planned:
        sys.exit(
            f"error: {bundle}/configs/train.json leaves {', '.join(planned)} to a plan, which each site would make "
            "of its own data; pack the bundle with the settings.json of its training, or give values with --set"
        )
    model = pipelines.TrainedModel(bundle / "models" / "model.pt")
    for site in sites:
        data = pipelines.open_dataset(site)
        model.require_labels(data.labels, data.regions)


def first_weights(bundle: Path, seed: int | None) -> dict[str, torch.Tensor]:
    """The weights that all sites begin with: those of the bundle's model, or with a seed random ones of its network."""
    if seed is None:
        return torch.load(bundle / "models" / "model.pt", map_location="cpu", weights_only=True)
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "train.json")
    torch.manual_seed(seed)
    return parser.get_parsed_content("network_def").state_dict()


def arguments(name: str, dataset: Path, settings: dict[str, Any], given: argparse.Namespace) -> str:
    """The command line of a site's `client.py`; its settings are in a file, as NVFlare takes braces for its own."""
    own = {"dataset_dir": str(dataset), "store_dir": str(given.output / "patches" / name)}
    file = given.output / f"{name}.json"
    file.write_text(json.dumps(own | settings, indent=4), encoding="utf-8")
    words = ["--bundle", given.bundle, "--settings", file, "--local-epochs", given.local_epochs]
    return shlex.join(map(str, words))


def keep(averaged: Path, bundle: Path, output: Path, epochs: int) -> Path:
    """Write NVFlare's model as `model.pt`, with the card of the bundle's model, as inputs and outputs are the same."""
    from pipelines.training.checkpoints import Checkpoints

    models = bundle / "models"
    before = torch.load(models / "model.pt", map_location="cpu", weights_only=True)
    found = torch.load(averaged, map_location="cpu", weights_only=True)["model"]
    # Averages are floats, also of what counts.
    weights = {name: torch.as_tensor(found[name]).to(value.dtype) for name, value in before.items()}
    card = json.loads((models / "model.json").read_text(encoding="utf-8"))
    card = {name: value for name, value in card.items() if name not in OF_ITS_OWN_TRAINING}
    return Checkpoints(output).save_model(weights, card | {"epoch": epochs})


if __name__ == "__main__":
    main()
