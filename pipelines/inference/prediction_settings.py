"""How a prediction was made, so that a later one knows whether a case is done just as it is wanted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipelines.config.executed import ExecutedConfig
from pipelines.config.knobs import Knob, knobs_of
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.postprocess import Postprocess, parameters

_NO_SETTINGS = knobs_of(Knob.PREDICTING)


def settings_of(
    evaluator: SegEvaluator, postprocess: Postprocess, config: ExecutedConfig | None
) -> dict[str, Any]:
    """What a report records of how a case was predicted, as plain JSON types: all that can change its result.

    Args:
        evaluator: with its preprocessing.
        postprocess: what cleans its label maps.
        config: the config of the run; its knobs count, and a digest of what is written in it.
    """
    settings: dict[str, Any] = {
        # As it was asked for: "auto" goes on with a cohort on another machine.
        "precision": evaluator.asked_precision,
        "preprocessing": evaluator.preprocess.parameters(),
        "postprocessing": parameters(postprocess),
    }
    if config is not None:
        knobs = {key: value for key, value in config.knobs().items() if key not in _NO_SETTINGS}
        written = {key: value for key, value in config.raw.items() if key not in _NO_SETTINGS}
        text = json.dumps(_canonical(written), sort_keys=True, default=str)
        settings = {**knobs, **settings, "config": hashlib.sha256(text.encode()).hexdigest()}
    return json.loads(json.dumps(_canonical(settings), default=str))


def _canonical(value: Any) -> Any:
    """Equal settings in equal spelling: 0 and 0.0, lists and tuples."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
