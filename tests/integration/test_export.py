"""What training wrote loads into timm, and gives the same logits there."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm_reference import import_timm_cait
from training_command import CAIT

from cait_dist.config import load_config
from cait_dist.models.weights import load_weights
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.starting.initial_model import build_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_path(undisturbed: Callable[[int], RunDirectory]) -> Path:
    return undisturbed(3).path


def export(run_path: Path, out: Path, weights: str, *options: str) -> None:
    command = [str(CAIT), "export", str(run_path), "--out", str(out), "--weights", weights, *options]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_exported_weights_give_the_same_logits_in_timm(
    run_path: Path, tmp_path: Path, weights: str, suffix: str
) -> None:
    import_timm_cait()
    import timm  # noqa: PLC0415

    out = tmp_path / f"weights{suffix}"
    export(run_path, out, weights)
    theirs = timm.create_model(
        "cait_xxs24_224",
        img_size=16,
        patch_size=4,
        embed_dim=24,
        depth=3,
        depth_token_only=2,
        num_heads=2,
        num_classes=10,
    ).eval()
    theirs.load_state_dict(read(out), strict=True)
    ours = build_model(load_config(run_path / "config.yaml").config.model, 10).eval()
    load_weights(ours, out)
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_raw_weights_and_their_average_differ(run_path: Path, tmp_path: Path) -> None:
    for weights in ("raw", "ema"):
        export(run_path, tmp_path / f"{weights}.safetensors", weights)
    raw, ema = (load_file(tmp_path / f"{weights}.safetensors") for weights in ("raw", "ema"))
    assert not torch.equal(raw["head.weight"], ema["head.weight"])


def test_folded_weights_give_the_same_logits_without_layer_scale(run_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folded.safetensors"
    export(run_path, out, "raw", "--fold")
    export(run_path, tmp_path / "whole.safetensors", "raw")
    config = load_config(run_path / "config.yaml").config.model
    whole = build_model(config, 10).eval()
    folded = build_model(config.model_copy(update={"residual": "pre_norm", "layer_scale_init": None}), 10).eval()
    load_weights(whole, tmp_path / "whole.safetensors")
    load_weights(folded, out)
    assert not any("gamma" in name for name in load_file(out))
    assert [path.name for path in out.parent.iterdir()] == [out.name], "nothing is left beside it"
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(folded(images), whole(images), rtol=1e-6, atol=1e-6)


def read(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    published = torch.load(path, weights_only=True)["model"]
    return {name.removeprefix("module."): tensor for name, tensor in published.items()}
