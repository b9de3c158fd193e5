"""Folding the scales of residual branches into the weights before them: the same function with fewer parameters.

The last layer of a branch is linear, so multiplying its output by LayerScale is multiplying its rows:

    γ ⊙ (W y + b)  =  (diag(γ) W) y + γ ⊙ b

After training γ has done its work ("Going deeper with Image Transformers", arXiv 2103.17239, section 2), and the folded
network is a plain pre-norm one: ``residual`` is ``pre_norm``. A scalar α folds the same way.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .architecture import Architecture
from .branches import RESIDUALS
from .cait import Cait
from .weights import read_state_dict, save_weights

FOLDED = "pre_norm"
_LAST_LAYERS = {"1": "attn.proj", "2": "mlp.fc2"}


class FoldingError(ValueError):
    """There is nothing to fold, or no network that the result would be."""


def folded_architecture(arch: Architecture) -> Architecture:
    """The architecture after folding.

    Raises:
        FoldingError: If branches have no scale, or the network without it is none of ours.
    """
    branch = arch.branch
    if branch.scale == "none":
        raise FoldingError(f"residual '{arch.residual}' has no LayerScale to fold: export the weights as they are")
    if not branch.norm or branch.has_shifts:
        able = [name for name, b in RESIDUALS.items() if b.norm and b.scale != "none" and not b.has_shifts]
        raise FoldingError(
            f"residual '{arch.residual}' cannot be folded: without its scale it is no pre-norm network "
            f"(those that can: {', '.join(able)})"
        )
    return replace(arch, residual=FOLDED, layer_scale_init=None)


def fold_state_dict(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without scales; each has gone into the last layer of its branch.

    Args:
        weights: State dict of a network with norms and scales; left as it is.
    """
    folded = {name: tensor for name, tensor in weights.items() if not _is_scale(name)}
    for name, scale in weights.items():
        if _is_scale(name):
            block, _, own = name.rpartition(".")
            layer = f"{block}.{_LAST_LAYERS[own[-1]]}"
            folded[f"{layer}.weight"] = scale[:, None] * weights[f"{layer}.weight"]
            folded[f"{layer}.bias"] = scale * weights[f"{layer}.bias"]
    return folded


@torch.no_grad()
def fold_layer_scale(model: Cait) -> Cait:
    """A network that computes the same without LayerScale; the one given stays as it is.

    Args:
        model: Any CaiT whose branches have a norm and a scale.

    Returns:
        A new model of :func:`folded_architecture`, in the same mode, dtype and place.

    Raises:
        FoldingError: If branches have no scale, or the network without it is none of ours.
    """
    with torch.device("meta"):
        folded = Cait(folded_architecture(model.arch))
    folded.load_state_dict(fold_state_dict(model.state_dict()), assign=True)
    return folded.train(model.training)


def fold_file(source: Path, target: Path) -> None:
    """Folds the weights in a file of timm's or deit's layout into another of the same layout.

    Raises:
        ValueError: If the file cannot be read.
    """
    folded = fold_state_dict(read_state_dict(source))
    save_weights(folded, target, format="deit" if target.suffix == ".pth" else "own")


def _is_scale(name: str) -> bool:
    return name.rpartition(".")[2].startswith(("gamma_", "alpha_"))
