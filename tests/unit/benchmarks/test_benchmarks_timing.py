"""How contenders are timed: in turns, compared within a round; whoever fails is told, and the others go on."""

import time
from dataclasses import replace

import pytest
import torch

from parts.timing import Contender, Manner, Turns, measure, reason, rows, take_turns, tell

MANNER = Manner(torch.device("cpu"), "fp32", rounds=3)


def contender(run, **more) -> Contender:
    weight = torch.ones(1, requires_grad=True)

    def product():
        return (weight * run()).sum()

    return Contender(product, [weight], **more)


def test_contenders_take_turns_in_every_round_and_are_made_once():
    calls = []

    def maker(name):
        def make():
            calls.append(f"make {name}")
            return contender(lambda: calls.append(name) or 1.0)

        return make

    turns = take_turns({"a": maker("a"), "b": maker("b")}, MANNER)
    assert calls == ["make a", "a", "make b", "b", *["a", "b"] * 3]
    assert [len(turn.seconds) for turn in turns.values()] == [3, 3]


def test_who_needs_more_runs_to_warm_up_has_them():
    calls = []
    turns = take_turns({"a": lambda: contender(lambda: calls.append(1) or 1.0, warm_ups=3)}, MANNER)
    assert len(calls) == 3 + MANNER.rounds
    assert len(turns["a"].seconds) == MANNER.rounds


def test_a_ratio_is_the_median_of_ratios_within_a_round():
    turns = {"timm": Turns(seconds=[1.0, 10.0, 1.0]), "ours": Turns(seconds=[0.5, 5.0, 2.0])}
    found = rows("block", turns, MANNER)
    assert [row["times_faster_than_timm"] for row in found] == [1.0, 2.0]
    assert found[1]["milliseconds"] == 2000.0


def failing_in(round_number, error):
    def make():
        runs = []

        def run():
            runs.append(1)
            if len(runs) > round_number:
                raise error
            return 1.0

        return contender(run)

    return make


@pytest.mark.parametrize("round_number", [0, 2])
def test_who_fails_has_a_reason_and_no_time_and_the_others_go_on(round_number, capsys):
    error = torch.OutOfMemoryError("tried to allocate 9.00 GiB\nand so on")
    turns = take_turns({"timm": failing_in(round_number, error), "ours": lambda: contender(lambda: 1.0)}, MANNER)
    found = rows("step", turns, MANNER)
    assert found[0]["failed"] == "OutOfMemoryError: tried to allocate 9.00 GiB"
    assert "milliseconds" not in found[0]
    assert found[1]["failed"] is None
    assert len(found[1]["rounds_milliseconds"]) == 3
    assert found[1]["times_faster_than_timm"] is None
    tell(found)
    assert "failed: OutOfMemoryError" in capsys.readouterr().out


def test_a_network_that_cannot_be_made_is_a_result_too():
    def make():
        raise FileNotFoundError("no checkout")

    assert take_turns({"deit": make}, MANNER)["deit"].failed == "FileNotFoundError: no checkout"


def test_the_first_run_is_bounded_and_the_bound_is_gone_afterwards():
    def slowly():
        time.sleep(0.3)
        return 1.0

    bounded = replace(MANNER, first_seconds=0.1, rounds=1)
    turns = take_turns({"slow": lambda: contender(slowly), "fast": lambda: contender(lambda: 1.0)}, bounded)
    assert turns["slow"].failed == "TimeoutError: not done after 0 s"
    assert turns["fast"].failed is None
    time.sleep(0.2)


def test_a_measurement_covers_the_update_and_leaves_no_gradient():
    seen = []
    made = contender(lambda: 1.0)
    updated = replace(made, update=lambda: seen.append(made.leaves[0].grad.clone()))
    measure(updated, MANNER)
    assert seen == [torch.ones(1)]
    assert made.leaves[0].grad is None


def test_a_processor_is_timed_by_its_own_time_which_does_not_count_waiting():
    def wait():
        time.sleep(0.2)
        return 1.0

    assert measure(contender(wait), MANNER)[0] < 0.15
    assert measure(contender(wait), replace(MANNER, threads=2))[0] >= 0.2


def test_a_reason_is_one_line_with_what_a_compiler_complained_of():
    compiler = RuntimeError("C++ compile error\n\nCommand:\ng++ a.cpp\n\na.cpp:3:1: error: no such type\nmore")
    assert reason(compiler) == "RuntimeError: C++ compile error; a.cpp:3:1: error: no such type"
    assert reason(MemoryError()) == "MemoryError: "
