"""Where code of our own may stand in for operations of torch: on numbers that are really there."""

import torch
from torch import Tensor


def is_eager(x: Tensor) -> bool:
    """Whether this tensor has its numbers in memory here and now.

    A compiler of the network looks into torch's operations alone, and some tensors only pretend to have numbers.
    """
    is_plain = type(x) in (Tensor, torch.nn.Parameter) and x.device.type != "meta"
    return is_plain and not torch.compiler.is_compiling()


def is_eager_on_cpu(x: Tensor) -> bool:
    """Whether it has them in a CPU's memory."""
    return x.device.type == "cpu" and is_eager(x)
