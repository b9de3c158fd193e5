"""From runs to everything there is to say about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .comparison import Comparison, Difference, Efficiency, Group, RunRow
from .errors import CompareError, unknown
from .judging.cautions import find_cautions
from .judging.differences import differences
from .judging.efficiency import efficiencies
from .judging.groups import group_runs
from .judging.paper import paper_distance, paper_rows
from .judging.run_state import epochs_done, outcome, steps_done
from .judging.significance import judge_pairs
from .judging.verdict import verdict
from .measures import best_value, choose_metric, higher_is_better, is_evaluation, last_value
from .run_data import RunData


def compare_runs(
    runs: Sequence[RunData],
    *,
    metric: str | None = None,
    baseline: str | None = None,
    paper: bool = False,
    price: float | None = None,
    target: float | None = None,
) -> Comparison:
    """Compare runs.

    Args:
        runs: one or more
        metric: that decides; None: top-1 of the first evaluation set, of the raw weights
        baseline: a run, or the label of a group, that the others are held against; None: the first run
        paper: whether the published results are shown as reference
        price: of a device for an hour
        target: value of the metric that time and hours are measured to

    Returns:
        the comparison

    Raises:
        CompareError: if there is no run, two have one name, or the metric or the baseline is not known
    """
    _check(runs)
    metric = choose_metric(runs, metric)
    found = differences(runs, metric)
    groups = group_runs(runs, found, metric)
    reference = _baseline(runs, groups, baseline)
    by_name = {run.name: run for run in runs}
    tests = judge_pairs(groups, reference, by_name, metric)
    return Comparison(
        runs=tuple(runs),
        rows=_rows(runs, efficiencies(runs, found, metric, price, target)),
        metric=metric,
        higher_is_better=higher_is_better(metric),
        baseline=reference,
        differences=found,
        groups=groups,
        tests=tests,
        cautions=find_cautions(runs, groups, metric),
        paper=paper_rows() if paper else (),
        verdict=verdict(groups, tests, reference, by_name, metric),
        target=target,
        notes=tuple(_notes(groups, found, reference, baseline is None)),
    )


def _check(runs: Sequence[RunData]) -> None:
    if not runs:
        raise CompareError("there is no run to compare: name run directories, an --experiment or a --sweep")
    twice = [name for name, number in Counter(run.name for run in runs).items() if number > 1]
    if twice:
        raise CompareError(f"two runs are called {twice[0]!r}: every compared run needs a name of its own")


def _baseline(runs: Sequence[RunData], groups: Sequence[Group], asked: str | None) -> str:
    wanted = runs[0].name if asked is None else asked
    for group in groups:
        if wanted == group.label:
            return group.label
    for group in groups:
        if wanted in group.runs:
            return group.label
    raise unknown("baseline", wanted, [*(group.label for group in groups), *(run.name for run in runs)])


def _rows(runs: Sequence[RunData], costs: Sequence[Efficiency]) -> tuple[RunRow, ...]:
    return tuple(
        RunRow(
            name=run.name,
            outcome=outcome(run),
            steps=steps_done(run),
            epochs=epochs_done(run),
            last={name: last_value(run, name) for name in _metrics(run)},
            best={name: best_value(run, name) for name in run.curves if is_evaluation(name)},
            efficiency=cost,
            paper=paper_distance(run),
        )
        for run, cost in zip(runs, costs, strict=True)
    )


def _metrics(run: RunData) -> list[str]:
    with_values = [name for name, curve in run.curves.items() if len(curve.steps)]
    return list(dict.fromkeys([*with_values, *(name for name in run.totals if name.startswith("perf/"))]))


def _notes(groups: Sequence[Group], found: Sequence[Difference], baseline: str, by_default: bool) -> list[str]:
    notes = []
    if len(groups) > 1:
        how = ", the group of the first run" if by_default else ""
        notes.append(f"The others are held against the baseline {baseline}{how}; --baseline names another.")
    if any(difference.kind == "code" and difference.decides for difference in found):
        notes.append("The settings are equal and the same seed was run with different code: the code is compared.")
    if len(groups) > 2:
        notes.append("p values are corrected for the number of comparisons (Holm), intervals are not.")
    return notes
