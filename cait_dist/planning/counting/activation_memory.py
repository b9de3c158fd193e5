"""What autograd keeps of an image from its forward pass to its backward pass, counted from the formulas of the layers.

With N tokens, width d, H heads, hidden width m and e bytes per number of a matrix product, autograd keeps of a block,
in bytes (the stream is float32 throughout, and so is the softmax):

    attention branch                                feed-forward branch
      4 N d + 8 N  stream, for the norm, and its      4 N d + 8 N  likewise
                   two numbers per token
      e N d        output of the norm                 e N d        output of the norm
      3 e N d      q, k, v                            e N m        input of GELU
      …            maps, by backend
      e N d        input of the projection

The maps of ``eager`` are the mixed logits' input S and the mixed probabilities A (e H N² each), the softmax's output
(4 H N²) and, where e is 2, its narrow copy (2 H N²): three float32 maps, or five bf16 ones. The other backends keep
none. GELU is computed again, and LayerScale needs no output (:mod:`cait_dist.ops.scaled_linear`). Where Fixup's shift
or dropout stands behind GELU its output is kept too (e N m), and with dropout that of either branch (e N d). Stochastic
depth leaves whole samples out of a branch, so a rate p keeps 1 - p of all this.

Recomputation keeps less, and makes again for one block at a time what it did not keep. The peak is looked for at four
kinds of moments: when the forward pass ends, and in each block when the backward pass is in its feed-forward branch,
when it is in its attention, for which the feed-forward branch has been released, and in the layer before that.
Meanwhile gradients of weights come up, where they are not written into buffers that are there anyway. The tests hold
what is kept against what ``torch.autograd.graph.saved_tensors_hooks`` sees, and the peak against the live bytes of a
step.
"""

from __future__ import annotations

from dataclasses import dataclass

from cait_dist.models import Architecture
from cait_dist.ops.scaled_linear import CACHED_NUMBERS
from cait_dist.ops.talking_heads import chunked, fused, native

from .flops import count_params, tokens_by_block
from .numerics import WIDE, Numerics

POLICIES = ("none", "attention", "block")
"""besides ``every-K``"""
BACKENDS = ("eager", "chunked", "native", "fused")
_MAPS_AT_ONCE = {"chunked": 4, "native": 2, "fused": 2}


@dataclass(frozen=True)
class Moment:
    """Bytes that are live at a time of a step, the attention's workspace left out.

    Attributes:
        name: what goes on.
        per_image: of one image.
        per_batch: besides.
        in_attention: whether the workspace is in use.
    """

    name: str
    per_image: float
    per_batch: int
    in_attention: bool


@dataclass(frozen=True)
class Activations:
    """Bytes on a rank besides its state.

    Attributes:
        kept_per_image: what one image keeps until its backward pass.
        kept_per_batch: copies of weights in another width that autograd keeps; the same for any number of images.
        moments: at one of which the peak is.
        workspace_maps: bytes of all maps of an image that the attention works on at once.
        workspace_limit: bound on those of a batch; 0 where there are none.
        workspace_floor: least that is worked on.
        workspace_mask: what falls out of an image's map.
        workspace_tokens: bytes of an image besides its maps, while the attention works on it.
    """

    kept_per_image: float
    kept_per_batch: int
    moments: tuple[Moment, ...]
    workspace_maps: int
    workspace_limit: int
    workspace_floor: int
    workspace_mask: int
    workspace_tokens: int

    def workspace(self, images: int) -> int:
        """Buffers of the attention for a micro-batch."""
        if not self.workspace_maps:
            return 0
        at_once = min(images, max(1, self.workspace_limit // self.workspace_maps))
        maps = max(self.workspace_floor, min(self.workspace_maps * images, self.workspace_limit))
        return maps + self.workspace_mask + self.workspace_tokens * at_once

    def kept(self, images: int) -> float:
        """What a micro-batch keeps."""
        return images * self.kept_per_image + self.kept_per_batch

    def peak(self, images: int) -> float:
        """Most that a micro-batch needs at once."""
        work = self.workspace(images)
        return max(images * m.per_image + m.per_batch + (work if m.in_attention else 0) for m in self.moments)


@dataclass(frozen=True)
class _Branch:
    """Kept bytes of a branch: around what it computes, and within."""

    outside: int
    inside: int

    @property
    def total(self) -> int:
        return self.outside + self.inside


def is_recomputed(policy: str, block: int) -> bool:
    """Whether a self-attention block is computed again as a whole."""
    if policy in ("none", "attention"):
        return False
    return block % (1 if policy == "block" else int(policy.removeprefix("every-"))) == 0


def count_activations(
    arch: Architecture, width: Numerics, policy: str, backend: str, device: str = "cuda", gradient: int = 0
) -> Activations:
    """Count what a micro-batch keeps and needs.

    Args:
        arch: the network, with its rates.
        width: of its numbers.
        policy: as ``training.activation_checkpointing``.
        backend: of the attention; without talking heads torch's own runs, which keeps no maps.
        device: ``cuda`` or ``cpu``, which differ in the workspace, in GELU, and in how wide masks of dropout are.
        gradient: bytes of a weight's gradient that comes up in the backward pass.
    """
    share = 1 - arch.drop_path_rate
    image = width.product * arch.in_chans * arch.image_size**2
    mask = 1 if device == "cuda" else width.product
    kept, kept_weights, moments = float(image), _kept_weights(arch, width, policy), list[Moment]()
    for block, tokens in enumerate(tokens_by_block(arch)):
        attention = _attention_branch(arch, tokens, width, backend, mask)
        mlp = _mlp_branch(arch, tokens, width, mask)
        again = 0
        if is_recomputed(policy, block):
            kept += WIDE * tokens * arch.embed_dim
            again = attention.total + mlp.total
        elif policy == "attention":
            kept += share * (attention.outside + _input_beyond(arch, tokens, width) + mlp.total)
        else:
            kept += share * (attention.total + mlp.total)
        batch = kept_weights + gradient * _params_behind(arch, block)
        for live, weights in _live_in_mlp(arch, tokens, width, device):
            in_mlp = kept + share * (again + live)
            moments.append(Moment(f"block {block}, feed-forward", in_mlp, batch + weights, in_attention=False))
        again += attention.inside if policy == "attention" else 0
        in_attention = kept + share * (again - mlp.total + _live_in_attention(arch, tokens, width.product, backend))
        batch += gradient * _params_behind_attention(arch)
        moments.append(Moment(f"block {block}, attention", in_attention, batch, in_attention=True))
        live, weights = _live_before_attention(arch, tokens, width)
        before = kept + share * (again - mlp.total - attention.inside + live)
        moments.append(Moment(f"block {block}, before attention", before, batch + weights, in_attention=False))
    maps = _workspace_maps(arch, width.product, backend)
    whole = kept + _ends(arch, width)
    return Activations(
        kept_per_image=whole,
        kept_per_batch=kept_weights,
        moments=(*moments, Moment("end of the forward pass", whole, kept_weights, in_attention=False)),
        workspace_maps=maps,
        workspace_limit=_workspace_limit(maps, backend, device),
        workspace_floor=maps if backend == "fused" else 0,
        workspace_mask=maps // _MAPS_AT_ONCE[backend] if maps and arch.attn_drop_rate else 0,
        workspace_tokens=max(_workspace_tokens(arch, n, width.product, backend) for n in tokens_by_block(arch)),
    )


def _params_behind(arch: Architecture, block: int) -> int:
    """Parameters whose gradients are there when the backward pass is in this block."""
    params = count_params(arch)
    return params.class_attention + params.head + (arch.depth - 1 - block) * params.blocks // arch.depth


def _params_behind_attention(arch: Architecture) -> int:
    """Those of the same block whose gradients are there before."""
    return 2 * arch.embed_dim * arch.mlp_hidden + arch.embed_dim**2


def _outside(arch: Architecture, tokens: int, e: int) -> int:
    """Stream and norm before a branch."""
    d = arch.embed_dim
    return tokens * ((WIDE * d + 2 * WIDE if arch.branch.norm else 0) + e * d)


def _behind(arch: Architecture, tokens: int, e: int, mask: int) -> int:
    """Of the output of a branch: dropout's mask, and what comes out of it where the scale has to wait for that."""
    return tokens * arch.embed_dim * (mask + (e if arch.branch.scale != "none" else 0)) if arch.drop_rate else 0


def _input_beyond(arch: Architecture, tokens: int, width: Numerics) -> int:
    """What an attention that is computed again takes as its input, beyond the narrow tokens that its layers take."""
    return 0 if arch.branch.norm else (WIDE - width.product) * tokens * arch.embed_dim


def _attention_branch(arch: Architecture, tokens: int, width: Numerics, backend: str, mask: int) -> _Branch:
    d, e, pairs = arch.embed_dim, width.product, arch.num_heads * tokens**2
    inside = 4 * e * tokens * d
    if not arch.talking_heads:
        inside += WIDE * arch.num_heads * tokens
    elif backend == "eager":
        inside += (2 * e + WIDE + (e if e < WIDE else 0)) * pairs
    # Where no maps are kept, what falls out of them is drawn again.
    keeps_maps = backend == "eager" or not arch.talking_heads
    dropped = mask * pairs if arch.attn_drop_rate and keeps_maps else 0
    return _Branch(_outside(arch, tokens, e), inside + dropped + _behind(arch, tokens, e, mask))


def _mlp_branch(arch: Architecture, tokens: int, width: Numerics, mask: int) -> _Branch:
    # A shift before GELU is as wide as the parameters, and so is their sum.
    hidden = width.parameter if arch.branch.has_shifts else width.product
    if arch.branch.has_shifts or arch.drop_rate:  # what stands behind GELU has its output
        hidden += width.product
        hidden += mask if arch.drop_rate else 0
    inside = tokens * hidden * arch.mlp_hidden + _behind(arch, tokens, width.product, mask)
    return _Branch(_outside(arch, tokens, width.product), inside)


def _ends(arch: Architecture, width: Numerics) -> int:
    """After the blocks: the class-attention stage and the head; and what dropout keeps of the embedding."""
    d = arch.embed_dim
    dropped = WIDE * arch.num_patches * d if arch.drop_rate else 0
    # What is read of the last block's output is a part of it, and keeps all of it.
    pooled = 1 if arch.class_token == "class_attention" else arch.num_positions
    norm = (WIDE * d + 2 * WIDE) * pooled if arch.branch.norm else 0
    return dropped + arch.class_blocks * _class_block(arch, width) + norm + 2 * WIDE * arch.num_classes


def _class_block(arch: Architecture, width: Numerics) -> int:
    """A class-attention block: stream and norm of all tokens, k and v; the rest is of one token and small.

    k and v take the same tokens, but each a copy of its own where no norm has narrowed them for autocast, or where
    Fixup shifts them.
    """
    e, d, tokens = width.product, arch.embed_dim, arch.num_patches + 1
    copies = 2 if (width.autocast and not arch.branch.norm) or arch.branch.has_shifts else 1
    norm = WIDE * tokens * d + 2 * WIDE * tokens if arch.branch.norm else 0
    mlp = (WIDE + e) * d + e * arch.mlp_hidden if arch.class_attention_mlp else 0
    return norm + (copies + 2) * e * tokens * d + (WIDE + 4 * e) * d + mlp


def _kept_weights(arch: Architecture, width: Numerics, policy: str) -> int:
    """Copies of weights that autograd keeps: narrow ones of a convolution under autocast, wide ones of vectors in bf16.

    Linear layers make their copies again, and what is computed again makes them anew.
    """
    d = arch.embed_dim
    if width.autocast:
        return width.product * d * arch.in_chans * arch.patch_size**2
    if width.parameter == WIDE:
        return 0
    whole = sum(not is_recomputed(policy, block) for block in range(arch.depth))
    return 4 * WIDE * d * (whole + arch.class_blocks)


def _workspace_maps(arch: Architecture, e: int, backend: str) -> int:
    maps = _MAPS_AT_ONCE.get(backend, 0) if arch.talking_heads else 0
    return maps * e * arch.num_heads * max(tokens_by_block(arch)) ** 2


def _workspace_tokens(arch: Architecture, tokens: int, e: int, backend: str) -> int:
    """Of q, k, v and the output's gradient, copies where products want them so; gradients until they are put in place.

    Those by k and v are wide where they are summed over several products.
    """
    maps = e * arch.num_heads * tokens**2
    copies, sums = 4 * e, 2 * e
    if backend == "chunked":
        sums = 2 * WIDE
    elif backend == "native":
        copies = 4 * e if e < WIDE or 2 * maps <= native.CACHED_BYTES else 0
        sums = 2 * WIDE if 2 * maps > native.WORKSPACE_BYTES else 2 * e
    return (copies + sums + e) * tokens * arch.embed_dim


def _workspace_limit(maps: int, backend: str, device: str) -> int:
    if not maps:
        return 0
    if backend == "native":  # one image at a time, or several small ones
        together = max(1, _MAPS_AT_ONCE[backend] * native.CACHED_BYTES // maps)
        return min(maps * together, native.WORKSPACE_BYTES)
    return fused.WORKSPACE_BYTES if backend == "fused" else chunked.WORKSPACE_BYTES[device]


def _live_in_mlp(arch: Architecture, tokens: int, width: Numerics, device: str) -> list[tuple[int, int]]:
    """Bytes beyond what is kept, per image and per batch, at the moments of a feed-forward branch's backward pass.

    Of the stream and the hidden layer: on a CPU GELU beside its gradient until the product with it is there, elsewhere
    one in the place of the other. And of the weights, where a scale is multiplied into them: their scaled gradient in
    the width of products and then wide, beside which its products with the weights are made, in parts on a CPU.
    """
    e, has_passes = width.product, device == "cpu" and not (arch.branch.has_shifts or arch.drop_rate)
    stream, hidden = WIDE * tokens * arch.embed_dim, e * tokens * arch.mlp_hidden
    numbers = arch.embed_dim * arch.mlp_hidden if arch.branch.scale != "none" else 0
    products = min(numbers, CACHED_NUMBERS) if device == "cpu" else numbers
    widening = (e if e < WIDE else 0) * numbers
    scaling = WIDE * products + (WIDE * numbers if width.parameter < WIDE else 0)
    last = stream + hidden, WIDE * numbers + max(widening, scaling)
    return [(stream + 2 * hidden, e * numbers), last] if has_passes else [last]


def _live_before_attention(arch: Architecture, tokens: int, width: Numerics) -> tuple[int, int]:
    """Where q, k and v come from: their gradients and that of the norm's output, per image; that of the weights."""
    d = arch.embed_dim
    return (4 * width.product + WIDE) * tokens * d, _weight_gradient(width) * 3 * d**2


def _weight_gradient(width: Numerics) -> int:
    """Bytes per weight of a linear layer when its backward pass is at its input: a gradient, and perhaps a copy."""
    return width.parameter + (width.product if width.autocast else 0)


def _live_in_attention(arch: Architecture, tokens: int, e: int, backend: str) -> int:
    """Of the stream, of q, k and v; and in eager two maps against one that is not needed any more."""
    maps = WIDE * arch.num_heads * tokens**2 if backend == "eager" and arch.talking_heads else 0
    return (WIDE + 3 * e) * tokens * arch.embed_dim + maps
