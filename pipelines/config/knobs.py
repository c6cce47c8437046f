"""The ids of a config that other parts of the program treat specially, each with its meanings.

Configs are compared between two starts of a training, the folds of a cross-validation, two predictions, and two runs.
In such a comparison, an id may differ only if it is listed here with the corresponding meaning.
"""

from __future__ import annotations

import enum

AUTO = "auto"
"""The value of an id that a plan is to choose."""


class Knob(enum.Flag):
    """The meaning of an id when configs are checked and compared."""

    ENTRY = enum.auto()
    """MONAI or its tools read it, so that it may be set although nothing in the config refers to it."""
    RESUMING = enum.auto()
    """May differ between two starts of one training: it does not affect the training steps, only (epochs, early
    stopping) how many of them are done."""
    FOLDS = enum.auto()
    """May differ between the folds of one cross-validation."""
    PREDICTING = enum.auto()
    """May differ between two predictions: it does not affect the result of a case, or is compared separately."""
    INCIDENTAL = enum.auto()
    """Usually differs between runs without affecting results: listed last in comparisons of runs."""
    NETWORK = enum.auto()
    """Belongs to the network of a bundle: where a config has another one, the bundle's "auto" may stay unused."""


_ENTRY, _RESUMING, _FOLDS = Knob.ENTRY, Knob.RESUMING, Knob.FOLDS
_PREDICTING, _INCIDENTAL = Knob.PREDICTING, Knob.INCIDENTAL

KNOBS: dict[str, Knob] = {
    # Paths and names.
    "bundle_root": _ENTRY | _RESUMING | _FOLDS | _PREDICTING | _INCIDENTAL,
    "dataset_dir": _ENTRY | _PREDICTING,
    "store_dir": _RESUMING | _FOLDS | _INCIDENTAL,
    "output_dir": _ENTRY | _INCIDENTAL,
    "run_name": _RESUMING | _FOLDS | _INCIDENTAL,
    "anonymous": _PREDICTING,
    "experiment": _INCIDENTAL,
    "tracking": _RESUMING | _FOLDS,
    # The machine.
    "device": _ENTRY | _RESUMING | _FOLDS | _PREDICTING,
    "num_workers": _RESUMING | _FOLDS | _PREDICTING | _INCIDENTAL,
    "sw_batch_size": _PREDICTING,
    # Training.
    "features": Knob.NETWORK,
    "fold": _FOLDS,
    "epochs": _RESUMING,
    "patience": _RESUMING,
    "min_delta": _RESUMING,
    "resume": _RESUMING | _FOLDS,
    "checkpoint_minutes": _RESUMING | _FOLDS,
    "pictures": _RESUMING | _FOLDS,
    # What a plan is made for; the planned values stand in the ids that it fills.
    "minutes": _ENTRY | _RESUMING | _FOLDS,
    "memory_gb": _ENTRY | _RESUMING | _FOLDS,
    "planning": _ENTRY | _RESUMING | _FOLDS,
    # Input and output of a prediction.
    "input": _PREDICTING,
    "split": _PREDICTING,
    "model": _PREDICTING,
    "trained": _PREDICTING,
    "output": _PREDICTING,
    "overwrite": _PREDICTING,
    "formats": _PREDICTING,
    "probabilities": _PREDICTING,
    "preview": _PREDICTING,
    # Parts that MONAI runs, and parts that MONAI's specification of a bundle names.
    "_meta_": _ENTRY,
    "imports": _ENTRY | _PREDICTING,
    "initialize": _ENTRY | _RESUMING | _FOLDS,
    "finalize": _ENTRY | _RESUMING | _FOLDS,
    "run": _ENTRY,
    "training": _ENTRY,
    "evaluating": _ENTRY,
    "inferring": _ENTRY,
    "workflow": _PREDICTING,
    "dataset": _ENTRY | _PREDICTING,
    **dict.fromkeys(("network_def", "network", "loss", "optimizer", "lr_scheduler"), _ENTRY),
    **dict.fromkeys(("preprocessing", "postprocessing", "inferer", "evaluator", "handlers"), _ENTRY),
    **dict.fromkeys(("preprocess", "postprocess"), _ENTRY),
    **dict.fromkeys(("key_metric", "val_interval", "train", "validate"), _ENTRY),
    # What MONAI's own tracking reads.
    **dict.fromkeys(
        ("displayable_configs", "save_execute_config", "tracking_uri", "experiment_name"), _ENTRY
    ),
}


def knobs_of(meaning: Knob) -> tuple[str, ...]:
    """The ids that have a meaning."""
    return tuple(name for name, meanings in KNOBS.items() if meaning in meanings)
