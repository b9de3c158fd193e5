"""Where the class token meets the patches, with heads mixed or apart: each design computes its definition."""

import sys
from dataclasses import replace
from typing import get_args

import pytest
import torch
from plain_cait import Plain
from safetensors.torch import load_file
from timm_reference import fill_with_large_values, import_timm_cait
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cait_dist.config.model import ClassTokenName, ModelConfig
from cait_dist.models import Cait, architecture, create_model, no_weight_decay_names
from cait_dist.models.architecture import CLASS_TOKENS
from cait_dist.models.foreign import NoSuchModelError
from cait_dist.models.weights import load_weights, resize_pos_embed, save_weights
from cait_dist.planning.counting.flops import count_macs, count_params

TINY = {"image_size": 12, "patch_size": 4, "embed_dim": 12, "num_heads": 2, "depth": 3, "num_classes": 5}
DESIGNS = {
    "class attention": {},
    "one class-attention block": {"depth_token_only": 1},
    "class attention without mlp": {"class_attention_mlp": False},
    "three of them, two blocks before": {"depth": 2, "depth_token_only": 3, "class_attention_mlp": False},
    "from the start": {"class_token": "from_start"},
    "inserted at 1": {"class_token": "inserted", "insert_class_token_at": 1},
    "inserted at 2": {"class_token": "inserted", "insert_class_token_at": 2},
    "average pooling": {"class_token": "average_pooling"},
}
every_design = pytest.mark.parametrize("design", DESIGNS)
both_kinds_of_heads = pytest.mark.parametrize("talking", [True, False], ids=["talking", "plain"])


def filled(design: str, **overrides) -> Cait:
    torch.manual_seed(0)
    model = create_model("cait_xxs24_224", **(TINY | DESIGNS[design] | overrides))
    fill_with_large_values(model)
    return model.double()


def images(batch: int = 3, size: int = 12) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_definition(model: Cait, design: str, talking: bool, **settings) -> Tensor:
    chosen = DESIGNS[design]
    plain = Plain(
        model.state_dict(),
        heads=2,
        patch=4,
        class_token=chosen.get("class_token", "class_attention"),
        insert_at=chosen.get("insert_class_token_at", 0),
        class_mlp=chosen.get("class_attention_mlp", True),
        talking=talking,
        **settings,
    )
    return plain.logits(images())


def test_the_configuration_names_every_design():
    assert get_args(ClassTokenName) == CLASS_TOKENS
    assert {chosen.get("class_token", "class_attention") for chosen in DESIGNS.values()} == set(CLASS_TOKENS)


@every_design
@both_kinds_of_heads
def test_the_network_computes_its_definition(design, talking):
    model = filled(design, talking_heads=talking)
    with torch.no_grad():
        expected = by_definition(model, design, talking)
        torch.testing.assert_close(model(images()), expected, rtol=1e-10, atol=1e-12)


@every_design
def test_stochastic_depth_drops_samples_with_their_class_token(design):
    model = filled(design, drop_path_rate=0.25)
    keep = torch.rand(3, model.arch.depth, 2, generator=torch.Generator().manual_seed(3)) > 0.4
    with torch.no_grad():
        expected = by_definition(model, design, True, keep=keep, rate=0.25)
        torch.testing.assert_close(model(images(), keep), expected, rtol=1e-10, atol=1e-12)


@every_design
@both_kinds_of_heads
def test_gradients_reach_every_parameter(design, talking):
    model = filled(design, talking_heads=talking)
    model(images()).square().sum().backward()
    for name, parameter in model.named_parameters():
        # Softmax does not see what shifts a whole row; of a plain attention that is the keys' bias.
        grad = parameter.grad.clone()
        if name.endswith("qkv.bias"):
            grad = grad[:12]
        assert name.endswith(("proj_l.bias", "attn.k.bias")) or grad.abs().max() > 1e-6, name
        assert grad.isfinite().all(), name


@every_design
@both_kinds_of_heads
def test_counts_are_what_torch_counts(design, talking):
    overrides = TINY | DESIGNS[design] | {"talking_heads": talking}
    arch = architecture("cait_xxs24_224", **overrides)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = create_model("cait_xxs24_224", **overrides).requires_grad_(False)
        model(torch.zeros(2, 3, 12, 12))
    assert count_macs(arch).total == counter.get_total_flops() // 4
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    counted = count_params(arch)
    assert counted.total == sum(sizes.values())
    assert counted.blocks == sum(n for name, n in sizes.items() if name.startswith("blocks."))
    assert counted.class_attention == sum(n for name, n in sizes.items() if name.startswith("blocks_token_only."))
    assert counted.head == sum(n for name, n in sizes.items() if name.startswith(("norm.", "head.")))


def test_heads_kept_apart_leave_no_trace_of_the_mixing():
    model = filled("class attention", talking_heads=False)
    assert not [name for name in model.state_dict() if "proj_l" in name or "proj_w" in name]
    assert {name for name, _ in filled("class attention").named_parameters()} > set(dict(model.named_parameters()))


def test_without_mixing_an_identity_mix_gives_the_same():
    apart, mixed = filled("class attention", talking_heads=False), filled("class attention")
    mixed.load_state_dict(apart.state_dict(), strict=False)
    for block in mixed.blocks:
        for mix in (block.attn.proj_l, block.attn.proj_w):
            nn.init.eye_(mix.weight)
            nn.init.zeros_(mix.bias)
    with torch.no_grad():
        torch.testing.assert_close(apart(images()), mixed(images()), rtol=1e-11, atol=1e-12)


def test_dropout_on_a_plain_map_acts_in_training_only():
    model = filled("class attention", talking_heads=False, attn_drop_rate=0.5)
    assert not torch.equal(model(images()), model(images()))
    plain = filled("class attention", talking_heads=False).eval()
    assert torch.equal(model.eval()(images()), plain(images()))


@every_design
def test_features_are_the_normalised_sequence_that_the_head_reads(design):
    model = filled(design)
    with torch.no_grad():
        features = model.forward_features(images())
        has_token = design != "average pooling"
        assert features.shape == (3, 9 + has_token, 12)
        pooled = features[:, 0] if has_token else features.mean(1)
        torch.testing.assert_close(model.head(pooled), model(images()), rtol=1e-12, atol=1e-12)


def timm_vit(model: Cait) -> nn.Module:
    """The VisionTransformer of timm, of the same shape: DeiT, or its form without a class token."""
    import_timm_cait()
    arch, has_token = model.arch, model.arch.has_class_token
    return sys.modules["timm"].models.VisionTransformer(
        img_size=arch.image_size, patch_size=arch.patch_size, num_classes=arch.num_classes, embed_dim=arch.embed_dim,
        depth=arch.depth, num_heads=arch.num_heads, class_token=has_token, fc_norm=False,
        global_pool="token" if has_token else "avg",
    )  # fmt: skip


@pytest.mark.parametrize("design", ["from the start", "average pooling"])
def test_plain_vision_transformers_equal_timms_and_are_exported_to_it(design, tmp_path):
    model = filled(design, residual="pre_norm", talking_heads=False)
    save_weights(model, tmp_path / "w.safetensors")
    reference = timm_vit(model).double()
    reference.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    logits, expected = model(images()), reference(images())
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), (other, q) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"residual": "rezero"}, "residual 'rezero'"),
        ({"residual": "pre_norm"}, "residual 'pre_norm' with class_token 'class_attention'"),
        ({"talking_heads": False}, "talking_heads false"),
        ({"class_attention_mlp": False}, "class_attention_mlp false"),
        ({"class_token": "from_start"}, "residual 'layer_scale' with class_token 'from_start'"),
        ({"class_token": "from_start", "residual": "pre_norm"}, "talking_heads true with class_token 'from_start'"),
        ({"class_token": "inserted", "insert_class_token_at": 2, "residual": "pre_norm", "talking_heads": False},
         "class_token 'inserted'"),
    ],
)  # fmt: skip
def test_what_timm_has_no_model_for_is_refused_in_one_line_and_saved_as_our_own(overrides, why, tmp_path):
    torch.manual_seed(0)
    model = create_model("cait_xxs24_224", **(TINY | overrides))
    for name, kind in (("w.safetensors", "timm"), ("w.pth", "deit")):
        with pytest.raises(NoSuchModelError, match=f"{kind} has no model with {why}.*'own'") as refused:
            save_weights(model, tmp_path / name, format=kind)
        assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())
    save_weights(model, tmp_path / "own.safetensors", format="own")
    again = create_model("cait_xxs24_224", **(TINY | overrides))
    report = load_weights(again, tmp_path / "own.safetensors")
    assert report.loaded == len(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@every_design
def test_weights_load_at_another_resolution_and_the_class_tokens_position_stays(design, tmp_path):
    source, target = filled(design), filled(design, image_size=20)
    fill_with_large_values(target, seed=5)
    save_weights(source, tmp_path / "w.safetensors", format="own")
    assert load_weights(target, tmp_path / "w.safetensors").resized_pos_embed == (3, 5)
    slots = int(design == "from the start")
    assert torch.equal(target.pos_embed[:, :slots], source.pos_embed[:, :slots])
    assert torch.equal(target.pos_embed[:, slots:], resize_pos_embed(source.pos_embed[:, slots:], 5))
    assert target(images(size=20)).shape == (3, 5)


def test_a_design_does_not_load_the_weights_of_another(tmp_path):
    save_weights(filled("class attention"), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="does not fit the model; is it the same variant"):
        load_weights(filled("from the start"), tmp_path / "w.safetensors")
    save_weights(filled("from the start", image_size=20), tmp_path / "w.safetensors", format="own")
    with pytest.raises(ValueError, match="does not fit the model; is it the same variant"):
        load_weights(filled("average pooling"), tmp_path / "w.safetensors")


@every_design
def test_weight_decay_spares_the_embeddings_that_are_there(design):
    model = filled(design)
    embeddings = {"pos_embed"} | ({"cls_token"} if design != "average pooling" else set())
    assert {name for name in no_weight_decay_names(model) if "." not in name} == embeddings


WRONG = [
    ({"insert_class_token_at": 2}, "insert_class_token_at 2 .*class_token is 'class_attention'"),
    ({"class_token": "inserted"}, "class_token 'inserted' needs insert_class_token_at"),
    ({"class_token": "from_start", "depth_token_only": 2}, "depth_token_only .*class_token is 'from_start'"),
    ({"class_token": "average_pooling", "class_attention_mlp": False}, "class_attention_mlp .*'average_pooling'"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG)
def test_settings_that_contradict_each_other_are_refused_in_one_line(overrides, message):
    for build in (lambda: architecture("cait_xxs24_224", **overrides), lambda: ModelConfig(**overrides)):
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(ValueError, match=message) as refused:
        architecture("cait_xxs24_224", **overrides)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("at", [0, 3, 7, "2"])
def test_a_class_token_joins_between_two_blocks(at):
    with pytest.raises(ValueError, match=f"insert_class_token_at from 1 to 2 .*got {at!r}"):
        architecture("cait_xxs24_224", **TINY, class_token="inserted", insert_class_token_at=at)


def test_a_design_nobody_knows_is_refused():
    with pytest.raises(ValueError, match=r"class_token must be one of class_attention, .*, got 'registers'"):
        replace(architecture("cait_xxs24_224"), class_token="registers")
