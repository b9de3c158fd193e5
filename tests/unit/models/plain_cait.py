"""The network written down once more, from the definitions alone and without any of our modules: a second opinion."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Plain:
    """What the definition of a variant says; nothing is looked up in our code.

    Attributes:
        weights: State dict.
        heads: Attention heads.
        patch: Side of a patch.
        norm: LayerNorm before branches and classifier.
        scale: ``gamma``, ``alpha`` or none.
        shifts: Fixup's scalar biases.
        class_token: As in the configuration.
        insert_at: Blocks before the class token joins.
        class_mlp: Feed-forward network in class-attention blocks.
        talking: Heads are mixed.
        keep: Stochastic depth, (B, depth, 2) bool.
        rate: Of stochastic depth.
    """

    weights: Weights
    heads: int
    patch: int
    norm: bool = True
    scale: str | None = "gamma"
    shifts: bool = False
    class_token: str = "class_attention"
    insert_at: int = 0
    class_mlp: bool = True
    talking: bool = True
    keep: Tensor | None = None
    rate: float = 0.0

    def logits(self, images: Tensor) -> Tensor:
        w = self.weights
        batch, channels, height, width = images.shape
        p = self.patch
        squares = images.reshape(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        kernel = w["patch_embed.proj.weight"].flatten(1)
        x = squares.reshape(batch, -1, kernel.shape[1]) @ kernel.T + w["patch_embed.proj.bias"]
        if self.class_token == "from_start":
            x = self._with_class_token(x)
        x = x + w["pos_embed"]
        for i in range(self._count("blocks")):
            if self.class_token == "inserted" and i == self.insert_at:
                x = self._with_class_token(x)
            x = self._add(x, f"blocks.{i}", 1, self._self_attention(self._norm(x, f"blocks.{i}.norm1"), i), i)
            x = self._add(x, f"blocks.{i}", 2, self._mlp(self._norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp"), i)
        if self.class_token == "average_pooling":
            return self._linear(self._norm(x, "norm").mean(1), "head")
        cls = self._class_stage(x) if self.class_token == "class_attention" else x[:, 0]
        return self._linear(self._norm(cls, "norm"), "head")

    def _class_stage(self, patches: Tensor) -> Tensor:
        cls = self.weights["cls_token"].expand(len(patches), 1, -1)
        for i in range(self._count("blocks_token_only")):
            name = f"blocks_token_only.{i}"
            u = self._norm(torch.cat((cls, patches), 1), f"{name}.norm1")
            q, k, v = (self._heads(self._linear(u, f"{name}.attn.{part}")) for part in "qkv")
            maps = (q[:, :, :1] @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
            update = self._linear(self._join(maps @ v), f"{name}.attn.proj")
            cls = self._add(cls, name, 1, update)
            if self.class_mlp:
                cls = self._add(cls, name, 2, self._mlp(self._norm(cls, f"{name}.norm2"), f"{name}.mlp"))
        return cls[:, 0]

    def _self_attention(self, x: Tensor, i: int) -> Tensor:
        name, dim = f"blocks.{i}.attn", x.shape[-1]
        qkv = self._linear(x, f"{name}.qkv")
        q, k, v = (self._heads(qkv[..., part * dim : (part + 1) * dim]) for part in range(3))
        maps = q @ k.mT / math.sqrt(q.shape[-1])
        if self.talking:
            maps = self._mix(maps, f"{name}.proj_l")
        maps = maps.softmax(-1)
        if self.talking:
            maps = self._mix(maps, f"{name}.proj_w")
        return self._linear(self._join(maps @ v), f"{name}.proj")

    def _mlp(self, x: Tensor, name: str) -> Tensor:
        x = self._linear(x, f"{name}.fc1")
        if self.shifts:
            x = x + self.weights[f"{name}.act_shift"]
        x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
        return self._linear(x, f"{name}.fc2")

    def _add(self, x: Tensor, block: str, number: int, update: Tensor, i: int | None = None) -> Tensor:
        if self.scale:
            update = update * self.weights[f"{block}.{self.scale}_{number}"]
        if i is not None and self.keep is not None:
            update = update * self.keep[:, i, number - 1].view(-1, 1, 1).double() / (1 - self.rate)
        return x + update

    def _norm(self, x: Tensor, name: str) -> Tensor:
        if not self.norm:
            return x
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        if self.shifts:
            x = x + self.weights[f"{name}.shift"]
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _mix(self, maps: Tensor, name: str) -> Tensor:
        mixed = torch.einsum("gh,bhij->bgij", self.weights[f"{name}.weight"], maps)
        return mixed + self.weights[f"{name}.bias"].view(1, -1, 1, 1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(len(x), x.shape[2], -1)

    def _with_class_token(self, x: Tensor) -> Tensor:
        return torch.cat((self.weights["cls_token"].expand(len(x), 1, -1), x), 1)

    def _count(self, stage: str) -> int:
        return len({name.split(".")[1] for name in self.weights if name.startswith(f"{stage}.")})
