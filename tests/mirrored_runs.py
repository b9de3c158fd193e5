"""Run directories as training makes them, without training, and what MLflow shows of them."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cait_dist.config import config_to_yaml, load_config
from cait_dist.tracking.metrics import MetricsWriter, read_metrics
from cait_dist.tracking.mlflow_client import bound_client
from cait_dist.tracking.mlflow_facts import read_ending
from cait_dist.tracking.mlflow_mirror import MlflowMirror
from cait_dist.tracking.report import write_report
from cait_dist.tracking.run_directory import RunDirectory, read_json, timestamp

CONFIG = "name: {name}\nruns_dir: {folder}\ndata: {{path: /nowhere}}\ntracking: {{experiment: {experiment}}}\n"
EVERY = 10
"""Steps from one pretended checkpoint to the next."""

Values = Mapping[str, Any]


def make_run(folder: Path, name: str = "run", experiment: str = "mirror") -> RunDirectory:
    """A run that was begun, with no attempt yet."""
    run = RunDirectory(folder / name)
    run.path.mkdir(parents=True)
    source = folder / f"{name}.source.yaml"
    source.write_text(CONFIG.format(name=name, folder=folder, experiment=experiment))
    run.config.write_text(config_to_yaml(load_config(source).config))
    source.unlink()
    return run


def begin(run: RunDirectory, resumed_from: int = 0, **facts: Any) -> MetricsWriter:
    """Begin the next attempt."""
    number = len(run.attempts()) + 1
    run.attempt(number).mkdir()
    if not (run.attempt(number) / "config.yaml").exists():
        (run.attempt(number) / "config.yaml").write_text(run.config.read_text())
    entry = {"started": timestamp(), "resumed_from": resumed_from, "processes": 2, "code": {"commit": "abc"}}
    run.update_attempt(number, **entry, **facts)
    return MetricsWriter(run.attempt(number), resumed_from)


def values_of(step: int, attempt: int) -> dict[str, float]:
    """Distinct for every step and attempt."""
    return {"train/loss": step + attempt / 8, "train/lr": 0.1 / step, "perf/images_per_second": 100.0 + step}


def write_steps(writer: MetricsWriter, steps: range, attempt: int = 1) -> None:
    """Lines of training, and at each pretended checkpoint those of an evaluation after them."""
    for step in steps:
        writer.append(step, time.time(), values_of(step, attempt))
        if step % EVERY == 0:
            writer.append(step, time.time(), {"val/top1": step / 10 + attempt})


def save_checkpoint(run: RunDirectory, step: int) -> None:
    """As far as tracking can tell, a checkpoint."""
    place = run.checkpoints / f"step-{step:08d}"
    place.mkdir(parents=True)
    (place / "COMPLETE").write_text("")


def open_mirror(run: RunDirectory, uri: str, tell: Callable[[str], None], **options: Any) -> MlflowMirror:
    """The mirror of the newest attempt."""
    return MlflowMirror(run, len(run.attempts()), uri, "mirror", tell, **options)


def finish(run: RunDirectory, mirror: MlflowMirror, outcome: str, step: int, timeout: float = 60.0) -> bool:
    """End as the recorder does."""
    run.update_attempt(len(run.attempts()), ended=timestamp(), outcome=outcome, step=step)
    write_report(run)
    return mirror.close(read_ending(run), timeout)


def train(run: RunDirectory, uri: str, steps: int, tell: Callable[[str], None] = print, **options: Any) -> bool:
    """A whole attempt in a moment; returns whether all of it arrived."""
    writer = begin(run)
    mirror = open_mirror(run, uri, tell, **options)
    write_steps(writer, range(1, steps + 1))
    writer.close()
    mirror.commit(steps)
    return finish(run, mirror, "finished", steps)


def shown(run: RunDirectory, uri: str) -> Any:
    """The run in MLflow."""
    return bound_client(uri).get_run(read_json(run.mirror)["run_id"])


def history(run: RunDirectory, uri: str, key: str = "train/loss") -> list[tuple[int, float]]:
    """Every value MLflow has of a metric, in order of steps."""
    found = bound_client(uri).get_metric_history(read_json(run.mirror)["run_id"], key)
    return sorted((metric.step, metric.value) for metric in found)


def recorded(run: RunDirectory, key: str = "train/loss") -> list[tuple[int, float]]:
    """The same in the run directory."""
    return sorted((row["step"], float(row[key])) for row in read_metrics(run) if key in row)


def same_as_recorded(run: RunDirectory, uri: str) -> None:
    """MLflow has the metrics of the run directory, each of its values once and no other."""
    keys = {key for row in read_metrics(run) for key in row} - {"step", "time"}
    assert {key for key in shown(run, uri).data.metrics if not key.startswith(("live/", "system/"))} == keys
    for key in keys:
        assert history(run, uri, key) == recorded(run, key), key


def cursor_at(run: RunDirectory, step: int) -> Callable[[], bool]:
    """Whether MLflow has been told up to that step, to be waited for."""
    return lambda: ((read_json(run.mirror) or {}).get("cursor") or {}).get("step") == step
