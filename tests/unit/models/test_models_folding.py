"""Without LayerScale, its values folded into the weights: the same logits from fewer parameters."""

import re

import pytest
import torch
from timm_reference import fill_with_large_values
from torch import Tensor
from typer.testing import CliRunner

from cait_dist.cli import app
from cait_dist.models import Cait, create_model
from cait_dist.models.folding import FoldingError, fold_file, fold_layer_scale, folded_architecture
from cait_dist.models.foreign import NoSuchModelError
from cait_dist.models.weights import load_weights, save_weights
from cait_dist.planning.counting.flops import count_params
from cait_dist.training.saving.checkpoint_files import CheckpointError

TINY = {"image_size": 32, "embed_dim": 24, "num_heads": 2, "depth": 3, "num_classes": 5}
FOLDABLE = ("layer_scale", "rezero_adapted", "t_fixup_adapted", "scalar")
NETWORKS = [
    *({"residual": residual} for residual in FOLDABLE),
    {"class_attention_mlp": False, "talking_heads": False},
    {"class_token": "from_start"},
    {"class_token": "average_pooling", "residual": "scalar"},
]


def trained(dtype: torch.dtype = torch.float64, **overrides) -> Cait:
    """Stands for a trained network: every parameter matters."""
    model = create_model("cait_xxs24_224", **(TINY | overrides))
    fill_with_large_values(model)
    return model.to(dtype)


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("overrides", NETWORKS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str)
@torch.no_grad()
def test_a_folded_network_gives_the_same_logits(overrides, dtype, tolerance):
    model = trained(dtype, **overrides).eval()
    folded = fold_layer_scale(model)
    expected = model(images(dtype))
    assert (folded(images(dtype)) - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())
    assert not [name for name in folded.state_dict() if "gamma" in name or "alpha" in name]
    assert sum(p.numel() for p in folded.parameters()) == count_params(folded.arch).total
    assert not folded.training


@torch.no_grad()
def test_a_fresh_deep_network_folds_too():
    torch.manual_seed(0)
    model = create_model("cait_xxs36_224", **(TINY | {"depth": 36}), layer_scale_init=1e-6)
    folded = fold_layer_scale(model)
    assert (folded(images(torch.float32)) - model(images(torch.float32))).abs().max() < 1e-6


def test_folding_takes_two_vectors_from_every_block_and_leaves_the_model_alone():
    model = trained()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    folded = fold_layer_scale(model)
    removed = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in folded.parameters())
    assert removed == (3 + 2) * 2 * 24
    assert folded.arch == folded_architecture(model.arch)
    assert folded.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    torch.nn.init.zeros_(folded.head.weight)
    folded(images()).sum().backward()
    assert folded.blocks[0].attn.proj.weight.grad is not None


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_folded_file_loads_into_the_pre_norm_network_alone(suffix, tmp_path):
    model = trained(torch.float32).eval()
    source, target = tmp_path / f"trained{suffix}", tmp_path / f"folded{suffix}"
    save_weights(model, source, format="deit" if suffix == ".pth" else "timm")
    fold_file(source, target)
    again = create_model("cait_xxs24_224", **TINY, residual="pre_norm").eval()
    load_weights(again, target)
    with torch.no_grad():
        expected = model(images(torch.float32))
        torch.testing.assert_close(again(images(torch.float32)), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"missing from the file: .*gamma_1"):
        load_weights(trained(), target)


def test_a_folded_network_is_none_of_timms(tmp_path):
    with pytest.raises(NoSuchModelError, match="residual 'pre_norm' with class_token 'class_attention'"):
        save_weights(fold_layer_scale(trained()), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        ("pre_norm", "residual 'pre_norm' has no LayerScale to fold"),
        ("t_fixup", "residual 't_fixup' has no LayerScale to fold"),
        ("rezero", f"residual 'rezero' cannot be folded.*{', '.join(FOLDABLE)}"),
        ("fixup", "residual 'fixup' cannot be folded"),
        ("fixup_adapted", "residual 'fixup_adapted' cannot be folded"),
    ],
)
def test_what_cannot_be_folded_is_refused_in_one_line(residual, message):
    with pytest.raises(FoldingError, match=message) as refused:
        fold_layer_scale(create_model("cait_xxs24_224", **TINY, residual=residual))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("residual", "options", "error", "message"),
    [
        ("rezero", [], NoSuchModelError, r"timm has no model with residual 'rezero'.*cait export --own"),
        ("rezero", ["--fold"], FoldingError, "residual 'rezero' cannot be folded"),
        ("rezero", ["--own"], CheckpointError, "no complete checkpoint"),
        ("layer_scale", [], CheckpointError, "no complete checkpoint"),
    ],
)
def test_the_export_command_asks_the_configuration_of_the_run_first(residual, options, error, message, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(f"name: r\ndata: {{path: d}}\nmodel: {{residual: {residual}}}\n")
    result = CliRunner().invoke(app, ["export", str(tmp_path), "--out", str(tmp_path / "w.safetensors"), *options])
    assert isinstance(result.exception, error)
    assert re.search(message, str(result.exception))
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".json", ".yaml"}
