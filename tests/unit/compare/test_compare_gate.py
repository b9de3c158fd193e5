"""`--fail-if`: a small language, judged for every setting but the baseline, that lets nothing unjudged pass."""

import contextlib
import math

import pytest
from compared_runs import a_run, curve, seeds, two_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from cait_dist.compare.compare_runs import compare_runs
from cait_dist.compare.errors import CompareError
from cait_dist.compare.gate.judge import check_gate
from cait_dist.compare.run_data import RunData

MORE = {"val_ema/top1": curve(60.0, 75.0, 72.0), "perf/images_per_second": curve(10.0)}

COMPARISON = compare_runs(two_settings())
PIECES = [
    "val/top1",
    "val/loss",
    "baseline",
    "significant",
    "best",
    *"()<>=+-*/,.[]:01",
    "==",
    "**",
    "1e9",
    "'x'",
    "val",
]
PIECES += ["and", "or", "not", "if"]


def violated(condition: str, runs: list[RunData] | None = None, **options: str) -> list[str]:
    comparison = compare_runs(runs or two_settings(), **options)  # type: ignore[arg-type]
    return [violation.name for violation in check_gate(comparison, condition)]


@pytest.mark.parametrize(
    ("condition", "fails"),
    [
        # lr=0.001 is the baseline with 71.27, lr=0.0001 is judged and has 69.8; their difference is significant.
        ("val/top1 < baseline - 0.3", True),
        ("val/top1 < baseline - 2", False),
        ("val/top1 < baseline and significant", True),
        ("val/top1 < baseline and not significant", False),
        ("val/top1 > baseline or val/top1 < 69.9", True),
        ("(val/top1 > baseline or val/top1 < 69.9) and val/top1 > 69.9", False),
        ("val/top1 > baseline or val/top1 < 69.9 and val/top1 > 69", True),
        ("val/top1 < baseline * 0.97", False),
        ("val/top1 < 0.98*baseline", True),
        ("baseline / val/top1 > 1.02", True),
        ("baseline/2 > val/top1", False),
        ("baseline-val/top1 > 1.4", True),
        ("-val/top1 + baseline > 1.4", True),
        ("val/top1/2 < 35", True),
        ("69 < val/top1 <= 69.7", False),
        ("69 < val/top1 <= 70", True),
        ("val/top1 == 69.8", True),
        ("val/top1 != 69.8", False),
        ("not val/top1 >= 69.8", False),
        ("val/loss > baseline", True),
        ("val/top1 < baseline and val/loss < baseline", False),
        ("1e-3 * val/top1 > 0.0697", True),
        ("10 - 3 - 2 == 5 and 2 + 3 * 4 == 14", True),
    ],
)
def test_conditions(condition: str, fails: bool) -> None:
    runs = two_settings()
    assert violated(condition, runs) == (["lr=0.0001"] if fails else [])


def test_every_setting_but_the_baseline_is_judged() -> None:
    runs = [a_run(f"r{i}", 70.0 + i, settings={"optimizer.lr": i + 1}) for i in range(4)]
    assert sorted(violated("val/top1 < 99", runs, baseline="lr=2")) == ["lr=1", "lr=3", "lr=4"]
    assert violated("val/top1 < baseline - 0.5", runs, baseline="lr=3") == ["lr=2", "lr=1"]


def test_metrics_are_known_by_their_names_whatever_their_set_weights_or_kind() -> None:
    runs = [a_run("a", curves=MORE), a_run("b", curves=MORE, settings={"optimizer.lr": 1})]
    assert violated("val_ema/top1 == 72", runs) == ["lr=1"]
    assert violated("best(val_ema/top1) == 75", runs) == ["lr=1"]
    assert violated("best(val_ema/top1) > baseline", runs) == []
    assert violated("perf/images_per_second < 1001", runs) == ["lr=1"]


def test_the_baseline_of_a_best_value_is_a_best_value() -> None:
    runs = [a_run("a", [95.0, 90.0]), a_run("b", [93.0, 91.0], settings={"optimizer.lr": 1})]
    assert violated("best(val/top1) < baseline", runs) == ["lr=1"]
    assert violated("val/top1 < baseline", runs) == []


def test_names_with_a_dash_or_a_digit_are_read_whole() -> None:
    odd = {"2nd-set/top1": curve(5.0), "2nd/top1": curve(6.0)}
    runs = [a_run("a", curves=odd), a_run("b", curves=odd, settings={"optimizer.lr": 1})]
    assert violated("2nd-set/top1 == 5 and 2nd/top1 == 6 and 7-2nd/top1 == 1", runs) == ["lr=1"]


def test_the_mean_over_seeds_is_judged_and_not_a_run() -> None:
    runs = [a_run("base", 70.0), *seeds("x", [60.0, 82.0], settings={"optimizer.lr": 1})]
    assert violated("val/top1 < baseline", runs) == []


def test_the_sentence_says_the_numbers() -> None:
    (violation,) = check_gate(compare_runs(two_settings()), "val/top1 < baseline - 0.3 and significant")
    assert violation.sentence == (
        "lr=0.0001: val/top1 < baseline - 0.3 and significant "
        "(val/top1 = 69.80, baseline's val/top1 = 71.27, significant)."
    )


def test_a_difference_that_may_be_luck_is_not_significant() -> None:
    runs = two_settings((71.0, 71.5, 70.2), (70.9, 71.6, 70.0))
    assert violated("val/top1 < baseline", runs) == ["lr=0.0001"]
    assert violated("val/top1 < baseline and significant", runs) == []


def test_the_best_against_the_second_says_nothing_of_the_baseline() -> None:
    runs = [
        *seeds("base", [70.0, 90.0, 80.0], settings={"optimizer.lr": 1}),
        *seeds("best", [95.1, 95.0, 95.2], settings={"optimizer.lr": 2}),
        *seeds("second", [91.1, 91.2, 91.0], settings={"optimizer.lr": 3}),
    ]
    comparison = compare_runs(runs, baseline="lr=1")
    assert [(test.a, test.b) for test in comparison.tests if test.significant] == [("lr=2", "lr=3")]
    assert check_gate(comparison, "significant") == []


def test_with_one_setting_every_run_is_judged() -> None:
    assert violated("val/top1 < 91", seeds("x", [90.0, 92.0])) == ["x-seed_0"]
    assert violated("val/top1 < 91", [a_run("x", 90.0)]) == ["x"]


@pytest.mark.parametrize("condition", ["val/top1 < baseline", "val/top1 < 3 or significant", "(baseline > val/top1)"])
def test_with_one_setting_there_is_no_baseline(condition: str) -> None:
    with pytest.raises(CompareError, match="needs a baseline to compare with, and there is only one setting"):
        violated(condition, seeds("x", [90.0, 92.0]))


@pytest.mark.parametrize("condition", ["val/top1 < 0", "not val/top1 < 100", "val/top1 < baseline - 50"])
def test_a_diverged_run_never_passes(condition: str) -> None:
    runs = [a_run("base"), *seeds("x", [95.0, math.nan], settings={"optimizer.lr": 1})]
    (violation,) = check_gate(compare_runs(runs), condition)
    assert "x-seed_1 diverged or has no value, so that it cannot pass" in violation.sentence


def test_with_one_setting_a_diverged_run_never_passes() -> None:
    assert violated("val/top1 < 0", seeds("x", [95.0, math.nan])) == ["x-seed_1"]


def test_a_metric_that_a_run_lacks_never_passes() -> None:
    runs = [a_run("a", curves={"v2/top1": curve(80.0)}), a_run("b", settings={"optimizer.lr": 1})]
    (violation,) = check_gate(compare_runs(runs), "v2/top1 < 1")
    assert violation.sentence == "lr=1: there is no v2/top1, so that it cannot pass."


def test_a_baseline_that_diverged_lets_nothing_pass() -> None:
    runs = [a_run("base", math.nan), a_run("x", 90.0, settings={"optimizer.lr": 1})]
    assert violated("val/top1 < baseline", runs) == ["lr=1"]


def test_division_by_zero_never_passes_even_behind_a_not_or_an_or() -> None:
    for condition in ("not val/top1 / (1 - 1) > 3", "val/top1 < 0 and 1 / (1 - 1) > 3"):
        (violation,) = check_gate(compare_runs(two_settings()), condition)
        assert "divides by zero" in violation.sentence


def test_an_unfinished_run_beside_finished_ones_is_not_judged() -> None:
    runs = [a_run("base"), *seeds("x", [95.0], settings={"optimizer.lr": 1})]
    runs.append(a_run("y", 3.0, seed=4, settings={"optimizer.lr": 1}, outcome="failed"))
    assert violated("val/top1 < 50", runs) == []


@pytest.mark.parametrize(
    ("condition", "message", "caret"),
    [
        ("val/top < 3", "unknown metric 'val/top' — did you mean 'val/top1'? (metrics: ", "^^^^^^^"),
        ("val/top10 < 3", "unknown metric 'val/top10'", "^^^^^^^^^"),
        ("val/top1/val/loss < 3", "unknown metric 'val/top1/val/loss'", "^^^^^^^^^^^^^^^^^"),
        ("3 > bseline", "unknown metric 'bseline' — did you mean 'baseline'?", "    ^^^^^^^"),
        ("val/top1 <", "something is missing here", "          ^"),
        ("", "a condition is missing, such as 'val/top1 < baseline - 0.3'", "^"),
        ("val/top1 = 3", "'=' compares nothing: write == for equal", "         ^"),
        ("(val/top1 < 3", "parentheses do not match", "^"),
        ("val/top1 < 3 && 1 < 2", "write 'and', 'or', 'not'", "              ^"),
        ("val/top1", "this is a number: compare it with something", "^^^^^^^^"),
        ("val/top1 < 3 and 7", "this is a number", "                 ^"),
        ("baseline < 3", "'baseline' stands for the metric that it is compared with, and there is none", "^^^^^^^^"),
        ("val/top1 < baseline + val/loss", "and here are 2", "           ^^^^^^^^"),
        ("val/top1 + best(val/top1) > baseline", "and here are 2", "                            ^^^^^^^^"),
        ("val/top1 < 1 + significant", "'significant' is true or false", "               ^^^^^^^^^^^"),
        ("val/top1 < 2 ** 9", "only metrics, 'baseline', numbers", "           ^^^^^^"),
        ("val/top1 < 7 % 2", "only metrics, 'baseline', numbers", "           ^^^^^"),
        ("val/top1 < 'a'", "only plain numbers", "           ^^^"),
        ("val/top1 < True", "only plain numbers", "           ^^^^"),
        ("val/top1 < 1e999", "only plain numbers", "           ^^^^^"),
        ("val/top1 < 1j", "only plain numbers", "           ^^"),
        ("val/top1 in (1, 2)", "only < <= > >= == != compare, not 'in'", "^^^^^^^^^^^^^^^^^^"),
        ("max(val/top1) < 3", "the only function is best(METRIC)", "^^^^^^^^^^^^^"),
        ("best(3) < 3", "best() takes the name of a metric", "     ^"),
        ("best(baseline) < 3", "best() takes the name of a metric", "     ^^^^^^^^"),
        ("best(val/top1, val/loss) < 3", "the only function is best(METRIC)", "^^^^^^^^^^^^^^^^^^^^^^^^"),
        ("__import__('os').system('x')", "the only function is best(METRIC)", "^" * 28),
        ("val/top1.__class__ < 3", "only metrics", "^" * 18),
        ("[1][0] < 3", "only metrics", "^^^^^^"),
        ("(lambda: 3)() < 3", "the only function is best(METRIC)", "^" * 13),
        ("(a := 3) < 4", "only metrics", " ^^^^^^"),
        ("val/top1 < 3 if 1 else 2", "this is neither true nor false", "^" * 24),
        ("val/top1 < 3\n", "cannot stand here", "            ^"),
        ("val/top1 < 3 # x", "'#' cannot stand here", "             ^"),
        ("val/top1 < ½", "cannot stand here", "           ^"),
    ],
)
def test_what_is_not_of_the_language_is_refused_with_a_caret_below_it(condition: str, message: str, caret: str) -> None:
    with pytest.raises(CompareError) as refused:
        violated(condition)
    lines = str(refused.value).removeprefix("--fail-if: ").splitlines()
    assert message in lines[0]
    assert lines[-1] == f"  {caret}"


def test_endless_conditions_are_refused() -> None:
    with pytest.raises(CompareError, match="are more than the 500"):
        violated("1 < 2 and " * 100 + "1 < 2")
    with pytest.raises(CompareError):
        violated("(" * 240 + "1" + ")" * 240 + "<")


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join) | st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_whatever_is_written_is_either_judged_or_refused(condition: str) -> None:
    with contextlib.suppress(CompareError):
        check_gate(COMPARISON, condition)


def test_what_totals_alone_tell_can_be_asked_for() -> None:
    runs = two_settings(a=(71.0,), b=(70.0,))
    assert violated("perf/images_per_second >= 1000", runs) == ["lr=0.0001"]
