"""The table of variants: names, parameter counts, initial values, and what happens when a user asks for nonsense."""

import math
import subprocess
import sys
from typing import get_args

import pytest
import torch
from torch import nn

from cait_dist.config.model import ModelConfig, VariantName
from cait_dist.models import Architecture, architecture, create_model, list_models, no_weight_decay_names

# Parameters at 224, 384 and 448. Ten of these are printed by timm for the published weights (pytorch-image-models,
# results/*.csv), and agree in all printed digits: XXS24, XXS36 and S24 at 224 and 384; XS24, S36 and M36 at 384; M48 at
# 448. The others follow from the same architecture.
PARAMETERS = {
    "xxs24": (11_956_264, 12_029_224, 12_069_160),
    "xxs36": (17_299_720, 17_372_680, 17_412_616),
    "xs24": (26_560_648, 26_670_088, 26_729_992),
    "xs36": (38_557_432, 38_666_872, 38_726_776),
    "s24": (46_916_200, 47_062_120, 47_141_992),
    "s36": (68_220_712, 68_366_632, 68_446_504),
    "s48": (89_525_224, 89_671_144, 89_751_016),
    "m24": (185_850_088, 186_141_928, 186_301_672),
    "m36": (270_929_512, 271_221_352, 271_381_096),
    "m48": (356_008_936, 356_300_776, 356_460_520),
}
TINY = {"image_size": 32, "embed_dim": 24, "num_heads": 2, "depth": 2, "num_classes": 5}


def test_names_are_those_of_the_configuration():
    assert list_models() == list(get_args(VariantName))


def test_every_architecture_field_of_the_configuration_is_an_override():
    settings = set(ModelConfig.model_fields) - {"name", "init_from", "init_weights"}
    create_model("cait_xxs24_224", **(dict.fromkeys(settings) | TINY))


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameter_counts(variant):
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in create_model(f"cait_{variant}_{resolution}").parameters())
            for resolution in (224, 384, 448)
        ]
    assert tuple(counts) == PARAMETERS[variant]


@pytest.mark.parametrize(
    ("variant", "value"),
    [("xxs24", 1e-5), ("xxs36", 1e-5), ("xs24", 1e-5), ("xs36", 1e-6), ("s24", 1e-5), ("s36", 1e-6), ("s48", 1e-6),
     ("m24", 1e-5), ("m36", 1e-6), ("m48", 1e-6)],
)  # fmt: skip
def test_layer_scale_starts_at_the_variants_value(variant, value):
    assert architecture(f"cait_{variant}_224").layer_scale_init == value
    model = create_model(f"cait_{variant}_224", image_size=32, depth=1, layer_scale_init=value)
    gammas = [p for name, p in model.named_parameters() if "gamma" in name]
    assert len(gammas) == 2 * (1 + 2)
    assert all(torch.equal(g, torch.full_like(g, value)) for g in gammas)


@pytest.mark.parametrize(
    ("name", "depth", "value"),
    [("xxs24", 1, 0.1), ("xxs24", 18, 0.1), ("xxs24", 19, 1e-5), ("s36", 24, 1e-5), ("s24", 25, 1e-6),
     ("xxs24", 36, 1e-6), ("xxs36", 36, 1e-5), ("m48", 48, 1e-6), ("xxs36", None, 1e-5)],
)  # fmt: skip
def test_at_another_depth_layer_scale_starts_by_the_papers_rule(name, depth, value):
    assert architecture(f"cait_{name}_224", depth=depth).layer_scale_init == value
    assert architecture(f"cait_{name}_224", depth=depth, layer_scale_init=0.3).layer_scale_init == 0.3


def test_overrides_change_the_network_and_none_keeps_the_variant():
    model = create_model("cait_xxs24_224", **TINY, depth_token_only=1, mlp_ratio=None, in_chans=None)
    assert len(model.blocks) == 2
    assert len(model.blocks_token_only) == 1
    assert model.head.out_features == 5
    assert model.blocks[0].mlp.fc1.out_features == 4 * 24
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("depth", [1, 3])
def test_state_dict_has_the_published_number_of_tensors_and_no_buffers(depth):
    with torch.device("meta"):
        model = create_model("cait_s24_224", depth=depth)
    assert len(model.state_dict()) == 8 + 18 * depth + 36
    assert list(model.buffers()) == []


def test_initialisation_follows_the_paper_and_the_global_seed():
    torch.manual_seed(3)
    model = create_model("cait_xxs24_224", depth=2)
    torch.manual_seed(3)
    again = create_model("cait_xxs24_224", depth=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.bias.eq(0).all(), name
            assert 0.5 < module.weight.std() / 0.02 < 1.6, name  # loose: head mixing has 16 entries
        if isinstance(module, nn.LayerNorm):
            assert module.weight.eq(1).all(), name
            assert module.eps == 1e-6, name
    assert abs(model.pos_embed.std() / 0.02 - 1) < 0.05
    assert abs(model.cls_token.std() / 0.02 - 1) < 0.2
    convolution = model.patch_embed.proj.weight
    assert abs(convolution.abs().max() * math.sqrt(convolution[0].numel()) - 1) < 0.01  # uniform up to 1/sqrt(inputs)


def test_weight_decay_spares_vectors_and_embeddings_only():
    model = create_model("cait_xxs24_224", **TINY)
    spared = no_weight_decay_names(model)
    decayed = {name for name, _ in model.named_parameters()} - spared
    assert {"pos_embed", "cls_token", "blocks.0.gamma_1", "blocks_token_only.1.gamma_2", "norm.weight"} <= spared
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)
    assert {"patch_embed.proj.weight", "blocks.0.attn.proj_l.weight", "head.weight"} <= decayed
    assert len(decayed) == 2 + 2 * 6 + 2 * 6  # patches and head; six matrices per block of either kind


def test_weight_decay_refuses_sharded_parameters():
    model = create_model("cait_xxs24_224", **TINY)
    model.head.weight.data = torch.empty(0)
    with pytest.raises(ValueError, match=r"head\.weight is empty.*before parameters are sharded"):
        no_weight_decay_names(model)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cait_s24", {}, r"unknown model 'cait_s24', did you mean 'cait_s24_\d+'\?; see list_models"),
        ("CaiT_S24_224", {}, "did you mean 'cait_s24_224'"),
        ("resnet", {}, r"unknown model 'resnet'; see list_models\(\)"),
        ("cait_s24_224", {"embed_dims": 3}, "unknown override 'embed_dims', did you mean 'embed_dim'"),
        ("cait_s24_224", {"embed_dim": 100}, "embed_dim 100 is not a multiple of num_heads 8.*96 and 104"),
        ("cait_s24_224", {"image_size": 225}, "image_size 225 is not a multiple of patch_size 16.*224 and 240"),
        ("cait_s24_224", {"patch_size": 500}, "image_size 224 is not a multiple of patch_size 500.*500"),
        ("cait_s24_224", {"depth": 0}, "depth must be a whole number of at least 1, got 0"),
        ("cait_s24_224", {"depth": "24"}, "depth must be a whole number of at least 1, got '24'"),
        ("cait_s24_224", {"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ("cait_s24_224", {"layer_scale_init": -1e-5}, "layer_scale_init must be a positive number"),
        ("cait_s24_224", {"mlp_ratio": 0.001}, "mlp_ratio 0.001 leaves no hidden unit.*raise it"),
    ],
)
def test_nonsense_is_refused_with_a_remedy(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **overrides)


def test_images_of_another_size_are_refused():
    model = create_model("cait_xxs24_224", **TINY)
    with pytest.raises(ValueError, match=r"takes images of shape \(batch, 3, 32, 32\), got \(1, 3, 48, 48\); resize"):
        model(torch.zeros(1, 3, 48, 48))


def test_architecture_is_checked_without_a_name():
    with pytest.raises(ValueError, match="num_heads 5"):
        Architecture(image_size=32, embed_dim=24, depth=1, num_heads=5, layer_scale_init=1e-5)
    assert architecture("cait_m48_448").head_dim == 48


def test_models_need_nothing_but_torch():
    """The promise to notebooks: no configuration, no DeepSpeed, no MLflow comes along, nor torch's slow compiler."""
    code = (
        "import sys, cait_dist.models, cait_dist.models.weights, cait_dist.ops;"
        "rooms = {m.split('.')[1] for m in sys.modules if m.startswith('cait_dist.')};"
        "ours = rooms - {'models', 'ops'};"
        "heavy = {'deepspeed', 'mlflow', 'timm', 'pydantic', 'torchvision', 'torch._dynamo'} & set(sys.modules);"
        "sys.exit(str(ours | heavy) if ours | heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
