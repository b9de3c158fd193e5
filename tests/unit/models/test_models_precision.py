"""Which dtype lives where: a wide residual stream, narrow branches, and no contribution of LayerScale lost between."""

import contextlib

import pytest
import torch
from timm_reference import fill_with_large_values
from torch import Tensor, nn

from cait_dist.models import Cait, create_model
from cait_dist.models.layers import BranchLinear, StreamNorm
from cait_dist.models.residual import add_branch

SMALL = {"image_size": 64, "depth": 4, "num_classes": 7, "layer_scale_init": 1e-6}


def small_model(dtype: torch.dtype = torch.float32) -> Cait:
    torch.manual_seed(0)
    return create_model("cait_xxs24_224", **SMALL).to(dtype)


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


def watch_dtypes(model: Cait) -> dict[str, set[torch.dtype]]:
    """Records the dtypes that enter and leave blocks (the stream) and that enter linear layers (the branches)."""
    seen: dict[str, set[torch.dtype]] = {"stream": set(), "branch": set()}

    def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
        tensors = [t for t in (*args, output) if isinstance(t, Tensor)]
        seen["branch" if isinstance(module, nn.Linear) else "stream"] |= {t.dtype for t in tensors}

    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and not m.in_features == m.out_features == 4]
    for module in [*model.blocks, *model.blocks_token_only, *linears]:
        module.register_forward_hook(hook)
    return seen


@pytest.mark.parametrize(
    ("parameters", "autocast", "stream", "branch", "logits"),
    [
        pytest.param(torch.float64, None, torch.float64, {torch.float64}, torch.float64, id="fp64"),
        pytest.param(torch.float32, None, torch.float32, {torch.float32}, torch.float32, id="fp32"),
        pytest.param(torch.bfloat16, None, torch.float32, {torch.bfloat16}, torch.bfloat16, id="bf16"),
        pytest.param(torch.float32, torch.bfloat16, torch.float32, {torch.bfloat16}, torch.bfloat16, id="autocast"),
    ],
)
def test_the_stream_is_wide_and_the_branches_are_narrow(parameters, autocast, stream, branch, logits):
    model = small_model(parameters)
    seen = watch_dtypes(model)
    with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
        output = model(images())
    assert seen["stream"] == {stream}
    assert seen["branch"] == branch
    assert output.dtype == logits
    output.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == parameters for p in model.parameters())
    assert all(p.grad.any() for n, p in model.named_parameters() if not n.endswith("proj_l.bias"))


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float64])
def test_images_of_any_floating_dtype_are_taken(given):
    model = small_model(torch.bfloat16)
    assert torch.equal(model(images(given)), model(images(given).bfloat16()))


@pytest.mark.parametrize("block", ["blocks.1", "blocks_token_only.0"])
def test_a_millionth_of_a_bf16_branch_reaches_the_stream(block):
    """In a bf16 stream, 1e-6 of a branch is below half a unit of the last place and would vanish without trace."""
    updates = {}
    for dtype in (torch.float64, torch.bfloat16):
        module = small_model(dtype).get_submodule(block)
        fill_with_large_values(module)
        nn.init.constant_(module.gamma_1, 1e-6)
        nn.init.constant_(module.gamma_2, 1e-6)
        torch.manual_seed(2)
        x = 0.02 * torch.randn(2, 17, 192)  # the size the stream has in a fresh network
        tokens = (x,) if block.startswith("blocks.") else (x[:, 1:], x[:, :1])
        with torch.no_grad():
            updates[dtype] = module(*(t.to(torch.promote_types(dtype, torch.float32)) for t in tokens)) - tokens[-1]
    wide, narrow = updates[torch.float64], updates[torch.bfloat16].double()
    assert (narrow - wide).norm() < 0.02 * wide.norm()


def test_gradients_of_layer_scale_agree_between_bf16_and_fp32():
    gradients = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = small_model(torch.bfloat16).to(dtype)  # the same, already rounded values in both
        loss = nn.functional.cross_entropy(model(images()).float(), torch.tensor([0, 3, 6]))
        loss.backward()
        gradients[dtype] = {n: p.grad.float() for n, p in model.named_parameters() if "gamma" in n}
    for name, wide in gradients[torch.float32].items():
        narrow = gradients[torch.bfloat16][name]
        assert (narrow - wide).norm() < 0.05 * wide.norm(), name


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_layer_scale_meets_the_weights_in_the_dtype_of_the_stream(rate):
    """The product of two bf16 numbers fits float32 exactly: it is rounded once, when all factors are in it."""
    torch.manual_seed(0)
    layer, gamma = BranchLinear(8, 8).bfloat16(), torch.rand(8).bfloat16().requires_grad_()
    x, keep = torch.eye(8).expand(2, -1, -1), torch.tensor([True, False])
    layer.bias.detach().zero_()
    y = add_branch(
        torch.zeros(2, 8, 8),
        lambda t, scale: layer(x[: len(t)].bfloat16(), scale=scale),
        gamma,
        keep if rate else None,
        rate,
    )
    expected = (gamma.float() / (1 - rate))[:, None] * layer.weight.float()
    assert torch.equal(y[0], expected.bfloat16().float().T)


def test_the_norm_computes_in_the_dtype_of_the_stream():
    """An offset of 256 leaves a bf16 number no digits for a spread of 0.01; float32 has them."""
    norm = StreamNorm(192).bfloat16()
    torch.manual_seed(0)
    spread = torch.randn(5, 192)
    y = norm(256 + 0.01 * spread)
    assert y.dtype == torch.bfloat16
    expected = nn.functional.layer_norm(spread, (192,))
    assert (y.float() - expected).abs().max() < 0.05
