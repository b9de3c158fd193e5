"""Corrupt samples are counted over the run, each once, told and written down; too many end it."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cait_dist.config.data import DataConfig
from cait_dist.data.corrupt import CorruptSample
from cait_dist.training.ranks.process_group import World
from cait_dist.training.recovering.quarantine import Quarantine, TooManyCorruptError


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield World(0, 1, 0, torch.device("cpu"), dist.group.WORLD)
    dist.destroy_process_group()


class Kept(SimpleNamespace):
    quarantine: Quarantine
    said: list[str]
    folder: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "quarantine.jsonl").read_text().splitlines()]


def keep(world: World, folder: Path, share: float = 0.1, samples: int = 100, **data: Any) -> Kept:
    folder.mkdir(exist_ok=True)
    said: list[str] = []
    config = DataConfig(path=folder / "none", **{"on_corrupt": "skip", "most_corrupt_share": share, **data})
    return Kept(quarantine=Quarantine(folder, world, config, samples, said.append), said=said, folder=folder)


def met(*samples: int) -> tuple[CorruptSample, ...]:
    return tuple(CorruptSample(1000 + sample, sample, f"sample {sample} is broken") for sample in samples)


def test_each_is_told_and_written_once_with_its_step_and_place(world: World, tmp_path: Path) -> None:
    kept = keep(world, tmp_path)
    kept.quarantine.note(3, met(7))
    assert (kept.quarantine.due(), kept.quarantine.total) == (1.0, 0), "nobody knows of it yet"
    kept.quarantine.learn(1.0)
    kept.quarantine.note(4, met(7, 2))
    kept.quarantine.learn(kept.quarantine.due())
    assert (kept.quarantine.due(), kept.quarantine.total) == (0.0, 2)
    assert [(line["sample"], line["step"], line["position"]) for line in kept.lines()] == [(7, 3, 1007), (2, 4, 1002)]
    assert all(line["rank"] == 0 and line["host"] and line["name"] is None for line in kept.lines())
    assert len(kept.said) == 2
    assert "sample 7 is broken" in kept.said[0]
    assert "sample 7" not in kept.said[1]
    kept.quarantine.note(5, met(2, 7))
    assert kept.quarantine.due() == 0.0, "what all know is no news"


def test_one_that_was_met_twice_before_it_was_told_is_one_of_the_earlier_step(world: World, tmp_path: Path) -> None:
    kept = keep(world, tmp_path)
    kept.quarantine.note(3, met(7))
    kept.quarantine.note(4, met(7))
    kept.quarantine.settle()
    assert [(line["sample"], line["step"]) for line in kept.lines()] == [(7, 3)]


def test_nothing_is_exchanged_where_nobody_has_news(world: World, tmp_path: Path) -> None:
    kept = keep(world, tmp_path)
    kept.quarantine.note(3, met(7))
    kept.quarantine.learn(0.0)
    assert kept.quarantine.total == 0
    kept.quarantine.settle()
    assert kept.quarantine.total == 1, "but before a checkpoint everything is"


def test_of_many_a_few_are_shown_and_all_are_written(world: World, tmp_path: Path) -> None:
    kept = keep(world, tmp_path)
    kept.quarantine.note(3, met(*range(8)))
    kept.quarantine.settle()
    assert [f"sample {n} is" in kept.said[0] for n in range(8)] == [True] * 3 + [False] * 5
    assert "; and 5 more. `cait verify" in kept.said[0]
    assert len(kept.lines()) == 8


def test_the_share_is_counted_over_the_run_and_one_more_ends_it(world: World, tmp_path: Path) -> None:
    first = keep(world, tmp_path / "attempt-1")
    first.quarantine.note(3, met(*range(6)))
    first.quarantine.settle()
    state = json.loads(json.dumps(first.quarantine.state()))

    second = keep(world, tmp_path / "attempt-2")
    second.quarantine.restore(state)
    assert second.quarantine.total == 6
    second.quarantine.note(20, met(0, 6, 7, 8, 9))
    second.quarantine.settle()
    assert second.quarantine.total == 10, "as many as may be"
    assert [line["sample"] for line in second.lines()] == [6, 7, 8, 9], "what was known is not told again"
    second.quarantine.note(21, met(10))
    with pytest.raises(TooManyCorruptError, match=r"^11 of the 100 samples of .*none/train are corrupt, .* lets 10 be"):
        second.quarantine.settle()
    assert "the same command goes on" in str(error_of(second))
    assert second.lines()[-1]["sample"] == 10, "the report names it, too"


def error_of(kept: Kept) -> TooManyCorruptError:
    with pytest.raises(TooManyCorruptError) as caught:
        kept.quarantine.settle()
    return caught.value


def test_what_was_met_before_going_back_to_a_checkpoint_stays_met(world: World, tmp_path: Path) -> None:
    kept = keep(world, tmp_path)
    kept.quarantine.restore(None)
    kept.quarantine.note(3, met(1, 2))
    kept.quarantine.settle()
    kept.quarantine.restore([1, 50])
    assert kept.quarantine.state() == [1, 2, 50]
    kept.quarantine.note(4, met(60))
    kept.quarantine.restore([60])
    kept.quarantine.settle()
    assert [line["sample"] for line in kept.lines()] == [1, 2], "and what is known by then is not told again"


def test_at_least_one_may_be_left_out_of_the_smallest_set(world: World, tmp_path: Path) -> None:
    kept = keep(world, tmp_path, share=0.001, samples=10)
    kept.quarantine.note(1, met(3))
    kept.quarantine.settle()
    kept.quarantine.note(2, met(4))
    with pytest.raises(TooManyCorruptError, match="lets 1 be left out"):
        kept.quarantine.settle()


def test_a_report_that_cannot_be_written_is_told_and_counts_all_the_same(world: World, tmp_path: Path) -> None:
    kept = keep(world, tmp_path)
    (tmp_path / "quarantine.jsonl").mkdir()
    kept.quarantine.note(1, met(3))
    kept.quarantine.settle()
    assert kept.quarantine.total == 1
    assert "quarantine.jsonl cannot be written (Is a directory)" in kept.said[-1]


def test_where_corrupt_samples_stop_a_run_there_is_nothing_to_agree_on(world: World, tmp_path: Path) -> None:
    kept = keep(world, tmp_path, on_corrupt="stop")
    kept.quarantine.note(1, met(3))
    kept.quarantine.settle()
    assert kept.quarantine.total == 0
