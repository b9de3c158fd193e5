"""What a metric is called, and which family it belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NAMES = {
    "top1": "Top-1 accuracy (%)",
    "top5": "Top-5 accuracy (%)",
    "loss": "Loss",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "images_per_second": "Images per second",
    "step_seconds": "Seconds per step",
    "data_wait_share": "Data wait (share of the step)",
    "peak_memory_gb": "Peak memory of a rank (GB)",
    "trained_seconds": "Seconds trained",
    "mfu": "Model FLOP utilisation",
    "epoch": "Epoch",
}
FAMILIES = {"evaluation": "Evaluation", "training": "Training", "health": "Health", "speed": "Speed"}
OVERVIEW = ("train/loss", "train/lr", "train/grad_norm", "perf/images_per_second", "perf/data_wait_share")
HEALTHY = ("norm", "logit", "layerscale", "update", "finite", "skipped")


@dataclass(frozen=True)
class Metric:
    """One chart: a metric, together with that of the moving average where there is one.

    Attributes:
        key: of the raw weights' metric, e.g. ``val/top1``.
        title: in words.
        family: a key of `FAMILIES`.
    """

    key: str
    title: str
    family: str


def split_average(key: str) -> tuple[str, bool]:
    """``val_ema/top1`` is ``val/top1`` of the moving average."""
    prefix, slash, name = key.partition("/")
    return (f"{prefix[:-4]}/{name}", True) if slash and prefix.endswith("_ema") else (key, False)


def average_of(key: str) -> str:
    """``val/top1`` → ``val_ema/top1``."""
    prefix, slash, name = key.partition("/")
    return f"{prefix}_ema{slash}{name}"


def family_of(key: str) -> str:
    """Evaluation, training, health or speed."""
    prefix, _, name = key.partition("/")
    if prefix == "health" or (prefix == "train" and any(word in name for word in HEALTHY)):
        return "health"
    return {"train": "training", "perf": "speed", "system": "speed"}.get(prefix, "evaluation")


def title_of(key: str) -> str:
    """The name of a metric in words, with the evaluation set that it was measured on."""
    key, average = split_average(key)
    prefix, _, name = key.partition("/")
    title = NAMES.get(name) or name.replace("_", " ").capitalize() or key
    title = f"{title}, {prefix}" if family_of(key) == "evaluation" or name == "loss" else title
    return f"{title}, moving average" if average else title


def charts(keys: Iterable[str], deciding: str) -> list[Metric]:
    """One per metric, raw and average together: the deciding one first, then by family and name."""
    order = [split_average(deciding)[0], *OVERVIEW]
    found = {split_average(key)[0] for key in keys}

    def rank(key: str) -> tuple[int, int, str]:
        return (order.index(key) if key in order else len(order), list(FAMILIES).index(family_of(key)), key)

    return [Metric(key, title_of(key), family_of(key)) for key in sorted(found, key=rank)]


def overview(metrics: Iterable[Metric], deciding: str) -> list[str]:
    """The few charts that are shown at first: the deciding metric, loss, learning rate, health and speed."""
    keys = [metric.key for metric in metrics]
    wanted = [split_average(deciding)[0], *OVERVIEW]
    return [key for key in keys if key in wanted] or keys[:6]
