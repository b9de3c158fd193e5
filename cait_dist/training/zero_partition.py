"""Where DeepSpeed keeps which numbers.

The fp32 master weights and the optimizer's moments of a parameter live on different ranks in different places for each
ZeRO stage. This module is the only one that knows: it describes what *this* rank holds as fragments of named
parameters, so that the moving average and the checkpoints work on plain flat tensors and need no case for any stage.

=====  ======================================  =======================================================
stage  flat tensors of a rank                  fragment of a parameter
=====  ======================================  =======================================================
0      one per parameter, the parameter        all of it, on every rank
1, 2   one per parameter group, 1/W of it      where the group's flat vector is cut, possibly mid-parameter
3      one per sub-group                       the rank's 1/W of every parameter, the last ones padded
=====  ======================================  =======================================================

At stage 3 DeepSpeed leaves in the padding what the memory held before. It is set to zero here, and stays so, as its
gradient is zero: two runs with the same configuration then hold the same bits, and no NaN that belongs to nobody.

These are private attributes of DeepSpeed: its version is pinned exactly, and the tests compare every stage with
stage 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .optimizer import MOMENTS, FiniteUpdate


@dataclass(frozen=True)
class Fragment:
    """``numel`` elements of parameter ``name`` from ``start`` on (flattened), at ``offset`` of flat tensor ``flat``."""

    name: str
    start: int
    numel: int
    flat: int
    offset: int

    def of(self, flats: list[torch.Tensor]) -> torch.Tensor:
        """View of this fragment in flat tensors laid out like the master weights."""
        return flats[self.flat].narrow(0, self.offset, self.numel)


def update_left_out(engine: Any) -> bool:
    """Whether the last step changed nothing on any rank, as its gradient was not finite.

    Partitioned, DeepSpeed looks at the norm that it needs anyway; unpartitioned, `FiniteUpdate` does.
    """
    update = engine.basic_optimizer.step
    return bool(update.left_out if isinstance(update, FiniteUpdate) else engine.optimizer.overflow)


class ZeroPartition:
    """This rank's fp32 master weights and optimizer state under a DeepSpeed engine.

    Attributes:
        shapes: shape of every parameter by name
        fragments: what this rank holds
        owned: what this rank writes into a checkpoint: over all ranks, every element exactly once
    """

    def __init__(self, engine: Any, rank: int, world_size: int) -> None:
        self._engine = engine
        self._stage = engine.zero_optimization_stage()
        named = list(engine.module.named_parameters())
        self.shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in named}
        if self._stage == 3:
            self._clear_padding([parameter for _, parameter in named], rank)
        self.fragments = list(self._find_fragments(named, rank))
        self.owned = self.fragments if self._stage else self.fragments[rank::world_size]

    def masters(self) -> list[torch.Tensor]:
        """Flat fp32 master weights, live."""
        return [anchor.data.view(-1) for anchor in self._anchors()]

    @property
    def moment_kinds(self) -> tuple[str, ...]:
        """What the optimizer keeps per parameter, see ``MOMENTS``."""
        return MOMENTS[type(self._engine.basic_optimizer)]

    def moments(self, kind: str) -> list[torch.Tensor]:
        """Flat optimizer state of that kind, live; zeros are created before the first step."""
        return [self._state(anchor)[kind].view(-1) for anchor in self._anchors()]

    @property
    def optimizer_steps(self) -> int:
        """Updates the optimizer has made, as AdamW's bias correction counts them; 0 for SGD, which does not count."""
        return int(self._state(self._anchors()[0]).get("step", 0))

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        for anchor in self._anchors():
            # Filled, not assigned: one tensor shared between groups would be counted up once per group.
            if "step" in (state := self._state(anchor)):
                state["step"].fill_(steps)

    def publish(self) -> None:
        """Make the model compute with the master weights as they are now. Collective.

        At stage 3 ``forget_gathered`` must have been called before the weights were changed.
        """
        optimizer = self._engine.optimizer
        if self._stage in (1, 2):
            optimizer.update_lp_params()
        elif self._stage == 3:
            self._publish_stage_3(optimizer)

    def forget_gathered(self) -> None:
        """Release whole parameters that ranks still hold, as an edit of the partitions would not reach them.

        A forward pass without backward leaves them gathered, and small ones are never released by themselves.
        """
        if self._stage == 3:
            self._engine.empty_partition_cache()

    def _state(self, anchor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The optimizer's state of a tensor, made as its first step would make it."""
        optimizer = self._engine.basic_optimizer
        state: dict[str, torch.Tensor] = optimizer.state[anchor]
        if not state:
            if isinstance(optimizer, torch.optim.AdamW):
                fused = bool(optimizer.defaults.get("fused"))
                state["step"] = torch.zeros((), dtype=torch.float32, device=anchor.device if fused else "cpu")
            for kind in self.moment_kinds:
                state[kind] = torch.zeros_like(anchor.data)
        return state

    def _anchors(self) -> list[torch.Tensor]:
        """The tensors the optimizer updates, which are also the keys of its state."""
        optimizer = self._engine.optimizer
        if self._stage == 3:
            return list(optimizer.fp32_partitioned_groups_flat)
        if self._stage in (1, 2):
            return list(optimizer.single_partition_of_fp32_groups)
        return [p for _, p in self._engine.module.named_parameters()]

    def _find_fragments(self, named: list[tuple[str, Any]], rank: int) -> Iterator[Fragment]:
        for index, (name, parameter) in enumerate(named):
            if self._stage == 0:
                yield Fragment(name, 0, parameter.numel(), index, 0)
            elif self._stage == 3:
                optimizer = self._engine.optimizer
                flat, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
                start = rank * size
                numel = min(size, parameter.ds_numel - start)
                if numel > 0:
                    yield Fragment(name, start, numel, flat, offset)
            elif parameter._hp_mapping is not None:
                mapping = parameter._hp_mapping
                where, numel = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
                yield Fragment(name, where, numel, mapping.param_group_index, mapping.hp_fragment_address.start)

    def _clear_padding(self, parameters: list[Any], rank: int) -> None:
        optimizer, flats = self._engine.optimizer, self.masters()
        for parameter in parameters:
            flat, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
            held = min(max(parameter.ds_numel - rank * size, 0), size)
            flats[flat].narrow(0, offset + held, size - held).zero_()

    def _publish_stage_3(self, optimizer: Any) -> None:
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.invalidate_secondary_tensor()
