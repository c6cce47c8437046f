"""MLflow's own variables for which run and experiment something is logged to.

In this order the first that is given counts: the command line or an overlay (`--experiment`, `--run_name`,
`--tracking_uri`), the variable, the bundle's config. A run that `MLFLOW_RUN_ID` names lies where it lies.
"""

from __future__ import annotations

import json
import logging
import os

logger = logging.getLogger(__name__)

EXPERIMENT_NAME, EXPERIMENT_ID = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"
TRACKING_URI = "MLFLOW_TRACKING_URI"
RUN_ID, RUN_NAME = "MLFLOW_RUN_ID", "MLFLOW_RUN_NAME"
CONTEXT, SYSTEM_METRICS = "MLFLOW_RUN_CONTEXT", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"


DEFAULT_URI = "sqlite:///mlflow.db"
"""A database in the working directory, which is what a bare `mlflow ui` shows."""


def tracking_uri(given: str | None = None) -> str:
    """The address of MLflow's store: the one given, or else that of MLFLOW_TRACKING_URI, or else `DEFAULT_URI`."""
    return given or os.environ.get(TRACKING_URI) or DEFAULT_URI


def run_context() -> dict[str, str]:
    """Tags of MLFLOW_RUN_CONTEXT, a JSON object; none, with a warning, where it is something else."""
    text = os.environ.get(CONTEXT)
    if not text:
        return {}
    try:
        return {str(key): str(value) for key, value in json.loads(text).items()}
    except (ValueError, AttributeError):
        logger.warning("%s is no JSON object of tags; it is left out", CONTEXT)
        return {}


def wants_system_metrics() -> bool:
    """Whether MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING does not say no."""
    return os.environ.get(SYSTEM_METRICS, "").strip().lower() not in ("false", "0")
