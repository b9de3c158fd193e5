"""What differs between runs, and what of it decides the result."""

from compared_runs import a_run, attempt

from cait_dist.compare.comparison import Difference
from cait_dist.compare.judging.differences import deciding, differences
from cait_dist.compare.run_data import RunData, SetFacts
from cait_dist.config.deciding import may_change


def by_key(*runs: RunData, metric: str = "val/top1") -> dict[str, Difference]:
    return {difference.key: difference for difference in differences(runs, metric)}


def test_equal_runs_under_two_names_differ_in_nothing() -> None:
    assert differences([a_run("a"), a_run("b")]) == ()


def test_what_names_a_run_or_says_where_it_is_kept_is_no_difference() -> None:
    elsewhere = {"runs_dir": "/other", "tracking.uri": "http://host", "tracking.experiment": "x"}
    assert differences([a_run("a"), a_run("b", settings=elsewhere)]) == ()


def test_a_setting_is_shown_with_its_dotted_key_and_the_value_of_each_run() -> None:
    found = by_key(a_run("a"), a_run("b", settings={"optimizer.lr": 1e-4}))
    assert found == {"optimizer.lr": Difference("config", "optimizer.lr", ("0.003", "0.0001"), decides=True)}


def test_settings_that_may_change_on_resume_do_not_decide() -> None:
    how = {"data.workers": 7, "training.zero.stage": 0, "evaluation.batch": 1, "training.checkpoint.keep": 9}
    found = by_key(a_run("a"), a_run("b", settings=how))
    assert set(found) == set(how)
    assert not any(difference.decides for difference in found.values())


def test_settings_that_a_resumed_run_may_change_but_a_new_one_learns_by_do_decide() -> None:
    what = {
        "training.precision": "bf16", "model.init_from": "weights.pth", "evaluation.crop_ratio": 1.0, "seed": 5,
        "distillation.teacher": "runs/a", "distillation.labels": "a.npz", "training.float8": True,
    }  # fmt: skip
    found = by_key(a_run("a"), a_run("b", settings=what))
    assert set(found) == set(what)
    assert all(difference.decides for difference in found.values())
    assert {key for key in what if not may_change(key)} == {"seed"}


def test_a_setting_is_not_mistaken_for_one_whose_name_begins_alike() -> None:
    found = by_key(a_run("a"), a_run("b", settings={"data.path_of_labels": "x", "tracking.uri": "y"}))
    assert [key for key, each in found.items() if each.kind == "config"] == ["data.path_of_labels"]


def test_the_same_value_is_the_same_from_yaml_and_from_mlflow_where_all_is_text() -> None:
    text = {"optimizer.lr": "0.003", "optimizer.clip_grad": "1.0", "model.num_classes": "None", "seed": "0"}
    assert differences([a_run("a"), a_run("b", settings=text)]) == ()


def test_the_images_decide_and_not_the_folder_they_lie_in() -> None:
    found = by_key(a_run("a"), a_run("b", settings={"data.path": "/elsewhere"}, train_digest="9" * 64))
    assert not found["data.path"].decides
    assert found["train.digest"] == Difference("data", "train.digest", ("1" * 64, "9" * 64), decides=True)


def test_the_folder_stands_for_images_of_which_no_digest_is_known() -> None:
    found = by_key(a_run("a"), a_run("b", settings={"data.path": "/elsewhere"}, train_digest=None))
    assert found["data.path"].decides


def test_digests_that_look_like_numbers_are_told_apart() -> None:
    found = by_key(a_run("a", train_digest="1" * 63 + "2"), a_run("b", train_digest="1" * 63 + "3"))
    assert found["train.digest"].values == ("1" * 63 + "2", "1" * 63 + "3")


def test_only_the_set_of_the_metric_decides_the_measured_result() -> None:
    sets = {"val": SetFacts("2" * 64, 360), "v2": SetFacts("5", 10)}
    other = {"val": SetFacts("2" * 64, 360), "v2": SetFacts("6", 12)}
    runs = a_run("a", sets=sets), a_run("b", sets=other)
    assert not by_key(*runs)["v2.digest"].decides
    assert by_key(*runs, metric="v2/top1")["v2.digest"].decides
    assert by_key(*runs)["v2.images"].values == ("10", "12")


def test_another_evaluation_set_beside_the_same_one_does_not_decide() -> None:
    more = {"evaluation.sets": '[{"name": "val"}, {"name": "v2"}]'}
    assert not by_key(a_run("a"), a_run("b", settings=more))["evaluation.sets"].decides
    assert by_key(a_run("a", sets={}), a_run("b", settings=more))["evaluation.sets"].decides


def test_no_evaluation_set_decides_what_was_not_measured_on_one() -> None:
    more = {"evaluation.sets": '[{"name": "val"}, {"name": "v2"}]'}
    runs = a_run("a", sets={}), a_run("b", settings=more, sets={})
    assert not by_key(*runs, metric="train/loss")["evaluation.sets"].decides


def test_code_and_environment_are_shown_and_do_not_decide_between_settings() -> None:
    other = a_run(
        "b", settings={"optimizer.lr": 1}, code={"commit": "d"}, device="H100", attempts=(attempt(processes=8),)
    )
    found = by_key(a_run("a"), other)
    assert {key: each.kind for key, each in found.items() if not each.decides} == {
        "version": "code",
        "commit": "code",
        "device": "environment",
        "processes": "environment",
    }


def test_the_code_decides_where_one_seed_was_run_with_two_commits_and_nothing_else_differs() -> None:
    runs = [a_run("a"), a_run("b", code={"version": "0.1", "commit": "d"})]
    assert by_key(*runs)["commit"].decides


def test_commits_made_while_seeds_were_run_do_not_decide() -> None:
    runs = [a_run("a"), a_run("b", seed=1, code={"version": "0.1", "commit": "d"})]
    assert not by_key(*runs)["commit"].decides


def test_a_run_older_than_a_setting_is_no_other_experiment_by_that_alone() -> None:
    old = a_run("old")
    settings = {key: value for key, value in old.config.items() if key != "augment.rand_std"}
    found = by_key(RunData(old.name, old.source, settings, old.facts, old.attempts, old.curves, old.totals), a_run("b"))
    assert found["augment.rand_std"].values == ("", "0.5")
    assert not found["augment.rand_std"].decides


def test_what_decides_comes_first() -> None:
    other = a_run("b", settings={"data.workers": 3, "training.epochs": 2}, train_digest="9")
    assert [each.key for each in differences([a_run("a"), other])] == [
        "training.epochs",
        "train.digest",
        "data.workers",
    ]


def test_what_decides_is_equal_for_runs_that_differ_in_their_seed_only() -> None:
    runs = [a_run("a"), a_run("b", seed=1), a_run("c", settings={"optimizer.lr": 1})]
    found = differences(runs)
    assert [deciding(found, place) for place in range(3)] == [
        {"optimizer.lr": "0.003"},
        {"optimizer.lr": "0.003"},
        {"optimizer.lr": "1"},
    ]
