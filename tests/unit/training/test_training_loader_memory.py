"""A run whose decoding workers cannot have their memory is refused on every rank, before they start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cait_dist.config import RunConfig, load_config
from cait_dist.data import shared_memory
from cait_dist.data.shared_memory import SharedMemoryError
from cait_dist.training.evaluating.sets import open_set
from cait_dist.training.ranks.process_group import World
from cait_dist.training.starting.loader_memory import check_loader_memory
from cait_dist.training.starting.plan import make_plan


@pytest.fixture
def world() -> Iterator[World]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield World(0, 1, 0, torch.device("cpu"), dist.group.WORLD)
    dist.destroy_process_group()


def check(config: RunConfig, world: World) -> None:
    plan = make_plan(config, 1)
    sets = [open_set(config, chosen, plan.image_size) for chosen in config.evaluation.sets]
    check_loader_memory(config, plan, world, sets)


def test_training_and_evaluation_of_all_ranks_of_a_node_have_to_fit(
    tiny_config: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, side = 4096, 16
    training = 3 * (4 + 2) * 16 * 3 * side**2
    evaluation = (3 + 1) * -(-50 * 3 * side**2 // page) * page
    config = load_config(tiny_config, ["data.workers=3"]).config
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 2 * (training + evaluation))
    check(config, world)
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 2 * (training + evaluation) - 1)
    with pytest.raises(SharedMemoryError, match=r"workers of 2 ranks need 0\.4 MB each"):
        check(config, world)
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 0)
    check(load_config(tiny_config, ["data.workers=0"]).config, world)
