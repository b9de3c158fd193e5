"""Joining the group of training processes.

One process per GPU (or per slice of the CPU) runs the same program. Who starts them does not matter: `cait train`,
SLURM or torchrun all describe the process by the same environment variables, and without any of them the process is
alone. Two groups are joined: the one DeepSpeed uses for tensors (nccl on GPUs, gloo on CPUs), and a gloo group for
one-word messages between hosts, which therefore never wait for a GPU.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ..watching.activity import exchanging
from .rendezvous import LISTENING_SOCKET, meet

__all__ = ["LISTENING_SOCKET", "World", "bound_all_groups", "join"]


@dataclass(frozen=True)
class World:
    """This process among all of them."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    control: dist.ProcessGroup
    """gloo group for messages between hosts"""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the one that writes and prints."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise sum over all ranks, on the CPU in float64. Collective."""
        total = values.detach().to("cpu", torch.float64)
        with exchanging("a sum over all ranks"):
            dist.all_reduce(total, group=self.control)
        return total

    def largest(self, value: float) -> float:
        """The largest of all ranks' values. Collective."""
        found = torch.tensor(value, dtype=torch.float64)
        with exchanging("the largest of all ranks"):
            dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.control)
        return float(found)

    def gather(self, value: float) -> list[float]:
        """All ranks' values, by rank. Collective."""
        found = [torch.zeros(1, dtype=torch.float64) for _ in range(self.size)]
        with exchanging("a value from each rank"):
            dist.all_gather(found, torch.tensor([value], dtype=torch.float64), group=self.control)
        return [float(each) for each in found]

    def barrier(self) -> None:
        """Wait until every rank is here. Collective."""
        with exchanging("a barrier"):
            dist.barrier(group=self.control)

    def leave(self) -> None:
        """Close the groups; the process can end after that."""
        dist.destroy_process_group()


def join(timeout_seconds: float, environment: Mapping[str, str] = os.environ, *, to_train: bool = True) -> World:
    """Join the group described by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    Args:
        timeout_seconds: how long a collective waits for a silent rank before it raises
        environment: where the variables are looked up; without RANK this process is a group of one
        to_train: load DeepSpeed, which takes as long as torch

    Raises:
        RendezvousError: when ranks do not come, with their numbers
    """
    rank, size = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    device = _choose_device(int(environment.get("LOCAL_RANK", 0)))
    timeout = timedelta(seconds=timeout_seconds)
    if to_train:
        _prepare_deepspeed(device)
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=meet(environment, rank, size, device.type, timeout),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
    control = dist.new_group(backend="gloo", timeout=timeout)
    return World(rank, size, int(environment.get("LOCAL_RANK", 0)), device, control)


def bound_all_groups(timeout_seconds: float) -> None:
    """Give every existing process group this timeout.

    DeepSpeed clones the world without passing a timeout on, so that a hung peer would be waited for half an hour
    whatever the user asked for. Call it after the engine exists.
    """
    from torch.distributed import distributed_c10d as c10d  # noqa: PLC0415

    for group in list(c10d._world.pg_map):
        c10d._set_pg_timeout(timedelta(seconds=timeout_seconds), group)


def _choose_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # A scheduler that shows each task only its own GPU leaves one device, number 0, to every local rank.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _prepare_deepspeed(device: torch.device) -> None:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # Its autotuner would load all of MLflow on every rank, where it is installed, to use it in another program.
    with _hidden("mlflow"):
        import deepspeed  # noqa: PLC0415
    # And every engine loads its Muon, which on being loaded has torch's compiler loaded, to compile when first called.
    with _not_compiling():
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: PLC0415

    deepspeed.utils.logger.setLevel("WARNING")
    # Asked which of its operators this machine can have, it would try a compiler, and have one that only inference
    # uses compiled, for minutes, on every rank. Training needs none of them.
    deepspeed.ops.__compatible_ops__ = {}
    # Without it a CPU's number is asked of a program, in every step for every bucket of gradients at stage 3.
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Make imports of a module fail, unless it is loaded already."""
    if module in sys.modules:
        yield
        return
    # What Python takes for a module that is not to be had.
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


@contextmanager
def _not_compiling() -> Iterator[None]:
    """Have ``torch.compile``, as a decorator with or without settings, leave functions as they are."""
    compile_function = torch.compile
    torch.compile = lambda function=None, **_: function or (lambda plain: plain)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_function
