"""Training with products of 8 bits: which layers have them, when, and what is refused."""

import pytest
import torch
from torch import Tensor

from cait_dist.models import Cait, create_model
from cait_dist.models.float8 import Float8Error, unsuitable_widths, use_float8
from cait_dist.models.layers import BranchLinear
from cait_dist.training.activation_checkpointing import apply_activation_checkpointing
from cait_dist.training.compilation import compile_branches

CPU = torch.device("cpu")


def build(**options: object) -> Cait:
    torch.manual_seed(0)
    shape = {"image_size": 28, "patch_size": 4, "embed_dim": 48, "num_heads": 4, "depth": 3, "num_classes": 10}
    return create_model("cait_xxs24_224", **{**shape, "layer_scale_init": 0.5, **options})


def pass_through(model: Cait, keep: Tensor | None = None) -> list[Tensor]:
    """Logits and gradients."""
    images = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images, keep)
    logits.float().square().sum().backward()
    return [logits.detach(), *(p.grad for p in model.parameters())]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest, relative, over logits and gradients together with their own norms."""
    return max(float((x.float() - y.float()).norm() / y.float().norm()) for x, y in zip(a, b, strict=True))


def test_the_four_layers_of_every_self_attention_block_have_them():
    model = build(residual="fixup_adapted", layer_scale_init=None)  # whose layers are of a kind of their own
    use_float8(model, CPU)
    layers = {name for name, layer in model.named_modules() if isinstance(layer, BranchLinear) and layer.float8}
    of_a_block = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert layers == {f"blocks.{n}.{name}" for n in range(3) for name in of_a_block}


def test_they_train_so_and_are_evaluated_without():
    plain, narrow = build(), build()
    use_float8(narrow, CPU)
    a, b = pass_through(narrow), pass_through(plain)
    assert not torch.equal(a[0], b[0])
    assert 1e-3 < distance(a[:1], b[:1]) < 0.2
    images = torch.randn(2, 3, 28, 28)
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(narrow.to(dtype).eval()(images), plain.to(dtype).eval()(images))


@pytest.mark.parametrize("policy", ["attention", "block"])
def test_recomputing_changes_no_bit(policy):
    models = [build(drop_path_rate=0.3) for _ in range(2)]
    apply_activation_checkpointing(models[1], policy)
    keep = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(2)) > 0.3
    for model in models:
        use_float8(model, CPU)
    for a, b in zip(*(pass_through(model, keep) for model in models), strict=True):
        assert torch.equal(a, b)


def test_compiled_branches_have_them_in_one_graph():
    torch._dynamo.reset()
    models = [build() for _ in range(3)]
    for model in models[:2]:
        use_float8(model, CPU)
    compile_branches(models[1], backend="aot_eager")
    plain, compiled, wide = (pass_through(model)[:1] for model in models)
    assert distance(compiled, plain) < min(0.03, distance(compiled, wide) / 2)
    torch._dynamo.reset()


def test_other_widths_are_named_by_the_field_that_decides_them():
    assert unsuitable_widths(build().arch) == {}
    (problem,) = unsuitable_widths(build(mlp_ratio=1.5).arch).items()
    assert problem[0] == "mlp_ratio"
    assert "multiple of 16, and one would be 72" in problem[1]
    assert list(unsuitable_widths(build(embed_dim=36, mlp_ratio=1).arch)) == ["embed_dim", "mlp_ratio"]


def test_a_device_that_has_none_is_refused_before_a_layer_is_told(monkeypatch):
    monkeypatch.setattr("cait_dist.models.float8.float8_trouble", lambda device: "it cannot")
    model = build()
    with pytest.raises(Float8Error, match="it cannot"):
        use_float8(model, CPU)
    assert not any(layer.float8 for layer in model.modules() if isinstance(layer, BranchLinear))
