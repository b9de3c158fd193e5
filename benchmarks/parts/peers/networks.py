"""The peers' networks: timm's CaiT, and the authors' own from a checkout of facebookresearch/deit."""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from cait_dist.models import Architecture


def import_timm() -> Any:
    """``timm.models.cait``; torchvision registers operators on import that a CPU build may lack and CaiT never uses."""
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    import timm.models.cait  # noqa: PLC0415

    return timm.models.cait


def timm_block(arch: Architecture, drop_path_rate: float = 0.0) -> nn.Module:
    """One of timm's self-attention blocks."""
    return import_timm().LayerScaleBlock(
        arch.embed_dim,
        arch.num_heads,
        qkv_bias=True,
        drop_path=drop_path_rate,
        norm_layer=_norm,
        init_values=arch.layer_scale_init,
    )


def timm_cait(arch: Architecture) -> nn.Module:
    """Timm's whole network, which drops nothing."""
    return import_timm().Cait(
        img_size=arch.image_size,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        num_heads=arch.num_heads,
        init_values=arch.layer_scale_init,
    )


def deit_block(folder: Path, arch: Architecture) -> nn.Module:
    """One self-attention block of the authors' code."""
    return import_deit(folder).LayerScale_Block(
        arch.embed_dim, arch.num_heads, qkv_bias=True, norm_layer=_norm, init_values=arch.layer_scale_init
    )


def deit_cait(folder: Path, arch: Architecture) -> nn.Module:
    """The authors' whole network, which drops nothing."""
    return import_deit(folder).cait_models(
        img_size=arch.image_size,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        num_heads=arch.num_heads,
        qkv_bias=True,
        norm_layer=_norm,
        init_scale=arch.layer_scale_init,
    )


def import_deit(folder: Path) -> Any:
    """``cait_models.py`` of a checkout of facebookresearch/deit.

    Raises:
        FileNotFoundError: if the folder has none
    """
    file = folder / "cait_models.py"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no cait_models.py: pass a checkout of facebookresearch/deit")
    if "cait_models" not in sys.modules:
        import_timm()
        spec = importlib.util.spec_from_file_location("cait_models", file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["cait_models"] = module = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports from where timm used to be
            spec.loader.exec_module(module)
    return sys.modules["cait_models"]


_norm = partial(nn.LayerNorm, eps=1e-6)
