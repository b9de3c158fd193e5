"""What is analysed: weights, the model they belong to, and how images are shown to it.

A run says all of it. A file of weights says less, but its tensors have the shapes that a CaiT is made of, so the model
is read off from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cait_dist.config import RunConfig
from cait_dist.config.augment import AugmentConfig
from cait_dist.models import Architecture, Cait, architecture, create_model
from cait_dist.models.weights import read_state_dict

from .errors import AnalysisError


@dataclass(frozen=True)
class Subject:
    """A trained model.

    Attributes:
        title: short, for pictures.
        source: where the weights come from, for the record.
        weights: fp32 tensors by name.
        folder: where results go unless told otherwise.
        mean: per channel, of pixels in [0, 1], that the model takes for zero.
        std: likewise, for one.
        crop_ratio: centre crop over short side.
        config: of the run; None for a file.
    """

    title: str
    source: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    folder: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_ratio: float
    config: RunConfig | None = field(default=None, repr=False)

    @property
    def depths(self) -> tuple[int, int]:
        """Numbers of self-attention and class-attention blocks."""
        return _count(self.weights, "blocks"), _count(self.weights, "blocks_token_only")

    @property
    def scale_start(self) -> float | None:
        """The value with which LayerScale, or the scalar in its place, started; None if that is not known."""
        if self.config is None:
            return None
        return architecture(self.config.model.name, **self.config.model.overrides).branch_start

    def model(self, device: torch.device) -> Cait:
        """The model with its weights, in fp32 and evaluation mode.

        Raises:
            AnalysisError: if it cannot be told from the weights
        """
        if self.config is None:
            model = _read_off(self.weights, str(self.source["file"]))
        else:
            classes = self.weights["head.weight"].shape[0]
            model = create_model(self.config.model.name, num_classes=classes, **self.config.model.overrides)
            model.load_state_dict(self.weights)
        return model.to(device).eval()


def subject_of_run(
    run_dir: Path, config: RunConfig, weights: Mapping[str, Tensor], step: int, kind: str, digest: str
) -> Subject:
    """Weights of a run's checkpoint.

    Args:
        run_dir: of the run
        config: of the run
        weights: whole, fp32
        step: of the checkpoint
        kind: ``raw`` or ``ema``
        digest: of the checkpoint
    """
    average = ", moving average" if kind == "ema" else ""
    return Subject(
        title=f"{config.name}, step {step:,}{average}",
        source={"run": str(run_dir), "step": step, "weights": kind, "checkpoint": digest},
        weights=weights,
        folder=run_dir / "analysis" / f"step-{step:08d}-{kind}",
        mean=config.augment.mean,
        std=config.augment.std,
        crop_ratio=config.evaluation.crop_ratio,
        config=config,
    )


def subject_of_file(path: Path) -> Subject:
    """A file of weights, ours or a published one; images are shown as to the published models.

    Raises:
        ValueError: if it cannot be read
    """
    usual = AugmentConfig()
    return Subject(
        title=path.stem,
        source={"file": str(path)},
        weights=read_state_dict(path),
        folder=path.with_name(f"{path.stem}-analysis"),
        mean=usual.mean,
        std=usual.std,
        crop_ratio=1.0,
    )


def _count(weights: Mapping[str, Tensor], stage: str) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith(f"{stage}.")})


def _read_off(weights: Mapping[str, Tensor], place: str) -> Cait:
    """A CaiT with LayerScale and talking heads, by the shapes of its tensors."""
    try:
        model = Cait(_architecture(weights))
        model.load_state_dict(weights)
    except (KeyError, ValueError, RuntimeError) as error:
        why = f"has no {error.args[0]}" if isinstance(error, KeyError) else "has other tensors"
        raise AnalysisError(
            f"{place} {why}, so the model cannot be told from it (only that of a CaiT with LayerScale, talking heads"
            " and class attention can): pass the run that it was exported from"
        ) from None
    return model


def _architecture(weights: Mapping[str, Tensor]) -> Architecture:
    patches, dim = weights["pos_embed"].shape[1:]
    patch = weights["patch_embed.proj.weight"].shape[2]
    return Architecture(
        image_size=math.isqrt(patches) * patch,
        patch_size=patch,
        in_chans=weights["patch_embed.proj.weight"].shape[1],
        num_classes=weights["head.weight"].shape[0],
        embed_dim=dim,
        depth=_count(weights, "blocks"),
        depth_token_only=_count(weights, "blocks_token_only"),
        num_heads=weights["blocks.0.attn.proj_l.weight"].shape[0],
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        layer_scale_init=float(weights["blocks.0.gamma_1"].abs().mean()) or 1.0,
    )
