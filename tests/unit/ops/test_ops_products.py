"""The products of linear layers by oneDNN against torch's usual ones, and where they are left to those."""

import pytest
import torch
import torch.nn.functional as F

from cait_dist.ops import products
from cait_dist.ops.products import gradient_times, rows_times

SHAPES = [(1, 1, 1), (5, 7, 3), (196, 192, 768), (131, 48, 4)]
"""rows, d_in, d_out"""
WIDE_ENOUGH = {torch.float32: 2e-6, torch.bfloat16: 2**-8}


@pytest.fixture
def taken(monkeypatch):
    """What oneDNN was asked for, with which numbers."""
    if products._onednn(torch.float32) is None:
        pytest.skip("this build of torch has no oneDNN")
    asked, made = [], products._onednn

    def spied(dtype):
        product = made(dtype)
        return product and (lambda *args: (asked.append(dtype), product(*args))[1])

    monkeypatch.setattr(products, "_onednn", spied)
    monkeypatch.setattr(products, "WORTHWHILE", 1)
    return asked


def error(a, exact):
    return float((a.double() - exact).norm() / exact.norm())


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", WIDE_ENOUGH)
def test_both_are_what_they_stand_for(taken, shape, dtype):
    rows, d_in, d_out = shape
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, rows, d_in), torch.randn(d_out, d_in), torch.randn(d_out)
    x, weight, bias = (t.to(dtype) for t in (x, weight, bias))
    exact = F.linear(x.double(), weight.double(), bias.double())
    columns = weight.t().contiguous().t()
    for of_weight in (weight, columns):
        assert error(rows_times(x, of_weight, bias), exact) < WIDE_ENOUGH[dtype]
        assert error(rows_times(x, of_weight, None), exact - bias.double()) < WIDE_ENOUGH[dtype]
        assert error(rows_times(x.mT.contiguous().mT, of_weight, bias), exact) < WIDE_ENOUGH[dtype]
    g = torch.randn(rows, d_out).to(dtype)
    for of_weight in (weight, columns):
        assert error(gradient_times(g, of_weight), g.double() @ weight.double()) < WIDE_ENOUGH[dtype]
    assert set(taken) <= {dtype}
    assert taken or products._onednn(dtype) is None, "nothing went to oneDNN"


def test_the_bias_is_added_before_the_one_rounding(taken):
    """256 and 1.5 and 0.5: rounded in between, a bfloat16 would stay at 256, or go up to 258 and stay there."""
    if products._onednn(torch.bfloat16) is None:
        pytest.skip("oneDNN has no bfloat16 on this processor")
    x, weight = torch.tensor([[256.0, 1.5]]).bfloat16(), torch.ones(1, 2).bfloat16()
    with torch.no_grad():
        above, at = (rows_times(x, weight, torch.tensor([b]).bfloat16()).item() for b in (0.5, -0.75))
    assert (above, at) == (258.0, 256.0)


def test_what_it_does_not_take_goes_the_usual_way(taken):
    weight = torch.randn(4, 3)
    with torch.no_grad():
        assert rows_times(torch.ones(2, 3).double(), weight.double(), None).dtype == torch.float64
        assert rows_times(torch.ones(0, 3), weight, None).shape == (0, 4)
        assert rows_times(torch.ones(2, 3, device="meta"), weight.to("meta"), None).device.type == "meta"
    followed = weight.requires_grad_()
    rows_times(torch.ones(2, 3), followed, None).sum().backward()
    assert torch.equal(followed.grad, torch.full((4, 3), 2.0))
    assert gradient_times(torch.ones(2, 4), followed).requires_grad
    assert not taken


def test_small_products_go_the_usual_way(taken, monkeypatch):
    monkeypatch.setattr(products, "WORTHWHILE", 5 * 3 * 4)
    x, weight = torch.randn(5, 3), torch.randn(4, 3)
    with torch.no_grad():
        rows_times(x[:4], weight, None)
        gradient_times(torch.randn(4, 4), weight)
        assert not taken
        rows_times(x, weight, None)
        gradient_times(torch.randn(5, 4), weight)
    assert len(taken) == 2


def test_without_onednn_torchs_products_run(monkeypatch):
    monkeypatch.setattr(products, "_onednn", lambda dtype: None)
    x, weight, bias = torch.randn(5, 3), torch.randn(4, 3), torch.randn(4)
    with torch.no_grad():
        assert torch.equal(rows_times(x, weight, bias), F.linear(x, weight, bias))
        assert torch.equal(gradient_times(x, weight.t()), x @ weight.t())
