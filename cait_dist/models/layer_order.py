"""Where in the network a parameter enters: 0 with the image, the last number with the logits.

Fine-tuning may let the layers near the image, which have learnt what images look like, move less than those near the
new head. What is a layer, and how far it is from the head, is the network's own affair and stands here.
"""

from .architecture import Architecture


def num_layers(arch: Architecture) -> int:
    """Number of layers: the patch embedding, every block of both stages, and the head with its norm."""
    return arch.depth + arch.class_blocks + 2


def layer_of(name: str, arch: Architecture) -> int:
    """Layer in which a parameter enters, from 0 to ``num_layers(arch) - 1``.

    Args:
        name: As in ``model.named_parameters()``.
        arch: Of the model.

    Returns:
        0 for the patch and position embeddings, ``1 + i`` for self-attention block i, ``1 + depth + j`` for
        class-attention block j, the last for the norm and the head. The class token belongs to the block that it enters
        with; timm counts it among the embeddings, wherever it enters.
    """
    stage, _, rest = name.partition(".")
    if stage == "blocks":
        return 1 + int(rest.partition(".")[0])
    if stage == "blocks_token_only":
        return 1 + arch.depth + int(rest.partition(".")[0])
    if stage == "cls_token":
        return _entry_of_class_token(arch)
    return 0 if stage in ("patch_embed", "pos_embed") else num_layers(arch) - 1


def _entry_of_class_token(arch: Architecture) -> int:
    if arch.class_token == "from_start":
        return 0
    return 1 + (arch.depth if arch.insert_class_token_at is None else arch.insert_class_token_at)
