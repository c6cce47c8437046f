"""What each site of `simulate.py` runs: MONAI's client for federated learning with a packaged bundle.

It evaluates the model that arrives on the validation cases of its own site, trains it on the training cases, and
sends the difference of the weights. Images and labels stay where they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import nvflare.client as flare
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics
from monai.fl.utils.exchange_object import ExchangeObject
from nvflare.apis.dxo import MetaKey


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--local-epochs", type=int, required=True)
    parser.add_argument("--settings", type=Path, required=True, help="JSON file with values of train.json")
    given = parser.parse_args()
    settings = json.loads(given.settings.read_text(encoding="utf-8"))
    sys.path.insert(0, str(given.bundle))

    flare.init()
    client = MonaiAlgo(
        bundle_root=str(given.bundle),
        local_epochs=given.local_epochs,
        train_kwargs=settings,
        # The Dice of each round, without surfaces.
        eval_kwargs=shared(given.bundle, settings) | {"surface_tolerance": None, "confidence": False},
    )
    site = flare.get_site_name()
    client.initialize({ExtraItems.CLIENT_NAME: site})
    while flare.is_running():
        received = flare.receive()
        weights = ExchangeObject(weights=received.params)
        metrics = client.evaluate(weights).metrics
        print(f"{site}, round {received.current_round}: {metrics}", flush=True)
        client.train(weights)
        trained = client.get_weights()
        steps = trained.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS]
        flare.send(
            flare.FLModel(
                params=trained.weights,
                params_type=flare.ParamsType.DIFF,
                metrics=metrics,
                meta={MetaKey.NUM_STEPS_CURRENT_ROUND: steps},
            )
        )
    client.finalize()


def shared(bundle: Path, settings: dict) -> dict:
    """The settings that evaluate.json has too, such as the dataset and the precision."""
    known = json.loads((bundle / "configs" / "evaluate.json").read_text(encoding="utf-8"))
    return {name: value for name, value in settings.items() if name in known}


if __name__ == "__main__":
    main()
