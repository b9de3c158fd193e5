"""Talking-heads attention, by every backend, against its definition written out with one loop over heads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cait_dist.ops import available_backends, override_backend, talking_heads_attention

H, N, D = 3, 7, 5


@pytest.fixture(autouse=True, params=available_backends())
def backend(request) -> Iterator[str]:
    with override_backend(request.param):
        yield request.param


def inputs(dtype: torch.dtype = torch.float64, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, H, N, D)] * 3 + [(H, H), (H,)] * 2
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def by_definition(q, k, v, wl, bl, ww, bw, scale: float) -> Tensor:
    logits = [scale * torch.einsum("bnd,bmd->bnm", q[:, h], k[:, h]) for h in range(H)]
    mixed = [sum(wl[g, h] * logits[h] for h in range(H)) + bl[g] for g in range(H)]
    weights = [m.exp() / m.exp().sum(-1, keepdim=True) for m in mixed]
    maps = [sum(ww[o, g] * weights[g] for g in range(H)) + bw[o] for o in range(H)]
    return torch.stack([maps[o] @ v[:, o] for o in range(H)], dim=1)


def test_output_and_gradients_follow_the_definition():
    ours, reference = inputs(), inputs()
    y, expected = talking_heads_attention(*ours, scale=0.4), by_definition(*reference, scale=0.4)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(y)
    y.backward(cotangent)
    expected.backward(cotangent)
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-11, atol=1e-11)


def test_numerical_gradients():
    assert torch.autograd.gradcheck(lambda *args: talking_heads_attention(*args, scale=0.4), inputs(batch=1))


def test_the_bias_of_the_logits_has_no_effect():
    q, k, v, wl, bl, ww, bw = inputs()
    y = talking_heads_attention(q, k, v, wl, bl, ww, bw, scale=0.4)
    torch.testing.assert_close(y, talking_heads_attention(q, k, v, wl, bl + 3, ww, bw, scale=0.4))


def test_identity_mixing_is_plain_attention():
    q, k, v, *_ = inputs()
    eye, zero = torch.eye(H, dtype=torch.float64), torch.zeros(H, dtype=torch.float64)
    y = talking_heads_attention(q, k, v, eye, zero, eye, zero, scale=D**-0.5)
    torch.testing.assert_close(y, torch.nn.functional.scaled_dot_product_attention(q, k, v))


def test_no_copy_is_needed_for_the_strided_views_of_one_qkv_product():
    _, _, _, *mixing = inputs()
    qkv = torch.randn(2, N, 3, H, D, dtype=torch.float64)
    views = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    y = talking_heads_attention(*views, *mixing, scale=0.4)
    torch.testing.assert_close(y, talking_heads_attention(*(t.contiguous() for t in views), *mixing, scale=0.4))


def test_narrow_inputs_give_narrow_outputs_near_the_wide_result():
    wide = talking_heads_attention(*inputs(), scale=0.4)
    narrow = talking_heads_attention(*inputs(torch.bfloat16), scale=0.4)
    assert narrow.dtype == torch.bfloat16
    assert (narrow.double() - wide).norm() < 0.02 * wide.norm()


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_softmax_sums_in_float32_at_least(backend, narrow):
    """4096 equal weights: a bf16 sum would stop at 256, a float16 sum at 2048, and all weights come out too large."""
    if backend == "native" and narrow == torch.float16:
        pytest.skip("native has no float16")
    q = torch.zeros(1, 2, 4096, 1, dtype=narrow)
    eye, zero = torch.eye(2), torch.zeros(2)
    y = talking_heads_attention(q[:, :, :1].expand_as(q), q, torch.ones_like(q), eye, zero, eye, zero, scale=1.0)
    torch.testing.assert_close(y, torch.ones_like(q), rtol=0.01, atol=0)


def test_wide_parameters_and_narrow_tokens_mix_in_the_dtype_of_the_tokens():
    """The case of autocast, where the tokens are bf16 and the parameters float32."""
    q, k, v, *mixing = (t.detach() for t in inputs(torch.float32))
    y = talking_heads_attention(*(t.bfloat16() for t in (q, k, v)), *mixing, scale=0.4)
    assert y.dtype == torch.bfloat16


def test_dropout_zeroes_entries_of_the_mixed_map_in_training_only():
    q, k, _, wl, bl, ww, bw = inputs()
    v = torch.eye(N, dtype=torch.float64).expand(2, H, N, N)  # shows the map itself
    q, k = torch.nn.functional.pad(q, (0, N - D)), torch.nn.functional.pad(k, (0, N - D))
    full = talking_heads_attention(q, k, v, wl, bl, ww, bw, scale=0.4, dropout_p=0.5)
    torch.manual_seed(0)
    dropped = talking_heads_attention(q, k, v, wl, bl, ww, bw, scale=0.4, dropout_p=0.5, training=True, backend="eager")
    zero = dropped == 0
    assert 0.3 < zero.double().mean() < 0.7
    torch.testing.assert_close(dropped[~zero], 2 * full[~zero])


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (1, (2, H, N + 1, D), r"needs q, k and v of one shape"),
        (slice(3), (0, H, N, D), r"at least one sample, .* = \(0, 3, 7, 5\); leave the call out for an empty batch"),
        (3, (H, H + 1), r"with 3 heads, proj_l and proj_w need weights \(3, 3\) and biases \(3,\)"),
        (6, (1,), r"with 3 heads"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(position, shape, message):
    args = inputs()
    positions = range(7)[position] if isinstance(position, slice) else [position]
    for i in positions:
        args[i] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        talking_heads_attention(*args, scale=0.4)


def test_tokens_of_several_dtypes_are_refused():
    q, k, v, *mixing = inputs()
    with pytest.raises(ValueError, match=r"q, k and v of one dtype, got torch.float64, torch.float64, torch.float32"):
        talking_heads_attention(q, k, v.float(), *mixing, scale=0.4)
