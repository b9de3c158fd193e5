"""The fused backend against eager autograd in float64, where Triton's interpreter runs its kernels on the CPU.

Triton decides when it is loaded whether it interprets. So test_ops_fused.py runs these tests, in a process of its own.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from test_ops_cpu_backends import (
    NAMES,
    P,
    assert_as_precise,
    dropping,
    eager_with,
    error,
    factors_of_dropout,
    results,
    saved_bytes,
    tensors,
)
from torch import Tensor

from cait_dist.ops import available_backends, choose_backend, talking_heads_attention
from cait_dist.ops.talking_heads import eager, operator

fused: Callable[..., Tensor] = partial(operator.attend, backend="fused")
# batch, heads, tokens, head width. The interpreter takes seconds for what a GPU does in microseconds.
SHAPES = [(2, 4, 1, 48), (3, 6, 49, 32), (1, 16, 131, 48), (2, 17, 20, 64)]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def case(request) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and what eager autograd makes of them in float64."""
    inputs = tensors(*request.param)
    return inputs, results(eager.attend, inputs, torch.float64)


def assert_equal(ours: list[Tensor], expected: list[Tensor], dtype: torch.dtype, tolerance: float) -> None:
    for name, a, b in zip(NAMES, ours, expected, strict=True):
        assert a.dtype == dtype
        if name == "proj_l.bias":
            assert torch.equal(a, torch.zeros_like(a))
        else:
            assert error(a, b) < tolerance, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_output_and_gradients_equal_eager_in_float64(case, dtype, tolerance):
    inputs, expected = case
    assert_equal(results(fused, inputs, dtype), expected, dtype, tolerance)


def test_sample_by_sample_it_computes_the_same():
    inputs = tensors(3, 3, 5, 4)
    expected = results(eager.attend, inputs, torch.float64)
    assert_equal(results(fused, inputs, torch.float64, workspace_bytes=1), expected, torch.float64, 1e-12)


@pytest.mark.parametrize("workspace", [None, 1])
def test_dropout_takes_the_same_entries_out_of_both_passes(workspace):
    """Also where the backward pass has two maps, and goes through the batch in smaller steps than the forward pass."""
    inputs = tensors(3, 3, 12, 8)
    factors = factors_of_dropout(fused, inputs, workspace_bytes=workspace)
    assert 0 < (factors == 0).double().mean() < 1
    expected = results(eager_with((factors != 0).double() / (1 - P)), inputs, torch.float64)
    one_and_a_half = 3 * 3 * 12**2 * 8
    for size in (workspace, one_and_a_half):
        ours = results(dropping(fused), inputs, torch.float64, workspace_bytes=size)
        assert_equal(ours, expected, torch.float64, 1e-12)


def test_any_layout_is_taken():
    qkv, wl, bl, ww, bw, cotangent = tensors(3, 4, 10, 6)
    qkv = qkv.permute(2, 0, 3, 1, 4)
    layouts = [Tensor.contiguous, lambda t: t.mT.contiguous().mT, lambda t: t[..., :1, :, :, :].expand_as(t)]
    for change in layouts:
        outputs = []
        for attend in (eager.attend, fused):
            leaf = change(qkv).detach().requires_grad_()
            weights = [t.T.contiguous().T.requires_grad_() for t in (wl, ww)]
            y = attend(leaf, weights[0], bl, weights[1], bw, scale=0.4)
            outputs.append([y, *torch.autograd.grad(y, [leaf, *weights], change(cotangent))])
        for a, b in zip(*outputs, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


# The interpreter cuts off what does not fit into bf16 where a GPU rounds: each rounding errs by twice as much.
@pytest.mark.parametrize(("dtype", "slack"), [(torch.float16, 1.1), (torch.bfloat16, 2.2)])
def test_narrow_it_is_as_near_to_float64_as_eager_is(case, dtype, slack):
    inputs, expected = case
    ours = results(fused, inputs, dtype)
    assert {t.dtype for t in ours} == {dtype}
    assert_as_precise(ours, results(eager.attend, inputs, dtype), expected, slack)


def test_q_k_and_v_are_all_that_is_kept():
    batch, heads, tokens, width = 2, 8, 49, 48
    small = 2 * heads**2 * 2 + 4 * heads
    kept = saved_bytes(fused, tensors(batch, heads, tokens, width), torch.bfloat16)
    assert kept == 3 * batch * heads * tokens * width * 2 + small


def test_it_is_there_for_who_asks_and_never_chosen_on_a_cpu():
    assert available_backends()[-1] == "fused"
    assert choose_backend("cpu", torch.bfloat16, heads=4, tokens=784) != "fused"
    inputs = [t.float() for t in tensors(1, 4, 10, 8)]
    qkv = inputs[0].permute(2, 0, 3, 1, 4)
    y = talking_heads_attention(qkv, *inputs[1:-1], scale=0.3, backend="fused")
    torch.testing.assert_close(y, talking_heads_attention(qkv, *inputs[1:-1], scale=0.3, backend="eager"))
