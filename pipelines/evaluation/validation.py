"""The validation of a network on all cases of a loader, distributed over the processes."""

from __future__ import annotations

import math
from typing import Any

from ignite.engine import Events

from pipelines.distributed.collectives import of_all_ranks
from pipelines.distributed.process_group import is_distributed, share_buffers
from pipelines.metrics.summary import CaseMetrics, Summary, summarise, validation_metrics
from pipelines.utils.progress import Steps


def validate(evaluator: Any, epoch: int = 1, intervals: bool = False, label: str = "") -> Summary:
    """Run a `SegEvaluator` on this rank's cases and combine the results of all ranks.

    `state.metrics` then holds the `pipelines.metrics.summary.validation_metrics` of all ranks' cases.

    Args:
        intervals: also compute confidence intervals.
        label: text of the progress bar.

    Returns:
        The summary.
    """
    evaluator.reset()
    share_buffers(evaluator.network)
    count = len(evaluator.data_loader)
    if count > 0:
        with (
            Steps(count, "case", label, leave=not label) as steps,
            evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: steps.step()),
        ):
            evaluator.run(epoch)
    cases: list[CaseMetrics] = evaluator.state.cases
    if is_distributed():
        with Steps(None, "waiting for the cases of the other processes"):
            state = evaluator.state
            gathered = of_all_ranks((cases, state.confusion, state.failures, state.histograms))
        cases = [case for part, *_ in gathered for case in part]
        evaluator.state.confusion = sum(confusion for _, confusion, _, _ in gathered)
        evaluator.state.failures = {case: why for _, _, part, _ in gathered for case, why in part.items()}
        counted = [histograms for *_, histograms in gathered if histograms is not None]
        evaluator.state.histograms = sum(counted) if counted else None
    # Sorted by id, because distributing the cases over ranks loses their order in the dataset.
    evaluator.state.cases = cases = sorted(cases, key=lambda case: case["case"])
    summary = summarise(cases, list(evaluator.structures), intervals)
    evaluator.state.metrics = validation_metrics(summary)
    return summary


def validation_dice(evaluator: Any, epoch: int) -> float | None:
    """Mean Dice of the validation after this epoch; None if there was no validation or Dice is undefined."""
    if evaluator is None or evaluator.state.epoch != epoch or not evaluator.state.cases:
        return None
    dice = float(evaluator.state.metrics["val_mean_dice"])
    return None if math.isnan(dice) else dice
