"""The numbers of a health check are those one gets by looking at every gradient and weight."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cait_dist.models import create_model
from cait_dist.models.branches import RESIDUALS
from cait_dist.training.watching.health import STAGES, HealthCheck
from cait_dist.training.zero_partition import ZeroPartition

BETA = 0.8


SIZES = {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2}


@pytest.fixture
def engine() -> Any:
    """What the check asks of an engine, around torch's own AdamW; DeepSpeed's are in test_step_equivalence."""
    return engine_of(layer_scale_init=0.5)


def engine_of(**design: Any) -> Any:
    torch.manual_seed(0)
    model = create_model("cait_xxs24_224", num_classes=5, **SIZES, **design)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(BETA, 0.99), weight_decay=0.1)
    return SimpleNamespace(
        module=model, basic_optimizer=optimizer, optimizer=optimizer, zero_optimization_stage=lambda: 0
    )


class Alone:
    """A world of one rank."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def largest(self, value: float) -> float:
        return value


@pytest.fixture
def measured(engine: Any) -> Iterator[tuple[dict[str, float], dict[str, Any]]]:
    """The third step's health, and what is known of that step."""
    check = HealthCheck(engine, ZeroPartition(engine, 0, 1), Alone())  # type: ignore[arg-type]
    for step in range(3):
        images = torch.randn((4, 3, 16, 16), generator=torch.Generator().manual_seed(step))
        before = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
        if step == 2:
            check.begin()
            logits = largest_logit(engine.module, images[:1])
        engine.module(images).square().sum().backward()
        gradients = {name: p.grad.clone() for name, p in engine.module.named_parameters()}
        engine.basic_optimizer.step()
        engine.basic_optimizer.zero_grad()
    after = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    yield check.end(), {"before": before, "after": after, "gradients": gradients, "logit": logits}
    assert not any(module._forward_hooks for module in engine.module.modules()), "nothing stays behind"


def largest_logit(model: Any, image: torch.Tensor) -> float:
    """By going through the blocks by hand."""
    found = []
    with torch.no_grad():
        x = model.patch_embed(image)
        x = (x if x.dim() == 3 else x.flatten(2).transpose(1, 2)) + model.pos_embed
        for block in model.blocks:
            normalised = block.norm1(x)
            q, k, _ = block.attn.qkv(normalised).view(1, x.shape[1], 3, 2, -1).permute(2, 0, 3, 1, 4)
            found.append(float((q @ k.transpose(-1, -2) * 12**-0.5).abs().max()))
            x = block(x, None)
    return max(found)


def norm(tensors: dict[str, torch.Tensor], stage: str) -> float:
    begins = {"self_attention": "blocks.", "class_attention": "blocks_token_only."}
    ours = begins.get(stage)
    chosen = [t for name, t in tensors.items() if (name.startswith(ours) if ours else not name.startswith("blocks"))]
    assert chosen
    return math.sqrt(sum(float(t.double().square().sum()) for t in chosen))


@pytest.mark.parametrize("stage", STAGES)
def test_norms_of_each_stage(measured: tuple[dict[str, float], dict[str, Any]], stage: str) -> None:
    values, known = measured
    update = {name: known["after"][name] - known["before"][name] for name in known["after"]}
    assert values[f"health/grad_norm/{stage}"] == pytest.approx(norm(known["gradients"], stage), rel=1e-4)
    assert values[f"health/param_norm/{stage}"] == pytest.approx(norm(known["after"], stage), rel=1e-6)
    assert values[f"health/update_norm/{stage}"] == pytest.approx(norm(update, stage), rel=1e-5)


def test_layer_scale_is_the_mean_magnitude(measured: tuple[dict[str, float], dict[str, Any]]) -> None:
    values, known = measured
    for stage, begin in (("self_attention", "blocks."), ("class_attention", "blocks_token_only.")):
        gammas = [t for name, t in known["after"].items() if name.startswith(begin) and "gamma_" in name]
        assert values[f"health/layer_scale/{stage}"] == pytest.approx(float(torch.cat(gammas).abs().mean()), rel=1e-6)


@pytest.mark.parametrize("residual", [name for name, branch in RESIDUALS.items() if branch.scale != "channel"])
def test_where_branches_have_one_scalar_each_it_is_that_of_the_scalars(residual: str) -> None:
    engine = engine_of(residual=residual, **({"layer_scale_init": 0.5} if residual == "scalar" else {}))
    scalars = {name: p for name, p in engine.module.named_parameters() if ".alpha_" in name}
    with torch.no_grad():
        for number, scalar in enumerate(scalars.values(), 1):
            scalar.fill_((-1) ** number * number)
    check = HealthCheck(engine, ZeroPartition(engine, 0, 1), Alone())  # type: ignore[arg-type]
    check.begin()
    values = check.end()
    for stage, begin in (("self_attention", "blocks."), ("class_attention", "blocks_token_only.")):
        mine = [float(p.detach().abs()) for name, p in scalars.items() if name.startswith(begin)]
        assert len(mine) == {"none": 0}.get(RESIDUALS[residual].scale, 6 if stage == "self_attention" else 4)
        assert values[f"health/layer_scale/{stage}"] == pytest.approx(sum(mine) / max(len(mine), 1))


def test_the_largest_attention_logit(measured: tuple[dict[str, float], dict[str, Any]]) -> None:
    values, known = measured
    assert values["health/max_attention_logit"] == pytest.approx(known["logit"], rel=1e-5)


def test_there_are_few_of_them(measured: tuple[dict[str, float], dict[str, Any]]) -> None:
    assert len(measured[0]) == 12
