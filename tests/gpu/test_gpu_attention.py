"""The fused attention on a real GPU: tensor cores, real bf16 rounding, every published size. Not yet run on any GPU.

Needs nothing but torch, Triton and pytest.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cait_dist.ops import available_backends, choose_backend, talking_heads_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "ops"))
from test_ops_cpu_backends import NAMES, assert_as_precise, error, tensors

pytestmark = pytest.mark.skipif(
    "fused" not in available_backends("cuda"),
    reason="no Nvidia GPU of compute capability 8.0 or newer with Triton on this machine",
)

SIZES = [
    (batch, heads, tokens, width)
    for tokens, batch in [(1, 3), (49, 5), (196, 4), (577, 2), (784, 3), (785, 1)]
    for heads, width in [(4, 48), (6, 48), (8, 32), (16, 48), (16, 64)]
]


def results(backend: str, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients on the GPU, in the order of NAMES, from the strided views that the model makes."""
    *leaves, cotangent = (t.to("cuda", dtype) for t in inputs)
    leaves = [t.requires_grad_() for t in leaves]
    qkv = leaves[0].permute(2, 0, 3, 1, 4)
    out = talking_heads_attention(qkv, *leaves[1:], scale=qkv.shape[-1] ** -0.5, backend=backend)
    return [out, *torch.autograd.grad(out, leaves, cotangent)]


@pytest.fixture(scope="module", params=SIZES, ids=str)
def case(request: pytest.FixtureRequest) -> tuple[list[Tensor], list[Tensor]]:
    inputs = tensors(*request.param)
    return inputs, results("eager", inputs, torch.float64)


def test_float32_equals_eager_in_float64(case: tuple[list[Tensor], list[Tensor]]) -> None:
    inputs, expected = case
    for name, a, b in zip(NAMES, results("fused", inputs, torch.float32), expected, strict=True):
        if name == "proj_l.bias":
            assert torch.equal(a, torch.zeros_like(a))
        else:
            assert error(a, b) < 1e-5, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_it_is_as_near_to_float64_as_eager_is(
    case: tuple[list[Tensor], list[Tensor]], dtype: torch.dtype
) -> None:
    inputs, expected = case
    assert_as_precise(results("fused", inputs, dtype), results("eager", inputs, dtype), expected)


def test_dropout_takes_the_same_entries_out_of_both_passes_as_block_by_block() -> None:
    *leaves, cotangent = (t.to("cuda", torch.float32) for t in tensors(3, 4, 196, 48))
    leaves = [t.requires_grad_() for t in leaves]
    found = {}
    for backend in ("fused", "chunked"):
        torch.manual_seed(1)
        qkv, mixing = leaves[0].permute(2, 0, 3, 1, 4), leaves[1:]
        y = talking_heads_attention(qkv, *mixing, scale=0.1, dropout_p=0.3, training=True, backend=backend)
        found[backend] = [y, *torch.autograd.grad(y, leaves, cotangent)]
    for name, a, b in zip(NAMES, *found.values(), strict=True):
        assert torch.equal(a, b) if name == "proj_l.bias" else error(a, b.double()) < 1e-5, name


def test_two_calls_give_the_same_bits() -> None:
    inputs = tensors(6, 16, 196, 48)
    for a, b in zip(results("fused", inputs, torch.bfloat16), results("fused", inputs, torch.bfloat16), strict=True):
        assert torch.equal(a, b)


def test_published_resolutions_choose_it() -> None:
    for tokens in (196, 576, 784):
        assert choose_backend("cuda", torch.bfloat16, heads=16, tokens=tokens) == "fused"


def test_only_q_k_v_and_a_bounded_workspace_take_memory() -> None:
    batch, heads, tokens, width = 96, 16, 784, 48
    qkv = torch.randn(batch, tokens, 3, heads, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    mixing = [torch.randn(shape, device="cuda") / heads for shape in [(heads, heads), (heads,)] * 2]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = talking_heads_attention(qkv.permute(2, 0, 3, 1, 4), *mixing, scale=width**-0.5, backend="fused")
    kept = torch.cuda.memory_allocated() - before
    assert kept <= out.nbytes + 2**20
    out.sum().backward()
    one_map = batch * heads * tokens**2 * 2
    assert torch.cuda.max_memory_allocated() - before < 1.2 * (512 * 2**20 + 8 * out.nbytes) < one_map
