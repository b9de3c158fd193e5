"""The one sentence."""

import math
from pathlib import Path

from compared_runs import a_run, curve, save_predictions, seeds, two_settings

from cait_dist.compare.compare_runs import compare_runs
from cait_dist.compare.run_data import RunData, SetFacts


def verdict(*runs: RunData, **options: str) -> str:
    return compare_runs(runs, **options).verdict  # type: ignore[arg-type]


def test_a_better_setting_is_named_with_numbers_interval_and_p() -> None:
    better = (
        "lr=0.001 is better: 71.27 ± 0.38 against 69.80 ± 0.60 % val/top1 "
        "(3 seeds each, +1.47 points, 95 % CI 0.75 to 2.18, p = 0.013)."
    )
    assert verdict(*two_settings()) == better
    assert verdict(*two_settings(), baseline="lr=0.0001") == better


def test_equal_settings_are_no_verdict_and_the_remedy_is_named() -> None:
    text = verdict(*two_settings((71.0, 71.5, 70.2), (70.9, 71.6, 70.0)))
    assert text.startswith(
        "No significant difference between lr=0.001 and lr=0.0001: 70.90 ± 0.66 against 70.83 ± 0.80"
    )
    assert "p = 0.53" in text
    assert text.endswith("seeds per setting would be needed to tell a difference this small from luck.")


def test_of_many_the_two_best_are_compared_and_the_baseline_is_not_forgotten() -> None:
    runs = [
        *seeds("best", [74.0, 74.2, 74.1, 74.3], settings={"optimizer.lr": 3}),
        *seeds("second", [72.0, 72.3, 72.0, 72.2], settings={"optimizer.lr": 2}),
        *seeds("base", [70.0, 70.1, 70.3, 70.2], settings={"optimizer.lr": 1}),
    ]
    text = verdict(*runs, baseline="lr=1")
    assert text.startswith(
        "lr=3 is the best of 3 settings, better than lr=2: 74.15 ± 0.13 against 72.12 ± 0.15 % val/top1"
    )
    assert "Than the baseline lr=1, lr=3 is significantly better (+4.00 points, p < 0.001 corrected)." in text


def test_a_loss_that_is_lower_is_better() -> None:
    runs = [
        run
        for name, rate, level in (("a", 1, 1.0), ("b", 2, 0.5))
        for run in [
            a_run(
                f"{name}{i}", seed=i, settings={"optimizer.lr": rate}, curves={"val/loss": curve(level + 0.01 * i**2)}
            )
            for i in range(3)
        ]
    ]
    undecided = verdict(*runs, metric="val/loss")
    assert undecided.startswith("Not decided between lr=2 and lr=1")
    assert "no test is possible (runs of the same setting do not differ at all)" in undecided
    runs[0].curves["val/loss"].values[0] = 1.02
    text = verdict(*runs, metric="val/loss")
    assert text.startswith("lr=2 is better: 0.5167 ± 0.02082 against 1.023 ± 0.01528 val/loss")
    assert "−0.507" in text


def test_one_run_each_is_not_decided() -> None:
    text = verdict(a_run("a", 90.0), a_run("b", 91.0, settings={"optimizer.lr": 1}))
    assert text.startswith(
        "Not decided between lr=1 and lr=0.003: 91.00 against 90.00 % val/top1, and no test is possible"
    )
    assert "repeat each with seed=0..2" in text


def test_over_images_the_weights_are_better_and_not_the_setting(tmp_path: Path) -> None:
    files = [save_predictions(tmp_path / f"{n}.npz", [i < n for i in range(100)]) for n in (60, 80, 61)]
    a, b, c = (
        a_run(f"r{i}", [60.0, 80.0, 61.0][i], predictions={"val/raw": files[i]}, settings={"optimizer.lr": i + 1})
        for i in range(3)
    )
    text = verdict(a, b)
    assert text.startswith("On the same images, the weights of r1 are better than those of r0: 80.00 against 60.00")
    assert text.endswith("whether lr=2 and lr=1 differ as settings, one seed cannot tell: repeat each with seed=0..2.")
    assert verdict(b, a) == text
    assert verdict(a, c).startswith("No significant difference between lr=3 and lr=1, one run each")


def test_the_better_weights_may_be_of_the_setting_with_the_lower_mean(tmp_path: Path) -> None:
    files = [save_predictions(tmp_path / f"{n}.npz", [i < n for i in range(100)]) for n in (60, 80)]
    lucky = a_run("lucky", 80.0, predictions={"val/raw": files[1]}, settings={"optimizer.lr": 1})
    others = [a_run("poor", 60.0, predictions={"val/raw": files[0]}), a_run("rich", 120.0, seed=1)]
    for runs in ([lucky, *others], [*others, lucky]):
        text = verdict(*runs)
        assert text.startswith("On the same images, the weights of lucky are better than those of poor: ")
        assert "against" not in text


def test_common_seeds_may_contradict_the_means_of_all_runs() -> None:
    runs = [
        *seeds("a", [70.0, 70.1, 70.2, 99.0], settings={"optimizer.lr": 1}),
        *seeds("b", [72.0, 72.2, 72.1], settings={"optimizer.lr": 2}),
    ]
    text = verdict(*runs)
    assert text.startswith(
        "Over their common seeds, lr=2 is better than lr=1, though not in the mean of all runs: 77.3"
    )


def test_other_images_are_not_decided() -> None:
    runs = [*seeds("a", [90.0, 91.0]), *seeds("b", [95.0, 96.0], sets={"val": SetFacts("9", 1)})]
    assert "not measured on the same images" in verdict(*runs)


def test_a_single_run_and_a_single_setting() -> None:
    assert verdict(a_run("x", 90.0)) == "x reached 90.00 % val/top1 at step 300; no other run is beside it."
    assert verdict(*seeds("x", [90, 91, 92])) == (
        "All 3 runs have the same settings: 91.00 ± 1.00 % val/top1 (3 seeds)."
    )


def test_equal_settings_with_one_seed_under_two_names_are_runs_and_no_seeds() -> None:
    assert "(2 runs)" in verdict(a_run("a", 90.0), a_run("b", 90.1))


def test_diverged_and_unfinished_runs_are_not_left_unsaid() -> None:
    text = verdict(*two_settings(), *seeds("high", [math.nan], first=3, settings={"optimizer.lr": 0.001}))
    assert text.endswith("Left out, as diverged or without a value: high-seed_3.")
    running = verdict(*two_settings(), a_run("new", 70.0, seed=9, settings={"optimizer.lr": 0.001}, outcome="running"))
    assert running.endswith("Not finished: new (running).")


def test_nothing_and_only_one_result() -> None:
    assert verdict(a_run("x", math.nan), a_run("y", math.nan, seed=1)).startswith("Nothing can be said: no run has")
    text = verdict(a_run("x", 90.0), a_run("y", math.nan, settings={"optimizer.lr": 9}))
    assert text.startswith("lr=0.003 is the only one with a result: 90.00 % val/top1.")
    assert "y" in text
