"""``did you mean …``: the nearest known key or value to what was written."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache

from .fields import schema_fields

# What other trainers (DeiT, timm, DeepSpeed, Lightning) call the same thing, where the spelling alone would not tell.
SYNONYMS = {
    "accumulate_grad_batches": "training.micro_batch_limit",
    "arch": "model.name",
    "batch_size": "training.global_batch",
    "clip_grad_norm": "optimizer.clip_grad",
    "data_dir": "data.path",
    "data_path": "data.path",
    "defaults": "base",
    "drop_path": "model.drop_path_rate",
    "distillation_alpha": "distillation.alpha",
    "distillation_tau": "distillation.temperature",
    "distillation_type": "distillation.kind",
    "dtype": "training.precision",
    "extends": "base",
    "finetune": "model.init_from",
    "gradient_accumulation_steps": "training.micro_batch_limit",
    "gradient_checkpointing": "training.activation_checkpointing",
    "gradient_clipping": "optimizer.clip_grad",
    "init_values": "model.layer_scale_init",
    "input_size": "model.image_size",
    "learning_rate": "optimizer.lr",
    "max_epochs": "training.epochs",
    "mixup_alpha": "augment.mixup",
    "model_ema_decay": "training.ema_decay",
    "nb_classes": "model.num_classes",
    "num_workers": "data.workers",
    "output_dir": "runs_dir",
    "pretrained": "model.init_from",
    "repeated_aug": "data.repeats",
    "sched": "schedule.kind",
    "scheduler": "schedule.kind",
    "smoothing": "augment.label_smoothing",
    "teacher_path": "distillation.teacher",
    "train_batch_size": "training.global_batch",
    "train_micro_batch_size_per_gpu": "training.micro_batch_limit",
    "wd": "optimizer.weight_decay",
    "zero_stage": "training.zero.stage",
}


def did_you_mean(candidates: Sequence[str]) -> str:
    """The end of a message: ``" — did you mean 'x' or 'y'?"``, or nothing without candidates."""
    return f" — did you mean {' or '.join(candidates)}?" if candidates else ""


def nearest_keys(key: str) -> list[str]:
    """Known dotted keys that somebody who wrote the unknown ``key`` may have meant, the likeliest first.

    Args:
        key: dotted, without list indices.

    Returns:
        At most three keys: the section may be right and the name misspelt, the section misspelt, or the name right
        and the section another.
    """
    key = key.lower().replace("-", "_").lstrip("_")
    parent, _, name = key.rpartition(".")
    sections = _names_by_section()
    namesakes = [_join(section, name) for section, inside in sections.items() if name in inside]
    if not parent and name in SYNONYMS:
        return [SYNONYMS[name]]
    if parent in sections:
        near = [_join(parent, match) for match in get_close_matches(name, sections[parent], 1, 0.6)]
        return list(dict.fromkeys(near + namesakes))[:3] or _by_name(name)
    meant = get_close_matches(parent, sections, 1, 0.6)
    near = [_join(meant[0], match) for match in get_close_matches(name, sections[meant[0]], 1, 0.6)] if meant else []
    return near or namesakes[:3] or _by_name(name) or meant


def nearest_values(value: object, choices: Sequence[object], count: int = 1, cutoff: float = 0.6) -> list[object]:
    """The ``count`` choices most like ``value``, ignoring case and quotes."""
    spelled = {str(choice).lower(): choice for choice in choices}
    return [spelled[match] for match in get_close_matches(str(value).lower(), spelled, count, cutoff)]


def _by_name(name: str) -> list[str]:
    if name in SYNONYMS:
        return [SYNONYMS[name]]
    places = {inner: section for section, names in _names_by_section().items() for inner in names}
    return [_join(places[match], match) for match in get_close_matches(name, places, 1, 0.8)]


@cache
def _names_by_section() -> dict[str, list[str]]:
    names: dict[str, list[str]] = {"": ["base"]}
    for key in schema_fields():
        section, _, name = key.rpartition(".")
        names.setdefault(section, []).append(name)
    return names


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
