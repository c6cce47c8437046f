"""Versions of registered models."""

import math
from pathlib import Path
from urllib.request import url2pathname

from mlflow.tracking import MlflowClient

from pipelines.tracking.run import Tracking


def test_the_alias_is_on_the_best_model(uri, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    versions = []
    for value in (0.5, 0.8, math.nan, 0.7):
        with Tracking("e", uri=uri) as tracking:
            run_id = tracking.start()
            tracking.artifact(tmp_path / "model.pt", "model")
            tracking.register("it's r2unet", "model", value)
        best = MlflowClient(uri).get_model_version_by_alias("it's r2unet", "best")
        versions.append((str(best.version), best.tags["value"], best.run_id == run_id))
    assert versions == [("1", "0.5", True), ("2", "0.8", True), ("2", "0.8", False), ("2", "0.8", False)]
    source = Path(url2pathname(best.source.removeprefix("file://")))
    assert (source / "model.pt").read_bytes() == b"weights"


def test_a_continued_run_has_one_version_with_its_last_value(uri, tmp_path):
    """Its better model replaces the files of the first one, so two versions would have the same files."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    run_id = None
    for value in (0.5, 0.6):
        with Tracking("e", uri=uri) as tracking:
            run_id = tracking.start(continue_run=run_id)
            tracking.artifact(tmp_path / "model.pt", "model")
            tracking.register("r2unet", "model", value)
    client = MlflowClient(uri)
    (version,) = client.search_model_versions("name = 'r2unet'")
    assert (version.run_id, version.tags["value"]) == (run_id, "0.6")
    assert client.get_model_version_by_alias("r2unet", "best").version == version.version
