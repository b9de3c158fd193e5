"""The linear layer that ends a branch against the composition it stands for: output, gradients, and what it keeps."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from cait_dist.ops import scaled_linear

Layer = Callable[..., Tensor]
D_IN, D_OUT = 24, 40
NAMES = ("y", "x", "weight", "bias", "scale")
CASES = list(itertools.product([False, True], [None, 1, D_OUT], [False, True]))
every_case = pytest.mark.parametrize(("gelu", "scale", "bias"), CASES)


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, *, gelu: bool) -> Tensor:
    """The definition."""
    y = F.linear(F.gelu(x) if gelu else x, weight, bias)
    return y if scale is None else scale.to(torch.promote_types(y.dtype, torch.float32)) * y


def tensors(scale: int | None, bias: bool, tokens: int = 300) -> list[Tensor | None]:
    """x, W, b, γ and the output's cotangent, in float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, tokens, D_IN), (D_OUT, D_IN), (D_OUT,) if bias else None, (scale,) if scale else None]
    made = [s and torch.randn(s, generator=generator, dtype=torch.float64) for s in (*shapes, (3, tokens, D_OUT))]
    made[1] = made[1] / D_IN**0.5
    return made


def results(layer: Layer, inputs: list[Tensor | None], dtype: torch.dtype, *, gelu: bool) -> list[Tensor | None]:
    """Output and gradients, in the order of NAMES."""
    *leaves, cotangent = (None if t is None else t.to(dtype) for t in inputs)
    leaves = [t if t is None else t.requires_grad_() for t in leaves]
    y = layer(*leaves, gelu=gelu)
    gradients = iter(torch.autograd.grad(y, [t for t in leaves if t is not None], cotangent.to(y.dtype)))
    return [y.detach(), *(None if t is None else next(gradients) for t in leaves)]


@torch.no_grad()
def error(a: Tensor, reference: Tensor) -> float:
    return float((a.double() - reference).norm() / reference.norm())


def compare(ours: list[Tensor | None], expected: list[Tensor | None], tolerance: float) -> None:
    for name, a, b in zip(NAMES, ours, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or error(a, b) < tolerance, name


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_output_and_gradients_are_those_of_the_composition(gelu, scale, bias, dtype, tolerance):
    inputs = tensors(scale, bias)
    ours = results(scaled_linear, inputs, dtype, gelu=gelu)
    assert {t.dtype for t in ours if t is not None} == {dtype}
    compare(ours, results(plain, inputs, torch.float64, gelu=gelu), tolerance)


@every_case
def test_numerical_gradients(gelu, scale, bias):
    leaves = [t if t is None else t.requires_grad_() for t in tensors(scale, bias, tokens=2)[:-1]]
    assert torch.autograd.gradcheck(lambda *args: scaled_linear(*args, gelu=gelu), leaves)
    assert torch.autograd.gradgradcheck(lambda *args: scaled_linear(*args, gelu=gelu), leaves)


def autocast(layer: Layer) -> Layer:
    def run(x: Tensor, *parameters: Tensor | None, gelu: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x, *parameters, gelu=gelu)

    return run


@every_case
@pytest.mark.parametrize("kind", ["bf16", "autocast"])
def test_bf16_is_as_near_to_float64_as_the_composition(gelu, scale, bias, kind):
    change, dtype = (autocast, torch.float32) if kind == "autocast" else (lambda layer: layer, torch.bfloat16)
    inputs = [None if t is None else t.bfloat16().double() for t in tensors(scale, bias)]
    expected = results(plain, inputs, torch.float64, gelu=gelu)
    ours, theirs = (results(change(layer), inputs, dtype, gelu=gelu) for layer in (scaled_linear, plain))
    assert ours[0].dtype == torch.bfloat16
    for name, a, b, exact in zip(NAMES, ours, theirs, expected, strict=True):
        if a is not None:
            assert name == "y" or a.dtype == dtype
            # Our output is narrow where the composition's is wide, and of few numbers chance decides the rounding.
            assert error(a, exact) <= max(1.5 * error(b, exact), 2**-8 if a.numel() > D_OUT else 2**-7), name


@pytest.mark.parametrize("autocasting", [False, True])
def test_a_scale_of_a_millionth_does_not_vanish_in_float16(autocasting):
    """As a factor of a weight it would: the smallest number of float16 is 6e-8."""
    inputs = tensors(D_OUT, bias=True)
    inputs[3] = torch.full_like(inputs[3], 1e-6)
    x, weight, bias = (t.to(torch.float32 if autocasting else torch.float16) for t in inputs[:3])
    scale = inputs[3].float()
    with torch.autocast("cpu", torch.float16, enabled=autocasting):
        y = scaled_linear(x, weight, bias, scale, gelu=True)
    assert y.dtype == torch.float32
    assert error(y, plain(*inputs[:-1], gelu=True)) < 2e-3


@pytest.mark.parametrize("scale", [1, D_OUT])
def test_the_scale_meets_the_weights_in_float32_and_is_rounded_once(scale):
    _, weight, _, gamma, _ = (t.float() for t in tensors(scale, bias=True))
    weight = weight.bfloat16()
    y = scaled_linear(torch.eye(D_IN).bfloat16(), weight, None, gamma)
    assert torch.equal(y, (gamma[:, None] * weight.float()).bfloat16().T)


def test_a_gradient_of_the_scale_is_summed_in_float32():
    """Two thousand and one: bf16 counts to 256."""
    ones = torch.ones(1, 2001, dtype=torch.bfloat16)
    weight, bias = torch.zeros(1, 1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16)
    scale = torch.ones(1, requires_grad=True)
    scaled_linear(ones.T, weight, bias, scale).backward(ones.T)
    assert scale.grad.item() == 2001


@pytest.mark.parametrize("gelu", [False, True])
def test_any_layout_is_taken(gelu):
    inputs = tensors(D_OUT, bias=True, tokens=4)
    expected = results(plain, inputs, torch.float64, gelu=gelu)
    for change in (lambda t: t.mT.contiguous().mT, lambda t: t.transpose(0, 1).contiguous().transpose(0, 1)):
        changed = [change(t) if t.ndim == 3 else t.T.contiguous().T for t in inputs]
        compare(results(scaled_linear, changed, torch.float64, gelu=gelu), expected, 1e-12)
    x = inputs[0][0, 0]
    torch.testing.assert_close(
        scaled_linear(x, *inputs[1:4], gelu=gelu), plain(x, *inputs[1:4], gelu=gelu), rtol=1e-12, atol=1e-12
    )


def kept(layer: Layer, leaves: list[Tensor | None], **options: bool) -> list[Tensor]:
    found: list[Tensor] = []
    with saved_tensors_hooks(lambda t: (found.append(t), t)[1], lambda t: t):
        layer(*leaves, **options)
    return found


@pytest.mark.parametrize(
    ("gelu", "scale"), [(True, D_OUT), (True, 1), (True, None), (False, D_OUT), (False, 1), (False, None)]
)
def test_only_the_input_and_the_parameters_are_kept_in_the_dtype_of_the_product(gelu, scale):
    leaves = [t if t is None else t.float().requires_grad_() for t in tensors(scale, bias=True)[:-1]]
    parameters = [t for t in leaves[1:] if t is not None]
    for layer, size in ((scaled_linear, 4), (autocast(scaled_linear), 2)):
        found = kept(layer, leaves, gelu=gelu)
        for parameter in parameters:  # themselves, not copies: a partitioned one is filled again in place
            assert any(t is parameter for t in found)
        others = [t for t in found if not any(t is p for p in parameters)]
        assert [t.nbytes for t in others] == [size * leaves[0].numel()]


@pytest.mark.parametrize("without", range(4))
def test_any_gradient_may_not_be_asked_for(without):
    leaves = [t.requires_grad_() for t in tensors(D_OUT, bias=True)[:-1]]
    leaves[without].requires_grad_(False)
    asked = [t for t in leaves if t.requires_grad]
    y, expected = (layer(*leaves, gelu=True) for layer in (scaled_linear, plain))
    cotangent = torch.ones_like(y)
    for a, b in zip(*(torch.autograd.grad(t, asked, cotangent) for t in (y, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_the_backward_pass_may_run_inside_autocast():
    inputs = tensors(D_OUT, bias=True)
    *leaves, cotangent = (t.float() for t in inputs)
    leaves = [t.requires_grad_() for t in leaves]
    y = scaled_linear(*leaves, gelu=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = torch.autograd.grad(y, leaves, cotangent)
    compare([y, *ours], results(plain, inputs, torch.float64, gelu=True), 1e-5)


def test_one_graph_without_a_break():
    inputs = tensors(D_OUT, bias=True)
    torch._dynamo.reset()
    compiled = torch.compile(scaled_linear, fullgraph=True, backend="aot_eager")
    compare(
        results(compiled, inputs, torch.float64, gelu=True), results(plain, inputs, torch.float64, gelu=True), 1e-12
    )


def test_two_dtypes_are_refused_as_torch_refuses_them():
    with pytest.raises(TypeError, match=r"in torch\.float32 takes no input in torch\.bfloat16"):
        scaled_linear(torch.ones(2, 3).bfloat16(), torch.ones(4, 3), None, torch.ones(4))
