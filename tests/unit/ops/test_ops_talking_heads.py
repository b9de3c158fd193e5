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
    shapes = [(3, batch, H, N, D), *[(H, H), (H,)] * 2]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def by_definition(qkv, wl, bl, ww, bw, scale: float) -> Tensor:
    q, k, v = qkv
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
    qkv, wl, bl, ww, bw = inputs()
    y = talking_heads_attention(qkv, wl, bl, ww, bw, scale=0.4)
    torch.testing.assert_close(y, talking_heads_attention(qkv, wl, bl + 3, ww, bw, scale=0.4))


def test_identity_mixing_is_plain_attention():
    qkv, *_ = inputs()
    eye, zero = torch.eye(H, dtype=torch.float64), torch.zeros(H, dtype=torch.float64)
    y = talking_heads_attention(qkv, eye, zero, eye, zero, scale=D**-0.5)
    torch.testing.assert_close(y, torch.nn.functional.scaled_dot_product_attention(*qkv))


def test_no_copy_is_needed_for_the_strided_views_of_one_qkv_product():
    _, *mixing = inputs()
    qkv = torch.randn(2, N, 3, H, D, dtype=torch.float64)
    view = qkv.permute(2, 0, 3, 1, 4)
    y = talking_heads_attention(view, *mixing, scale=0.4)
    torch.testing.assert_close(y, talking_heads_attention(view.contiguous(), *mixing, scale=0.4))


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
    qkv = torch.stack((q, q, torch.ones_like(q)))
    y = talking_heads_attention(qkv, eye, zero, eye, zero, scale=1.0)
    torch.testing.assert_close(y, torch.ones_like(q), rtol=0.01, atol=0)


def test_wide_parameters_and_narrow_tokens_mix_in_the_dtype_of_the_tokens():
    """The case of autocast, where the tokens are bf16 and the parameters float32."""
    qkv, *mixing = (t.detach() for t in inputs(torch.float32))
    y = talking_heads_attention(qkv.bfloat16(), *mixing, scale=0.4)
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", available_backends())
def test_dropout_zeroes_entries_of_the_mixed_map_in_training_only(backend):
    qkv, wl, bl, ww, bw = inputs()
    q, k, _ = torch.nn.functional.pad(qkv, (0, N - D))
    qkv = torch.stack((q, k, torch.eye(N, dtype=torch.float64).expand(2, H, N, N)))  # v shows the map itself
    full = talking_heads_attention(qkv, wl, bl, ww, bw, scale=0.4, dropout_p=0.5)
    torch.manual_seed(0)
    dropped = talking_heads_attention(qkv, wl, bl, ww, bw, scale=0.4, dropout_p=0.5, training=True, backend=backend)
    zero = dropped == 0
    assert 0.3 < zero.double().mean() < 0.7
    torch.testing.assert_close(dropped[~zero], 2 * full[~zero])


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (2, H, N, D), r"needs queries, keys and values in one tensor .*, got \(2, 3, 7, 5\)"),
        (0, (2, 2, H, N, D), r"in one tensor \(3, batch"),
        (0, (3, 0, H, N, D), r"at least one sample, .* = \(0, 3, 7, 5\); leave the call out for an empty batch"),
        (1, (H, H + 1), r"with 3 heads, proj_l and proj_w need weights \(3, 3\) and biases \(3,\)"),
        (4, (1,), r"with 3 heads"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(position, shape, message):
    args = inputs()
    args[position] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        talking_heads_attention(*args, scale=0.4)
