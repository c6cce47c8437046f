"""The first record of a journal: the name of its run."""

import random
from datetime import datetime

from mlflow.tracking import MlflowClient

from pipelines.tracking.run import Tracking
from tests.pipelines.tracked_runs import only_run


def test_runs_with_the_same_seed_and_start_time_have_different_names(uri):
    """MLflow draws names from the random generator that the training seeds, so equal seeds would give equal names."""
    names, before = [], datetime.now().replace(microsecond=0)
    for _ in range(2):
        random.seed(0)
        with Tracking("lungs", uri=uri) as tracking:
            names.append(MlflowClient(uri).get_run(tracking.start()).info.run_name)
    assert names[0] != names[1]
    started = [datetime.strptime(name[:-5], "lungs %Y-%m-%d %H:%M:%S") for name in names]
    assert before <= started[0] <= started[1] <= datetime.now()


def test_names_may_be_numbers(uri):
    """MONAI reads `--experiment 2026` as a number."""
    with Tracking(2026, 7, uri) as tracking:
        tracking.start()
    assert only_run(uri, "2026").info.run_name == "7"
