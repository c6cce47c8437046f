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


def not_there(client: Any, run_id: str | None, folder: str, files: Mapping[str, int]) -> list[str]:
    """Which of the files of a run's folder the server does not have as they were sent.

    Args:
        files: bytes by name within the folder; where there are none, any file will do.
    """
    try:
        found = _listed(client, run_id, folder)
    except Exception as error:
        if not refused_for_good(error):
            raise
        # Some stores cannot list files; the upload of each file was confirmed.
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
    """Make a folder of artifacts a version of a registered model, and put the alias on the best whole version.

    Args:
        files: of the folder, bytes by name.
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
    # A continued run has replaced the files of its earlier model, so the version stays the same.
    version = next((v for v in versions if (v.source, v.run_id) == (source, run_id)), None)
    if version is None:
        version = client.create_model_version(name, source, run_id=run_id, tags=tags, await_creation_for=0)
    else:
        for key, text in tags.items():
            if version.tags.get(key) != text:
                client.set_model_version_tag(name, version.version, key, text)
    scores = {v.version: (float(v.tags[VALUE]), -int(v.version), v) for v in versions if VALUE in v.tags}
    scores[version.version] = (value, -int(version.version), version)
    # Of equal values the earlier version keeps the alias; NaN is no value.
    for _, _, best in sorted((s for s in scores.values() if s[0] == s[0]), key=lambda s: s[:2], reverse=True):
        if best.version == version.version or _is_whole(client, best, files or {}):
            client.set_registered_model_alias(name, alias, best.version)
            return
        logger.warning("version %s of %s lacks files, so it is not %s", best.version, name, alias)


def _is_whole(client: Any, version: Any, like: Mapping[str, int]) -> bool:
    """Whether the files of a version are there, as far as it says which they are.

    Args:
        like: the files of a version of the same model; an older one that does not say has to have the largest of
            them, its weights.
    """
    try:
        root = client.get_run(version.run_id).info.artifact_uri
        found = _listed(client, version.run_id, posixpath.relpath(version.source, root))
    except Exception as error:
        if not refused_for_good(error):
            raise
        return False
    sizes = [size or 0 for size in found.values()]
    if FILES in version.tags:
        enough = len(found) >= int(version.tags[FILES])
        return enough and (0 in sizes or sum(sizes) >= int(version.tags[BYTES]))
    weights = max(like, key=lambda name: like[name], default=None)
    return bool(found) and (weights is None or weights in found)


def _listed(client: Any, run_id: str | None, folder: str) -> dict[str, int | None]:
    """Bytes of all files below a folder of a run, by their names within it."""
    found: dict[str, int | None] = {}
    folders = [folder]
    while folders:
        for item in client.list_artifacts(run_id, folders.pop()):
            if item.is_dir:
                folders.append(item.path)
            else:
                found[posixpath.relpath(item.path, folder)] = item.file_size
    return found
