"""The two products of a linear layer that its weight takes part in, of numbers in 8 bits, each row with its own scale.

    x Wᵀ + b        of tokens and of outputs (rows of W) the largest number decides the scale
    g W             of tokens and of inputs (columns of W)

A GPU of compute capability 8.9 or newer multiplies numbers of 8 bits at twice the rate of bfloat16. ``e4m3`` has four
significant bits, so a number is off by at most a sixteenth of itself, down to 2⁻¹³ of the largest in its row, and
below by an even step. The scale of a row is a power of two, so that scaling rounds nothing. It comes from the row as it
is now: a product remembers nothing of earlier steps, a recomputed one has the same bits, and a sample's result does not
depend on its company. Sums and output are wide.

The third product of a layer, the gradient of its weight, sums over tokens: there a scale would have to hold for a
column of all of them. It stays in the dtype of the activations.
"""

import torch
from torch import Tensor

MULTIPLE = 16
"""Of which the width of a layer has to be one, on both sides: in bytes, what a GPU loads at once."""
_EXPONENT = 0x7F800000
"""The bits of a float32 that are left of a positive number when it is rounded down to a power of two."""
_TOP, _LEAST = 2.0**7, 2.0**-100
"""The power of two to which that of a row's largest number is brought, 448 being the limit; the least that counts."""


def float8_rows_times(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes ``F.linear(x, weight, bias)`` in the dtype of ``x``, bfloat16, from 8 bits of x and of W.

    Args:
        x: (..., d_in).
        weight: (d_out, d_in).
        bias: (d_out,) or None.
    """
    rows = x.reshape(-1, x.shape[-1])
    return _product(rows, weight, bias, fast=True).view(*x.shape[:-1], -1)


def float8_gradient_times(g: Tensor, weight: Tensor) -> Tensor:
    """Computes ``torch.mm(g, weight)`` in bfloat16 from 8 bits of a gradient (rows, d_out) and of W (d_out, d_in)."""
    return _product(g, weight.t(), None, fast=False)


def float8_trouble(device: torch.device) -> str | None:
    """Why a device multiplies no numbers of 8 bits, or None where it does; a CPU does, slowly."""
    if device.type == "cpu":
        return None
    if device.type != "cuda" or torch.version.hip is not None:
        return "it is written for Nvidia's GPUs"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < (8, 9):
        return f"it needs a GPU of compute capability 8.9 or newer, and this one has {major}.{minor}"
    return None


def _product(a: Tensor, b: Tensor, bias: Tensor | None, *, fast: bool) -> Tensor:
    """A Bᵀ + b of rows (n, k) and (m, k); fast: tensor cores may sum with fewer bits in between."""
    (a, scale_a), (b, scale_b) = _in_8_bits(a), _in_8_bits(b)
    return torch._scaled_mm(
        a, b.t(), scale_a=scale_a, scale_b=scale_b.t(), bias=bias, out_dtype=torch.bfloat16, use_fast_accum=fast
    )


def _in_8_bits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in 8 bits, dense, and their scales (n, 1) in float32: their products are the rows.

    What is not finite makes the whole row so.
    """
    largest = torch.linalg.vector_norm(rows, float("inf"), dim=1, keepdim=True).float().clamp(min=_LEAST)
    scale = (largest.view(torch.int32) & _EXPONENT).view(torch.float32) / _TOP  # of inf and nan: inf
    scaled = rows * scale.reciprocal().to(rows.dtype)
    return scaled.to(torch.float8_e4m3fn, memory_format=torch.contiguous_format), scale
