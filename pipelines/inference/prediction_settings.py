"""The settings of a prediction, by which a later one decides whether a case is already done in the same way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipelines.config.executed import ExecutedConfig
from pipelines.config.knobs import Knob, knobs_of
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.postprocess import Postprocess, parameters
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.utils.anonymity import without_places

_NO_SETTINGS = knobs_of(Knob.PREDICTING)
_OF_WINDOWS = ("overlap", "mirror_axes")


def settings_of(
    evaluator: SegEvaluator, postprocess: Postprocess, config: ExecutedConfig | None
) -> dict[str, Any]:
    """All settings that can change the result of a case, as plain JSON types, for its report.

    Args:
        evaluator: the evaluator with its preprocessing.
        postprocess: postprocessing of the label maps.
        config: the config of the run; its top-level settings are recorded, and a digest of its text.
    """
    settings: dict[str, Any] = {
        # As configured: with "auto" a prediction can be continued on a machine that resolves it to another value.
        "precision": evaluator.asked_precision,
        "preprocessing": evaluator.preprocess.parameters(),
        "postprocessing": parameters(postprocess),
    }
    if config is not None:
        window = evaluator.inferer
        # A config leaves them to the model (null); what was done is the same where they are given as that.
        done = {name: getattr(window, name) for name in _OF_WINDOWS if isinstance(window, SlidingWindow)}
        knobs, written = (
            {key: done.get(key, value) for key, value in values.items() if key not in _NO_SETTINGS}
            for values in (config.knobs(), config.raw)
        )
        text = json.dumps(_canonical(written), sort_keys=True, default=str)
        settings = {**knobs, **settings, "config": hashlib.sha256(text.encode()).hexdigest()}
    return json.loads(json.dumps(_canonical(without_places(settings)), default=str))


def _canonical(value: Any) -> Any:
    """Settings in a form in which equal ones have equal JSON: 0 and 0.0, lists and tuples."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
