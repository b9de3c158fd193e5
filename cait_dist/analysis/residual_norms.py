"""How much a residual branch adds, beside what it adds to: ‖branch‖ / ‖main branch‖ per layer.

"Going deeper with Image Transformers" (arXiv 2103.17239) looks at this ratio to see what LayerScale does: with it, all
layers of a deep network contribute alike. The ratio is one of Euclidean norms of a token: what is added (after
LayerScale, or whatever scales the branch) over the stream as it comes in; its mean is taken over tokens and images. In
the class-attention layers the class token is the only token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cait_dist.models import Cait

BRANCHES = ("attention", "feed-forward")
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class BranchRatio:
    """One branch of one layer.

    Attributes:
        stage: ``self-attention`` or ``class-attention``.
        layer: counted from 1 within its stage.
        branch: ``attention`` or ``feed-forward``.
        mean: over tokens and images.
        quantiles: 10 %, median, 90 %.
    """

    stage: str
    layer: int
    branch: str
    mean: float
    quantiles: tuple[float, float, float]


@torch.no_grad()
def measure_ratios(model: Cait, batches: Iterable[Tensor]) -> list[BranchRatio]:
    """Run the model over images and measure every branch.

    Args:
        model: in evaluation mode
        batches: normalised images

    Returns:
        layer by layer, attention before feed-forward network
    """
    watchers = [
        _Watcher(stage, number, block)
        for stage, blocks in (("self-attention", model.blocks), ("class-attention", model.blocks_token_only))
        for number, block in enumerate(blocks, 1)
    ]
    with _hooked(watchers):
        for batch in batches:
            model(batch)
    return [ratio for watcher in watchers for ratio in watcher.ratios()]


class _Watcher:
    """Follows the stream through one block, branch by branch."""

    def __init__(self, stage: str, layer: int, block: nn.Module) -> None:
        self._stage, self._layer, self._block = stage, layer, block
        self._stream = torch.empty(0)
        self._found: dict[str, list[Tensor]] = {branch: [] for branch in BRANCHES}

    def hooks(self) -> Iterator[Callable[[], None]]:
        """Hang the hooks in; what takes each out again."""
        yield self._block.register_forward_pre_hook(self._enter).remove
        for branch, name in zip(BRANCHES, ("attn", "mlp"), strict=True):
            if hasattr(self._block, name):
                yield getattr(self._block, name).register_forward_hook(self._add(branch)).remove
        yield self._block.register_forward_hook(self._leave).remove

    def ratios(self) -> Iterator[BranchRatio]:
        """What was measured."""
        for branch, parts in self._found.items():
            if parts:
                values = torch.cat(parts).double().numpy()
                low, middle, high = (float(value) for value in np.quantile(values, QUANTILES))
                yield BranchRatio(self._stage, self._layer, branch, float(values.mean()), (low, middle, high))

    def _enter(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # A class-attention block is called with the patches, which it only reads, and the class token.
        self._stream = inputs[1] if self._stage == "class-attention" else inputs[0]

    def _add(self, branch: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            added = output.to(self._stream.dtype)  # scaled already
            ratio = added.norm(dim=-1) / self._stream.norm(dim=-1)
            self._found[branch].append(ratio.flatten().float().cpu())
            self._stream = self._stream + added

        return hook

    def _leave(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Whoever changes how blocks add their branches learns here that this file has to follow.
        same = torch.allclose(self._stream, output, rtol=1e-3, atol=1e-3 * float(output.abs().max()))
        assert same, f"{self._stage} layer {self._layer} adds its branches in another way than is known here"
        self._stream = torch.empty(0)


@contextmanager
def _hooked(watchers: Sequence[_Watcher]) -> Iterator[None]:
    removers = [remove for watcher in watchers for remove in watcher.hooks()]
    try:
        yield
    finally:
        for remove in removers:
            remove()
