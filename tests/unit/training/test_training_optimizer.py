"""Which parameters are decayed, which learn at which rate, and what one update does."""

import pytest
import torch
from pydantic import ValidationError

from cait_dist.config.optimizer import OptimizerConfig
from cait_dist.models import Cait, architecture, create_model, layer_of, num_layers
from cait_dist.training.optimizer import applied_gradient, build_optimizer, parameter_groups, set_learning_rate

SMALL = {"image_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 3, "num_heads": 2, "num_classes": 4}


@pytest.fixture
def model() -> Cait:
    torch.manual_seed(0)
    return create_model("cait_xxs24_224", **SMALL)


def scales(model: Cait, config: OptimizerConfig) -> dict[str, float]:
    """Factor of the learning rate by parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["lr_scale"] for group in parameter_groups(model, config) for p in group["params"]}


def test_without_layer_decay_there_are_two_groups_that_learn_alike(model: Cait) -> None:
    decay, no_decay = parameter_groups(model, OptimizerConfig(weight_decay=0.3))
    assert (decay["name"], decay["weight_decay"], decay["lr_scale"]) == ("decay", 0.3, 1.0)
    assert (no_decay["name"], no_decay["weight_decay"], no_decay["lr_scale"]) == ("no_decay", 0.0, 1.0)
    assert {id(p) for p in [*decay["params"], *no_decay["params"]]} == {id(p) for p in model.parameters()}


def test_layers_count_from_the_image_to_the_head() -> None:
    arch = architecture("cait_xxs24_224", **SMALL)
    expected = {
        "patch_embed.proj.weight": 0, "pos_embed": 0,
        "blocks.0.attn.qkv.weight": 1, "blocks.2.gamma_1": 3,
        "cls_token": 4, "blocks_token_only.0.attn.q.weight": 4, "blocks_token_only.1.mlp.fc2.bias": 5,
        "norm.weight": 6, "head.bias": 6,
    }  # fmt: skip
    assert {name: layer_of(name, arch) for name in expected} == expected
    assert num_layers(arch) == 7


@pytest.mark.parametrize(
    ("design", "layer"),
    [({"class_token": "from_start"}, 0), ({"class_token": "inserted", "insert_class_token_at": 2}, 3)],
)
def test_the_class_token_learns_like_the_block_it_enters_with(design: dict[str, object], layer: int) -> None:
    assert layer_of("cls_token", architecture("cait_xxs24_224", **SMALL, **design)) == layer


def test_every_layer_further_from_the_head_learns_more_slowly_by_the_same_factor(model: Cait) -> None:
    found = scales(model, OptimizerConfig(layer_decay=0.5))
    assert found == {name: 0.5 ** (6 - layer_of(name, model.arch)) for name, _ in model.named_parameters()}
    assert found["head.weight"] == 1.0
    assert found["patch_embed.proj.weight"] == 0.5**6


def test_layers_keep_the_division_by_weight_decay(model: Cait) -> None:
    groups = parameter_groups(model, OptimizerConfig(layer_decay=0.5, weight_decay=0.3))
    spared = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    expected = {id(p) for name, p in model.named_parameters() if p.ndim <= 1 or name in ("pos_embed", "cls_token")}
    assert spared == expected
    assert len({group["name"] for group in groups}) == len(groups)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_an_update_of_sgd_is_momentum_and_gradient_times_the_layer_s_rate(
    model: Cait, layer_decay: float | None
) -> None:
    config = OptimizerConfig(kind="sgd", momentum=0.9, weight_decay=0.1, layer_decay=layer_decay)
    optimizer = build_optimizer(model, config, torch.device("cpu"))
    name = "blocks.0.mlp.fc1.weight"
    weight, start = model.get_parameter(name), model.get_parameter(name).detach().clone()
    expected, momentum = start.clone(), torch.zeros_like(start)
    for lr, size in ((0.1, 1.0), (0.2, -3.0)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, size)
        set_learning_rate(optimizer.param_groups, lr)
        optimizer.step()
        momentum = 0.9 * momentum + size + 0.1 * expected
        expected -= lr * (0.5**5 if layer_decay else 1) * momentum
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("config", [OptimizerConfig(weight_decay=0), OptimizerConfig(kind="sgd", weight_decay=0)])
def test_the_gradient_can_be_told_from_the_moments_around_a_step(model: Cait, config: OptimizerConfig) -> None:
    optimizer = build_optimizer(model, config, torch.device("cpu"))
    moment = {"adamw": "exp_avg", "sgd": "momentum_buffer"}[config.kind]
    before = torch.zeros_like(model.head.weight)
    for seed in range(3):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        after = optimizer.state[model.head.weight][moment].clone()
        assert model.head.weight.grad is not None
        torch.testing.assert_close(applied_gradient(optimizer, before, after), model.head.weight.grad)
        before = after


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kind": "adamw", "momentum": 0.8}, "kind 'adamw' has no momentum"),
        ({"kind": "sgd", "betas": (0.9, 0.95)}, "kind 'sgd' has no betas"),
        ({"kind": "sgd", "betas": (0.9, 0.95), "eps": 1e-6}, "has no betas and no eps"),
        ({"layer_decay": 0}, "greater than 0"),
        ({"layer_decay": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        OptimizerConfig.model_validate(settings)
