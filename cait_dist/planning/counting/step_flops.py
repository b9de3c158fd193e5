"""Floating-point operations of a training step, with what stochastic depth leaves out and recomputation adds.

A multiply-add is two operations, a backward pass two forward passes. What is recomputed costs its forward pass again:
a block, or of a block the attention with the two linear layers around it.
"""

from cait_dist.models import Architecture

from .activation_memory import is_recomputed
from .flops import count_macs
from .gpu_demand import FLOPS_PER_MAC, PASSES_PER_STEP


def step_flops(arch: Architecture, policy: str) -> float:
    """Operations of one image in one step.

    Args:
        arch: the network with its rate of stochastic depth.
        policy: of recomputation.
    """
    macs = count_macs(arch)
    blocks = macs.linears + macs.attention + macs.head_mixing
    share = 1 - arch.drop_path_rate
    once = share * blocks + macs.total - blocks
    return FLOPS_PER_MAC * (PASSES_PER_STEP * once + share * recomputed_macs(arch, policy))


def recomputed_macs(arch: Architecture, policy: str) -> float:
    """Multiply-adds of one image that are done again, if no path is dropped."""
    macs = count_macs(arch)
    if policy == "attention":
        d, m = arch.embed_dim, arch.mlp_hidden
        return macs.linears * 4 * d**2 / (4 * d**2 + 2 * d * m) + macs.attention + macs.head_mixing
    again = sum(is_recomputed(policy, block) for block in range(arch.depth)) / arch.depth
    return again * (macs.linears + macs.attention + macs.head_mixing)
