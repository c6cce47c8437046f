"""Which run a journal is of."""

import random
from datetime import datetime

from mlflow.tracking import MlflowClient

from pipelines.tracking.run import Tracking
from tests.pipelines.tracked_runs import only_run


def test_runs_of_one_seed_and_one_second_have_names_of_their_own(uri):
    """The seed of a training is also that of the generator that MLflow draws its names from."""
    names, before = [], datetime.now().replace(microsecond=0)
    for _ in range(2):
        random.seed(0)
        with Tracking("lungs", uri=uri) as tracking:
            names.append(MlflowClient(uri).get_run(tracking.start()).info.run_name)
    assert names[0] != names[1]
    started = [datetime.strptime(name[:-5], "lungs %Y-%m-%d %H:%M:%S") for name in names]
    assert before <= started[0] <= started[1] <= datetime.now()


def test_names_that_look_like_numbers_are_names(uri):
    """MONAI reads `--experiment 2026` as a number."""
    with Tracking(2026, 7, uri) as tracking:
        tracking.start()
    assert only_run(uri, "2026").info.run_name == "7"
