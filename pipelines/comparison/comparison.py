"""The comparison of two or more runs on the cases that they share: values, statistics and notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.comparison.run_finder import RunError
from pipelines.comparison.run_results import RunResults
from pipelines.metrics.names import METRICS
from pipelines.metrics.statistics import SMALLEST_TEST, Paired, holm, paired
from transforms.utils.sentences import few_of

ALL = "all classes"


@dataclass(frozen=True)
class Row:
    """The comparison of one class between one run and the baseline.

    Attributes:
        name: class, or `ALL` for the mean over the classes of a case.
        other: index of the run, 1 for the first after the baseline.
        statistics: statistics of the paired differences.
        p_holm: Holm-corrected p-value, over all classes of all runs (for `ALL`, over the runs).
    """

    name: str
    other: int
    statistics: Paired
    p_holm: float


@dataclass(frozen=True)
class Change:
    """The difference of one case between a run and the baseline.

    Attributes:
        case: case id.
        baseline, other: mean over the classes for which both runs have a value.
        difference: other - baseline.
        most: the class with the largest absolute difference, and that difference.
    """

    case: str
    baseline: float
    other: float
    difference: float
    most: tuple[str, float]


@dataclass
class Comparison:
    """A comparison of runs; the first one is the baseline.

    Attributes:
        metric: the compared metric.
        higher_is_better: whether higher values of the metric are better.
        runs: the runs in the given order.
        cases, classes: those that every run has, in the baseline's order.
        values: shape (runs, cases, classes), NaN for a missing value.
        means: shape (runs, cases), mean over the classes for which all runs have a value.
        rows: for each run after the baseline, one row per class and one for the mean over them.
        notices: sentences that limit the interpretation, such as which cases are left out.
    """

    metric: str
    higher_is_better: bool
    runs: list[RunResults]
    cases: list[str]
    classes: list[str]
    values: np.ndarray
    means: np.ndarray
    rows: list[Row]
    notices: list[str]

    def rows_of(self, other: int) -> list[Row]:
        return [row for row in self.rows if row.other == other]

    def better(self, row: Row) -> int:
        """Number of cases in which the run is better than the baseline."""
        return row.statistics.more if self.higher_is_better else row.statistics.less

    def worse(self, row: Row) -> int:
        """Number of cases in which the run is worse than the baseline."""
        return row.statistics.less if self.higher_is_better else row.statistics.more

    def changes(self, other: int) -> list[Change]:
        """All cases with values in both runs, sorted by their difference to the baseline, worst first."""
        found = []
        for index, case in enumerate(self.cases):
            differences = self.values[other, index] - self.values[0, index]
            known = ~np.isnan(differences)
            if not known.any():
                continue
            most = int(np.nanargmax(np.abs(differences)))
            found.append(
                Change(
                    case=case,
                    baseline=float(self.values[0, index][known].mean()),
                    other=float(self.values[other, index][known].mean()),
                    difference=float(np.round(differences[known].mean(), 12)),
                    most=(self.classes[most], float(differences[most])),
                )
            )
        return sorted(found, key=lambda change: change.difference * (1 if self.higher_is_better else -1))

    def one_sided(self, other: int) -> list[tuple[str, str, float, float]]:
        """Values that only one of the two runs has, as (case, class, baseline, other) with NaN for the missing one.

        They have no difference but may matter. Dice is such a value if the reference lacks the structure and one
        run predicts it; a surface distance, if one run misses the structure.
        """
        first, second = self.values[0], self.values[other]
        places = np.argwhere(np.isnan(first) != np.isnan(second))
        return [
            (self.cases[i], self.classes[j], float(first[i, j]), float(second[i, j]))
            for i, j in places.tolist()
        ]


def compare(runs: Sequence[RunResults], metric: str = "dice", seed: int = 0) -> Comparison:
    """Compare runs.

    Args:
        runs: two or more runs, the baseline first.
        metric: one of `pipelines.metrics.names.METRICS`.
        seed: seed of the bootstrap.

    Raises:
        RunError: a run lacks the metric, or the runs share no case or no class.
    """
    if metric not in METRICS:
        raise RunError(f"there is no metric '{metric}'; there are {', '.join(METRICS)}")
    if len(runs) < 2:
        raise RunError("two or more runs are needed to compare")
    tables = [run.of(metric) for run in runs]
    cases, classes = _shared([run.cases for run in runs]), _shared([run.classes for run in runs])
    for what, kept, own in (
        ("case", cases, [run.cases for run in runs]),
        ("class", classes, [run.classes for run in runs]),
    ):
        if not kept:
            differing = "; ".join(f"{run} has {few_of(o, 8)}" for run, o in zip(runs, own, strict=True))
            raise RunError(f"the runs share no {what}: {differing}")
    values = np.stack(
        [
            table[np.ix_([run.cases.index(c) for c in cases], [run.classes.index(c) for c in classes])]
            for run, table in zip(runs, tables, strict=True)
        ]
    )
    if METRICS[metric].signed:
        values = np.abs(values)
    comparison = Comparison(
        metric=metric,
        higher_is_better=METRICS[metric].higher_is_better,
        runs=list(runs),
        cases=cases,
        classes=classes,
        values=values,
        means=_means(values),
        rows=[],
        notices=_notices(runs, cases, classes, metric),
    )
    comparison.rows = _rows(values, classes, seed)
    return comparison


def _rows(values: np.ndarray, classes: Sequence[str], seed: int) -> list[Row]:
    others = range(1, len(values))
    per_class = [
        [paired(values[0, :, k], values[i, :, k], seed) for k in range(len(classes))] for i in others
    ]
    both = [_means(values[[0, i]]) for i in others]
    overall = [paired(first, second, seed) for first, second in both]
    corrected = holm([one.p for run in per_class for one in run]).reshape(len(per_class), len(classes))
    corrected_overall = holm([one.p for one in overall])
    rows = []
    for i in others:
        for k, name in enumerate(classes):
            rows.append(Row(name, i, per_class[i - 1][k], float(corrected[i - 1, k])))
        rows.append(Row(ALL, i, overall[i - 1], float(corrected_overall[i - 1])))
    return rows


def _means(values: np.ndarray) -> np.ndarray:
    """Mean over the classes for which all runs have a value: (runs, cases, classes) to (runs, cases)."""
    known = ~np.isnan(values).any(0)
    count = known.sum(-1)
    total = np.where(known, values, 0).sum(-1)
    return np.where(count, total / np.maximum(count, 1), np.nan)


def _notices(
    runs: Sequence[RunResults], cases: Sequence[str], classes: Sequence[str], metric: str
) -> list[str]:
    found = []
    for what, plural, kept, own in (
        ("case", "cases", set(cases), [run.cases for run in runs]),
        ("class", "classes", set(classes), [run.classes for run in runs]),
    ):
        for run, names in zip(runs, own, strict=True):
            extra = [name for name in names if name not in kept]
            if extra:
                noun = what if len(extra) == 1 else plural
                found.append(
                    f"left out: {len(extra)} {noun} of {run} that not every run has: {few_of(extra, 8)}"
                )
    for key, what in (("data.digest", "data (data.digest)"), ("data.name", "datasets (data.name)")):
        tags = [run.tags.get(key) for run in runs]
        if len(set(tags)) > 1:
            listed = ", ".join(f"{run} {(t or 'unknown')[:12]}" for run, t in zip(runs, tags, strict=True))
            found.append(f"the runs used different {what}: {listed}; equal case ids may be different images")
    if len({run.split for run in runs}) > 1:
        listed = ", ".join(f"{run} {run.split}" for run in runs)
        found.append(f"the values are of different splits: {listed}")
    for run in runs:
        if run.status != "FINISHED":
            values = "its values are those of its best validation so far"
            if run.kind == "evaluation":
                values = "its values lack the cases that failed"
            found.append(f"the run {run} has the status {run.status}: {values}")
        if run.tags.get("git.dirty") == "true":
            found.append(f"the code of {run} had uncommitted changes")
    if len({run.kind == "training" for run in runs}) > 1:
        found.append(
            "the values of a training come from the validation that selected its model and are slightly optimistic; "
            "evaluate the models of all runs for a fair comparison"
        )
    if len(cases) < SMALLEST_TEST:
        few = "1 case is" if len(cases) == 1 else f"{len(cases)} cases are"
        found.append(f"{few} too few for a test, and confidence intervals of so few cases are too narrow")
    if METRICS[metric].signed:
        found.append(f"{METRICS[metric].title}s are compared by their absolute values")
    return found


def _shared(lists: Sequence[Sequence[str]]) -> list[str]:
    """The names that all lists contain, in the order of the first."""
    common = set(lists[0]).intersection(*lists[1:])
    return [name for name in lists[0] if name in common]
