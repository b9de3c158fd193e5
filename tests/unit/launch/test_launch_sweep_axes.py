"""What makes an axis, how members are named, and what is no sweep."""

import pytest

from launch.sweep_axes import Member, SweepError, members, read_array, split_arguments


def test_commas_and_ranges_make_axes_and_the_rest_is_shared() -> None:
    fixed, axes = split_arguments(["optimizer.lr=1e-3,5e-4", "seed=0..2", "name=grid", "optimizer.betas=[0.9, 0.95]"])
    assert fixed == ["name=grid", "optimizer.betas=[0.9, 0.95]"]
    assert axes == {"optimizer.lr": ["1e-3", "5e-4"], "seed": ["0", "1", "2"]}


def test_lists_can_be_values_of_an_axis() -> None:
    _, axes = split_arguments(["optimizer.betas=[0.9, 0.95],[0.9, 0.99]"])
    assert axes == {"optimizer.betas": ["[0.9, 0.95]", "[0.9, 0.99]"]}


def test_the_product_goes_through_the_last_axis_first() -> None:
    found = members({"optimizer.lr": ["1e-3", "5e-4"], "seed": ["0", "1"]})
    assert [member.name for member in found] == [
        "lr_1e-3-seed_0", "lr_1e-3-seed_1", "lr_5e-4-seed_0", "lr_5e-4-seed_1",
    ]  # fmt: skip
    assert found[1] == Member("lr_1e-3-seed_1", ("optimizer.lr=1e-3", "seed=1"))


def test_keys_that_end_alike_are_named_in_full() -> None:
    (first, *_) = members({"augment.mixup": ["0"], "model.mixup": ["1", "2"]})
    assert first.name == "augment.mixup_0-model.mixup_1"


def test_names_hold_nothing_that_a_folder_may_not() -> None:
    (first, *_) = members({"evaluation.weights": ["[raw, ema]", "[raw]"], "data.path": ["/a b/c", "d"]})
    assert first.name == "weights_.raw.ema.-path_.a.b.c"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["seed=2..0"], "from the smaller number to the larger"),
        (["seed=0..99999"], "10000 at most"),
        (["seed=1,1"], "only once"),
        (["seed=1,,2"], "only once"),
        (["seed=1,2", "seed=3,4"], "given twice"),
    ],
)
def test_what_is_no_axis_is_refused(arguments: list[str], says: str) -> None:
    with pytest.raises(SweepError, match=says):
        split_arguments(arguments)


def test_no_axis_is_no_sweep() -> None:
    with pytest.raises(SweepError, match=r"seed=0\.\.2"):
        members({})


def test_two_members_with_one_name_are_refused() -> None:
    with pytest.raises(SweepError, match="two members would be called"):
        members({"data.path": ["a b", "a:b"]})


def test_an_array_is_a_sweep_over_seeds() -> None:
    assert read_array("0-4%2") == ("seed=0..4", 2)
    assert read_array("1,5,7") == ("seed=1,5,7", None)
    for wrong in ("", "4", "0-4%0", "a-b", "0..4"):
        with pytest.raises(SweepError, match="--array"):
            read_array(wrong)
