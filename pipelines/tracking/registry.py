"""Registers complete models as model versions in MLflow, and sets the alias of the best version."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Mapping
from typing import Any

from pipelines.tracking.client import first_line, refused_for_good
from pipelines.tracking.runs import quoted

logger = logging.getLogger(__name__)

VALUE, FILES, BYTES = "value", "files", "bytes"


def is_below(name: str, folder: str) -> bool:
    """Whether the artifact path `name` is `folder` or is in it."""
    return name == folder or name.startswith(f"{folder}/")


def missing_files(client: Any, run_id: str | None, folder: str, files: Mapping[str, int]) -> list[str]:
    """The names of files in an artifact folder that are missing on the server or have another size than was sent.

    Args:
        client: client of the MLflow store.
        run_id: MLflow's id of the run.
        folder: artifact folder of the run.
        files: sizes in bytes of the files that were sent, by name within the folder; if empty, one file of any name
            is sufficient, and otherwise the folder itself is returned as missing.
    """
    try:
        found = _files_below(client, run_id, folder)
    except Exception as error:
        if not refused_for_good(error):
            raise
        # Some stores cannot list files; the store has confirmed the upload of each file.
        logger.warning("the files of %s cannot be listed (%s)", folder, first_line(error))
        return []
    if not files:
        return [] if found else [folder]
    return [name for name, size in files.items() if name not in found or found[name] not in (size, None)]


def register(
    client: Any,
    run_id: str | None,
    name: str,
    folder: str,
    value: float,
    alias: str,
    files: Mapping[str, int] | None = None,
) -> None:
    """Register an artifact folder as a version of a model, and move the alias to the best complete version.

    Args:
        client: client of the MLflow store.
        run_id: MLflow's id of the run.
        name: name of the registered model, which is created if it does not exist.
        folder: artifact folder of the run.
        value: the metric that compares the versions; higher is better.
        alias: alias of the best version.
        files: sizes in bytes of the folder's files, by name within the folder.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
    versions = list(client.search_model_versions(f"name = {quoted(name)}"))
    tags = {VALUE: repr(value)}
    if files:
        tags |= {FILES: str(len(files)), BYTES: str(sum(files.values()))}
    # A continued run has replaced the files of its earlier version, so no second version is created.
    version = next((v for v in versions if (v.source, v.run_id) == (source, run_id)), None)
    if version is None:
        version = client.create_model_version(name, source, run_id=run_id, tags=tags, await_creation_for=0)
    else:
        for key, text in tags.items():
            if version.tags.get(key) != text:
                client.set_model_version_tag(name, version.version, key, text)
    scores = {v.version: (float(v.tags[VALUE]), -int(v.version), v) for v in versions if VALUE in v.tags}
    scores[version.version] = (value, -int(version.version), version)
    # Of equal values the earlier version has the alias; a version whose value is NaN never gets it.
    for _, _, best in sorted((s for s in scores.values() if s[0] == s[0]), key=lambda s: s[:2], reverse=True):
        if best.version == version.version or _is_whole(client, best, files or {}):
            client.set_registered_model_alias(name, alias, best.version)
            return
        logger.warning(
            "version %s of %s has missing files, so it does not get the alias %s", best.version, name, alias
        )


def _is_whole(client: Any, version: Any, other_files: Mapping[str, int]) -> bool:
    """Whether all files of a version are in the store.

    A version of an older release has no tags with the number and size of its files. Such a version counts as complete
    if it has a file with the name of the largest file, which holds the weights, of another version of the model.

    Args:
        client: client of the MLflow store.
        version: MLflow's model version.
        other_files: sizes in bytes of the files of another version of the same model, by name.
    """
    try:
        root = client.get_run(version.run_id).info.artifact_uri
        found = _files_below(client, version.run_id, posixpath.relpath(version.source, root))
    except Exception as error:
        if not refused_for_good(error):
            raise
        return False
    sizes = [size or 0 for size in found.values()]
    if FILES in version.tags:
        all_present = len(found) >= int(version.tags[FILES])
        return all_present and (0 in sizes or sum(sizes) >= int(version.tags[BYTES]))
    largest = max(other_files, key=lambda name: other_files[name], default=None)
    return bool(found) and (largest is None or largest in found)


def _files_below(client: Any, run_id: str | None, folder: str) -> dict[str, int | None]:
    """Sizes in bytes of all files below an artifact folder of a run, by their paths within the folder."""
    found: dict[str, int | None] = {}
    folders = [folder]
    while folders:
        for item in client.list_artifacts(run_id, folders.pop()):
            if item.is_dir:
                folders.append(item.path)
            else:
                found[posixpath.relpath(item.path, folder)] = item.file_size
    return found
