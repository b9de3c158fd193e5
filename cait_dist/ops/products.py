"""The two products of a linear layer that its weight takes part in, on a CPU by oneDNN.

Torch gives float32 products to MKL, which reaches less of what some processors have, and fills the output of a narrow
one with the bias before the product adds to it: a pass over memory more. OneDNN adds the bias as it writes. Torch has
it at hand for its own compiler; where it is not there, or the tensors are small or not such as it takes, torch's usual
products run. The third product, the gradient of the weight, is torch's: oneDNN would transpose one side of it first.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .eager_tensors import is_eager_on_cpu

_Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
WORTHWHILE = 2**23
"""Multiplications from which on a product takes longer than oneDNN needs to look for its kernel."""


def rows_times(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes ``F.linear(x, weight, bias)``: x Wᵀ + b."""
    product = None if torch.is_grad_enabled() else _product_for(x, weight, weight.shape[0])
    return F.linear(x, weight, bias) if product is None else product(x, weight, bias)


def gradient_times(g: Tensor, weight: Tensor) -> Tensor:
    """Computes ``torch.mm(g, weight)``: from the gradient of a layer's output (rows, d_out) that of its input."""
    wide = g.dtype == torch.float32  # a narrow one is as quick by mm
    product = _product_for(g, weight, weight.shape[1]) if wide and not torch.is_grad_enabled() else None
    return torch.mm(g, weight) if product is None else product(g, weight.t(), None)


def _product_for(x: Tensor, weight: Tensor, width: int) -> _Product | None:
    fits = x.numel() * width >= WORTHWHILE and is_eager_on_cpu(x) and is_eager_on_cpu(weight)
    return _onednn(x.dtype) if fits else None


@functools.cache
def _onednn(dtype: torch.dtype) -> _Product | None:
    """Its product of numbers of this kind, or None where this build of torch or this processor has none."""
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    try:
        operation = torch.ops.mkldnn._linear_pointwise.default
        one = torch.ones(1, 1, dtype=dtype)
        operation(one, one, one[0], "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return lambda x, weight, bias: operation(x, weight, bias, "none", [], "")
