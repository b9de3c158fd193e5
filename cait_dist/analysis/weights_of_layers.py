"""What is read off the weights alone: LayerScale, and the matrices that mix the heads of self-attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import AnalysisError
from .residual_norms import BRANCHES
from .subject import Subject

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
STAGES = {"self-attention": "blocks", "class-attention": "blocks_token_only"}
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BranchScale:
    """|γ| of one branch of one layer, over the channels.

    Attributes:
        stage: ``self-attention`` or ``class-attention``.
        layer: counted from 1 within its stage.
        branch: ``attention`` or ``feed-forward``.
        mean: of |γ|.
        quantiles: 5 %, 25 %, median, 75 %, 95 %.
        negative: share of the channels whose γ is below zero.
    """

    stage: str
    layer: int
    branch: str
    mean: float
    quantiles: tuple[float, ...]
    negative: float


def layer_scales(subject: Subject) -> list[BranchScale]:
    """LayerScale of every layer; where a branch has one scalar, that.

    Raises:
        AnalysisError: if the branches are not scaled
    """
    found = []
    for (stage, blocks), depth in zip(STAGES.items(), subject.depths, strict=True):
        for layer in range(depth):
            for number, branch in enumerate(BRANCHES, 1):
                names = (f"{blocks}.{layer}.{scale}_{number}" for scale in ("gamma", "alpha"))
                if name := next((name for name in names if name in subject.weights), None):
                    found.append(_scale(stage, layer + 1, branch, subject.weights[name].double().numpy()))
    if not found:
        raise AnalysisError(f"{subject.title}: its branches have no LayerScale, or it was folded into the weights")
    return found


def _scale(stage: str, layer: int, branch: str, gamma: Matrix) -> BranchScale:
    size = np.abs(gamma)
    quantiles = tuple(float(value) for value in np.quantile(size, QUANTILES))
    return BranchScale(stage, layer, branch, float(size.mean()), quantiles, float((gamma < 0).mean()))


def head_mixing(subject: Subject) -> list[tuple[Matrix, Matrix]]:
    """The matrices that mix attention heads before and after the softmax, per self-attention layer.

    Returns:
        (heads, heads) each; row i holds the weights with which the heads before make head i after

    Raises:
        AnalysisError: if the heads do not talk
    """
    names = [
        [f"blocks.{layer}.attn.{name}.weight" for name in ("proj_l", "proj_w")] for layer in range(subject.depths[0])
    ]
    if not names or names[0][0] not in subject.weights:
        raise AnalysisError(f"{subject.title}: its attention heads are not mixed (no blocks.0.attn.proj_l)")
    return [
        (subject.weights[before].double().numpy(), subject.weights[after].double().numpy()) for before, after in names
    ]
