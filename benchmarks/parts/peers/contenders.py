"""Who is compared: ours with every backend, compiled, and leaving branches out; timm's and the authors' networks.

All compute the same function of the same input, with weights that are the same to begin with. What is a variation of
one network shares its parameters, so that even the largest is there once per implementation and not once per contender.

"Compiled" is ``torch.compile``: of each of timm's self-attention blocks by itself, and of our blocks' branches, as
``training.compile`` does it. They are alike, so one compilation serves them all. "Recomputed" keeps only the input of
each self-attention block for the backward pass.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cait_dist.models import Architecture, Cait
from cait_dist.models.cait import SelfAttentionBlock
from cait_dist.ops import available_backends, draw_keep_mask, override_backend
from cait_dist.training.activation_checkpointing import apply_activation_checkpointing
from cait_dist.training.compilation import compile_branches
from parts.timing import Contender

from .networks import deit_block, deit_cait, timm_block, timm_cait

MUCH_DROPPED = 0.3
"""The rate at which leaving branches out is measured on a block."""
LEARNING_RATE = 1e-5
CONFIGS = Path(__file__).resolve().parents[3] / "configs"

AtBatch = dict[str, Callable[[int], Contender]]
"""Contenders by name, each made for a number of samples; the first is what the others are compared with."""


@dataclass(frozen=True)
class Case:
    """What they all compute.

    Attributes:
        arch: of the network; its drop-path rate is what skips branches in a step
        device: that computes
        compiled: whether compiled contenders take part
        deit: a checkout of the authors' code, if there is one
    """

    arch: Architecture
    device: torch.device
    compiled: bool = True
    deit: Path | None = None


def recipe_drop_rate(model: str) -> float:
    """The drop-path rate with which this variant is trained, from its configuration; 0 if it names none."""
    variant, _, size = model.partition("_")[2].partition("_")
    recipe = CONFIGS / "recipe" / f"finetune_{size}.yaml"
    for file in (CONFIGS / "finetune" / f"{model}.yaml", CONFIGS / f"{model}.yaml", recipe):
        if file.is_file() and (found := re.search(r"^ *drop_path_rate: *([0-9.]+)", file.read_text(), re.MULTILINE)):
            return float(found.group(1))
    # A resolution without a configuration of its own has that of the variant's pre-training.
    return recipe_drop_rate(f"cait_{variant}_224") if size != "224" else 0.0


def block_contenders(case: Case) -> AtBatch:
    """One self-attention block, forward and backward; nothing is dropped."""
    blocks = _Blocks(replace(case, arch=_undropped(case.arch)))
    found: AtBatch = {"timm": lambda batch: blocks.contender(blocks.timm, batch)}
    found["timm recomputed"] = lambda batch: blocks.contender(blocks.timm, batch, _recomputed)
    if case.deit is not None:
        found["deit"] = lambda batch: blocks.contender(blocks.deit, batch)
    for backend in available_backends(case.device):
        found[f"ours {backend}"] = partial(_with_backend, backend, lambda batch: blocks.contender(blocks.ours, batch))
    if case.compiled:
        found["timm compiled"] = lambda batch: blocks.contender(blocks.timm, batch, torch.compile)
        found["ours compiled"] = lambda batch: blocks.contender(blocks.ours, batch, _branches_compiled)
    return found


def dropping_contenders(case: Case) -> AtBatch:
    """One self-attention block with and without stochastic depth, compared with ours that computes everything."""
    blocks = _Blocks(replace(case, arch=replace(case.arch, drop_path_rate=MUCH_DROPPED)))
    return {
        "ours, all computed": lambda batch: blocks.contender(blocks.ours, batch),
        f"ours, {MUCH_DROPPED} skipped": blocks.skipping,
        f"timm, {MUCH_DROPPED} dropped": lambda batch: blocks.contender(blocks.timm, batch),
    }


def step_contenders(case: Case) -> AtBatch:
    """A whole training step: forward, loss, backward and AdamW."""
    steps = _Steps(case)
    rate = case.arch.drop_path_rate
    found: AtBatch = {"timm": lambda batch: steps.theirs(steps.timm, batch)}
    found["timm recomputed"] = lambda batch: steps.theirs(steps.timm, batch, _timm_recomputed)
    if case.deit is not None:
        found["deit"] = lambda batch: steps.theirs(steps.deit, batch)
    for backend in available_backends(case.device):
        found[f"ours {backend}"] = partial(_with_backend, backend, steps.all_computed)
    if rate:
        found[f"ours, {rate} skipped"] = steps.skipping
    found["ours recomputed"] = lambda batch: steps.all_computed(batch, _our_recomputed)
    if case.compiled:
        found["timm compiled"] = lambda batch: steps.theirs(steps.timm, batch, _blocks_compiled)
        found["ours compiled"] = lambda batch: steps.all_computed(batch, _our_compiled)
    if case.compiled and rate:
        # Compiled again when the number of samples first changes, and then for any number.
        found[f"ours compiled, {rate} skipped"] = lambda batch: replace(
            steps.skipping(batch, _our_compiled), warm_ups=4
        )
    return found


class _Blocks:
    """The blocks that contenders share, with the same weights, made when first needed."""

    def __init__(self, case: Case) -> None:
        self._case = case

    @cached_property
    def ours(self) -> nn.Module:
        torch.manual_seed(0)
        return SelfAttentionBlock(self._case.arch).to(self._case.device)

    @cached_property
    def timm(self) -> nn.Module:
        return self._alike(timm_block(self._case.arch, self._case.arch.drop_path_rate))

    @cached_property
    def deit(self) -> nn.Module:
        assert self._case.deit is not None
        return self._alike(deit_block(self._case.deit, self._case.arch))

    def _alike(self, block: nn.Module) -> nn.Module:
        block.load_state_dict(self.ours.state_dict())
        return block.to(self._case.device)

    def contender(
        self, block: nn.Module, batch: int, wrap: Callable[[nn.Module], Callable[..., Tensor]] = lambda block: block
    ) -> Contender:
        """A block that computes everything."""
        x, run = self._tokens(batch), wrap(block)
        return Contender(lambda: run(x).sum(), [x, *block.parameters()])

    def skipping(self, batch: int) -> Contender:
        """Our block, which leaves out what a mask says that is drawn anew each time."""
        x, block, draw, facts = self._tokens(batch), self.ours, torch.Generator().manual_seed(0), dict[str, float]()

        def run() -> Tensor:
            keep = draw_keep_mask(batch, 1, MUCH_DROPPED, generator=draw)
            facts["computed_share"] = float(keep.float().mean())
            return block(x, keep[:, 0, 0], keep[:, 0, 1]).sum()

        return Contender(run, [x, *block.parameters()], facts=facts)

    def _tokens(self, batch: int) -> Tensor:
        arch, generator = self._case.arch, torch.Generator().manual_seed(batch)
        x = torch.randn(batch, arch.num_patches, arch.embed_dim, generator=generator)
        return x.to(self._case.device).requires_grad_()


class _Steps:
    """The networks that contenders share, with their optimizers, made when first needed."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._optimizers: dict[int, torch.optim.Optimizer] = {}

    @cached_property
    def ours(self) -> nn.Module:
        return self._new()

    @cached_property
    def timm(self) -> nn.Module:
        with self._case.device:
            return self._alike(timm_cait(self._case.arch))

    @cached_property
    def deit(self) -> nn.Module:
        assert self._case.deit is not None
        with self._case.device:
            return self._alike(deit_cait(self._case.deit, self._case.arch))

    def _new(self) -> nn.Module:
        torch.manual_seed(0)
        with self._case.device:
            return Cait(self._case.arch)

    def _alike(self, network: nn.Module) -> nn.Module:
        # Forgotten at once where ours takes no part: it would hold memory that the other is measured for.
        network.load_state_dict((self.__dict__.get("ours") or self._new()).state_dict())
        return network

    def theirs(
        self, network: nn.Module, batch: int, wrap: Callable[[nn.Module], nn.Module] = lambda network: network
    ) -> Contender:
        """A network that takes images alone."""
        return self._step(network, wrap(network), batch, lambda: ())

    def all_computed(self, batch: int, wrap: Callable[[nn.Module], nn.Module] = lambda network: network) -> Contender:
        """Ours, with every branch of every sample."""
        view: Any = copy.copy(self.ours)
        view.arch = _undropped(self._case.arch)
        return self._step(self.ours, wrap(view), batch, lambda: ())

    def skipping(self, batch: int, wrap: Callable[[nn.Module], nn.Module] = lambda network: network) -> Contender:
        """Ours, which leaves out what a mask says that is drawn anew each time."""
        arch, draw, facts = self._case.arch, torch.Generator().manual_seed(0), dict[str, float]()

        def masks() -> tuple[Tensor]:
            keep = draw_keep_mask(batch, arch.depth, arch.drop_path_rate, generator=draw)
            facts["computed_share"] = float(keep.float().mean())
            return (keep,)

        return replace(self._step(self.ours, wrap(self.ours), batch, masks), facts=facts)

    def _step(
        self, network: nn.Module, wrapped: nn.Module, batch: int, more: Callable[[], tuple[Tensor, ...]]
    ) -> Contender:
        arch, device = self._case.arch, self._case.device
        chance = torch.Generator().manual_seed(batch)
        images = torch.randn(batch, arch.in_chans, arch.image_size, arch.image_size, generator=chance).to(device)
        labels = torch.randint(arch.num_classes, (batch,), generator=chance).to(device)

        def run() -> Tensor:
            return F.cross_entropy(wrapped(images, *more()).float(), labels)

        return Contender(run, list(network.parameters()), self._optimizer(network).step)

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW with its moments already there: they are state, and nothing that a step adds to memory."""
        if id(network) not in self._optimizers:
            optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05, fused=True)
            for parameter in network.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            self._optimizers[id(network)] = optimizer
        return self._optimizers[id(network)]


def _undropped(arch: Architecture) -> Architecture:
    return replace(arch, drop_path_rate=0.0)


def _with_backend(backend: str, make: Callable[[int], Contender], batch: int) -> Contender:
    """All of its run under one backend; the backward pass too, where activations are computed again in it."""
    with override_backend(backend):
        contender = make(batch)
    return replace(contender, run=override_backend(backend)(contender.run))


def _recomputed(block: nn.Module) -> Callable[..., Tensor]:
    return partial(checkpoint, block, use_reentrant=False)


def _timm_recomputed(network: nn.Module) -> nn.Module:
    view: Any = copy.copy(network)
    view.set_grad_checkpointing(True)
    return view


def _our_recomputed(network: nn.Module) -> nn.Module:
    view: Any = _with_blocks(network, copy.copy)
    apply_activation_checkpointing(view, "block")
    return view


def _our_compiled(network: nn.Module) -> nn.Module:
    view: Any = _with_blocks(network, copy.copy)
    compile_branches(view)
    return view


def _branches_compiled(block: nn.Module) -> nn.Module:
    alone: Any = SimpleNamespace(blocks=[copy.copy(block)])
    compile_branches(alone)
    return alone.blocks[0]


def _blocks_compiled(network: nn.Module) -> nn.Module:
    return _with_blocks(network, torch.compile)


def _with_blocks(network: nn.Module, wrap: Callable[[nn.Module], Any]) -> nn.Module:
    """The same network, and the same parameters, with other self-attention blocks."""
    view: Any = copy.copy(network)
    view._modules = dict(network._modules)
    blocks: Any = view.blocks
    wrapped = [wrap(block) for block in blocks]
    view.blocks = nn.Sequential(*wrapped) if isinstance(blocks, nn.Sequential) else nn.ModuleList(wrapped)
    return view
