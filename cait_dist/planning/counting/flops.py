"""Counts multiply-adds and parameters of a CaiT from its numbers alone, before anything is built or submitted.

The convention is that of the papers and of timm: one multiply-add (MAC) counts one, for one image, forward, products of
matrices only (norms, softmax, GELU and biases are left out). In FLOP, double it; a training step is three times the
forward pass. With N patches, width d, H heads, hidden width m, per self-attention block:

    N · (4 d² + 2 d m)     linear layers: qkv 3 d², output projection d², feed-forward 2 d m     (12 N d² at m = 4 d)
    2 N² d                 q kᵀ and A v
    2 N² H²                the two head mixings; without them the published numbers are not met

A class token that is there from the start, or joins later, makes N + 1 tokens of N in the blocks that it is in. How
branches are added (LayerScale, a scalar, norms) is no product of matrices and changes parameters only.

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
    d, tokens = arch.embed_dim, tokens_by_block(arch)
    pairs = sum(t**2 for t in tokens)
    return MacCount(
        patch_embed=arch.num_patches * _patch_values(arch) * d,
        linears=sum(tokens) * (4 * d**2 + 2 * d * arch.mlp_hidden),
        attention=2 * pairs * d,
        head_mixing=2 * pairs * arch.num_heads**2 if arch.talking_heads else 0,
        class_attention=arch.class_blocks * _class_block_macs(arch),
        head=d * arch.num_classes,
    )


def count_params(arch: Architecture) -> ParamCount:
    """Counts the parameters.

    With d the width, m the hidden width, H the heads and N the patches: a self-attention block has
    3 d² + 3 d (qkv), d² + d (projection), 2 (H² + H) (head mixing), 2 d m + m + d (feed-forward), 4 d (norms) and 2 d
    (LayerScale); a class-attention block the same with q, k, v apart (again 3 d² + 3 d) and without the head mixing.
    What a variant lacks is not counted; Fixup adds a number for each linear layer and activation.

    Args:
        arch: For example ``architecture("cait_m48_448")``.

    Returns:
        Parameters per component; ``.total`` is the number in the paper, which counts at resolution 224.
    """
    d, heads = arch.embed_dim, arch.num_heads
    shift = int(arch.branch.has_shifts)
    mixing = 2 * (heads**2 + heads) if arch.talking_heads else 0
    attention, mlp = 4 * (d**2 + d) + _around_branch(arch), _mlp_params(arch) + _around_branch(arch)
    class_mlp = mlp if arch.class_attention_mlp else 0
    return ParamCount(
        embeddings=(_patch_values(arch) + 1) * d + (d if arch.has_class_token else 0) + arch.num_positions * d,
        blocks=arch.depth * (attention + 2 * shift + mixing + mlp),
        class_attention=arch.class_blocks * (attention + 4 * shift + class_mlp),
        head=(2 * d if arch.branch.norm else 0) + (d + 1) * arch.num_classes + shift,
    )


def _mlp_params(arch: Architecture) -> int:
    d, hidden = arch.embed_dim, arch.mlp_hidden
    return 2 * d * hidden + hidden + d + (3 if arch.branch.has_shifts else 0)


def _around_branch(arch: Architecture) -> int:
    """The norm before a branch and the scale after it."""
    scale = {"none": 0, "scalar": 1, "channel": arch.embed_dim}[arch.branch.scale]
    return (2 * arch.embed_dim if arch.branch.norm else 0) + scale


def tokens_by_block(arch: Architecture) -> list[int]:
    """Tokens in each self-attention block."""
    joins = {"from_start": 0, "inserted": arch.insert_class_token_at}.get(arch.class_token)
    return [arch.num_patches + int(joins is not None and i >= joins) for i in range(arch.depth)]


def _patch_values(arch: Architecture) -> int:
    """Numbers in one patch of the image."""
    return arch.in_chans * arch.patch_size**2


def _class_block_macs(arch: Architecture) -> int:
    """One class-attention block: k, v for N + 1 tokens, everything else for the class token alone."""
    n, d = arch.num_patches + 1, arch.embed_dim
    mlp = 2 * d * arch.mlp_hidden if arch.class_attention_mlp else 0
    return 2 * n * d**2 + 2 * d**2 + 2 * n * d + mlp
