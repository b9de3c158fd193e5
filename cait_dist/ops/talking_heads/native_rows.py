"""The row passes of ``native_rows.c``, compiled for this processor when they are first needed.

A compiler that knows the number of heads and the processor keeps a whole mix in registers; it takes a quarter of a
second (:mod:`cait_dist.ops.compiled_c`).
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from ..compiled_c import compile_c

SOURCE = Path(__file__).with_name("native_rows.c")
LANES = 16
"""Lines of scratch are padded to a multiple of this many numbers: at least as many as a vector of any processor has."""
BITS = {torch.bfloat16: 16, torch.float32: 32, torch.float64: 64}
"""Of the numbers in maps that there are passes for."""

_WITHOUT = "talking-heads attention runs without its compiled row passes"


class RowPasses:
    """The two passes for one number of heads and one kind of numbers."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_long
        last: list[type] = [number, number, number, ctypes.c_double, ctypes.c_int]
        library.forward_rows.argtypes = [*[pointer] * 5, *last]
        library.backward_rows.argtypes = [*[pointer] * 7, *last]
        self._library = library

    def forward(self, maps: Tensor, w_l: Tensor, w_w: Tensor, b_w: Tensor, scale: float) -> None:
        """Turns q kᵀ into mixed probabilities.

        Args:
            maps: (b H, m, N), contiguous, of m query rows of b samples; filled anew.
            w_l: (H, H), contiguous, float32 (float64 where maps are); as are ``w_w`` and ``b_w``.
            w_w: (H, H).
            b_w: (H,).
            scale: Factor on q kᵀ.
        """
        tensors = (maps, w_l, w_w, b_w, _scratch(maps, w_l, 1))
        self._library.forward_rows(*_addresses(*tensors), *_shape(maps, w_l), scale, torch.get_num_threads())

    def backward(
        self, maps: Tensor, grads: Tensor, w_l: Tensor, w_w: Tensor, b_w: Tensor, scale: float, sums: Tensor
    ) -> None:
        """Turns q kᵀ into mixed probabilities again, and their gradient into that of q kᵀ.

        Args:
            maps: As in :meth:`forward`, like what has the same name.
            grads: (b H, m, N), contiguous, gradient of the mixed probabilities; filled anew.
            w_l: See there.
            w_w: See there.
            b_w: See there.
            scale: See there.
            sums: (threads, 2 H + 1, H), to which the gradients by w_l, w_w and b_w are added.
        """
        tensors = (maps, grads, w_l, w_w, b_w, sums, _scratch(maps, w_l, 4))
        self._library.backward_rows(*_addresses(*tensors), *_shape(maps, w_l), scale, len(sums))


@functools.cache
def row_passes(heads: int, dtype: torch.dtype) -> RowPasses | None:
    """Compiles the passes for this process, once.

    Args:
        heads: H.
        dtype: Of the maps.

    Returns:
        None if there are none for this dtype, or if they cannot be compiled here, which the log then says.
    """
    library = compile_c(SOURCE, _WITHOUT, HEADS=heads, BITS=BITS[dtype]) if dtype in BITS else None
    return RowPasses(library) if library is not None else None


def _shape(maps: Tensor, w_l: Tensor) -> tuple[int, int, int]:
    """Samples, rows of each, and numbers in a row."""
    return len(maps) // len(w_l), maps.shape[1], maps.shape[2]


def _scratch(maps: Tensor, w_l: Tensor, lines: int) -> Tensor:
    return w_l.new_empty(torch.get_num_threads(), lines * len(w_l), -(-maps.shape[-1] // LANES) * LANES)


def _addresses(*tensors: Tensor) -> list[int]:
    return [t.data_ptr() for t in tensors]
