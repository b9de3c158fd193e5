"""The optimizer: AdamW, or SGD with momentum as some transfer recipes ask, over groups of parameters.

Two things divide the parameters. Vectors and embeddings are not decayed, as in the paper. And with
``optimizer.layer_decay`` every layer has a learning rate of its own, smaller the nearer it is to the image
(:mod:`cait_dist.models.layer_order` counts the layers).
"""

from collections.abc import Iterable
from typing import Any

import torch

from cait_dist.config.optimizer import OptimizerConfig
from cait_dist.models import Cait, layer_of, no_weight_decay_names, num_layers

MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}
"""State of an optimizer per parameter, as torch names it; the first is a running mean or sum of gradients."""


def parameter_groups(model: Cait, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups ``decay`` and ``no_decay`` (biases, norms, LayerScale, class token, positions), per layer if asked.

    Decided by name and shape before any partitioning: under ZeRO-3 a parameter has no shape of its own any more.

    Returns:
        groups with ``name``, ``params``, ``weight_decay`` and ``lr_scale``, the last 1 at the head
    """
    exempt, arch = no_weight_decay_names(model), model.arch
    members: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        layer = num_layers(arch) - 1 if config.layer_decay is None else layer_of(name, arch)
        members.setdefault((layer, name in exempt), []).append(parameter)
    return [
        {
            "name": _group_name(layer, spared, config),
            "params": members[layer, spared],
            "weight_decay": 0.0 if spared else config.weight_decay,
            "lr_scale": (config.layer_decay or 1.0) ** (num_layers(arch) - 1 - layer),
        }
        for layer, spared in sorted(members)
    ]


def build_optimizer(model: Cait, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """Torch's own over the groups; fused: on a GPU one kernel instead of hundreds, on a CPU one pass over memory."""
    groups, fused = parameter_groups(model, config), device.type in ("cuda", "cpu")
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


class FiniteUpdate:
    """An optimizer's step that leaves out an update whose gradient is not finite.

    Args:
        optimizer: whose step it stands for

    Attributes:
        left_out: whether the last one was
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer, self._step = optimizer, optimizer.step
        self.left_out = False

    def __call__(self) -> None:
        """Update the parameters, or leave them as they are."""
        parameters = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
        norms = torch._foreach_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        self.left_out = not bool(torch.stack(norms).isfinite().all())
        if not self.left_out:
            self._step()


def set_learning_rate(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Give every group this learning rate, times its own ``lr_scale`` where it has one."""
    for group in groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def applied_gradient(optimizer: torch.optim.Optimizer, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The gradient of a step, from the first moment before it and after it.

    SGD's includes what the weight decay added, which torch counts as part of the gradient.

    Args:
        optimizer: that made the step
        before: any part of the first moment
        after: the same part, of the same shape
    """
    group = optimizer.param_groups[0]
    if isinstance(optimizer, torch.optim.SGD):
        return after - group["momentum"] * before
    beta = group["betas"][0]
    return (after - beta * before) / (1 - beta)


def _group_name(layer: int, spared: bool, config: OptimizerConfig) -> str:
    kind = "no_decay" if spared else "decay"
    return kind if config.layer_decay is None else f"layer {layer} {kind}"
