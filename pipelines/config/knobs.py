"""The ids of a config that have a meaning beyond the config: each once, with all that it means.

Two starts of a training, the folds of a cross-validation, two predictions and two runs are the same or differ by
their configs. An id that is not listed, or not for that purpose, counts there: with another value it is other work.
"""

from __future__ import annotations

import enum


class Knob(enum.Flag):
    """What an id means where configs are checked and compared."""

    ENTRY = enum.auto()
    """MONAI or its tools read it, without a reference from inside the config."""
    RESUMING = enum.auto()
    """May change between two starts of one training: it leaves the weights as they would be, or (epochs, early
    stopping) only says how many of the same steps are done."""
    FOLDS = enum.auto()
    """May differ between the folds of one cross-validation."""
    PREDICTING = enum.auto()
    """Leaves what a prediction finds in a case as it is, or is compared on its own."""
    INCIDENTAL = enum.auto()
    """Differs between any two runs and explains nothing: named last where runs are compared."""


_ENTRY, _RESUMING, _FOLDS = Knob.ENTRY, Knob.RESUMING, Knob.FOLDS
_PREDICTING, _INCIDENTAL = Knob.PREDICTING, Knob.INCIDENTAL

KNOBS: dict[str, Knob] = {
    # Where things lie and what they are called.
    "bundle_root": _ENTRY | _RESUMING | _FOLDS | _PREDICTING | _INCIDENTAL,
    "dataset_dir": _ENTRY | _PREDICTING,
    "store_dir": _RESUMING | _FOLDS | _INCIDENTAL,
    "output_dir": _ENTRY | _INCIDENTAL,
    "run_name": _RESUMING | _FOLDS | _INCIDENTAL,
    "experiment": _INCIDENTAL,
    "tracking": _RESUMING | _FOLDS,
    # The machine.
    "device": _ENTRY | _RESUMING | _FOLDS | _PREDICTING,
    "num_workers": _RESUMING | _FOLDS | _PREDICTING | _INCIDENTAL,
    "sw_batch_size": _PREDICTING,
    # How a training goes.
    "fold": _FOLDS,
    "epochs": _RESUMING,
    "patience": _RESUMING,
    "min_delta": _RESUMING,
    "resume": _RESUMING | _FOLDS,
    "checkpoint_minutes": _RESUMING | _FOLDS,
    "pictures": _RESUMING | _FOLDS,
    # What a plan is made from; what comes out of it stands in the ids that it fills.
    "minutes": _ENTRY | _RESUMING | _FOLDS,
    "memory_gb": _ENTRY | _RESUMING | _FOLDS,
    "planning": _ENTRY | _RESUMING | _FOLDS,
    # What is predicted, and what is written of it.
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
    **dict.fromkeys(("key_metric", "val_interval", "train", "validate"), _ENTRY),
    # What MONAI's own tracking reads.
    **dict.fromkeys(
        ("displayable_configs", "save_execute_config", "tracking_uri", "experiment_name"), _ENTRY
    ),
}


def knobs_of(meaning: Knob) -> tuple[str, ...]:
    """The ids that have a meaning."""
    return tuple(name for name, meanings in KNOBS.items() if meaning in meanings)
