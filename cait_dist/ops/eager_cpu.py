"""Where code of our own may stand in for operations of torch: on numbers that are really there, in a CPU's memory."""

import torch
from torch import Tensor


def is_eager_on_cpu(x: Tensor) -> bool:
    """Whether this tensor has its numbers in memory here and now.

    A compiler of the network looks into torch's operations alone, and some tensors only pretend to have numbers.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and type(x) in (Tensor, torch.nn.Parameter)
