"""What a careful reader must be told before believing a comparison."""

import math
from dataclasses import replace

import pytest
from compared_runs import a_run, attempt, curve, seeds, total, two_settings

from cait_dist.compare.compare_runs import compare_runs
from cait_dist.compare.comparison import Caution
from cait_dist.compare.judging.caution_luck import highest_of
from cait_dist.compare.run_data import RunData, RunFacts, SetFacts


def cautions(*runs: RunData, metric: str | None = None) -> dict[str, Caution]:
    return {caution.kind: caution for caution in compare_runs(runs, metric=metric).cautions}


def test_a_clean_comparison_has_none() -> None:
    assert cautions(*two_settings()) == {}


def test_another_validation_set() -> None:
    found = cautions(*two_settings(), *seeds("odd", [1, 2], sets={"val": SetFacts("9", 100)}))["other-validation-set"]
    assert found.runs == ("odd-seed_0", "odd-seed_1")
    assert found.text == (
        "odd-seed_0 and odd-seed_1 measured val on other images than the rest (100 and 360 images): the values cannot "
        "be compared."
    )


def test_a_set_that_is_not_compared_may_differ() -> None:
    sets = {"val": SetFacts("2" * 64, 360), "v2": SetFacts("8", 5)}
    assert "other-validation-set" not in cautions(a_run("a"), a_run("b", sets=sets, seed=1))


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        ("image-size", {"image_size": 32}, "The image size is not the same in all runs: 24 and 32 pixels."),
        (
            "image-count",
            {"train_images": 900},
            "The number of training images is not the same in all runs: 1437 and 900",
        ),
        (
            "other-training-set",
            {"train_digest": "9", "train_images": 9},
            "trained on different images: 1437 and 9 images",
        ),
        ("crop-ratio", {"settings": {"evaluation.crop_ratio": 1.0}}, "crop ratio in evaluation is not the same"),
        ("other-code", {"code": {"commit": "d" * 40}}, "made with 2 different versions of the code"),
        ("other-hardware", {"device": "H100"}, "Speeds, hours and costs are of different devices: cpu and H100."),
    ],
)
def test_what_was_not_the_same(kind: str, change: dict, text: str) -> None:  # type: ignore[type-arg]
    found = cautions(a_run("a"), a_run("b", seed=1, **change))
    assert text in found[kind].text


def test_code_that_no_commit_holds() -> None:
    changed = "c" * 40 + "+changes"
    found = cautions(a_run("a"), a_run("b", seed=1, code={"commit": changed}))
    assert found["uncommitted-changes"].runs == ("b",)
    assert "other-code" not in found


def test_a_diverged_run_is_named() -> None:
    found = cautions(*seeds("x", [90.0, math.nan, 91.0]))["diverged"]
    assert found.runs == ("x-seed_1",)
    assert "left out of the mean" in found.text


def test_a_loss_that_was_no_number_for_a_while() -> None:
    found = cautions(a_run("a", totals={"train/loss": total(1.0, not_finite=7)}), a_run("b", seed=1))
    assert found["not-finite"].runs == ("a",)
    assert "a (7 steps)" in found["not-finite"].text
    assert "diverged" not in found


def test_unfinished_runs_are_named_with_how_they_ended_and_whether_they_count() -> None:
    left_out = cautions(a_run("a"), a_run("b", seed=1, outcome="lost"))["unfinished"]
    assert left_out.text == "Not finished: b (lost at step 300). Left out: b."
    kept = cautions(a_run("b", outcome="running"))["unfinished"]
    assert kept.text.endswith("Counted, as nothing of its setting is finished: b.")


def test_the_average_of_weights_is_not_compared_with_raw_weights() -> None:
    run = a_run("b", settings={"optimizer.lr": 1})
    averaged = replace(run, curves={"val_ema/top1": curve(95.0), "val_ema/loss": curve(0.1)})
    found = cautions(a_run("a"), averaged)
    assert found["ema-against-raw"].runs == ("b",)
    assert "--metric val_ema/top1" in found["ema-against-raw"].text
    raw = cautions(a_run("a"), averaged, metric="val_ema/top1")["ema-against-raw"]
    assert raw.runs == ("a",)


def test_a_run_without_the_metric() -> None:
    found = cautions(a_run("a"), replace(a_run("b", seed=1), curves={"train/loss": curve(1.0)}))
    assert found["no-value"].text == "There is no val/top1 of b."


def test_fewer_steps_than_others() -> None:
    short = {"curves": {"val/top1": curve(80.0), "val/loss": curve(1.0)}, "attempts": (attempt(last_step=100),)}
    found = cautions(a_run("a"), a_run("b", settings={"training.epochs": 3}, **short))["fewer-steps"]
    assert found.text == "Fewer training steps than others: b (100 against 300)."


def test_the_same_seed_twice_is_no_second_draw() -> None:
    found = cautions(a_run("a", 90.0), a_run("b", 90.1), a_run("c", 91.0, seed=1))
    assert found["same-seed-twice"].runs == ("a", "b")


def test_a_single_seed() -> None:
    found = cautions(*two_settings(), a_run("x", settings={"optimizer.lr": 9}))["single-seed"]
    assert found.runs == ("x",)
    assert found.text.startswith("1 setting of 3 was run with one seed only")
    assert "single-seed" not in cautions(a_run("x"))
    alone = cautions(a_run("x", settings={"optimizer.lr": 9}), a_run("y"))["single-seed"]
    assert alone.text.startswith("Each setting was run with one seed only")


def test_the_best_of_many_settings_is_lucky_and_by_how_much() -> None:
    # Four settings with deviation 0.5 over four seeds: 0.5 / √4 · 1.05 = 0.26.
    values = [70.0, 70.0 + 0.5 * 3**0.5, 70.0, 70.0 + 0.5 * 3**0.5]
    runs = [run for i in range(4) for run in seeds(f"s{i}", values, settings={"optimizer.lr": i + 1})]
    found = cautions(*runs)["best-of-many"]
    assert "The best of 4 settings was chosen by looking at val/top1." in found.text
    assert "about 0.26 points better than it is" in found.text
    assert "best-of-many" not in cautions(*runs[:12])


def test_how_far_the_best_of_equal_ones_stands_out() -> None:
    # Means of the highest of 2, 5 and 20 normal values, from tables of order statistics.
    assert [highest_of(2), highest_of(5), highest_of(20)] == pytest.approx([0.564, 1.163, 1.867], abs=0.03)


def test_many_settings_with_one_seed_say_nothing_of_how_lucky() -> None:
    runs = [a_run(f"s{i}", 70.0 + i, settings={"optimizer.lr": i + 1}) for i in range(5)]
    assert "By luck alone" not in cautions(*runs)["best-of-many"].text


def test_the_best_of_epochs_is_chosen_by_looking() -> None:
    found = cautions(a_run("a", [80, 91.5, 90]), a_run("b", [80, 90.05, 90], seed=1))["best-of-epochs"]
    assert found.runs == ("a",)
    assert "up to 1.50 points (a)" in found.text


def test_of_a_speed_no_evaluation_is_spoken_of() -> None:
    speeds = {"perf/images_per_second": curve(5.0, 900.0, 1.0)}
    run = replace(a_run("a", curves=speeds), facts=RunFacts())
    assert cautions(run, metric="perf/images_per_second") == {}


def test_an_old_run_that_does_not_tell_its_images() -> None:
    old = replace(a_run("old", seed=1), facts=RunFacts())
    assert cautions(a_run("a"), old)["old-run"].runs == ("old",)


def test_the_most_serious_comes_first() -> None:
    runs = [a_run("a"), a_run("b", math.nan, seed=1, sets={"val": SetFacts("9", 1)}, device="H100", outcome="failed")]
    kinds = [caution.kind for caution in compare_runs(runs).cautions]
    assert kinds[:3] == ["other-validation-set", "diverged", "unfinished"]
    assert kinds[-1] == "other-hardware"
