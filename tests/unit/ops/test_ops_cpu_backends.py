"""The backends that keep no maps, on a CPU, against eager autograd in float64: output, every gradient, what is kept."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from cait_dist.ops import available_backends, talking_heads_attention
from cait_dist.ops.talking_heads import eager, operator
from cait_dist.ops.talking_heads.blocks import BUFFERS, cut_into_blocks

Attend = Callable[..., Tensor]

NAMES = ("out", "qkv", "proj_l.weight", "proj_l.bias", "proj_w.weight", "proj_w.bias")
# batch, heads, tokens, head width: every number of tokens and heads that a published variant has, and odd ones.
SHAPES = [
    (2, 4, 1, 48), (3, 4, 49, 32), (5, 6, 49, 48), (1, 6, 196, 48), (2, 8, 196, 48),
    (1, 8, 577, 64), (1, 16, 784, 48), (1, 4, 785, 48),
]  # fmt: skip


def tensors(batch: int, heads: int, tokens: int, width: int) -> list[Tensor]:
    """One fused qkv (B, N, 3, H, d), the parameters and a cotangent, in float64."""
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(batch, tokens, 3, heads, width), *[(heads, heads), (heads,)] * 2, (batch, heads, tokens, width)]
    qkv, wl, bl, ww, bw, cotangent = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return [qkv, wl / heads**0.5, bl, ww / heads**0.5, bw / tokens, cotangent]


def results(attend: Attend, inputs: list[Tensor], dtype: torch.dtype, **options: Any) -> list[Tensor]:
    """Output and gradients, in the order of NAMES; q, k and v lie as the model makes them."""
    *leaves, cotangent = (t.to(dtype) for t in inputs)
    leaves = [t.requires_grad_() for t in leaves]
    out = attend(leaves[0].permute(2, 0, 3, 1, 4), *leaves[1:], scale=leaves[0].shape[-1] ** -0.5, **options)
    return [out, *torch.autograd.grad(out, leaves, cotangent)]


def workspace_for(inputs: list[Tensor], dtype: torch.dtype, samples: float | None) -> int | None:
    """A workspace that holds this many samples at once, or a fraction of one; None leaves it to the backend."""
    heads, tokens = inputs[-1].shape[1:3]
    return samples and math.ceil(tokens * samples) * BUFFERS * heads * tokens * dtype.itemsize


@torch.no_grad()
def error(a: Tensor, reference: Tensor) -> float:
    return float((a.double() - reference).norm() / reference.norm().clamp_min(1e-300))


needs_compiler = pytest.mark.skipif("native" not in available_backends(), reason="no C compiler for the row passes")


@pytest.fixture(params=["chunked", pytest.param("native", marks=needs_compiler)])
def backend(request) -> str:
    return request.param


@pytest.fixture
def attend(backend: str) -> Attend:
    return partial(operator.attend, backend=backend)


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def case(request) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and what eager autograd makes of them in float64."""
    inputs = tensors(*request.param)
    return inputs, results(eager.attend, inputs, torch.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("samples_at_once", [None, 2, 1 / 3])
def test_output_and_gradients_equal_eager_in_float64(attend, case, dtype, tolerance, samples_at_once):
    inputs, expected = case
    workspace = workspace_for(inputs, dtype, samples_at_once)
    ours = results(attend, inputs, dtype, workspace_bytes=workspace)
    for name, a, b in zip(NAMES, ours, expected, strict=True):
        assert a.dtype == dtype
        if name == "proj_l.bias":
            assert torch.equal(a, torch.zeros_like(a))
        else:
            assert error(a, b) < tolerance, name


def assert_as_precise(ours: list[Tensor], eagers: list[Tensor], expected: list[Tensor], slack: float = 1.1) -> None:
    """Errors are compared in norm; where it is the norm of a few numbers, chance has a say in it."""
    for name, a, e, b in zip(NAMES, ours, eagers, expected, strict=True):
        if name != "proj_l.bias":
            assert error(a, b) <= (slack if a.numel() > 1000 else 1.4 * slack) * error(e, b), name


@pytest.mark.parametrize("samples_at_once", [None, 1 / 3])
def test_bf16_is_as_near_to_float64_as_eager_bf16(attend, case, samples_at_once):
    inputs, expected = case
    workspace = workspace_for(inputs, torch.bfloat16, samples_at_once)
    ours = results(attend, inputs, torch.bfloat16, workspace_bytes=workspace)
    assert {t.dtype for t in ours} == {torch.bfloat16}
    assert_as_precise(ours, results(eager.attend, inputs, torch.bfloat16), expected)


@pytest.mark.parametrize("workspace", [None, 1])
def test_numerical_gradients(attend, workspace):
    qkv, *mixing, _ = tensors(2, 3, 4, 2)
    inputs = [t.contiguous().requires_grad_() for t in (qkv.permute(2, 0, 3, 1, 4), *mixing)]
    assert torch.autograd.gradcheck(lambda *args: attend(*args, scale=0.7, workspace_bytes=workspace), inputs)


def test_any_layout_is_taken(attend):
    qkv, *mixing, cotangent = tensors(3, 4, 10, 6)
    qkv = qkv.permute(2, 0, 3, 1, 4)
    layouts = [
        lambda t: t,
        Tensor.contiguous,
        lambda t: t.mT.contiguous().mT,
        lambda t: t[..., :1, :, :, :].expand_as(t),
    ]
    for change in layouts:
        outputs = []
        for candidate in (eager.attend, attend):
            leaf = change(qkv).detach().requires_grad_()
            y = candidate(leaf, *mixing, scale=0.4)
            outputs.append([y, *torch.autograd.grad(y, leaf, change(cotangent))])
        for a, b in zip(*outputs, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


def test_the_heads_of_a_token_lie_together(attend):
    """So that the model joins them without a copy."""
    qkv, *mixing, _ = tensors(2, 4, 10, 6)
    y = attend(qkv.permute(2, 0, 3, 1, 4), *mixing, scale=0.4)
    joined = y.transpose(1, 2).reshape(2, 10, 24)
    assert joined.data_ptr() == y.data_ptr()


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backward_inside", [False, True])
def test_autocast_means_narrow_tokens_and_wide_parameters(backend, given, backward_inside):
    """As in eager. Bit for bit what the same attention gives outside autocast, with tokens that are already narrow."""
    inputs = [t.float() for t in tensors(2, 4, 20, 8)]
    leaves = [t.requires_grad_() for t in (inputs[0].to(given), *inputs[1:-1])]
    outputs = {}
    for where in ("eager", "autocast", "outside"):
        with torch.autocast("cpu", torch.bfloat16, enabled=where != "outside"):
            qkv = leaves[0].bfloat16() if where == "outside" else leaves[0]
            y = talking_heads_attention(
                qkv.permute(2, 0, 3, 1, 4), *leaves[1:], scale=8**-0.5, backend="eager" if where == "eager" else backend
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=backward_inside):
                outputs[where] = [y, *torch.autograd.grad(y, leaves, inputs[-1].to(y.dtype))]
    assert all(torch.equal(a, b) for a, b in zip(outputs["autocast"], outputs["outside"], strict=True))
    assert [t.dtype for t in outputs["autocast"]] == [t.dtype for t in outputs["eager"]]
    assert outputs["autocast"][0].dtype == torch.bfloat16
    assert error(outputs["autocast"][1], outputs["eager"][1].double()) < 0.02


def test_a_backward_pass_under_autocast_keeps_the_precision_of_the_forward_pass(attend):
    inputs = tensors(2, 4, 20, 8)
    expected = results(attend, inputs, torch.float32)
    leaves = [t.float().requires_grad_() for t in inputs[:-1]]
    y = attend(leaves[0].permute(2, 0, 3, 1, 4), *leaves[1:], scale=8**-0.5)
    with torch.autocast("cpu", torch.bfloat16):
        gradients = torch.autograd.grad(y, leaves, inputs[-1].float())
    assert all(torch.equal(a, b) for a, b in zip([y, *gradients], expected, strict=True))


def test_recomputed_in_the_backward_pass_it_gives_the_same_bits(attend):
    inputs = tensors(2, 4, 49, 8)
    plain = results(attend, inputs, torch.float32)
    recomputed = results(
        lambda *args, scale: checkpoint(lambda *a: attend(*a, scale=scale), *args, use_reentrant=False),
        inputs,
        torch.float32,
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


P = 0.3


def dropping(attend: Attend) -> Attend:
    """The same, with dropout from the same random numbers each time."""

    def attend_again(*args: Tensor, **options: Any) -> Tensor:
        torch.manual_seed(1)
        return attend(*args, dropout_p=P, **options)

    return attend_again


def factors_of_dropout(attend: Attend, inputs: list[Tensor], **options: Any) -> Tensor:
    """What entries of the map (B, H, N, N) are multiplied with, read off by values that are the unit vectors."""
    qkv, *mixing, _ = inputs
    tokens = qkv.shape[1]
    qkv = torch.nn.functional.pad(qkv, (0, tokens - qkv.shape[-1])).permute(2, 0, 3, 1, 4)
    shown = torch.stack((*qkv[:2], torch.eye(tokens, dtype=qkv.dtype).expand_as(qkv[2])))
    full, dropped = (a(shown, *mixing, scale=1.0, **options) for a in (attend, dropping(attend)))
    return torch.where(dropped == 0, 0.0, dropped / full)


def eager_with(factors: Tensor) -> Attend:
    """The definition, with these entries of the map dropped."""

    def attend(qkv: Tensor, *mixing: Tensor, scale: float) -> Tensor:
        q, k, v = qkv.unbind(0)
        unit = torch.eye(q.shape[2], dtype=q.dtype).expand(*q.shape[:3], -1)
        pad = (0, unit.shape[-1] - q.shape[-1])
        q, k = (torch.nn.functional.pad(t, pad) for t in (q, k))
        return (eager.attend(torch.stack((q, k, unit)), *mixing, scale=scale) * factors) @ v

    return attend


DROPOUT_SHAPE = (3, 4, 48, 8)


@pytest.mark.parametrize("samples_at_once", [None, 2, 1 / 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_dropout_takes_the_same_entries_out_of_both_passes(attend, dtype, tolerance, samples_at_once):
    inputs = tensors(*DROPOUT_SHAPE)
    options = {"workspace_bytes": workspace_for(inputs, dtype, samples_at_once)}
    given = [t.to(dtype) for t in inputs]
    factors = factors_of_dropout(attend, given, **options)
    expected = results(eager_with((factors != 0).double() / (1 - P)), inputs, torch.float64)
    ours = results(dropping(attend), inputs, dtype, **options)
    for name, a, b in zip(NAMES, ours, expected, strict=True):
        if name == "proj_l.bias":
            assert torch.equal(a, torch.zeros_like(a))
        else:
            assert error(a, b) < tolerance, name


def test_dropout_is_by_chance_everywhere(attend):
    inputs = tensors(*DROPOUT_SHAPE)
    for workspace in (None, workspace_for(inputs, torch.float64, 1 / 3)):
        factors = factors_of_dropout(attend, inputs, workspace_bytes=workspace)
        torch.testing.assert_close(factors[factors != 0], torch.full_like(factors[factors != 0], 1 / (1 - P)))
        assert (factors == 0).double().mean() == pytest.approx(P, abs=4 * (P * (1 - P) / factors.numel()) ** 0.5)
        rows = factors.flatten(0, 2)
        assert len(rows.unique(dim=0)) == len(rows), "no two rows have the same entries"


def test_dropout_follows_torchs_random_numbers_and_is_drawn_anew_by_each_call(attend):
    qkv, *mixing, _ = tensors(2, 4, 20, 8)
    qkv = qkv.permute(2, 0, 3, 1, 4)
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append([attend(qkv, *mixing, scale=0.4, dropout_p=P) for _ in range(2)])
    assert not torch.equal(*drawn[0])
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def test_dropout_comes_out_the_same_where_activations_are_computed_again(attend):
    inputs = tensors(2, 4, 49, 8)
    plain = results(dropping(attend), inputs, torch.float32)

    def recomputed(*args: Tensor, scale: float) -> Tensor:
        torch.manual_seed(1)
        run = partial(attend, scale=scale, dropout_p=P)
        return checkpoint(run, *args, use_reentrant=False)

    assert all(torch.equal(a, b) for a, b in zip(plain, results(recomputed, inputs, torch.float32), strict=True))


def test_dropout_breaks_no_graph(attend):
    qkv, *mixing, _ = tensors(2, 4, 20, 8)
    leaf = qkv.permute(2, 0, 3, 1, 4).float().requires_grad_()
    mixing = [t.float() for t in mixing]
    drop = partial(attend, scale=0.4, dropout_p=P)

    def gradient(run: Attend) -> Tensor:
        torch.manual_seed(1)
        return torch.autograd.grad(run(leaf, *mixing).square().sum(), leaf)[0]

    compiled = torch.compile(drop, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradient(compiled), gradient(drop))


def test_a_parameter_that_is_gone_before_the_backward_pass_is_not_missed(attend):
    """ZeRO-3 empties parameters between forward and backward, and fills them again just in time or not at all."""
    qkv, *mixing, cotangent = tensors(2, 4, 10, 6)
    expected = results(attend, [qkv, *mixing, cotangent], torch.float64)
    parameters = [torch.nn.Parameter(t.clone()) for t in mixing]
    y = attend(qkv.permute(2, 0, 3, 1, 4), *parameters, scale=6**-0.5)
    for p in parameters:
        p.data.zero_()
    for a, b in zip(torch.autograd.grad(y, parameters, cotangent), expected[2:], strict=True):
        assert torch.equal(a, b)


def test_on_meta_there_are_shapes_alone(attend):
    qkv = torch.empty(2, 5, 3, 2, 4, device="meta", requires_grad=True)
    mixing = [torch.empty(shape, device="meta") for shape in ((2, 2), (2,)) * 2]
    y = attend(qkv.permute(2, 0, 3, 1, 4), *mixing, scale=0.4)
    assert (y.shape, y.device.type) == ((2, 2, 5, 4), "meta")
    y.sum().backward()
    assert qkv.grad.shape == qkv.shape


def test_differentiating_twice_is_refused(attend):
    qkv, *mixing, _ = tensors(1, 2, 3, 4)
    qkv.requires_grad_()
    y = attend(qkv.permute(2, 0, 3, 1, 4), *mixing, scale=0.4)
    (gradient,) = torch.autograd.grad(y.square().sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def saved_bytes(attend: Attend, inputs: list[Tensor], dtype: torch.dtype) -> int:
    """What autograd keeps for the backward pass, each piece of memory counted once."""
    kept = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    leaves = [t.to(dtype).requires_grad_() for t in inputs[:-1]]
    with saved_tensors_hooks(pack, lambda t: t):
        _alive = attend(leaves[0].permute(2, 0, 3, 1, 4), *leaves[1:], scale=1.0)
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_q_k_and_v_are_all_that_is_kept(attend, dtype):
    batch, heads, tokens, width = 2, 8, 196, 48
    inputs = tensors(batch, heads, tokens, width)
    qkv = 3 * batch * heads * tokens * width * dtype.itemsize
    one_map = batch * heads * tokens**2 * dtype.itemsize
    small = 2 * heads**2 * dtype.itemsize + 4 * heads
    assert saved_bytes(attend, inputs, dtype) == qkv + small
    assert saved_bytes(eager.attend, inputs, dtype) > qkv + 3 * one_map


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("workspace", [1, 2**14, 2**20, 2**40])
def test_blocks_cover_everything_once_within_the_workspace(shape, workspace):
    q = torch.empty(shape, dtype=torch.bfloat16)
    batch, heads, tokens, _ = shape
    blocks = cut_into_blocks(q, workspace)
    seen = torch.zeros(batch, tokens)
    for samples in blocks.samples:
        for rows in blocks.rows:
            seen[samples, rows] += 1
            assert {m.shape for m in blocks.maps(samples, rows)} == {
                (heads * (samples.stop - samples.start), rows.stop - rows.start, tokens)
            }
    assert (seen == 1).all()
    one_row = sum(m.nbytes for m in blocks.maps(slice(0, 1), slice(0, 1)))
    assert sum(m.nbytes for m in blocks.memory) <= max(workspace, one_row)
    assert len(blocks.samples) == 1 or len(blocks.rows) == 1 or len(blocks.samples) == batch
    assert math.prod((len(blocks.samples), len(blocks.rows))) == 1 or workspace < 2**40
