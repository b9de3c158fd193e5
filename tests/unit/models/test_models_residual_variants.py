"""Every way to add a branch computes its definition, starts where it says, and works with all that surrounds it."""

import contextlib
import math
from typing import get_args

import pytest
import torch
from plain_cait import Plain
from timm_reference import fill_with_large_values
from torch import Tensor, nn

from cait_dist.config.deciding import MAY_CHANGE, decides_result
from cait_dist.config.model import ModelConfig, ResidualName
from cait_dist.models import Cait, architecture, create_model, no_weight_decay_names
from cait_dist.models.branches import RESIDUALS
from cait_dist.planning.counting.flops import count_macs, count_params
from cait_dist.training.activation_checkpointing import apply_activation_checkpointing

# By the definitions: norm or none, name of the scale, its value at the start, scalar biases. None stands for epsilon.
DEFINITIONS = {
    "layer_scale": (True, "gamma", None, False),
    "pre_norm": (True, None, None, False),
    "rezero": (False, "alpha", 0.0, False),
    "skip_init": (False, "alpha", 0.0, False),
    "fixup": (False, "alpha", 1.0, True),
    "t_fixup": (False, None, None, False),
    "rezero_adapted": (True, "alpha", 0.0, False),
    "fixup_adapted": (True, "alpha", 1.0, True),
    "t_fixup_adapted": (True, "alpha", 1.0, False),
    "scalar": (True, "alpha", None, False),
}
TINY = {"image_size": 12, "patch_size": 4, "embed_dim": 12, "num_heads": 2, "depth": 3, "num_classes": 5}
EPSILON, RATE = 0.1, 0.25
CANCELLED_BY_SOFTMAX = ("proj_l.bias", "attn.k.bias", "attn.k.shift")
IDENTITIES = ("rezero", "skip_init", "rezero_adapted", "fixup", "fixup_adapted")
every_residual = pytest.mark.parametrize("residual", DEFINITIONS)


def fresh(residual: str, **overrides) -> Cait:
    torch.manual_seed(0)
    return create_model("cait_xxs24_224", **(TINY | {"residual": residual} | overrides))


def filled(residual: str, **overrides) -> Cait:
    model = fresh(residual, **overrides)
    fill_with_large_values(model)
    if not DEFINITIONS[residual][0]:  # without a norm, large values grow from block to block until softmax saturates
        nn.utils.vector_to_parameters(
            0.5 * nn.utils.parameters_to_vector(model.parameters()).detach(), model.parameters()
        )
    return model.double()


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def tokens() -> Tensor:
    return torch.randn(3, 9, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def by_definition(residual: str, model: Cait, **settings) -> Tensor:
    norm, scale, _, shifts = DEFINITIONS[residual]
    plain = Plain(model.state_dict(), heads=2, patch=4, norm=norm, scale=scale, shifts=shifts, **settings)
    return plain.logits(images())


def test_the_configuration_names_every_residual():
    assert set(get_args(ResidualName)) == set(RESIDUALS) == set(DEFINITIONS)


@every_residual
@pytest.mark.parametrize("state", ["at the start", "anywhere"])
def test_the_network_computes_its_definition(residual, state):
    model = fresh(residual).double() if state == "at the start" else filled(residual)
    with torch.no_grad():
        torch.testing.assert_close(model(images()), by_definition(residual, model), rtol=1e-10, atol=1e-12)


@every_residual
def test_stochastic_depth_is_that_of_the_masked_form(residual):
    model = filled(residual, drop_path_rate=RATE)
    keep = torch.rand(3, 3, 2, generator=torch.Generator().manual_seed(3)) > 0.4
    keep[0], keep[:, 2, 1] = True, False
    with torch.no_grad():
        expected = by_definition(residual, model, keep=keep, rate=RATE)
        torch.testing.assert_close(model(images(), keep), expected, rtol=1e-10, atol=1e-12)


@every_residual
def test_what_a_branch_has_and_where_it_starts(residual):
    norm, scale, start, shifts = DEFINITIONS[residual]
    model = fresh(residual)
    values = model.state_dict()
    assert any("norm" in name for name in values) is norm
    for name in ("gamma", "alpha"):
        found = [t for key, t in values.items() if f".{name}_" in key]
        assert len(found) == (2 * (3 + 2) if name == scale else 0)
        assert all(len(t) == (12 if name == "gamma" else 1) for t in found)
        assert all(torch.equal(t, torch.full_like(t, EPSILON if start is None else start)) for t in found)
    # Before qkv, proj, fc1, GELU, fc2; in class attention q, k and v have one each; and one before the classifier.
    shifted = [t for key, t in values.items() if key.endswith("shift")]
    assert len(shifted) == (3 * 5 + 2 * 7 + 1 if shifts else 0)
    assert not any(t.any() for t in shifted)


@pytest.mark.parametrize("residual", IDENTITIES)
def test_at_the_start_every_block_is_exactly_the_identity(residual):
    model, x = fresh(residual).double(), tokens()
    with torch.no_grad():
        for block in model.blocks:
            assert torch.equal(block(x), x)
        for block in model.blocks_token_only:
            assert torch.equal(block(x[:, 1:], x[:, :1]), x[:, :1])
        cls = model.cls_token.expand(3, -1, -1)
        assert torch.equal(model(images()), model.head(model.norm(cls)[:, 0]))


@pytest.mark.parametrize("residual", ["layer_scale", "scalar"])
def test_at_the_start_a_block_is_epsilon_away_from_the_identity(residual):
    full, small = fresh("pre_norm").double(), fresh(residual, layer_scale_init=1e-6).double()
    with torch.no_grad():
        away, close = full.blocks[0](tokens()) - tokens(), small.blocks[0](tokens()) - tokens()
    assert 0.9e-6 < close.norm() / away.norm() < 1.1e-6


def test_fixup_zeroes_the_ends_and_shrinks_the_rest_of_each_branch():
    standard, fixup = fresh("layer_scale").state_dict(), fresh("fixup").state_dict()
    branches = 2 * 3 + 2 * 2
    for name in (key for key in fixup if key.endswith(".weight")):
        if name.endswith((".attn.proj.weight", ".fc2.weight")) or name == "head.weight":
            assert not fixup[name].any(), name
        elif name.endswith((".qkv.weight", ".q.weight", ".k.weight", ".v.weight", ".fc1.weight")):
            torch.testing.assert_close(fixup[name], standard[name] * branches**-0.5)
        else:
            assert torch.equal(fixup[name], standard[name]), name
    assert not fresh("fixup_adapted").head.weight.any()


@pytest.mark.parametrize("mlp_ratio", [3.0, 4.0])  # at 3 the first layer has the shape of a qkv
def test_t_fixup_draws_xavier_and_shrinks_values_projections_and_embeddings(mlp_ratio):
    model = fresh("t_fixup", embed_dim=48, mlp_ratio=mlp_ratio)
    blocks, hidden = 3 + 2, int(48 * mlp_ratio)
    factor, of_embeddings = 0.67 * blocks**-0.25, (9 * blocks) ** -0.25
    block, last = model.blocks[0], model.blocks_token_only[1]
    query, key, value = block.attn.qkv.weight.chunk(3)
    for weight, ends, scale in (
        (query, 96, 1.0), (key, 96, 1.0), (value, 96, factor), (block.attn.proj.weight, 96, factor),
        (block.mlp.fc1.weight, 48 + hidden, factor), (block.mlp.fc2.weight, 48 + hidden, factor),
        (last.attn.q.weight, 96, 1.0), (last.attn.v.weight, 96, factor), (last.attn.proj.weight, 96, factor),
        (model.head.weight, 53, 1.0), (model.patch_embed.proj.weight, 48 + 48, of_embeddings),
    ):  # fmt: skip
        bound = scale * math.sqrt(6 / ends)
        assert 0.95 * bound < weight.abs().max() <= bound * (1 + 1e-6)
    assert abs(model.pos_embed.std() * 48**0.5 / of_embeddings - 1) < 0.2


@every_residual
def test_gradients_reach_every_parameter(residual):
    model = filled(residual)
    model(images()).square().sum().backward()
    weak = {name for name, p in model.named_parameters() if not p.grad.isfinite().all() or p.grad.abs().max() < 1e-9}
    assert weak <= {name for name in model.state_dict() if name.endswith(CANCELLED_BY_SOFTMAX)}


@pytest.mark.parametrize("residual", ["rezero", "rezero_adapted", "skip_init"])
def test_a_scalar_that_starts_at_zero_learns_first(residual):
    model = fresh(residual).double()
    model(images()).square().sum().backward()
    for block in model.blocks_token_only:
        assert block.alpha_1.grad.abs() > 0
        assert not block.attn.v.weight.grad.any()


@every_residual
@pytest.mark.parametrize("precision", ["bf16", "autocast"])
def test_the_stream_is_wide_whatever_the_branches_compute_in(residual, precision):
    model = fresh(residual, drop_path_rate=RATE)
    model = model.bfloat16() if precision == "bf16" else model
    seen, dtype = set(), next(model.parameters()).dtype

    def hook(_: nn.Module, args: tuple, output: Tensor) -> None:
        seen.update(t.dtype for t in (*args, output) if isinstance(t, Tensor) and t.is_floating_point())

    for block in [*model.blocks, *model.blocks_token_only]:
        block.register_forward_hook(hook)
    keep = torch.tensor([[[True, False]] * 3, [[True, True]] * 3, [[False, True]] * 3])
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else contextlib.nullcontext()
    with autocast:
        logits = model(images().float(), keep)
    assert seen == {torch.float32}
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == dtype for p in model.parameters() if p.grad is not None)


@every_residual
@pytest.mark.parametrize("policy", ["attention", "block"])
def test_recomputation_changes_no_bit(residual, policy):
    keep = torch.rand(3, 3, 2, generator=torch.Generator().manual_seed(3)) > RATE
    plain, recomputed = filled(residual, drop_path_rate=RATE), filled(residual, drop_path_rate=RATE)
    apply_activation_checkpointing(recomputed, policy)
    for model in (plain, recomputed):
        model(images(), keep).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


@every_residual
def test_counts_are_those_of_the_model(residual):
    arch = architecture("cait_xxs24_224", **TINY, residual=residual)
    sizes = {name: p.numel() for name, p in fresh(residual).named_parameters()}
    counted = count_params(arch)
    assert counted.total == sum(sizes.values())
    assert counted.blocks == sum(n for name, n in sizes.items() if name.startswith("blocks."))
    assert counted.class_attention == sum(n for name, n in sizes.items() if name.startswith("blocks_token_only."))
    assert count_macs(arch) == count_macs(architecture("cait_xxs24_224", **TINY))


@every_residual
def test_weight_decay_spares_scalars_and_biases(residual):
    spared = no_weight_decay_names(fresh(residual))
    for name, parameter in fresh(residual).named_parameters():
        small = parameter.ndim <= 1 or name in ("pos_embed", "cls_token")
        assert (name in spared) is small, name
        if name.rpartition(".")[2].startswith(("alpha", "gamma", "shift", "act_shift", "bias")):
            assert name in spared


def test_a_resumed_run_may_not_change_its_architecture():
    for field in ("residual", "class_token", "insert_class_token_at", "class_attention_mlp", "talking_heads"):
        assert field in ModelConfig.model_fields
        assert not f"model.{field}".startswith(MAY_CHANGE)
        assert decides_result(f"model.{field}")


def test_what_makes_no_sense_is_refused_in_one_line():
    for residual in set(DEFINITIONS) - {"layer_scale", "scalar"}:
        message = rf"layer_scale_init 0\.1 .*residual '{residual}'"
        with pytest.raises(ValueError, match=message) as refused:
            fresh(residual, layer_scale_init=0.1)
        assert "\n" not in str(refused.value)
        with pytest.raises(ValueError, match=rf"layer_scale_init 0\.1 needs .* residual is '{residual}'"):
            ModelConfig(residual=residual, layer_scale_init=0.1)
    with pytest.raises(ValueError, match=r"residual must be one of layer_scale, .*, got 'post_norm'"):
        fresh("post_norm")
