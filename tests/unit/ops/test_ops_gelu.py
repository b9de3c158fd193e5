"""GELU and its gradient in one pass, against torch's and against float64."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cait_dist.ops import gelu as ops_gelu
from cait_dist.ops.gelu import gelu, gelu_and_gradient, has_passes_for

EVERY_BF16 = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
SPECIAL = [float("nan"), float("inf"), -float("inf"), 0.0, 1e30, -1e30, 1e-40, -13.0, 13.0]

with torch.no_grad():
    needs_compiler = pytest.mark.skipif(not has_passes_for(torch.zeros(1)), reason="no C compiler for the passes")


def exact(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """In float64."""
    x = x.double().requires_grad_()
    y = F.gelu(x)
    return y.detach(), torch.autograd.grad(y, x, grad.double())[0]


@torch.no_grad()
def passes(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """GELU and the gradient, by the one pass."""
    assert has_passes_for(x)
    given = grad.clone()
    y, dx = gelu_and_gradient(x, given)
    assert dx.data_ptr() == given.data_ptr(), "the gradient is written in place"
    assert torch.equal(gelu(x).nan_to_num(7.0), y.nan_to_num(7.0))
    return y, dx


@needs_compiler
def test_of_every_bf16_gelu_is_torchs_to_the_bit():
    y, dx = passes(EVERY_BF16, torch.ones_like(EVERY_BF16))
    expected = F.gelu(EVERY_BF16)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.nan_to_num(0.0), expected.nan_to_num(0.0))
    theirs = torch.ops.aten.gelu_backward(torch.ones_like(EVERY_BF16), EVERY_BF16)
    assert torch.equal(dx.isnan(), theirs.isnan())


@needs_compiler
def test_of_every_bf16_the_gradient_is_rounded_hardly_more_than_once():
    x = EVERY_BF16[EVERY_BF16.isfinite()]
    grad = torch.randn(len(x), generator=torch.Generator().manual_seed(0)).bfloat16()
    _, dx = passes(x, grad)
    _, expected = exact(x, grad)
    # Half a unit in the last of 8 bits, and of the slope's 11; a slope below 6e-5 has fewer, and one below 3e-8 none.
    bound = expected.abs() * (2**-8 + 2**-11) * 1.01 + grad.double().abs() * 2**-25
    assert ((dx.double() - expected).abs() <= bound).all()


@needs_compiler
def test_in_float32_both_are_as_precise_as_torchs():
    x = torch.cat((torch.linspace(-20, 20, 100_001), torch.randn(50_000), torch.tensor([1e-30, -1e-30, 1e4, -1e4])))
    grad = torch.randn(len(x), generator=torch.Generator().manual_seed(0))
    y, dx = passes(x, grad)
    theirs = F.gelu(x), torch.ops.aten.gelu_backward(grad, x)
    for ours, torchs, expected, size in zip((y, dx), theirs, exact(x, grad), (x, grad), strict=True):
        error, of_torch = ((t.double() - expected).abs() for t in (ours, torchs))
        assert error.norm() <= 2 * of_torch.norm()
        assert (error <= 5e-7 * size.abs()).all()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_special_numbers_give_what_torch_gives(dtype):
    x = torch.tensor(SPECIAL).to(dtype)
    y, dx = passes(x, torch.ones_like(x))
    options = {"equal_nan": True, "rtol": 1e-6, "atol": 1e-7}
    theirs, slope = F.gelu(x), torch.ops.aten.gelu_backward(torch.ones_like(x), x)
    infinite = x == torch.inf  # where torch's own answer depends on the processor and on the place in the tensor
    assert not y[infinite].isfinite().any()
    torch.testing.assert_close(y[~infinite], theirs[~infinite], **options)
    torch.testing.assert_close(dx, slope, **options)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_numbers_is_taken_by_any_number_of_threads(dtype, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for count in (1, 7, 15, 16, 17, 1023, 1024, 1025, 5003):
            x, grad = torch.randn(2, count + 1).to(dtype)
            kept = x[-1].clone(), grad[-1].clone()
            y, dx = passes(x[:count], grad[:count].contiguous())
            torch.testing.assert_close(y, F.gelu(x[:count]))
            torch.testing.assert_close(dx, torch.ops.aten.gelu_backward(grad[:count], x[:count]))
            assert (x[-1], grad[-1]) == kept
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_torch_computes_what_passes_cannot():
    with torch.no_grad():
        assert not has_passes_for(torch.zeros(4, dtype=torch.float64))
        assert not has_passes_for(torch.zeros(4, 4).t()[1:])
        assert not has_passes_for(torch.zeros(4, device="meta"))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_can_be_differentiated_again_by_torch(dtype):
    x, grad = torch.randn(2, 5, dtype=dtype).requires_grad_()
    assert not has_passes_for(x)
    y, dx = gelu_and_gradient(x, grad)
    torch.testing.assert_close((y.double(), dx.double()), exact(x.detach(), grad.detach()), rtol=1e-5, atol=1e-6)
    assert y.requires_grad
    assert dx.requires_grad


def test_without_a_compiler_torch_computes_it_and_the_log_says_so_once(monkeypatch, caplog):
    monkeypatch.setenv("CC", "false")
    ops_gelu._compiled.cache_clear()
    try:
        x = torch.randn(9)
        with torch.no_grad(), caplog.at_level(logging.WARNING):
            assert not has_passes_for(x)
            assert torch.equal(gelu(x), F.gelu(x))
            y, dx = gelu_and_gradient(x, torch.ones(9))
        torch.testing.assert_close((y.double(), dx.double()), exact(x, torch.ones(9)), rtol=1e-5, atol=1e-6)
        (record,) = caplog.records
        assert "GELU runs by torch's operations instead of a compiled pass, which false refused" in record.getMessage()
    finally:
        ops_gelu._compiled.cache_clear()
