"""Single writes to an MLflow run. Repeating any of them has no effect."""

from __future__ import annotations

import json
import posixpath
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.tracking.client import refused_for_good, wait_longer


def log_params(client: Any, run_id: str | None, values: Mapping[str, str]) -> dict[str, str]:
    """Store parameters that the run does not have yet.

    MLflow does not change a parameter. If the run has one with another value, as a continued run may, the new value is
    stored in the tag `changed.<name>`.

    Returns:
        The parameters of the batches that MLflow refused, which are to be stored one by one.
    """
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    params = [Param(key, value) for key, value in values.items() if key not in known]
    refused: dict[str, str] = {}
    for first in range(0, len(params), 100):
        part = params[first : first + 100]
        try:
            client.log_batch(run_id, params=part, synchronous=True)
        except Exception as error:
            if not refused_for_good(error):
                raise
            refused |= {param.key: param.value for param in part}
    changed = {f"changed.{key}": value for key, value in values.items() if known.get(key, value) != value}
    set_tags(client, run_id, changed)
    return refused


def set_tags(client: Any, run_id: str | None, values: Mapping[str, Any]) -> None:
    """Set tags of a run."""
    from mlflow.entities import RunTag

    tags = [RunTag(key, str(value)) for key, value in values.items()]
    for first in range(0, len(tags), 100):
        client.log_batch(run_id, tags=tags[first : first + 100], synchronous=True)


def upload(client: Any, run_id: str | None, source: Path, name: str) -> None:
    """Store a file under an artifact path of the run; an earlier file of that path is replaced."""
    folder, base = posixpath.split(name)
    # A server that stores artifacts elsewhere answers only after it has sent the file on.
    wait_longer(10 + source.stat().st_size / 1e6)
    if source.name == base:
        client.log_artifact(run_id, str(source), folder or None)
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / base
        shutil.copyfile(source, copy)
        client.log_artifact(run_id, str(copy), folder or None)


def list_table(client: Any, run_id: str | None, name: str) -> None:
    """Add an artifact to the tag that lists the tables for MLflow's user interface."""
    tag = "mlflow.loggedArtifacts"
    tables = json.loads(client.get_run(run_id).data.tags.get(tag, "[]"))
    entry = {"path": name, "type": "table"}
    if entry not in tables:
        client.set_tag(run_id, tag, json.dumps([*tables, entry]), synchronous=True)


def log_picture(client: Any, run_id: str | None, array: Path, name: str) -> None:
    """Store a picture from a .npy file, in full size and reduced, under the names that MLflow's image grid reads."""
    import numpy as np
    from mlflow.tracking.multimedia import compress_image_size
    from PIL import Image

    picture = Image.fromarray(np.load(array, allow_pickle=False))
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / f"{posixpath.basename(name)}.png"
        small = original.with_name(f"{posixpath.basename(name)}+compressed.webp")
        picture.save(original)
        compress_image_size(picture).save(small)
        for path in (original, small):
            upload(client, run_id, path, f"images/{path.name}")
    client.set_tag(run_id, "mlflow.loggedImages", "True", synchronous=True)


def step_of_picture(name: str) -> str:
    """The name of a picture without its time: its key and its step."""
    return posixpath.basename(name).partition("+timestamp+")[0]


def log_datasets(client: Any, run_id: str | None, datasets: Sequence[Mapping[str, str]]) -> None:
    """Log the datasets of a run, see `pipelines.tracking.run.Tracking.inputs`."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for fields in datasets:
        dataset = Dataset(**{key: value for key, value in fields.items() if key != "context"})
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", fields["context"])]))
    client.log_inputs(run_id, inputs)
