"""AdamW with the paper's division into decayed and undecayed parameters."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from cait_dist.config.optimizer import OptimizerConfig
from cait_dist.models import no_weight_decay_names


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: ``decay`` and ``no_decay`` (biases, norms, LayerScale, class token, position embedding).

    Decided by name and shape before any partitioning: under ZeRO-3 a parameter has no shape of its own any more.
    """
    exempt = no_weight_decay_names(model)
    decay = [p for name, p in model.named_parameters() if name not in exempt]
    no_decay = [p for name, p in model.named_parameters() if name in exempt]
    groups = [
        {"name": "decay", "params": decay, "weight_decay": weight_decay},
        {"name": "no_decay", "params": no_decay, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_adamw(model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.AdamW:
    """Torch's AdamW over the two groups; fused on GPUs, where it is one kernel instead of hundreds."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=device.type == "cuda",
    )


def set_learning_rate(groups: Iterable[dict[str, Any]], lr: float) -> None:
    """Give every group this learning rate, times its own ``lr_scale`` where it has one."""
    for group in groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
