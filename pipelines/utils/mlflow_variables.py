"""MLflow's environment variables for the tracking server, experiment and run.

In order of precedence: the command line or an overlay (`--experiment`, `--run_name`, `--tracking_uri`), the variable,
the bundle's config. The run of `MLFLOW_RUN_ID` always stays in its own experiment.
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
"""A database in the working directory, which `mlflow ui` shows by default."""


def tracking_uri(given: str | None = None) -> str:
    """The tracking URI: `given`, or else MLFLOW_TRACKING_URI, or else `DEFAULT_URI`."""
    return given or os.environ.get(TRACKING_URI) or DEFAULT_URI


def run_context() -> dict[str, str]:
    """Tags from MLFLOW_RUN_CONTEXT, which must be a JSON object; otherwise logs a warning and returns none."""
    text = os.environ.get(CONTEXT)
    if not text:
        return {}
    try:
        return {str(key): str(value) for key, value in json.loads(text).items()}
    except (ValueError, AttributeError):
        logger.warning("%s is not a JSON object of tags and is ignored; correct or unset it", CONTEXT)
        return {}


def wants_system_metrics() -> bool:
    """Whether system metrics are logged: True unless MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false or 0."""
    return os.environ.get(SYSTEM_METRICS, "").strip().lower() not in ("false", "0")
