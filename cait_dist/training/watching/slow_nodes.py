"""A node that is slower than the others, look after look, holds all of them back: it is found and named.

The ranks of a step end together, so its length tells nothing. What counts is what a rank does alone before it first
waits for others: getting its images, and its forward passes (``forward_clock``). Every ``training.health_every`` steps
the ranks bring together their median over the steps since the last look. A node is as slow as the median of its ranks.
It is held against the median of all nodes, or, where there are only two, against the faster one; a single node has
nothing to be held against. At ZeRO stage 3 the forward passes exchange parameters, all are as slow as the slowest,
and only waiting for images tells nodes apart.

``attempt-K/slow_nodes.json`` holds who is slow now. When a job on a cluster is requeued, whatever for, those nodes are
excluded (``launch.exclude``); with ``training.slow_nodes: replace`` finding one is what for.
"""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cait_dist.tracking.run_directory import read_json, write_json

from ..ranks.naming import host_name

if TYPE_CHECKING:
    from cait_dist.config.training import TrainingConfig

    from ..preempt import StopRequest
    from ..ranks.process_group import World
    from ..step import StepResult

FILE = "slow_nodes.json"
LOOKS = 3
"""In a row at which a node must be slow."""
MOST_STEPS = 200
"""Before a look that count."""


def ratios(busy: Sequence[float], hosts: Sequence[str]) -> dict[str, float]:
    """How many times longer each node is busy than is usual; empty where there is only one node.

    Args:
        busy: seconds by rank
        hosts: by rank
    """
    ranks: dict[str, list[float]] = defaultdict(list)
    for host, seconds in zip(hosts, busy, strict=True):
        ranks[host].append(seconds)
    nodes = {host: statistics.median(seconds) for host, seconds in ranks.items()}
    if len(nodes) < 2:
        return {}
    usual = min(nodes.values()) if len(nodes) == 2 else statistics.median(nodes.values())
    return {host: seconds / max(usual, 1e-9) for host, seconds in nodes.items()}


class Streaks:
    """Counts for each node the looks in a row at which it was too slow.

    Args:
        factor: times longer than usual that is too slow
    """

    def __init__(self, factor: float) -> None:
        self._factor, self._streaks = factor, dict[str, int]()

    def note(self, found: dict[str, float]) -> dict[str, float]:
        """Take a look; returns who is slow by now, and how much."""
        for host, ratio in found.items():
            self._streaks[host] = self._streaks.get(host, 0) + 1 if ratio > self._factor else 0
        return {host: found[host] for host, streak in self._streaks.items() if streak >= LOOKS and host in found}


class SlowNodes:
    """Looks out for slow nodes during an attempt.

    Args:
        attempt_dir: of the attempt
        world: the process group
        training: its settings
        say: tells the user something; on rank 0
        stop: asked, where a slow node is to be replaced at once
    """

    def __init__(
        self,
        attempt_dir: Path,
        world: World,
        training: TrainingConfig,
        say: Callable[[str], None],
        stop: StopRequest,
    ) -> None:
        self._file, self._world, self._training, self._say, self._stop = attempt_dir / FILE, world, training, say, stop
        self._steps = deque["StepResult"](maxlen=MOST_STEPS)
        self._hosts: list[Any] = []
        self._streaks = Streaks(training.slow_node_factor or float("inf"))
        self._known: set[str] = set()

    def note(self, step: int, result: StepResult) -> dict[str, float]:
        """Take a step in; the metrics of a look, if one is due. Collective then."""
        every = self._training.health_every
        if self._training.slow_node_factor is None or every is None or self._world.size == 1:
            return {}
        self._steps.append(result)
        return self._look(step) if step % every == 0 else {}

    def _look(self, step: int) -> dict[str, float]:
        float(self._steps[-1].loss)  # by now the events of a GPU have passed
        mine = statistics.median(result.data_wait + result.forward.seconds() for result in self._steps)
        self._steps.clear()
        found = ratios(self._world.gather(mine), self._all_hosts())
        if not found:
            return {}
        self._tell(step, self._streaks.note(found))
        return {"perf/slowest_node_ratio": max(found.values())}

    def _tell(self, step: int, slow: dict[str, float]) -> None:
        fresh = slow.keys() - self._known
        if self._world.is_main and slow.keys() != self._known:
            write_json(self._file, slow)
        self._known = set(slow)
        for host in sorted(fresh):
            self._say(
                f"step {step}: node {host} is busy {slow[host]:.1f} times as long as the others, at {LOOKS} looks in a"
                f" row: it holds all of them back. When the job is requeued, it is left out"
            )
        if fresh and self._training.slow_nodes == "replace":
            self._stop.ask()

    def _all_hosts(self) -> list[str]:
        if not self._hosts:
            import torch.distributed as dist  # noqa: PLC0415 - who reads the file does without

            self._hosts = [None] * self._world.size
            dist.all_gather_object(self._hosts, host_name(), group=self._world.control)
        return self._hosts


def slow_nodes_of(attempt_dir: Path) -> list[str]:
    """The nodes that were slow at the end of an attempt."""
    return sorted(read_json(attempt_dir / FILE) or {})
