"""Writes to MLflow that can be repeated without effect."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from pipelines.tracking.run import Tracking


def test_a_continued_run_has_no_step_twice(uri):
    """A training killed after its last checkpoint repeats some iterations, possibly with other values."""
    with pytest.raises(KeyboardInterrupt), Tracking("e", uri=uri) as tracking:  # noqa: PT012
        first = tracking.start()
        for step in range(1, 8):
            tracking.metrics({"loss": 1 / step}, step)
        tracking.metrics({"dice": 0.5}, 4)
        raise KeyboardInterrupt
    with Tracking("e", uri=uri) as tracking:
        tracking.start(continue_run=first)
        for step in range(5, 11):
            tracking.metrics({"loss": 2 / step, "new": 1.0}, step)
        tracking.metrics({"dice": 0.6}, 8)
    client = MlflowClient(uri)
    history = {m.step: m.value for m in client.get_metric_history(first, "loss")}
    assert len(client.get_metric_history(first, "loss")) == 10
    assert history == {step: (1 if step < 8 else 2) / step for step in range(1, 11)}
    assert [m.step for m in client.get_metric_history(first, "dice")] == [4, 8]
    assert [m.step for m in client.get_metric_history(first, "new")] == list(range(5, 11))


def test_pictures_and_tables_have_the_paths_that_mlflow_expects(uri, tmp_path):
    pictures = {step: np.full((30, 50, 3), 40 * step, np.uint8) for step in (1, 2, 3)}
    with Tracking("e", uri=uri) as tracking:
        run_id = tracking.start()
        for step in (1, 2):
            tracking.image("case/one: ä", pictures[step], step)
        tracking.table(
            "dice.json", {"case": ["a", "b"], "dice": [np.float32(0.5), math.nan], "n": [1, np.int64(2)]}
        )
        with pytest.raises(ValueError, match="shorter"):
            tracking.table("wrong.json", {"case": ["a", "b"], "dice": [0.5]})
        with pytest.raises(ValueError, match=r"ends in \.json"):
            tracking.table("wrong", {"case": ["a"]})
    with Tracking("e", uri=uri) as tracking:
        tracking.start(continue_run=run_id)
        for step in (2, 3):  # step 2 was drawn after the last checkpoint
            tracking.image("case/one: ä", pictures[step], step)
        tracking.table("dice.json", {"case": ["c"], "dice": [0.25], "n": [3]})
    client = MlflowClient(uri)
    names = [Path(item.path).name for item in client.list_artifacts(run_id, "images")]
    # The names of MLflow's log_image: key, step, time and a unique id.
    pattern = re.compile(
        r"case~one_ _\+step\+(\d)\+timestamp\+\d{13}\+[0-9a-f-]{36}(\.png|\+compressed\.webp)"
    )
    parts = sorted(pattern.fullmatch(name).groups() for name in names)
    assert parts == [(str(step), end) for step in (1, 2, 3) for end in ("+compressed.webp", ".png")]
    for name in names:
        step = int(pattern.fullmatch(name).group(1))
        stored = np.asarray(
            Image.open(client.download_artifacts(run_id, f"images/{name}", tmp_path)).convert("RGB")
        )
        if name.endswith(".png"):
            assert (stored == pictures[step]).all()
    tags = client.get_run(run_id).data.tags
    assert tags["mlflow.loggedImages"] == "True"
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "dice.json", "type": "table"}]
    table = client._read_from_file(client.download_artifacts(run_id, "dice.json", tmp_path))
    assert table.to_dict("records") == [{"case": "c", "dice": 0.25, "n": 3}]
