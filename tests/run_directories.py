"""Run directories without training: written by the project's own writers, with numbers that a test chooses."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cait_dist.config import config_to_yaml, load_config
from cait_dist.tracking.metrics import MetricsWriter
from cait_dist.tracking.run_directory import RunDirectory, write_json

CONFIG = Path(__file__).parents[1] / "configs/digits.yaml"
BEGAN = 1_760_000_000
"""Seconds since the epoch of the first attempt's start; every step takes one second."""
FACTS = {
    "parameters": 681_770,
    "macs": 18_815_808,
    "image_size": 24,
    "train_images": 1438,
    "train_digest": "train",
    "global_batch": 64,
    "device": "cpu",
    "peak_flops": None,
    "sets": {"val": {"digest": "val", "images": 359}},
}

Values = Callable[[int], Mapping[str, float]]


def make_run(
    path: Path,
    *overrides: str,
    values: Values = lambda step: {"train/loss": 1 / step},
    attempts: Sequence[tuple[int, int, str]] = ((0, 100, "finished"),),
    processes: int = 2,
    facts: Mapping[str, Any] = FACTS,
) -> RunDirectory:
    """Write a run.

    Args:
        path: of the directory.
        overrides: ``key=value`` on top of the digits' configuration.
        values: metrics from the step.
        attempts: for each the step it went on from, the last step it did, and its outcome.
        processes: of every attempt.
        facts: of every attempt.
    """
    run = RunDirectory(path)
    path.mkdir(parents=True)
    run.config.write_text(config_to_yaml(load_config(CONFIG, [f"name={path.name}", *overrides]).config))
    clock = BEGAN
    for number, (begin, last, outcome) in enumerate(attempts, 1):
        run.attempt(number).mkdir()
        write_json(run.attempt(number) / "facts.json", dict(facts))
        began = clock
        writer = MetricsWriter(run.attempt(number), begin)
        for step in range(begin + 1, last + 1):
            clock += 1
            writer.append(step, clock, values(step))
        writer.close()
        stamps = {"started": _stamp(began), "ended": _stamp(clock)}
        code = {"version": "0.1.0", "commit": "abc"}
        run.update_attempt(
            number, **stamps, resumed_from=begin or None, processes=processes, outcome=outcome, code=code, step=last
        )
    return run


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
