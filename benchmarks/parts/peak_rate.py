"""What a device can compute per second, and what networks ask of it: the two sides of an MFU."""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import itemgetter

import torch
from torch import Tensor

from cait_dist.models import Architecture
from cait_dist.planning.counting.flops import count_macs
from cait_dist.planning.counting.gpu_demand import FLOPS_PER_MAC, PASSES_PER_STEP, PEAK_FLOPS

PRODUCTS: tuple[Callable[[Tensor], Tensor], ...] = (lambda a: a @ a, lambda a: a @ a.T, lambda a: a.T @ a)
"""Those of a training step: for the gradient of a linear layer's input, for its output, for its weight's gradient.
Without instructions for bf16 one of them may be ten times as fast as another, and the fastest is the peak."""
SIDES, TRIES = (192, 384, 768, 1536), 5
LONGEST = 0.5
"""Seconds that a product may take; where a larger one would take longer, the peak is that of a smaller one."""


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
        rate, side = _rate_of_products(torch.bfloat16 if precision == "bf16" else torch.float32)
        return rate, f"product of {side}² matrices"
    name = torch.cuda.get_device_name(device)
    peak = next((peak for kind, peak in PEAK_FLOPS.items() if kind in name), None) if precision == "bf16" else None
    return peak, "datasheet, dense bf16" if peak else None


def _rate_of_products(dtype: torch.dtype) -> tuple[float, int]:
    """Of the largest square product that does not take too long, and its side."""
    side = SIDES[0]
    seconds, product = min(((_seconds(product, side, dtype), product) for product in PRODUCTS), key=itemgetter(0))
    for larger in SIDES[1:]:
        if seconds * (larger / side) ** 3 > LONGEST:
            break
        side, seconds = larger, _seconds(product, larger, dtype)
    return FLOPS_PER_MAC * side**3 / seconds, side


def _seconds(product: Callable[[Tensor], Tensor], side: int, dtype: torch.dtype) -> float:
    """The best of a few tries: of a lone thread by processor time, as everything else is timed."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    a = torch.randn(side, side).to(dtype)
    best = float("inf")
    for _ in range(TRIES):
        began = clock()
        product(a)
        best = min(best, clock() - began)
    return best
