"""The linear layer of a residual branch, with what stands before and behind it, keeping its input alone.

    y = γ ⊙ (W act(x) + b)        act: the identity or the exact GELU; γ: LayerScale (d_out,), a scalar (1,), or 1

Written as a composition, autograd keeps three activations of it: the input of GELU, its output for the gradient of W,
and the layer's own output for the gradient of γ ("Going deeper with Image Transformers", arXiv 2103.17239, section 2).
Two of them follow from x and the parameters. GELU is computed again (:mod:`.gelu`). And γ is multiplied into W and b
beforehand, so that y comes straight out of the matrix product, whereupon all gradients follow from M = Gᵀ act(x), with
G = ∂L/∂y:

    ∂L/∂W = γ M        ∂L/∂b = γ s        ∂L/∂γ_i = Σ_k W_ik M_ik + b_i s_i        s = Σ_t G_t
    ∂L/∂act(x) = G (γ W)

Under autocast no narrow copy of W is kept either, but made again; of a layer with neither GELU nor γ that is all there
is to it. What is saved of parameters is themselves: where they are partitioned and gathered anew for the backward pass,
it is the gathered ones that it sees.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .float8_products import float8_gradient_times, float8_rows_times
from .gelu import gelu as gelu_of
from .gelu import gelu_and_gradient, has_passes_for
from .product_dtype import autocasts, product_dtype
from .products import gradient_times, rows_times

CACHED_NUMBERS = 2**18
"""Of a product that is summed at once, and made for that alone."""


def scaled_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    gelu: bool = False,
    float8: bool = False,
) -> Tensor:
    """Computes ``scale * F.linear(F.gelu(x), weight, bias)``, keeping ``x`` and the parameters for the backward pass.

    Args:
        x: (..., d_in), any layout, in the dtype of the weight unless under autocast.
        weight: (d_out, d_in).
        bias: (d_out,), or None.
        scale: (d_out,) or (1,) in any floating dtype, or None for 1.
        gelu: Whether the exact (erf) GELU stands before the product.
        float8: Whether the output and the gradient by ``x`` are products of numbers of 8 bits, see
            :mod:`.float8_products`. Only in bfloat16, and with d_in and d_out multiples of 16.

    Returns:
        (..., d_out), in the dtype of the product, which is that of autocast where it is on. In float16 with a scale
        in float32: a millionth of a weight is zero in float16, so the scale stays outside there, and the output is
        kept for its gradient.

    Raises:
        TypeError: If the product would be one of two dtypes, or float8 is asked for beside another than bfloat16.
    """
    dtype = product_dtype(x)
    if dtype != product_dtype(weight):
        raise TypeError(f"a linear layer in {weight.dtype} takes no input in {x.dtype}")
    if float8 and dtype != torch.bfloat16:
        raise TypeError(f"products of 8 bits stand beside bfloat16, not beside {dtype}")
    x = x.to(dtype)  # out here, so that what is kept is narrow
    if scale is None or dtype != torch.float16:
        return _ScaledLinear.apply(x, weight, bias, scale, gelu, float8)
    return scale_outside(_ScaledLinear.apply(x, weight, bias, None, gelu, float8), scale)


def scale_outside(y: Tensor, scale: Tensor | None) -> Tensor:
    """The product of an output (..., d) and its scale, in float32 at least: for where it cannot go into the weights."""
    return y if scale is None else scale.to(_wide(y)) * y


class _ScaledLinear(torch.autograd.Function):
    """In the older of the two styles, whose ``apply`` takes a third of the time."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, gelu: bool, float8: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, scale)
        ctx.gelu, ctx.float8 = gelu, float8
        # Autocast may be on, but finds nothing to narrow: x has its dtype, and W and b get that of x.
        bias = None if bias is None else _folded(bias, scale, x.dtype)
        product = float8_rows_times if float8 else rows_times
        return product(gelu_of(x) if gelu else x, _folded(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # The caller may still be, or only now be, inside autocast; what is to be narrow is.
        if autocasts(grad.device):
            with torch.autocast(grad.device.type, enabled=False):
                return _gradients(ctx, grad)
        return _gradients(ctx, grad)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients by x, W, b and γ, each where it is asked for and in the dtype of its tensor."""
    x, weight, bias, scale = ctx.saved_tensors
    by_x, by_weight, by_bias, by_scale, *_ = ctx.needs_input_grad
    times = float8_gradient_times if ctx.float8 else gradient_times
    g = grad.reshape(-1, grad.shape[-1])
    rows = x.reshape(-1, x.shape[-1])
    dx = dw = db = dscale = None
    if ctx.gelu and by_x and has_passes_for(rows):
        act, dx = gelu_and_gradient(rows, times(g, _folded(weight, scale, g.dtype)))
    else:
        act = F.gelu(rows) if ctx.gelu else rows
    if by_weight or by_scale:
        m = torch.mm(g.t(), act)
        if dx is not None:
            del act  # a buffer of that size is dear
        m = m if scale is None else m.to(_wide(m))
        dscale = _row_products(weight.to(m.dtype), m) if by_scale else None
        dw = _scaled_rows_(m, scale).to(weight.dtype) if by_weight else None
        del m
    if by_bias or (by_scale and bias is not None):
        s = g.sum(0) if scale is None else g.sum(0, dtype=_wide(g))  # as torch does, where no scale waits
        db = _folded(s, scale, bias.dtype) if by_bias else None
        dscale = dscale + bias * s if by_scale else None
    if dscale is not None:
        dscale = (dscale if scale.numel() == len(dscale) else dscale.sum(0, keepdim=True)).to(scale.dtype)
    if by_x and dx is None:
        w = _folded(weight, scale, g.dtype)
        dx = _gradient_through_gelu(g, w, rows, act, float8=ctx.float8) if ctx.gelu else times(g, w)
    return None if dx is None else dx.view(x.shape), dw, db, dscale, None, None


def _scaled_rows_(m: Tensor, scale: Tensor | None) -> Tensor:
    """Rows times their scale, in their place where nobody follows what is done."""
    if scale is None:
        return m
    factors = scale.to(m.dtype).view(-1, 1)
    return m * factors if torch.is_grad_enabled() or torch.compiler.is_compiling() else m.mul_(factors)


def _row_products(a: Tensor, b: Tensor) -> Tensor:
    """Sums over the rows of a ⊙ b, (d_out, d_in) -> (d_out,); on a CPU by parts of a ⊙ b that stay in its cache."""
    rows = max(1, CACHED_NUMBERS // a.shape[1]) if a.device.type == "cpu" else len(a)
    return torch.cat([torch.linalg.vecdot(*parts) for parts in zip(a.split(rows), b.split(rows), strict=True)])


def _gradient_through_gelu(g: Tensor, w: Tensor, rows: Tensor, act: Tensor, *, float8: bool) -> Tensor:
    """Gradient by the input of GELU, where it can be in place of its output: a buffer of that size is dear."""
    if float8:
        return torch.ops.aten.gelu_backward(float8_gradient_times(g, w), rows)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.ops.aten.gelu_backward(g @ w, rows)
    dx = torch.mm(g, w, out=act)
    return torch.ops.aten.gelu_backward.grad_input(dx, rows, grad_input=dx)


def _folded(tensor: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Rows (d_out, ...) times their scale, multiplied in float32 at least and rounded once."""
    if scale is None:
        return tensor.to(dtype)
    return (scale.to(_wide(tensor)).view(-1, *[1] * (tensor.ndim - 1)) * tensor).to(dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
