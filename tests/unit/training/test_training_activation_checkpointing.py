"""Each policy keeps less for the backward pass than the one before, and none changes a bit of the result."""

import pytest
import torch

from cait_dist.models import Cait, create_model
from cait_dist.training.activation_checkpointing import apply_activation_checkpointing

POLICIES = ("none", "attention", "every-2", "block")


def build(policy: str) -> Cait:
    torch.manual_seed(0)
    model = create_model(
        "cait_xxs24_224", image_size=56, patch_size=4, embed_dim=32, num_heads=4, depth=4, num_classes=10
    )
    apply_activation_checkpointing(model, policy)
    return model


def forward_keeping(policy: str) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
    """Bytes kept after the forward pass, the loss, and all gradients."""
    model, kept = build(policy), {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(images).logsumexp(1).mean()
    activations = sum(size for place, size in kept.items() if place not in weights)
    loss.backward()
    return activations, loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.fixture(scope="module")
def results() -> dict[str, tuple[int, torch.Tensor, list[torch.Tensor]]]:
    return {policy: forward_keeping(policy) for policy in POLICIES}


def test_memory_falls_from_policy_to_policy(results: dict[str, tuple[int, torch.Tensor, list[torch.Tensor]]]) -> None:
    kept = {policy: result[0] for policy, result in results.items()}
    print({policy: f"{size / 2**20:.2f} MiB" for policy, size in kept.items()})
    assert kept["block"] < kept["every-2"] < kept["none"]
    assert kept["block"] < kept["attention"] < kept["none"]
    assert kept["block"] < 0.3 * kept["none"]


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_nothing_else_changes(results: dict[str, tuple[int, torch.Tensor, list[torch.Tensor]]], policy: str) -> None:
    _, loss, gradients = results[policy]
    assert torch.equal(loss, results["none"][1])
    assert len(gradients) == len(results["none"][2])
    for ours, reference in zip(gradients, results["none"][2], strict=True):
        assert torch.equal(ours, reference)
