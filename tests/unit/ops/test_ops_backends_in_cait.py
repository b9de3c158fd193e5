"""The whole network equals timm's with every backend of its attention."""

import pytest
import torch
from timm_reference import fill_with_large_values, timm_cait
from torch.utils.checkpoint import checkpoint

from cait_dist.models import Cait, architecture
from cait_dist.ops import available_backends, override_backend

CANCELLED_BY_SOFTMAX = ("proj_l.bias", "attn.k.bias")


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("image_size", [48, 224])
@pytest.mark.parametrize("recompute", [False, True])
def test_logits_and_every_gradient_equal_timms(backend, image_size, recompute):
    arch = architecture("cait_xxs24_224", image_size=image_size, depth=2)
    ours, reference = Cait(arch).double(), timm_cait(arch).double()
    fill_with_large_values(ours)
    reference.load_state_dict(ours.state_dict(), strict=True)
    if recompute:
        for block in ours.blocks:
            block.forward = lambda *args, forward=block.forward: checkpoint(forward, *args, use_reentrant=False)
    torch.manual_seed(1)
    images = torch.randn(2, 3, image_size, image_size, dtype=torch.float64)
    with override_backend(backend):
        logits = ours(images)
        logits.square().sum().backward()
    expected = reference(images)
    expected.square().sum().backward()
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    others = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad.any() or name.endswith(CANCELLED_BY_SOFTMAX), name
        torch.testing.assert_close(parameter.grad, others[name].grad, rtol=1e-9, atol=1e-9, msg=name)
