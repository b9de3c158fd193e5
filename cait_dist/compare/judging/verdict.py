"""One sentence: which is better, by how much, and whether that is more than luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .. import wording
from ..comparison import Group, PairTest
from ..measures import higher_is_better, in_percent
from ..run_data import RunData
from .run_state import outcome, steps_done
from .significance import REPEAT, advice


def verdict(
    groups: Sequence[Group], tests: Sequence[PairTest], baseline: str, runs: Mapping[str, RunData], metric: str
) -> str:
    """The answer to "which is better?".

    Args:
        groups: best first
        tests: of each against the baseline, and of the best against the second
        baseline: its label
        runs: by name
        metric: that decides

    Returns:
        one sentence, and another where the first would mislead alone
    """
    known = [group for group in groups if group.n]
    if not known:
        return f"Nothing can be said: no run has a {metric} that counts (diverged, or not evaluated yet)."
    if len(groups) == 1:
        return _alone(known[0], runs, metric) + _but(known, runs)
    if len(known) == 1:
        return f"{known[0].label} is the only one with a result: {_value(known[0], metric)}." + _but(groups, runs)
    best, second = known[0], known[1]
    text = _lead(best, second, _test_of(tests, best, second), len(known), metric)
    reference = next((group for group in known[2:] if group.label == baseline), None)
    if reference is not None:
        text += _against_baseline(best, reference, _test_of(tests, best, reference), metric)
        return text + _but([best, second, reference], runs)
    return text + _but([best, second], runs)


def _alone(group: Group, runs: Mapping[str, RunData], metric: str) -> str:
    if len(group.runs) > 1:
        return f"All {len(group.runs)} runs have the same settings: {_value(group, metric)} ({_draws(group)})."
    run = runs[group.runs[0]]
    return f"{run.name} reached {_value(group, metric)} at step {steps_done(run):,}; no other run is beside it."


def _lead(best: Group, second: Group, test: PairTest | None, number: int, metric: str) -> str:
    both = f"{_number(best, metric)} against {_number(second, metric)}{_unit(metric)}"
    pair = f"{best.label} and {second.label}" + (f", the two best of {number} settings" if number > 2 else "")
    if test is None or test.p is None:
        reason = f" ({test.reason})" if test and test.reason else ""
        return f"Not decided between {pair}: {both}, and no test is possible{reason}."
    numbers = f"{wording.difference(metric, test.difference)}{_interval(test, metric)}, {_p(test.p, number)}"
    if test.method == "McNemar":
        return _of_weights(pair, test, both if best.n == second.n == 1 else "", f"{numbers}, McNemar")
    numbers = f"{_draws_of_both(best, second)}, {numbers}"
    if test.significant and _is_against(test, metric):
        return (
            f"Over their common seeds, {second.label} is better than {best.label}, though not in the mean of all runs: "
            f"{both} ({numbers})."
        )
    if test.significant:
        rank = f"is the best of {number} settings, better than {second.label}" if number > 2 else "is better"
        return f"{best.label} {rank}: {both} ({numbers})."
    return f"No significant difference between {pair}: {both} ({numbers}){advice(test.needed)}."


def _of_weights(pair: str, test: PairTest, both: str, numbers: str) -> str:
    """Of two networks, in the order of the test: a group's mean may say another thing than one of its runs."""
    numbers = f"{both} ({numbers})" if both else numbers
    if not test.significant:
        return f"No significant difference between {pair}, one run each: {numbers}; {REPEAT}."
    better, worse = test.runs if test.difference > 0 else test.runs[::-1]
    return (
        f"On the same images, the weights of {better} are better than those of {worse}: {numbers}; whether {pair} "
        f"differ as settings, one seed cannot tell: {REPEAT}."
    )


def _is_against(test: PairTest, metric: str) -> bool:
    """Whether the first of the test is the worse one."""
    return test.difference < 0 if higher_is_better(metric) else test.difference > 0


def _against_baseline(best: Group, reference: Group, test: PairTest | None, metric: str) -> str:
    if test is None or test.p is None:
        return ""
    better = "is significantly better" if test.significant else "is not significantly better"
    if test.significant and _is_against(test, metric):
        better = "is significantly worse over their common seeds"
    numbers = f"{wording.difference(metric, test.difference)}, {_p(test.p, 3)}"
    return f" Than the baseline {reference.label}, {best.label} {better} ({numbers})."


def _p(p: float, settings: int) -> str:
    return wording.p_value(p) + (" corrected" if settings > 2 else "")


def _test_of(tests: Sequence[PairTest], a: Group, b: Group) -> PairTest | None:
    """The test of two groups, turned so that ``a`` comes first."""
    for test in tests:
        if (test.a, test.b) == (a.label, b.label):
            return test
        if (test.a, test.b) == (b.label, a.label):
            low, high = (None if end is None else -end for end in (test.high, test.low))
            return replace(
                test, a=test.b, b=test.a, difference=-test.difference, low=low, high=high, runs=test.runs[::-1]
            )
    return None


def _number(group: Group, metric: str) -> str:
    mean = wording.value(metric, group.mean)
    return f"{mean} ± {wording.value(metric, group.spread)}" if group.spread is not None else mean


def _unit(metric: str) -> str:
    return f" % {metric}" if in_percent(metric) else f" {metric}"


def _value(group: Group, metric: str) -> str:
    return f"{_number(group, metric)}{_unit(metric)}"


def _draws(group: Group) -> str:
    return wording.count(group.n, "seed" if len(set(group.seeds)) == len(group.seeds) else "run")


def _draws_of_both(a: Group, b: Group) -> str:
    return f"{_draws(a)} each" if _draws(a) == _draws(b) else f"{_draws(a)} and {_draws(b)}"


def _interval(test: PairTest, metric: str) -> str:
    if test.low is None or test.high is None:
        return ""
    return f", 95 % CI {wording.interval(metric, test.low, test.high)}"


def _but(groups: Sequence[Group], runs: Mapping[str, RunData]) -> str:
    """What must not be left unsaid beside a verdict."""
    members = [runs[name] for group in groups for name in group.runs]
    unfinished = [run.name for run in members if not run.finished]
    gone = [name for group in groups for name in group.left_out if runs[name].finished]
    states = sorted({outcome(runs[name]) for name in unfinished})
    text = f" Not finished: {wording.names(unfinished)} ({', '.join(states)})." if unfinished else ""
    return text + (f" Left out, as diverged or without a value: {wording.names(gone)}." if gone else "")
