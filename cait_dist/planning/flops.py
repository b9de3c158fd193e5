"""Counts multiply-adds and parameters of a CaiT from its numbers alone, before anything is built or submitted.

The convention is that of the papers and of timm: one multiply-add (MAC) counts one, for one image, forward, products of
matrices only (norms, softmax, GELU and biases are left out). In FLOP, double it; a training step is three times the
forward pass. With N patches, width d, H heads, hidden width m, per self-attention block:

    N · (4 d² + 2 d m)     linear layers: qkv 3 d², output projection d², feed-forward 2 d m     (12 N d² at m = 4 d)
    2 N² d                 q kᵀ and A v
    2 N² H²                the two head mixings; without them the published numbers are not met

The tests hold the result against every published number at hand.
"""

from dataclasses import dataclass, fields

from cait_dist.models import Architecture


@dataclass(frozen=True)
class _Count:
    """Numbers per component, and their sum."""

    @property
    def total(self) -> int:
        """Sum over all components."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class MacCount(_Count):
    """Multiply-adds of one forward pass of one image, by component.

    Attributes:
        patch_embed: The convolution that embeds the patches.
        linears: qkv, output projection and feed-forward network of all self-attention blocks.
        attention: q kᵀ and A v of all self-attention blocks.
        head_mixing: proj_l and proj_w of all self-attention blocks.
        class_attention: All of the class-attention stage.
        head: The classifier.
    """

    patch_embed: int
    linears: int
    attention: int
    head_mixing: int
    class_attention: int
    head: int


@dataclass(frozen=True)
class ParamCount(_Count):
    """Parameters by component.

    Attributes:
        embeddings: Patch embedding, class token and position embedding.
        blocks: All self-attention blocks.
        class_attention: All class-attention blocks.
        head: Final norm and classifier.
    """

    embeddings: int
    blocks: int
    class_attention: int
    head: int


def count_macs(arch: Architecture) -> MacCount:
    """Counts the multiply-adds of a forward pass at batch 1.

    Args:
        arch: For example ``architecture("cait_m48_448")``.

    Returns:
        MACs per component; ``.total`` is the published kind of number.
    """
    n, d, hidden, depth = arch.num_patches, arch.embed_dim, arch.mlp_hidden, arch.depth
    return MacCount(
        patch_embed=n * _patch_values(arch) * d,
        linears=depth * n * (4 * d**2 + 2 * d * hidden),
        attention=depth * 2 * n**2 * d,
        head_mixing=depth * 2 * n**2 * arch.num_heads**2,
        class_attention=arch.depth_token_only * _class_block_macs(arch),
        head=d * arch.num_classes,
    )


def count_params(arch: Architecture) -> ParamCount:
    """Counts the parameters.

    With d the width, m the hidden width, H the heads and N the patches: a self-attention block has
    3 d² + 3 d (qkv), d² + d (projection), 2 (H² + H) (head mixing), 2 d m + m + d (feed-forward), 4 d (norms) and 2 d
    (LayerScale); a class-attention block the same with q, k, v apart (again 3 d² + 3 d) and without the head mixing.

    Args:
        arch: For example ``architecture("cait_m48_448")``.

    Returns:
        Parameters per component; ``.total`` is the number in the paper, which counts at resolution 224.
    """
    d, hidden, heads = arch.embed_dim, arch.mlp_hidden, arch.num_heads
    class_block = 4 * (d**2 + d) + 2 * d * hidden + hidden + d + 4 * d + 2 * d
    block = class_block + 2 * (heads**2 + heads)
    return ParamCount(
        embeddings=(_patch_values(arch) + 1) * d + d + arch.num_patches * d,
        blocks=arch.depth * block,
        class_attention=arch.depth_token_only * class_block,
        head=2 * d + (d + 1) * arch.num_classes,
    )


def _patch_values(arch: Architecture) -> int:
    """Numbers in one patch of the image."""
    return arch.in_chans * arch.patch_size**2


def _class_block_macs(arch: Architecture) -> int:
    """One class-attention block: k, v for N + 1 tokens, everything else for the class token alone."""
    n, d = arch.num_patches + 1, arch.embed_dim
    return 2 * n * d**2 + 2 * d**2 + 2 * n * d + 2 * d * arch.mlp_hidden
