"""Which of our networks others have: timm, and the authors' own code (deit)."""

from .architecture import Architecture


class NoSuchModelError(ValueError):
    """Others have no model that could take these weights; the message says which setting it is, and the way out."""


def refuse_foreign(arch: Architecture, whose: str = "timm") -> None:
    """Makes sure that others have a model for such weights.

    They have CaiT itself, with LayerScale, talking heads and whole class-attention blocks; and, as VisionTransformer,
    the pre-norm network with plain heads and a class token from the start, or with average pooling.

    Raises:
        NoSuchModelError: If they have not, with the first setting that makes it so.
    """
    is_cait = arch.class_token == "class_attention"
    token = f"class_token '{arch.class_token}'"
    if arch.class_token == "inserted":
        why = token
    elif arch.residual != ("layer_scale" if is_cait else "pre_norm"):
        why = f"residual '{arch.residual}' with {token}"
    elif arch.talking_heads != is_cait:
        why = f"talking_heads {str(arch.talking_heads).lower()} with {token}"
    elif not arch.class_attention_mlp:
        why = "class_attention_mlp false"
    else:
        return
    raise NoSuchModelError(
        f"{whose} has no model with {why}; the format 'own' (cait export --own) writes them for this project alone"
    )
