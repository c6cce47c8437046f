"""States of trainings compared."""

import re

import torch


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


# Whose values follow from the weights and the data; others are times and loads.
EXACT = re.compile(r"train_loss|learning_rate|grad_norm|epoch|epoch_loss|(best_)?val_.*dice.*")


def without_times(state):
    history = [{k: v for k, v in row.items() if EXACT.fullmatch(k)} for row in state["history"]]
    return {**state, "history": history}
