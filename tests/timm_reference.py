"""timm's CaiT, the independent reference that tests compare with. timm is never imported by the project itself."""

import sys
import types
from typing import Any

import pytest
import torch
from torch import nn

from cait_dist.models import Architecture


def import_timm_cait() -> Any:
    """Imports ``timm.models.cait``, or skips the test where timm is not installed.

    torchvision registers shape functions for its own operators when imported; next to a CPU build of torch that may not
    know those operators, this fails. Nothing of CaiT needs them, so the registration is replaced by an empty module.
    """
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    return pytest.importorskip("timm.models.cait", reason="timm, the reference, is not installed: pip install timm")


def timm_cait(arch: Architecture) -> nn.Module:
    """Timm's network of the same shape, without dropout of any kind."""
    return import_timm_cait().Cait(
        img_size=arch.image_size,
        patch_size=arch.patch_size,
        in_chans=arch.in_chans,
        num_classes=arch.num_classes,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        depth_token_only=arch.depth_token_only,
        num_heads=arch.num_heads,
        mlp_ratio=arch.mlp_ratio,
        mlp_ratio_token_only=arch.mlp_ratio,
        init_values=arch.layer_scale_init,
    )


@torch.no_grad()
def fill_with_large_values(model: nn.Module, seed: int = 0) -> None:
    """Makes every parameter matter: fresh networks have zero biases and tiny LayerScale, behind which errors hide.

    Vectors and embeddings become Normal(0, 1); matrices Normal(0, 1 / inputs), so that signals keep their size. The
    bias of proj_w is added to every entry of an attention map, so it gets about the size of an entry: more would make
    all tokens alike, and the other parameters of the block would hardly matter.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and name not in {"pos_embed", "cls_token"}
        std = parameter[0].numel() ** -0.5 if is_matrix else 0.01 if name.endswith("proj_w.bias") else 1.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * std)
