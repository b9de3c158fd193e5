"""Our CaiT computes what timm's computes: logits, features and the gradient of every parameter, in float64."""

import pytest
import torch
from timm_reference import fill_with_large_values, import_timm_cait, timm_cait
from torch import Tensor, nn

from cait_dist.models import Cait, architecture
from cait_dist.models.cait import ClassAttentionBlock, SelfAttentionBlock

TOLERANCE = 1e-10
# A softmax does not see what shifts a whole row: these have no gradient. All others must be really tested.
CANCELLED_BY_SOFTMAX = ("proj_l.bias", "attn.k.bias")

NETWORKS = {
    "xxs24_224": ("cait_xxs24_224", {"depth": 2}),
    "s24_224": ("cait_s24_224", {"depth": 2}),
    # A shape no variant has: odd grid, one channel, other ratio, three class-attention blocks, head width 5.
    "odd_shape": (
        "cait_xxs24_224",
        {
            "image_size": 21, "patch_size": 7, "in_chans": 1, "num_classes": 3, "embed_dim": 15, "num_heads": 3,
            "depth": 3, "depth_token_only": 3, "mlp_ratio": 2.5,
        },
    ),
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def pair(request) -> tuple[Cait, nn.Module]:
    """Ours and timm's, in training mode, with the same parameters."""
    name, overrides = NETWORKS[request.param]
    arch = architecture(name, **overrides)
    ours, reference = Cait(arch).double(), timm_cait(arch).double()
    fill_with_large_values(ours)
    reference.load_state_dict(ours.state_dict(), strict=True)
    return ours, reference


def assert_equal(ours: Tensor, reference: Tensor, what: str) -> None:
    torch.testing.assert_close(ours, reference, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda text: f"{what}: {text}")


def random_images(model: Cait, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, *model.patch_embed.image_shape, dtype=torch.float64)


def assert_same_gradients(ours: nn.Module, reference: nn.Module) -> None:
    expected = dict(reference.named_parameters())
    assert {name for name, _ in ours.named_parameters()} == set(expected)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert_equal(parameter.grad, expected[name].grad, name)


def test_logits_and_every_gradient_equal_timms(pair):
    ours, reference = pair
    images = random_images(ours)
    logits, expected = ours(images), reference(images)
    assert_equal(logits, expected, "logits")
    cotangent = torch.randn_like(logits)
    logits.backward(cotangent)
    expected.backward(cotangent)
    assert_same_gradients(ours, reference)
    weak = {name for name, parameter in ours.named_parameters() if parameter.grad.abs().max() < 1e-3}
    assert weak == {name for name in reference.state_dict() if name.endswith(CANCELLED_BY_SOFTMAX)}


def test_features_equal_timms_and_logits_come_from_the_class_token(pair):
    ours, reference = pair
    images = random_images(ours)
    with torch.no_grad():
        features = ours.forward_features(images)
        assert_equal(features, reference.forward_features(images), "features")
        assert_equal(ours.head(features[:, 0]), ours(images), "logits")


def test_state_dicts_load_strictly_both_ways(pair):
    ours, reference = pair
    shapes = {name: t.shape for name, t in ours.state_dict().items()}
    assert shapes == {name: t.shape for name, t in reference.state_dict().items()}
    fill_with_large_values(reference, seed=2)
    ours.load_state_dict(reference.state_dict(), strict=True)


def test_an_m48_block_at_448_equals_timms():
    arch = architecture("cait_m48_448")
    ours = SelfAttentionBlock(arch).double()
    reference = import_timm_cait().LayerScaleBlock(768, 16, qkv_bias=True, norm_layer=_norm).double()
    fill_with_large_values(ours)
    reference.load_state_dict(ours.state_dict(), strict=True)
    torch.manual_seed(1)
    x = torch.randn(1, 784, 768, dtype=torch.float64, requires_grad=True)
    x_reference = x.detach().clone().requires_grad_()
    y, expected = ours(x), reference(x_reference)
    assert_equal(y, expected, "output")
    cotangent = torch.randn_like(y)
    y.backward(cotangent)
    expected.backward(cotangent)
    assert_equal(x.grad, x_reference.grad, "input gradient")
    assert_same_gradients(ours, reference)


def test_an_m48_class_attention_block_equals_timms():
    ours = ClassAttentionBlock(architecture("cait_m48_448")).double()
    reference = import_timm_cait().LayerScaleBlockClassAttn(768, 16, qkv_bias=True, norm_layer=_norm).double()
    fill_with_large_values(ours)
    reference.load_state_dict(ours.state_dict(), strict=True)
    torch.manual_seed(1)
    patches, cls = torch.randn(2, 784, 768, dtype=torch.float64), torch.randn(2, 1, 768, dtype=torch.float64)
    y, expected = ours(patches, cls), reference(patches, cls)
    assert_equal(y, expected, "class token")
    y.square().sum().backward()
    expected.square().sum().backward()
    assert_same_gradients(ours, reference)


def _norm(dim: int, **where) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6, **where)
