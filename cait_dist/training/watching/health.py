"""How the weights are doing: a few norms that tell early what a loss tells late.

Measured every ``training.health_every`` steps, by looking at the fp32 master weights and the optimizer's first moment
before and after the step, wherever ZeRO keeps them: so it is the same number at every stage and on any number of ranks.

============================  ==========================================================================================
``health/grad_norm/STAGE``    of the gradient that was applied: after clipping, averaged over ranks and micro-batches
``health/param_norm/STAGE``   of the weights after the step
``health/update_norm/STAGE``  of what the step changed; its share of ``param_norm`` is the learning speed one can feel
``health/layer_scale/STAGE``  mean magnitude of LayerScale, or of the scalars in its place: how much of its branches a
                              block lets through
``health/max_attention_logit``  largest q·k / √(d/H) of all self-attention blocks, before the heads are mixed: growing
                              without end, it comes before a diverging loss (one image per rank is looked at)
============================  ==========================================================================================

STAGE is ``self_attention``, ``class_attention`` or ``ends`` (patch embedding, class token, positions, norm, head).

The price is a copy of the weights and of the first moment on the host (a rank's own part), once in so many steps. The
gradient itself is gone when DeepSpeed's step returns; it follows from the moment (AdamW's is m' = β m + (1 − β) g).
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from ..optimizer import applied_gradient
from ..ranks.process_group import World
from ..zero_partition import Fragment, ZeroPartition

STAGES = ("self_attention", "class_attention", "ends")


class HealthCheck:
    """Looks at one step; nothing is kept between two.

    Args:
        engine: from ``parallelize``
        partition: of that engine
        world: the process group
    """

    def __init__(self, engine: Any, partition: ZeroPartition, world: World) -> None:
        self._engine, self._partition, self._world = engine, partition, world
        self._before: dict[str, list[Tensor]] = {}
        self._logits: list[Tensor] = []
        self._hooks: list[Any] = []

    def begin(self) -> None:
        """Before the step."""
        self._before = {"weights": _on_host(self._partition.masters()), "moment": _on_host(self._moment())}
        for module in self._engine.module.blocks:
            self._hooks.append(module.attn.qkv.register_forward_hook(self._watch(module.attn)))

    @torch.no_grad()
    def end(self) -> dict[str, float]:
        """After the step: the metrics. Collective."""
        for hook in self._hooks:
            hook.remove()
        sums = self._sums()
        self._before, self._hooks = {}, []
        largest = self._largest_logit()
        total = self._world.sum(torch.tensor([sums[key] for key in sorted(sums)], dtype=torch.float64)).tolist()
        found = dict(zip(sorted(sums), total, strict=True))
        values = {f"health/{kind}_norm/{stage}": found[kind, stage] ** 0.5 for kind in _NORMS for stage in STAGES}
        for stage in STAGES[:2]:
            values[f"health/layer_scale/{stage}"] = found["gamma", stage] / max(found["gammas", stage], 1)
        return {**values, "health/max_attention_logit": largest}

    def _sums(self) -> dict[tuple[str, str], float]:
        """This rank's part: sums of squares by kind and stage, and LayerScale's magnitudes with their number."""
        weights, moment = self._partition.masters(), self._moment()
        parts = defaultdict[tuple[str, str], list[Tensor]](list)
        count = defaultdict[tuple[str, str], float](float)
        for fragment in self._partition.owned:
            stage, now = _stage_of(fragment.name), fragment.of(weights)
            old, old_moment = (fragment.of(self._before[kind]).to(now.device) for kind in ("weights", "moment"))
            gradient = applied_gradient(self._engine.basic_optimizer, old_moment, fragment.of(moment))
            parts["grad", stage].append(_square(gradient))
            parts["param", stage].append(_square(now))
            parts["update", stage].append(_square(now - old))
            if _is_layer_scale(fragment):
                parts["gamma", stage].append(now.abs().double().sum())
                count["gammas", stage] += fragment.numel
        # One reading per kind and stage, not per fragment: each waits for the device.
        keys = [(kind, stage) for kind in (*_NORMS, "gamma") for stage in STAGES]
        sums = {key: float(torch.stack(parts[key]).sum()) if parts[key] else 0.0 for key in keys}
        return sums | {("gammas", stage): count["gammas", stage] for stage in STAGES}

    def _moment(self) -> list[Tensor]:
        return self._partition.moments(self._partition.moment_kinds[0])

    def _watch(self, attention: Any) -> Any:
        @torch.no_grad()
        def look(_: object, __: object, qkv: Tensor) -> None:
            # The first image; stochastic depth may have left none.
            for image in qkv[:1].float():
                q, k, _v = image.view(image.shape[0], 3, attention.num_heads, -1).permute(1, 2, 0, 3)
                self._logits.append((q @ k.transpose(1, 2)).abs().amax() * attention.scale)

        return look

    def _largest_logit(self) -> float:
        mine = torch.stack(self._logits).amax() if self._logits else torch.zeros(())
        self._logits = []
        return self._world.largest(float(mine))


_NORMS = ("grad", "param", "update")


def _stage_of(name: str) -> str:
    if name.startswith("blocks."):
        return "self_attention"
    return "class_attention" if name.startswith("blocks_token_only.") else "ends"


def _is_layer_scale(fragment: Fragment) -> bool:
    return fragment.name.rpartition(".")[2].startswith(("gamma_", "alpha_"))


def _square(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, dtype=torch.float32).double().square()


def _on_host(flats: list[Tensor]) -> list[Tensor]:
    """Copies; on the host, as a device that trains has no room for them."""
    return [flat.detach().to("cpu", copy=True) for flat in flats]
