"""The exact (erf) GELU, and its gradient where GELU is computed again: on a CPU in one compiled pass.

Torch computes both from the error function, number by number; where a step computes GELU again in its backward pass it
does so three times. The passes of ``gelu.c`` read x once for GELU and its gradient, in float32, and look both up in
bfloat16, where GELU is torch's to the last bit. On other devices, in other dtypes, without a C compiler, under
``torch.compile`` and where the gradient is to be differentiated again, torch's own operations run.
"""

import ctypes
import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .compiled_c import compile_c
from .eager_tensors import is_eager_on_cpu

_SOURCE = Path(__file__).with_name("gelu.c")
_BITS = {torch.bfloat16: 16, torch.float32: 32}
_WITHOUT = "GELU runs by torch's operations instead of a compiled pass"


def gelu(x: Tensor) -> Tensor:
    """Computes ``F.gelu(x)``; of tensors that ask for a gradient by torch's operations."""
    passes = None if torch.is_grad_enabled() and x.requires_grad else _passes_for(x)
    return F.gelu(x) if passes is None else passes.gelu(x)


def gelu_and_gradient(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Computes GELU and the gradient by x.

    Args:
        x: Of any shape.
        grad: Gradient by GELU, like x; its memory may be that of the result.

    Returns:
        GELU and the gradient.
    """
    passes = None if torch.is_grad_enabled() else _passes_for(x)
    if passes is not None:
        return passes.gelu_and_gradient(x, grad), grad
    return F.gelu(x), torch.ops.aten.gelu_backward(grad, x)


def has_passes_for(x: Tensor) -> bool:
    """Whether :func:`gelu_and_gradient` of this tensor is one pass here and now, outside a graph of gradients."""
    return not torch.is_grad_enabled() and _passes_for(x) is not None


class _Passes:
    """The two passes for one kind of numbers."""

    def __init__(self, library: ctypes.CDLL, table: Tensor | None) -> None:
        pointer, last = ctypes.c_void_p, (ctypes.c_long, ctypes.c_int)
        library.gelu.argtypes = [*[pointer] * 3, *last]
        library.gelu_and_gradient.argtypes = [*[pointer] * 4, *last]
        self._library, self._table = library, table

    def gelu(self, x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        self._library.gelu(x.data_ptr(), self._table_address, y.data_ptr(), x.numel(), torch.get_num_threads())
        return y

    def gelu_and_gradient(self, x: Tensor, grad: Tensor) -> Tensor:
        """Returns GELU and turns the gradient by it into that by x."""
        y = torch.empty_like(x)
        addresses = (x.data_ptr(), self._table_address, grad.data_ptr(), y.data_ptr())
        self._library.gelu_and_gradient(*addresses, x.numel(), torch.get_num_threads())
        return y

    @property
    def _table_address(self) -> int | None:
        return None if self._table is None else self._table.data_ptr()


def _passes_for(x: Tensor) -> _Passes | None:
    fits = is_eager_on_cpu(x) and x.is_contiguous() and x.dtype in _BITS
    return _compiled(x.dtype) if fits else None


@functools.cache
def _compiled(dtype: torch.dtype) -> _Passes | None:
    library = compile_c(_SOURCE, _WITHOUT, BITS=_BITS[dtype])
    if library is None:
        return None
    return _Passes(library, _table() if dtype == torch.bfloat16 else None)


@torch.no_grad()
def _table() -> Tensor:
    """GELU, as bfloat16 in the lower half, and its slope, as float16 in the upper, of all bfloat16: (65536,) int32."""
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    slope = torch.ops.aten.gelu_backward(torch.ones(2**16, dtype=torch.float64), x.double()).half()
    halves = torch.stack((F.gelu(x).view(torch.int16), slope.view(torch.int16)), dim=1)
    return halves.contiguous().view(torch.int32).flatten()
