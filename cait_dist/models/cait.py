"""CaiT, from image to logits ("Going deeper with Image Transformers", Touvron et al. 2021, arXiv 2103.17239).

    images ─► patch embedding ─► + position ─► L self-attention blocks ─► 2 class-attention blocks ─► norm ─► head
              (B, N, d)                        patches only               class token reads patches

Two ideas separate it from ViT. LayerScale (section 2) multiplies each residual branch by a learned vector that starts
near zero, which lets transformers of 36 or 48 blocks train. Class attention (section 3) brings the class token in only
at the end, when the patches are done, so that no layer has to serve both ends at once. What the paper compares these
with is the same network by other settings: :mod:`cait_dist.models.branches` for the residuals, ``class_token`` of
:class:`cait_dist.models.Architecture` for where the class token meets the patches.

The module tree has the names of the published weights (deit, timm), and there are no buffers. Nothing here knows of
ranks, sharding, checkpointing or compilation: blocks and attentions take and return plain tensors, and are wrapped from
outside. :mod:`cait_dist.models.layers` tells which dtype lives where.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cait_dist.ops import draw_keep_mask

from .architecture import Architecture
from .blocks import ClassAttentionBlock, SelfAttentionBlock, make_norm
from .initialise import initialise
from .layers import PatchEmbed, linear_type, narrow, stream_dtype

__all__ = ["Cait", "ClassAttentionBlock", "SelfAttentionBlock", "no_weight_decay_names"]


class Cait(nn.Module):
    """The whole network. Build one by name with :func:`cait_dist.models.create_model`.

    Parameters are initialised from torch's global random numbers, so seeding those reproduces them.

    Args:
        arch: Its shape.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        dim = arch.embed_dim
        self.patch_embed = PatchEmbed(arch.image_size, arch.patch_size, arch.in_chans, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if arch.has_class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, arch.num_positions, dim))
        self.blocks = nn.ModuleList(SelfAttentionBlock(arch) for _ in range(arch.depth))
        self.blocks_token_only = nn.ModuleList(ClassAttentionBlock(arch) for _ in range(arch.class_blocks))
        self.norm = make_norm(arch)
        self.head = linear_type(shifted=arch.branch.has_shifts)(dim, arch.num_classes)
        initialise(self, arch)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Classifies images.

        Args:
            images: (B, in_chans, image_size, image_size), normalised, any floating dtype.
            keep: (B, depth, 2) bool: which (attention, feed-forward) branch of which self-attention block each sample
                runs in this step. None lets the model draw it from torch's random numbers. Only looked at in training
                mode with a ``drop_path_rate`` above 0. Leave it on the CPU: a mask on a GPU is fetched once per
                call, and the host has to wait for it.

        Returns:
            Logits (B, num_classes), in the dtype of the head (or that of autocast).

        Raises:
            ValueError: If ``images`` or ``keep`` have the wrong shape.
        """
        patches, cls = self._stages(images, keep)
        # The norm acts on each token alone: what the head does not read need not be normed.
        pooled = self.norm(patches).mean(dim=1) if cls is None else self.norm(cls)[:, 0]
        return self.head(narrow(pooled, self.head))

    def forward_features(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Returns the normalised sequence (B, 1 + N, d), class token first if any; arguments as :meth:`forward`."""
        patches, cls = self._stages(images, keep)
        return self.norm(patches if cls is None else torch.cat((cls, patches), dim=1))

    def _stages(self, images: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Both stages: patch tokens (B, N, d) and class token (B, 1, d) if any, in the stream's dtype."""
        keep = self._resolve_keep(images, keep)
        dtype = stream_dtype(self.pos_embed)
        x = self.patch_embed(images).to(dtype)
        if self.arch.class_token == "from_start":
            x = self._join_class_token(x)
        x = F.dropout(x + self.pos_embed.to(dtype), self.arch.drop_rate, self.training)
        for i, block in enumerate(self.blocks):
            if i == self.arch.insert_class_token_at:
                x = self._join_class_token(x)
            x = block(x, None, None) if keep is None else block(x, keep[:, i, 0], keep[:, i, 1])
        if self.arch.class_token in ("from_start", "inserted"):
            return x[:, 1:], x[:, :1]
        return x, self._attend_from_class_token(x)

    def _join_class_token(self, x: Tensor) -> Tensor:
        assert self.cls_token is not None
        return torch.cat((self.cls_token.to(x.dtype).expand(x.shape[0], -1, -1), x), dim=1)

    def _attend_from_class_token(self, patches: Tensor) -> Tensor | None:
        if self.cls_token is None:
            return None
        cls = self.cls_token.to(patches.dtype).expand(patches.shape[0], -1, -1)
        for block in self.blocks_token_only:
            cls = block(patches, cls)
        return cls

    def _resolve_keep(self, images: Tensor, keep: Tensor | None) -> Tensor | None:
        """The mask to use, on the CPU, or None where nothing can be dropped."""
        if not self.training or self.arch.drop_path_rate == 0.0:
            return None
        shape = (images.shape[0], self.arch.depth, 2)
        if keep is None:
            return draw_keep_mask(*shape[:2], self.arch.drop_path_rate)
        if tuple(keep.shape) != shape or keep.dtype != torch.bool:
            raise ValueError(
                f"keep must be a boolean mask of shape (batch, depth, 2) = {shape}, "
                f"got {keep.dtype} of shape {tuple(keep.shape)}"
            )
        return keep.cpu()


def no_weight_decay_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay must leave alone.

    These are all vectors and scalars (biases, norms, LayerScale and what stands in its place) and the two embeddings
    ``pos_embed`` and ``cls_token``, as in the training code of the authors. Ask before the parameters are sharded: it
    is their own shapes that decide.

    Args:
        model: A network with whole parameters.

    Returns:
        Names as in ``model.named_parameters()``.

    Raises:
        ValueError: If a parameter is empty, as after sharding: its shape no longer tells what it is.
    """
    names = set()
    for name, parameter in model.named_parameters():
        if parameter.numel() == 0:
            raise ValueError(f"parameter {name} is empty; ask for no_weight_decay_names before parameters are sharded")
        if parameter.ndim <= 1 or name.rpartition(".")[2] in {"pos_embed", "cls_token"}:
            names.add(name)
    return names
