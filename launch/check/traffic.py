"""Messages between the ranks, on the network that training uses.

A sum over all ranks shows whether the network works; its time is the same for all and names nobody. So the first ranks
of the nodes also exchange messages in pairs, each node with its two neighbours on a ring: a node whose own link is slow
is slow with both, its neighbours with one only. That is a handful of messages for each node, however many there are.

A library for GPU messages that cannot connect waits without end, so everything runs in a thread that is given up after
a while: the job is about to end then anyway.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist

from cait_dist.training.ranks.process_group import World

from .measure import synchronize
from .report import TrafficReport

PATIENCE_SECONDS = 60.0
WARM_UP, TRIES = 1, 8
MEBIBYTE = 2**20
REDUCE_MIB, EXCHANGE_MIB = 64, 32
"""Between GPUs: enough to measure bandwidth, and no more than some milliseconds."""

Result = TypeVar("Result")


class _TrafficError(Exception):
    """Messages were lost, wrong, or did not end."""


def try_traffic(world: World, leaders: Sequence[int]) -> TrafficReport:
    """Sum over all ranks, then exchange between nodes. Collective; never raises."""
    try:
        seconds = _bounded(lambda: time_all_reduce(world), "the sum over all ranks", world.device)
        error = None
    except _TrafficError as failure:
        seconds, error = 0.0, str(failure)
    if not all_agree(world, error is None):
        return TrafficReport(seconds, error=error)
    try:
        exchanges = _bounded(lambda: time_exchanges(world, leaders), "an exchange between nodes", world.device)
    except _TrafficError as failure:
        return TrafficReport(seconds, error=str(failure))
    return TrafficReport(seconds, exchanges)


def all_agree(world: World, good: bool) -> bool:
    """Whether it is good on every rank. Collective."""
    return int(world.sum(torch.tensor([float(not good)]))) == 0


def time_all_reduce(world: World) -> float:
    """Seconds of an all-reduce at best, each of which must give the right sum."""
    expected, seconds, wrong = world.size * (world.size + 1) // 2, [], []
    for _ in range(WARM_UP + TRIES):
        values = torch.full((_elements(world, REDUCE_MIB),), float(world.rank + 1), device=world.device)
        seconds.append(_timed(partial(add_up, values), world.device))
        wrong += values[values != expected][:1].tolist()
    if wrong:
        raise _TrafficError(f"the sum over all ranks is wrong ({wrong[0]:g}, not {expected})")
    return min(seconds[WARM_UP:])


def time_exchanges(world: World, leaders: Sequence[int]) -> dict[int, float]:
    """Seconds of an exchange with each partner of this rank, at best; nothing for ranks that lead no node."""
    found, wrong = {}, []
    for pair in (pair for pairs in ring_rounds(len(leaders)) for pair in pairs):
        ranks = [leaders[place] for place in pair]
        if world.rank in ranks:
            partner = ranks[1 - ranks.index(world.rank)]
            tries = [_exchange(world, partner) for _ in range(WARM_UP + TRIES)]
            found[partner] = min(seconds for seconds, _ in tries[WARM_UP:])
            wrong += [] if all(right for _, right in tries) else [partner]
    if wrong:  # told after the last message, so that no partner waits for one in vain
        raise _TrafficError(f"what came from rank {wrong[0]} is not what it sent")
    return found


def _exchange(world: World, partner: int) -> tuple[float, bool]:
    sent = torch.full((_elements(world, EXCHANGE_MIB),), float(world.rank), device=world.device)
    received = torch.full_like(sent, -1)
    seconds = _timed(partial(swap, sent, received, partner), world.device)
    return seconds, bool((received == partner).all())


def add_up(values: torch.Tensor) -> None:
    """Sum over all ranks, in place."""
    dist.all_reduce(values)


def swap(sent: torch.Tensor, received: torch.Tensor, partner: int) -> None:
    """Send and receive at the same time."""
    operations = [dist.P2POp(dist.isend, sent, partner), dist.P2POp(dist.irecv, received, partner)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()


def ring_rounds(nodes: int) -> list[list[tuple[int, int]]]:
    """Pairs of neighbours on a ring, in rounds in which nobody is wanted twice: every node meets both neighbours."""
    if nodes < 3:
        return [[(0, 1)]] if nodes == 2 else []
    links = [(place, (place + 1) % nodes) for place in range(nodes)]
    # A ring of an odd number of links cannot alternate: its last one has a round of its own.
    last = [links.pop()] if nodes % 2 else []
    return [part for part in (links[::2], links[1::2], last) if part]


def _elements(world: World, mebibytes: float) -> int:
    return int(on_device(mebibytes, world.device.type) * MEBIBYTE) // 4


def on_device(mebibytes: float, device_type: str) -> float:
    """The size of a message: between GPUs as given, between CPUs a thirty-second part of that."""
    return mebibytes if device_type == "cuda" else mebibytes / 32


def _timed(action: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - began


def _bounded(action: Callable[[], Result], what: str, device: torch.device) -> Result:
    outcome: list[Result | Exception] = []

    def work() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # every thread begins with GPU 0
            outcome.append(action())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work, name="traffic", daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    if not outcome:
        raise _TrafficError(f"{what} did not end within {PATIENCE_SECONDS:g} s")
    if isinstance(outcome[0], _TrafficError):
        raise outcome[0]
    if isinstance(outcome[0], Exception):
        raise _TrafficError(f"{what} failed ({str(outcome[0]).partition(chr(10))[0]})") from outcome[0]
    return outcome[0]
