"""Groups of runs that differ in luck only: their labels, means, spreads and order."""

import math

import pytest
from compared_runs import a_run, curve, seeds, two_settings

from cait_dist.compare.comparison import Group
from cait_dist.compare.judging.differences import differences
from cait_dist.compare.judging.groups import NO_SEED, counted, group_runs
from cait_dist.compare.run_data import RunData


def groups_of(runs: list[RunData], metric: str = "val/top1") -> tuple[Group, ...]:
    return group_runs(runs, differences(runs, metric), metric)


def test_runs_that_differ_in_their_seed_make_one_group_with_mean_and_sample_deviation() -> None:
    (group,) = groups_of(seeds("x", [90.0, 92.0, 94.0]))
    assert (group.mean, group.spread, group.n) == (92.0, 2.0, 3)
    assert group.seeds == (0, 1, 2)
    assert group.values == (90.0, 92.0, 94.0)


def test_one_run_has_a_mean_and_no_spread() -> None:
    (group,) = groups_of([a_run("x", 90.0)])
    assert (group.mean, group.spread) == (90.0, None)


def test_how_the_work_was_done_does_not_divide_a_group() -> None:
    assert len(groups_of([a_run("a"), a_run("b", seed=1, settings={"data.workers": 9})])) == 1


def test_the_best_group_comes_first_for_accuracy_and_for_loss() -> None:
    assert [group.label for group in groups_of(two_settings())] == ["lr=0.001", "lr=0.0001"]
    losses = [
        a_run("a", curves={"val/loss": curve(0.5)}, settings={"optimizer.lr": 1}),
        a_run("b", curves={"val/loss": curve(0.4)}),
    ]
    assert [group.runs for group in groups_of(losses, "val/loss")] == [("b",), ("a",)]


def test_a_label_names_what_differs_between_groups_with_keys_as_short_as_they_stay_clear() -> None:
    runs = [a_run("a"), a_run("b", settings={"model.name": "cait_s24_224", "training.epochs": 9})]
    assert {group.label for group in groups_of(runs)} == {
        "model.name=cait_xxs24_224, epochs=36",
        "model.name=cait_s24_224, epochs=9",
    }


def test_where_too_much_differs_the_runs_own_names_are_the_label() -> None:
    runs = [
        *seeds("wide-model", [1.0, 2.0]),
        *seeds("deep-model", [3.0, 4.0], config="cait_s24_224.yaml"),
    ]
    assert [group.label for group in groups_of(runs)] == ["deep-model", "wide-model"]


def test_no_two_groups_have_one_label() -> None:
    long = "x" * 40
    runs = [
        a_run("a", settings={"model.init_from": f"{long}1{long}"}),
        a_run("b", settings={"model.init_from": f"{long}2{long}"}),
    ]
    short = "init_from=xxxxxxxxxxxxxx…xxxxxxxxxxxxx"
    assert {group.label for group in groups_of(runs)} == {f"{short} (a)", f"{short} (b)"}


def test_a_commit_in_a_label_is_as_short_as_git_shows_it() -> None:
    labels = {group.label for group in groups_of([a_run("a"), a_run("b", code={"commit": "d" * 40 + "+changes"})])}
    assert labels == {"commit=cccccccc", "commit=dddddddd+changes"}


def test_a_diverged_run_is_left_out_of_the_mean_and_named() -> None:
    (group,) = groups_of(seeds("x", [90.0, math.nan, 92.0]))
    assert (group.mean, group.n, group.left_out) == (91.0, 2, ("x-seed_1",))
    assert math.isnan(group.values[1])


@pytest.mark.parametrize("broken", ["train/loss", "val/loss"])
def test_the_accuracy_of_broken_weights_is_no_result(broken: str) -> None:
    (group,) = groups_of([a_run("a", 90.0), a_run("b", 10.0, seed=1, curves={broken: curve(1.0, math.nan)})])
    assert (group.mean, group.left_out) == (90.0, ("b",))


def test_a_loss_that_was_no_number_for_a_while_only_still_counts() -> None:
    (group,) = groups_of([a_run("a", 90.0, curves={"train/loss": curve(1.0, math.nan, 1.0)})])
    assert group.mean == 90.0


def test_an_unfinished_run_is_left_out_where_another_of_its_group_is_finished() -> None:
    (group,) = groups_of([a_run("a", 90.0), a_run("b", 12.0, seed=1, outcome="failed")])
    assert (group.mean, group.left_out) == (90.0, ("b",))


def test_unfinished_runs_count_where_no_run_of_their_group_is_finished() -> None:
    (group,) = groups_of([a_run("a", 80.0, outcome="running"), a_run("b", 82.0, seed=1, outcome="lost")])
    assert (group.mean, group.left_out) == (81.0, ())


def test_a_group_without_any_result_comes_last() -> None:
    runs = [a_run("gone", math.nan, settings={"optimizer.lr": 9}), a_run("poor", 1.0)]
    last = groups_of(runs)[-1]
    assert (last.label, last.n) == ("lr=9", 0)
    assert math.isnan(last.mean)


def test_values_by_seed_hold_those_that_count_only() -> None:
    (group,) = groups_of([*seeds("x", [90.0, math.nan]), a_run("again", 92.0, seed=0)])
    assert counted(group) == {0: [90.0, 92.0]}


def test_runs_of_unknown_seed_are_each_on_their_own() -> None:
    (group,) = groups_of([a_run("a", 1.0, seed=None), a_run("b", 2.0, seed=None)])
    assert group.seeds == (NO_SEED, NO_SEED)
    assert sorted(counted(group).values()) == [[1.0], [2.0]]
