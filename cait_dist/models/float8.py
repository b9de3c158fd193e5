"""Which linear layers train with products of 8 bits, and which networks and devices cannot.

The four of every self-attention block: they are four fifths of the network's arithmetic and more. Class attention and
the ends of the network are too small to gain anything, and an error there goes straight into the result. Layers are
told from outside, and do without when they are evaluated.
"""

import torch

from cait_dist.ops import FLOAT8_MULTIPLE, float8_trouble

from .architecture import Architecture
from .cait import Cait
from .layers import BranchLinear


class Float8Error(ValueError):
    """Why there are no products of 8 bits."""


def use_float8(model: Cait, device: torch.device) -> None:
    """Has the linear layers of all self-attention blocks train so, in place.

    Args:
        model: of which :func:`unsuitable_widths` names none.
        device: on which it is to train.

    Raises:
        Float8Error: if that multiplies no numbers of 8 bits.
    """
    if trouble := float8_trouble(device):
        raise Float8Error(trouble)
    for block in model.blocks:
        for layer in block.modules():
            if isinstance(layer, BranchLinear):
                layer.float8 = True


def unsuitable_widths(arch: Architecture) -> dict[str, str]:
    """By the field that decides it, what is wrong with a layer's width."""
    widths = {"embed_dim": arch.embed_dim, "mlp_ratio": arch.mlp_hidden}
    rule = f"with products of 8 bits a layer's width must be a multiple of {FLOAT8_MULTIPLE}"
    return {field: f"{rule}, and one would be {width}" for field, width in widths.items() if width % FLOAT8_MULTIPLE}
