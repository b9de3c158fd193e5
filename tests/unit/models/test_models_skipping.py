"""Dropped branches are left out: same function and gradients as multiplying them by zero, for less work and no harm."""

import itertools
import time
from collections.abc import Iterator

import pytest
import torch
from timm_reference import fill_with_large_values
from torch import Tensor, nn

from cait_dist.models import Cait, create_model
from cait_dist.models.cait import SelfAttentionBlock
from cait_dist.models.residual import add_branch

RATE = 0.3
MASKS = list(itertools.product([False, True], repeat=3))


def tiny_model() -> Cait:
    torch.manual_seed(0)
    model = create_model(
        "cait_xxs24_224",
        image_size=48, embed_dim=24, num_heads=2, depth=3, num_classes=5, drop_path_rate=RATE,
    )  # fmt: skip
    fill_with_large_values(model)
    return model.double()


def tokens(batch: int = 3) -> Tensor:
    return torch.randn(batch, 9, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def scaled_tanh(x: Tensor, scale: Tensor) -> Tensor:
    return scale * x.tanh()


def multiplied_by_zero(block: SelfAttentionBlock, x: Tensor, keep: Tensor) -> Tensor:
    """Stochastic depth as the authors write it: everything is computed, and masked afterwards."""
    factor = keep.double().view(-1, 1, 1) / (1 - RATE)
    x = x + factor * block.gamma_1 * block.attn(block.norm1(x))
    return x + factor * block.gamma_2 * block.mlp(block.norm2(x))


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_output_and_every_gradient_are_those_of_the_masked_form(mask):
    keep = torch.tensor(mask)
    block = tiny_model().blocks[0]
    outputs = []
    for run in (lambda x: block(x, keep, keep), lambda x: multiplied_by_zero(block, x, keep)):
        x = tokens().requires_grad_()
        y = run(x)
        outputs.append([y, *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])])
    for ours, reference in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-11)


def test_the_expectation_over_all_masks_is_the_undropped_branch():
    gamma, x = torch.rand(24, dtype=torch.float64), tokens()
    full = add_branch(x, scaled_tanh, gamma, None, 0.0)
    mean = torch.zeros_like(x)
    for mask in MASKS:
        probability = (1 - RATE) ** sum(mask) * RATE ** (3 - sum(mask))
        mean += probability * add_branch(x, scaled_tanh, gamma, torch.tensor(mask), RATE)
    torch.testing.assert_close(mean, full, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("mask", "computed"), [((True, False, True), [0, 2]), ((False, True, False), [1]), ((True,) * 3, [0, 1, 2])]
)
def test_only_kept_samples_enter_the_branch(mask, computed):
    seen = []
    add_branch(tokens(), lambda x, _: (seen.append(x), x)[1], torch.ones(24), torch.tensor(mask), RATE)
    (entered,) = seen
    assert torch.equal(entered, tokens()[computed])


def test_all_kept_costs_no_copy():
    x, seen = tokens(), []
    add_branch(x, lambda t, _: (seen.append(t), t)[1], torch.ones(24), torch.ones(3, dtype=torch.bool), RATE)
    assert seen[0] is x


@pytest.mark.parametrize("mask", [(True, False, True), (False, False, False)])
def test_what_overflows_in_a_dropped_sample_harms_nobody(mask):
    """Multiplied by zero it would be NaN, in the output and in every gradient."""
    block, keep = tiny_model().blocks[0], torch.tensor(mask)
    x = tokens()
    x[~keep] = 1e308
    x.requires_grad_()
    assert not block(x, None, None).isfinite().all()
    y = block(x, keep, keep)
    assert y.isfinite().all()
    gradients = torch.autograd.grad(y[keep].square().sum() + y[~keep].sum(), [x, *block.parameters()])
    assert all(g.isfinite().all() for g in gradients)
    assert torch.equal(gradients[0][~keep], torch.ones_like(x[~keep]))


def test_a_branch_without_samples_runs_every_layer_once_and_gives_exact_zeros():
    """Where parameters are partitioned, other processes wait for every layer of this one."""
    block, none = tiny_model().blocks[0], torch.zeros(3, dtype=torch.bool)
    ran = []
    for name, module in block.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    y = block(tokens(), none, none)
    assert torch.equal(y, tokens())
    y.square().sum().backward()
    assert sorted(ran) == ["", "attn", "attn.proj", "attn.qkv", "mlp", "mlp.fc1", "mlp.fc2", "norm1", "norm2"]
    for name, parameter in block.named_parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name


@pytest.mark.parametrize("keep", [torch.ones(3), torch.ones(2, dtype=torch.bool), torch.ones(3, 1, dtype=torch.bool)])
def test_only_a_boolean_mask_over_the_samples_is_taken(keep):
    with pytest.raises(ValueError, match=r"boolean mask of shape \(3,\), one entry per sample"):
        add_branch(tokens(), scaled_tanh, torch.ones(24), keep, RATE)


@pytest.mark.parametrize("given", [True, False])
def test_a_mask_on_the_host_makes_nobody_wait_for_the_device(given):
    """Meta tensors have no values: whoever asked the device for one would fail."""
    model = tiny_model().to("meta")
    keep = torch.rand(3, 3, 2) < 0.5 if given else None
    logits = model(torch.empty(3, 3, 48, 48, device="meta"), keep)
    assert logits.shape == (3, 5)
    assert logits.device.type == "meta"


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine would be counted as work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
def test_dropping_three_tenths_saves_at_least_half_of_that_in_time():
    torch.manual_seed(0)
    block = create_model("cait_xxs24_224", depth=1, drop_path_rate=RATE).blocks[0]
    x, keep = torch.randn(10, 196, 192), torch.tensor([True] * 7 + [False] * 3)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _, skipping in itertools.product(range(6), seconds):
        seconds[skipping].append(_processor_time(block, x, keep if skipping else None))
    ratio = min(seconds[True]) / min(seconds[False])
    assert ratio < 0.85, seconds


def _processor_time(block: nn.Module, x: Tensor, keep: Tensor | None) -> float:
    start = time.process_time()
    block(x, keep, keep).sum().backward()
    return time.process_time() - start
