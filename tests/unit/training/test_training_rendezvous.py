"""Ranks that do not come together are told who is missing. The store and its sockets are real; ranks are threads."""

import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from cait_dist.errors import is_for_user
from cait_dist.training.ranks.naming import in_ranges
from cait_dist.training.ranks.rendezvous import LISTENING_SOCKET, RendezvousError, meet

SECONDS = 1.5


def start(
    pool: ThreadPoolExecutor, ranks: dict[int, str], size: int, listener: socket.socket
) -> "dict[int, Future[dist.Store]]":
    """Let these ranks meet, each on a host of its own name and with this device."""
    port = str(listener.getsockname()[1])

    def environment(rank: int) -> dict[str, str]:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "SLURMD_NODENAME": f"node{rank // 2}"}
        return place | ({LISTENING_SOCKET: str(listener.detach())} if rank == 0 else {})

    timeout = timedelta(seconds=SECONDS)
    return {rank: pool.submit(meet, environment(rank), rank, size, device, timeout) for rank, device in ranks.items()}


def errors_of(ranks: dict[int, str], size: int) -> dict[int, str]:
    with ThreadPoolExecutor(len(ranks)) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        found = {rank: future.exception() for rank, future in start(pool, ranks, size, listener).items()}
    assert all(isinstance(error, RendezvousError) and is_for_user(error) for error in found.values())
    return {rank: str(error) for rank, error in found.items()}


def test_ranks_that_are_all_here_meet_at_once_on_the_inherited_socket() -> None:
    with ThreadPoolExecutor(4) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        began = time.monotonic()
        stores = {rank: f.result() for rank, f in start(pool, dict.fromkeys(range(4), "cpu"), 4, listener).items()}
        assert time.monotonic() - began < SECONDS
        stores[3].set("word", "heard")
        assert stores[1].get("word") == b"heard"


def test_who_did_not_come_is_told_to_every_rank_that_did() -> None:
    errors = errors_of({0: "cpu", 1: "cpu", 4: "cpu"}, size=6)
    assert set(errors.values()) == {errors[0]}
    assert f"ranks 2-3, 5 of 6 did not come within {SECONDS:g} s" in errors[0]
    assert "node0: 0-1; node2: 4" in errors[0]
    assert "output of ranks 2-3, 5" in errors[0]


def test_a_rank_without_a_gpu_is_named_instead_of_waited_for() -> None:
    errors = errors_of({0: "cuda", 1: "cuda", 2: "cuda", 3: "cpu"}, size=4)
    assert set(errors.values()) == {errors[0]}
    assert "rank 3 (on node1) found no GPU while the others did" in errors[0]


def test_a_main_rank_that_cannot_be_reached_is_named_by_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_at_once:
        port = closed_at_once.getsockname()[1]
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "SLURMD_NODENAME": "node7"}
    with pytest.raises(RendezvousError, match=rf"node7 did not reach rank 0 at 127\.0\.0\.1:{port} within 1 s"):
        meet(environment, 1, 2, "cpu", timedelta(seconds=1))


def test_a_port_that_is_taken_is_told_by_rank_0() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with pytest.raises(RendezvousError, match=f"rank 0 cannot serve the rendezvous at 127.0.0.1:{port}"):
            meet(environment, 0, 2, "cpu", timedelta(seconds=1))


@pytest.mark.parametrize(("numbers", "text"), [([3], "3"), ([0, 1, 2, 5], "0-2, 5"), ([7, 1, 2], "1-2, 7"), ([], "")])
def test_ranks_are_written_as_ranges(numbers: list[int], text: str) -> None:
    assert in_ranges(numbers) == text
