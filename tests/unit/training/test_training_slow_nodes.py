"""A node is slow if it is so look after look, compared with what is usual among the nodes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cait_dist.config.training import TrainingConfig
from cait_dist.training.preempt import StopRequest
from cait_dist.training.watching.slow_nodes import LOOKS, SlowNodes, Streaks, ratios, slow_nodes_of

FOUR = ["n1", "n1", "n2", "n2", "n3", "n3", "n4", "n4"]


def test_a_node_is_held_against_the_median_of_the_nodes() -> None:
    found = ratios([1.0, 1.0, 1.1, 1.1, 2.1, 2.1, 1.1, 1.1], FOUR)
    assert max(found, key=lambda host: found[host]) == "n3"
    assert found["n3"] == pytest.approx(2.1 / 1.1)
    assert found["n1"] < 1


def test_one_slow_rank_of_many_makes_no_slow_node() -> None:
    hosts = ["n1"] * 4 + ["n2"] * 4 + ["n3"] * 4
    busy = [9.0] + [1.0] * 11
    assert ratios(busy, hosts) == {"n1": 1.0, "n2": 1.0, "n3": 1.0}


def test_of_two_nodes_the_faster_one_is_usual() -> None:
    assert ratios([1.0, 3.0], ["n1", "n2"]) == {"n1": 1.0, "n2": 3.0}


def test_a_single_node_has_nothing_to_be_held_against() -> None:
    assert ratios([1.0, 9.0], ["n1", "n1"]) == {}


def test_only_looks_in_a_row_count_and_one_good_look_clears_a_node() -> None:
    streaks = Streaks(1.5)
    slow, fine = {"n1": 1.0, "n2": 2.0}, {"n1": 1.0, "n2": 1.4}
    found = [streaks.note(look) for look in [slow] * (LOOKS - 1) + [fine] + [slow] * LOOKS + [fine]]
    assert found == [{}] * LOOKS + [{}] * (LOOKS - 1) + [{"n2": 2.0}, {}]


class TwoNodes:
    """Stands in for a process group: this rank on n1, another on n2 that is three times as slow."""

    rank, size, is_main, control = 0, 2, True, None

    def gather(self, value: float) -> list[float]:
        return [value, 3 * value]


def step_result() -> Any:
    return SimpleNamespace(loss=torch.zeros(()), data_wait=0.1, forward=SimpleNamespace(seconds=lambda: 0.9))


@pytest.mark.parametrize("action", ["warn", "replace"])
def test_a_slow_node_is_told_once_written_down_and_replaced_where_that_is_wanted(tmp_path: Path, action: str) -> None:
    said, stop = list[str](), StopRequest()
    training = TrainingConfig.model_validate({"health_every": 2, "slow_nodes": action})
    watch = SlowNodes(tmp_path, TwoNodes(), training, said.append, stop)  # type: ignore[arg-type]
    watch._hosts = ["n1", "n2"]
    metrics = [watch.note(step, step_result()) for step in range(1, 11)]
    assert metrics[:2] == [{}, {"perf/slowest_node_ratio": pytest.approx(3.0)}]
    assert len(said) == 1
    assert said[0].startswith("step 6: node n2 is busy 3.0 times as long as the others")
    assert slow_nodes_of(tmp_path) == ["n2"]
    assert json.loads((tmp_path / "slow_nodes.json").read_text()) == {"n2": pytest.approx(3.0)}
    assert bool(stop) == (action == "replace")


def test_without_a_factor_nothing_is_looked_at(tmp_path: Path) -> None:
    training = TrainingConfig.model_validate({"health_every": 1, "slow_node_factor": None})
    watch = SlowNodes(tmp_path, TwoNodes(), training, print, StopRequest())  # type: ignore[arg-type]
    assert watch.note(1, step_result()) == {}
    assert slow_nodes_of(tmp_path) == []
