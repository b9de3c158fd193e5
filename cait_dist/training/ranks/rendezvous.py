"""Where the ranks find each other, and who is named when one does not come.

Rank 0 serves a small store of keys. Every rank leaves its name there; rank 0 waits for all names and then tells the
others the outcome. PyTorch can do the waiting by itself, but when the time is up it says neither which rank is missing
nor where to look; and ranks that disagree about the device would afterwards wait for each other in vain.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from .naming import host_name, in_ranges

LISTENING_SOCKET = "CAIT_STORE_FD"
"""Names the inherited socket on which rank 0 serves the rendezvous, so that nobody can take its port in between."""
OUTCOME, COMPLETE = "cait/outcome", "complete"
GRACE = timedelta(seconds=10)
"""Longer than the main rank waits, its own ranks wait for what it has to say."""


class RendezvousError(ValueError):
    """The ranks did not come together; ``str()`` says which, and where to look."""


def meet(environment: Mapping[str, str], rank: int, size: int, device_type: str, timeout: timedelta) -> dist.Store:
    """Wait until all ranks are here; returns the store through which they connect.

    Raises:
        RendezvousError: on every rank, with the ranks that are missing or that have another device than the rest
    """
    store = _open_store(environment, rank, size, timeout)
    store.set(_key(rank), json.dumps([host_name(environment), device_type]))
    outcome = _wait_for_all(store, size, timeout) if rank == 0 else _hear_outcome(store, rank, environment, timeout)
    if outcome != COMPLETE:
        raise RendezvousError(outcome)
    return store


def _open_store(environment: Mapping[str, str], rank: int, size: int, timeout: timedelta) -> dist.TCPStore:
    socket = environment.get(LISTENING_SOCKET)
    try:
        return dist.TCPStore(
            environment.get("MASTER_ADDR", "127.0.0.1"),
            int(environment.get("MASTER_PORT", 0)),
            world_size=size,
            is_master=rank == 0,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=int(socket) if socket and rank == 0 else None,
            use_libuv=True,
        )
    except dist.DistError as error:
        explain = _cannot_serve if rank == 0 else _cannot_reach
        raise RendezvousError(explain(environment, timeout, _first_line(error))) from error


def _wait_for_all(store: dist.Store, size: int, timeout: timedelta) -> str:
    keys = [_key(rank) for rank in range(size)]
    missing: list[int] = []
    try:
        store.wait(keys, timeout)
    except dist.DistError:
        missing = [rank for rank in range(size) if not store.check([keys[rank]])]
    here = {rank: json.loads(store.get(keys[rank])) for rank in range(size) if rank not in missing}
    outcome = _name_the_missing(missing, here, timeout) if missing else _compare_devices(here)
    store.set(OUTCOME, outcome)
    if outcome != COMPLETE:
        _let_hear(store, [rank for rank in here if rank != 0])
    return outcome


def _let_hear(store: dist.Store, ranks: list[int]) -> None:
    """Stay until the others know why they end: the store ends with this process."""
    with suppress(dist.DistError):
        store.wait([_heard(rank) for rank in ranks], GRACE)


def _hear_outcome(store: dist.Store, rank: int, environment: Mapping[str, str], timeout: timedelta) -> str:
    try:
        store.wait([OUTCOME], timeout + GRACE)
        outcome = store.get(OUTCOME).decode()
        if outcome != COMPLETE:
            store.set(_heard(rank), "")
        return outcome
    except dist.DistError as error:
        # It may have been among the missing and have come when the main rank had just left.
        return (
            f"the rendezvous at {_address(environment)} ended before all ranks were here: the log of rank 0 tells who"
            f" was missing ({_first_line(error)})"
        )


def _name_the_missing(missing: list[int], here: dict[int, list[str]], timeout: timedelta) -> str:
    ranks_of: dict[str, list[int]] = defaultdict(list)
    for rank, (host, _) in here.items():
        ranks_of[host].append(rank)
    present = "; ".join(f"{host}: {in_ranges(ranks)}" for host, ranks in ranks_of.items())
    return (
        f"{_ranks(missing)} of {len(missing) + len(here)} did not come within {timeout.total_seconds():g} s (here are,"
        f" by host: {present}): look at the output of {_ranks(missing)}; if it was only late, raise"
        " training.collective_timeout"
    )


def _compare_devices(arrived: dict[int, list[str]]) -> str:
    kinds: dict[str, list[int]] = defaultdict(list)
    for rank, (_, device) in arrived.items():
        kinds[device].append(rank)
    if len(kinds) == 1:
        return COMPLETE
    without = sorted({arrived[rank][0] for rank in kinds["cpu"]})
    return (
        f"{_ranks(kinds['cpu'])} (on {', '.join(without)}) found no GPU while the others did: try `nvidia-smi` there,"
        " compare CUDA_VISIBLE_DEVICES, or leave the node out"
    )


def _cannot_serve(environment: Mapping[str, str], timeout: timedelta, cause: str) -> str:
    return (
        f"rank 0 cannot serve the rendezvous at {_address(environment)}: MASTER_PORT must be free and MASTER_ADDR a"
        f" name of this machine, {host_name(environment)} ({cause})"
    )


def _cannot_reach(environment: Mapping[str, str], timeout: timedelta, cause: str) -> str:
    return (
        f"{host_name(environment)} did not reach rank 0 at {_address(environment)} within"
        f" {timeout.total_seconds():g} s: look at the output of rank 0, and whether this machine resolves that name and"
        f" no firewall closes that port ({cause})"
    )


def _address(environment: Mapping[str, str]) -> str:
    return f"{environment.get('MASTER_ADDR', '127.0.0.1')}:{environment.get('MASTER_PORT', 0)}"


def _first_line(error: Exception) -> str:
    # PyTorch appends the stack of its own C++ code.
    return str(error).partition("\n")[0]


def _key(rank: int) -> str:
    return f"cait/rank-{rank}"


def _heard(rank: int) -> str:
    return f"cait/heard-{rank}"


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {in_ranges(ranks)}"
