"""CaiT, from image to logits ("Going deeper with Image Transformers", Touvron et al. 2021, arXiv 2103.17239).

    images ─► patch embedding ─► + position ─► L self-attention blocks ─► 2 class-attention blocks ─► norm ─► head
              (B, N, d)                        patches only               class token reads patches

Two ideas separate it from ViT. LayerScale (section 2) multiplies each residual branch by a learned vector that starts
near zero, which lets transformers of 36 or 48 blocks train. Class attention (section 3) brings the class token in only
at the end, when the patches are done, so that no layer has to serve both ends at once.

The module tree has the names of the published weights (deit, timm), and there are no buffers. Nothing here knows of
ranks, sharding, checkpointing or compilation: blocks and attentions take and return plain tensors by position, and are
wrapped from outside. :mod:`cait_dist.models.layers` tells which dtype lives where.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cait_dist.ops import draw_keep_mask

from .architecture import Architecture
from .attention import ClassAttention, TalkingHeadAttention
from .layers import Mlp, PatchEmbed, StreamNorm, stream_dtype
from .residual import layer_scale_residual

INIT_STD = 0.02


class SelfAttentionBlock(nn.Module):
    """Talking-heads attention among the patches, then a feed-forward network, each behind a LayerScale residual."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.drop_path_rate = arch.drop_path_rate
        self.norm1 = StreamNorm(dim)
        self.attn = TalkingHeadAttention(
            dim, arch.num_heads, attn_drop_rate=arch.attn_drop_rate, drop_rate=arch.drop_rate
        )
        self.norm2 = StreamNorm(dim)
        self.mlp = Mlp(dim, arch.mlp_hidden, arch.drop_rate)
        self.gamma_1 = nn.Parameter(torch.full((dim,), arch.layer_scale_init))
        self.gamma_2 = nn.Parameter(torch.full((dim,), arch.layer_scale_init))

    def forward(self, x: Tensor, keep_attn: Tensor | None = None, keep_mlp: Tensor | None = None) -> Tensor:
        """Updates the patch tokens.

        Args:
            x: Patch tokens (B, N, d), the residual stream: float32 or wider.
            keep_attn: (B,) bool, which samples run the attention branch; None runs it for all.
            keep_mlp: (B,) bool, which samples run the feed-forward branch; None runs it for all.

        Returns:
            (B, N, d) in the dtype of ``x``.
        """
        x = layer_scale_residual(x, self._attend, self.gamma_1, keep_attn, self.drop_path_rate)
        return layer_scale_residual(x, self._feed_forward, self.gamma_2, keep_mlp, self.drop_path_rate)

    def _attend(self, x: Tensor) -> Tensor:
        return self.attn(self.norm1(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm2(x))


class ClassAttentionBlock(nn.Module):
    """The class token reads the patches, then goes through a feed-forward network; the patches stay as they are.

    Dropout and stochastic depth never act here, whatever the rates of the model, as in the code of the authors.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.norm1 = StreamNorm(dim)
        self.attn = ClassAttention(dim, arch.num_heads)
        self.norm2 = StreamNorm(dim)
        self.mlp = Mlp(dim, arch.mlp_hidden)
        self.gamma_1 = nn.Parameter(torch.full((dim,), arch.layer_scale_init))
        self.gamma_2 = nn.Parameter(torch.full((dim,), arch.layer_scale_init))

    def forward(self, patches: Tensor, cls: Tensor) -> Tensor:
        """Updates the class token.

        Args:
            patches: Patch tokens (B, N, d) as the self-attention stage left them.
            cls: Class token (B, 1, d), the residual stream of this stage: float32 or wider.

        Returns:
            The class token (B, 1, d).
        """
        cls = layer_scale_residual(
            cls, lambda c: self.attn(self.norm1(torch.cat((c, patches), dim=1))), self.gamma_1, None, 0.0
        )
        return layer_scale_residual(cls, lambda c: self.mlp(self.norm2(c)), self.gamma_2, None, 0.0)


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
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, arch.num_patches, dim))
        self.blocks = nn.ModuleList(SelfAttentionBlock(arch) for _ in range(arch.depth))
        self.blocks_token_only = nn.ModuleList(ClassAttentionBlock(arch) for _ in range(arch.depth_token_only))
        self.norm = StreamNorm(dim)
        self.head = nn.Linear(dim, arch.num_classes)
        self._initialise()

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
        _, cls = self._stages(images, keep)
        return self.head(self.norm(cls)[:, 0])  # the norm acts on each token alone: the patches need not be normed

    def forward_features(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Returns the normalised sequence (B, 1 + N, d), class token first; arguments as :meth:`forward`."""
        patches, cls = self._stages(images, keep)
        return self.norm(torch.cat((cls, patches), dim=1))

    def _stages(self, images: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both stages: patch tokens (B, N, d) and class token (B, 1, d), in the stream's dtype."""
        keep = self._resolve_keep(images, keep)
        dtype = stream_dtype(self.pos_embed)
        x = self.patch_embed(images).to(dtype) + self.pos_embed.to(dtype)
        x = F.dropout(x, self.arch.drop_rate, self.training)
        for i, block in enumerate(self.blocks):
            x = block(x, None, None) if keep is None else block(x, keep[:, i, 0], keep[:, i, 1])
        cls = self.cls_token.to(dtype).expand(x.shape[0], -1, -1)
        for block in self.blocks_token_only:
            cls = block(x, cls)
        return x, cls

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

    def _initialise(self) -> None:
        """Normal(0, 0.02) for all linear layers (head mixing too) and embeddings; the convolution keeps torch's own."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=INIT_STD)
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)


def no_weight_decay_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay must leave alone.

    These are all vectors (biases, norms, LayerScale) and the two embeddings ``pos_embed`` and ``cls_token``, as in the
    training code of the authors. Ask before the parameters are sharded: it is their own shapes that decide.

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
