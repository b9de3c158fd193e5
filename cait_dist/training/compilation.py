"""Compiling the self-attention stage, branch by branch.

What surrounds the matrix products — LayerNorm, casts, biases, GELU — reads and writes whole activations for little
arithmetic; ``torch.compile`` fuses it. It is the two branches of a block that are compiled, not the block: between them
stochastic depth picks samples, whose number differs from block to block and from step to step, and must be known to
the host. The branches of all blocks are the same code with other parameters, so they are compiled once, and once more
when the number of samples first changes, from then on for any number.

The graph of a branch has no break: talking-heads attention is one operator to the compiler.

By itself the compiler keeps its products in a folder that all programs of a user share on a machine, and believes what
it finds there. A program that is killed while it compiles leaves half a library, and every later one fails on it: so
each rank of each attempt has a folder of its own.
"""

import os
from pathlib import Path

import torch

from cait_dist.models import Cait


def compile_branches(model: Cait, backend: str = "inductor") -> None:
    """Has the branches of all self-attention blocks compiled when they first run, in place.

    Args:
        model: With activation checkpointing applied, before DeepSpeed takes it. Its parameters must stay where they
            are: not at ZeRO stage 3, which empties them between uses.
        backend: Of ``torch.compile``.
    """
    for block in model.blocks:
        for name in ("attention_branch", "feed_forward_branch"):
            setattr(block, name, torch.compile(getattr(block, name), fullgraph=True, backend=backend))


def keep_compiled_in(folder: Path) -> None:
    """Has this process keep what it compiles in a folder, unless the user has named one in the environment."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
