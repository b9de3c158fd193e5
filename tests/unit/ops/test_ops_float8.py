"""Products of 8 bits: exact where 8 bits are, near elsewhere, each row by itself; and layers that train with them."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cait_dist.ops import float8_trouble, scaled_linear
from cait_dist.ops.float8_products import float8_gradient_times, float8_rows_times

ROWS, D_IN, D_OUT = 21, 48, 32


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def short_numbers(*shape: int, seed: int) -> Tensor:
    """Of four significant bits, each row of another size."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(-15, 16, shape, generator=generator).double()
    return numbers * 2.0 ** torch.randint(-60, 40, (shape[0], 1), generator=generator)


def error(a: Tensor, exact: Tensor) -> float:
    return float((a.double() - exact).norm() / exact.norm())


def test_numbers_of_four_bits_are_multiplied_exactly_whatever_the_size_of_their_rows():
    x, weight = short_numbers(ROWS, D_IN, seed=1), short_numbers(D_OUT, D_IN, seed=2)
    y = float8_rows_times(x.bfloat16(), weight.bfloat16(), None)
    assert torch.equal(y, (x @ weight.T).float().bfloat16())
    g, columns = short_numbers(ROWS, D_OUT, seed=3), short_numbers(D_IN, D_OUT, seed=4)
    assert torch.equal(float8_gradient_times(g.bfloat16(), columns.T.bfloat16()), (g @ columns.T).float().bfloat16())


def test_the_bias_is_added_to_the_wide_sum():
    x, weight = torch.full((1, 16), 16.0).bfloat16(), torch.ones(16, 16).bfloat16()
    y = float8_rows_times(x, weight, torch.full((16,), 1.5).bfloat16())
    assert y.unique().tolist() == [258.0]  # 257.5 is none of bfloat16's


def test_a_number_is_off_by_a_sixteenth_at_most_and_tiny_ones_by_a_step():
    x = draw(64, D_IN).bfloat16()
    x[:, 1:] *= 2.0 ** -torch.arange(D_IN - 1)  # down to nothing, beside the first
    x[:, 0] = 3
    off = (float8_rows_times(x, torch.eye(D_IN).bfloat16(), None).double() - x.double()).abs()
    normal = x.abs() >= 3 * 2.0**-13
    assert (off <= x.double().abs() / 16)[normal].all()
    assert (off <= 3 * 2.0**-17).logical_or(normal).all()
    assert off[normal].max() > 0
    assert (~normal).any()


def test_a_row_depends_on_no_other():
    x, weight, bias = draw(ROWS, D_IN).bfloat16(), draw(D_OUT, D_IN, seed=1).bfloat16(), draw(D_OUT).bfloat16()
    alone = float8_rows_times(x[3:4], weight, bias)
    company = x.clone()
    company[4:] *= 1e10
    assert torch.equal(float8_rows_times(company, weight, bias)[3:4], alone)
    assert torch.equal(float8_rows_times(x.view(3, 7, D_IN), weight, bias)[0, 3:4], alone)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(bad):
    """Training leaves out a step whose gradient is not finite: so it must see it."""
    x, weight = draw(ROWS, D_IN).bfloat16(), draw(D_OUT, D_IN, seed=1).bfloat16()
    x[5, 7] = bad
    y = float8_rows_times(x, weight, None)
    assert y.isfinite().all(1).tolist() == [row != 5 for row in range(ROWS)]
    weight[2, 9] = bad
    assert not float8_rows_times(x, weight, None)[:, 2].isfinite().any()
    assert not float8_gradient_times(draw(ROWS, D_OUT).bfloat16(), weight)[:, 9].isfinite().any()


def test_a_row_of_zeros_gives_the_bias():
    weight, bias = draw(D_OUT, D_IN).bfloat16(), draw(D_OUT).bfloat16()
    assert torch.equal(float8_rows_times(torch.zeros(2, D_IN).bfloat16(), weight, bias), bias.expand(2, -1))
    assert torch.equal(float8_rows_times(draw(2, D_IN).bfloat16(), weight * 0, bias), bias.expand(2, -1))


def test_tensors_lie_as_a_gpu_wants_them_whatever_they_came_from(monkeypatch):
    """A CPU takes them in any layout: so what would be refused elsewhere is asked here."""
    product, asked = torch._scaled_mm, 0

    def strict(a, b, *, scale_a, scale_b, bias, out_dtype, use_fast_accum):
        nonlocal asked
        asked += 1
        assert a.is_contiguous(), "the first is row-major"
        assert b.t().is_contiguous(), "the second is column-major"
        assert (scale_a.shape, scale_b.shape) == ((len(a), 1), (1, b.shape[1]))
        assert all(scale.is_contiguous() and scale.dtype == torch.float32 for scale in (scale_a, scale_b))
        assert out_dtype == torch.bfloat16
        assert bias is None or bias.dtype == torch.bfloat16
        return product(a, b, scale_a=scale_a, scale_b=scale_b, bias=bias, out_dtype=out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", strict)
    x, weight, bias = draw(ROWS, D_IN).bfloat16(), draw(D_OUT, D_IN, seed=1).bfloat16(), draw(D_OUT).bfloat16()
    for of_x, of_weight in ((x, weight), (x.T.contiguous().T, weight.T.contiguous().T), (x[::2], weight)):
        float8_rows_times(of_x, of_weight, bias)
        float8_gradient_times(of_x @ weight.T, of_weight)
    assert asked == 6


def layer_and_gradients(*, gelu: bool, float8: bool, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Output and gradients by x, W, b and γ, whose largest is a million times its smallest."""
    gamma = torch.logspace(-6, 0, D_OUT, dtype=torch.float64)
    made = draw(3, 40, D_IN), draw(D_OUT, D_IN, seed=1) / D_IN**0.5, draw(D_OUT, seed=2), gamma
    leaves = [t.bfloat16().to(dtype).requires_grad_() for t in made]
    y = scaled_linear(*leaves, gelu=gelu, float8=float8)
    return [y.detach(), *torch.autograd.grad(y, leaves, draw(3, 40, D_OUT, seed=3).bfloat16().to(dtype))]


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("compiled_gelu", [False, True])
def test_a_layer_has_its_output_and_input_gradient_from_8_bits_and_nothing_else(gelu, compiled_gelu, monkeypatch):
    if not compiled_gelu:
        module = sys.modules["cait_dist.ops.scaled_linear"]  # its function has the same name
        monkeypatch.setattr(module, "has_passes_for", lambda x: False)
    exact = layer_and_gradients(gelu=gelu, float8=False, dtype=torch.float64)
    wide, narrow = (layer_and_gradients(gelu=gelu, float8=float8) for float8 in (False, True))
    for name, a, b, reference in zip(("y", "x", "weight", "bias", "gamma"), narrow, wide, exact, strict=True):
        assert a.dtype == torch.bfloat16
        if name in ("y", "x"):
            assert 4 * error(b, reference) < error(a, reference) < 0.06, name
        else:
            assert torch.equal(a, b), name
    for channel in range(D_OUT):  # those of a small γ are no worse off
        assert error(narrow[0][..., channel], exact[0][..., channel]) < 0.06


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_it_stands_beside_bfloat16_alone(dtype):
    x, weight = draw(4, D_IN).to(dtype), draw(D_OUT, D_IN).to(dtype)
    with pytest.raises(TypeError, match="beside bfloat16, not beside"):
        scaled_linear(x, weight, float8=True)


def test_under_autocast_float32_parameters_take_part():
    x, weight = draw(4, D_IN).float(), draw(D_OUT, D_IN).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = scaled_linear(x, weight, float8=True)
    assert torch.equal(y, float8_rows_times(x.bfloat16(), weight.bfloat16(), None))
    assert error(y, F.linear(x, weight).double()) < 0.06


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0)])
def test_old_gpus_are_refused(monkeypatch, capability):
    """A mock: what a GPU says of itself."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    trouble = float8_trouble(torch.device("cuda"))
    assert (trouble is not None and "8.0" in trouble) if capability == (8, 0) else trouble is None


def test_other_devices_than_nvidias_and_cpus_are_refused(monkeypatch):
    assert float8_trouble(torch.device("cpu")) is None
    assert float8_trouble(torch.device("mps"))
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert float8_trouble(torch.device("cuda"))
