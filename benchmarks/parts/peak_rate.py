"""What a device can compute per second, and what networks ask of it: the two sides of an MFU."""

from __future__ import annotations

import time

import torch

from cait_dist.models import Architecture
from cait_dist.planning.flops import count_macs

DATASHEET = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Dense bf16; those of ``cait_dist.planning.gpu_demand``, which needs more packages than a machine may have."""
FLOPS_PER_MAC = 2
PASSES_PER_STEP = 3
_SIDE, _TRIES = 1536, 5


def step_flops(arch: Architecture) -> float:
    """Of a training step, per image: a forward pass, and a backward pass that is two of them."""
    return float(PASSES_PER_STEP * FLOPS_PER_MAC * count_macs(arch).total)


def block_flops(arch: Architecture) -> float:
    """The same of one self-attention block."""
    macs = count_macs(arch)
    return PASSES_PER_STEP * FLOPS_PER_MAC * (macs.linears + macs.attention + macs.head_mixing) / arch.depth


def peak_flops(device: torch.device, precision: str) -> tuple[float | None, str | None]:
    """FLOP per second at best, and where that is known from; None where it is not known."""
    if device.type == "cpu":
        return _measure(torch.bfloat16 if precision == "bf16" else torch.float32), f"product of {_SIDE}² matrices"
    name = torch.cuda.get_device_name(device)
    peak = next((peak for kind, peak in DATASHEET.items() if kind in name), None) if precision == "bf16" else None
    return peak, "datasheet, dense bf16" if peak else None


def _measure(dtype: torch.dtype) -> float:
    """The best of a few square products: of a lone thread by processor time, as everything else is timed."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    a = torch.randn(_SIDE, _SIDE).to(dtype)
    best = float("inf")
    for _ in range(_TRIES):
        began = clock()
        a @ a
        best = min(best, clock() - began)
    return FLOPS_PER_MAC * _SIDE**3 / best
