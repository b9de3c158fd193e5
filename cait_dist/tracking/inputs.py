"""What MLflow should know of a run besides numbers: data sets, environment, configuration, changes of the code.

All of it is read from the run directory, where training has left it, so `cait track sync` sends the same from any
machine. It may be sent again: each thing is there once.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from cait_dist.config import load_config

from .run_directory import RunDirectory, read_json, write_json

FACTS, ENVIRONMENT, DIFF = "facts.json", "environment.json", "code.diff"
MAX_DIGEST = 36
"""MLflow takes no longer ones: the beginning of a SHA-256 is as good."""
SLURM_FACTS = (
    "JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "JOB_NAME", "CLUSTER_NAME", "JOB_PARTITION", "JOB_ACCOUNT", "JOB_QOS",
    "JOB_NODELIST", "JOB_NUM_NODES", "NTASKS", "CPUS_PER_TASK", "GPUS_ON_NODE", "RESTART_COUNT",
)  # fmt: skip


def write_environment(attempt_dir: Path, gpus: Sequence[str], variables: Mapping[str, str] = os.environ) -> None:
    """Write down where an attempt runs, into ``environment.json``; for rank 0.

    Args:
        attempt_dir: of the attempt
        gpus: names of the devices that this node gives to it
        variables: of the process; of them SLURM's facts are kept, and nothing that may be secret
    """
    content = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "machine": {
            "host": platform.node(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "gpus": list(gpus),
        },
        "slurm": {name.lower(): variables[f"SLURM_{name}"] for name in SLURM_FACTS if f"SLURM_{name}" in variables},
        "packages": dict(sorted({d.metadata["Name"]: d.version for d in distributions()}.items())),
    }
    write_json(attempt_dir / ENVIRONMENT, content)


def send_inputs(run: RunDirectory, client: Any, run_id: str) -> None:
    """Tell MLflow the data sets and the files that describe a run; called once it is open there.

    Args:
        run: the directory
        client: MLflow's
        run_id: of the MLflow run
    """
    send_datasets(run, client, run_id)
    client.log_artifact(run_id, str(run.config))
    present = {artifact.path for artifact in client.list_artifacts(run_id)}
    attempts = run.attempts()
    for attempt in attempts:
        # Who looks at a run wants the files of its beginning; those of later attempts lie in folders.
        folder = None if attempt.name == "attempt-1" else attempt.name
        # A run may have been restarted a hundred times: what is there stays.
        if (folder or ENVIRONMENT) in present and attempt is not attempts[-1]:
            continue
        for file in (attempt / ENVIRONMENT, attempt / DIFF):
            if file.is_file() and file.stat().st_size:
                client.log_artifact(run_id, str(file), folder)


def send_datasets(run: RunDirectory, client: Any, run_id: str) -> None:
    """Tell MLflow which data sets the run learns from and is measured on: name, digest, source and size of each."""
    from mlflow.entities import Dataset, DatasetInput, InputTag  # noqa: PLC0415

    inputs = [
        DatasetInput(
            Dataset(
                name=found["name"],
                digest=found["digest"][:MAX_DIGEST],
                source_type="local" if "://" not in found["source"] else "http",
                source=json.dumps({"uri": found["source"]}),
                profile=json.dumps({"images": found["images"]}) if found["images"] is not None else None,
            ),
            tags=[InputTag("mlflow.data.context", found["context"])],
        )
        for found in datasets(run)
    ]
    if inputs:
        client.log_inputs(run_id, datasets=inputs)


def datasets(run: RunDirectory) -> Iterator[dict[str, Any]]:
    """Name, digest, source, images and context of each data set whose digest is known."""
    config, facts, record = load_config(run.config).config, read_facts_file(run), run.read_record()
    digest = facts.get("train_digest") or record.get("data_digest")
    if digest:
        yield _dataset(config.data.path, config.data.train_split, digest, facts.get("train_images"), "training")
    for chosen in config.evaluation.sets:
        known = facts.get("sets", {}).get(chosen.name, {})
        if known.get("digest"):
            path = chosen.path or config.data.path
            yield _dataset(path, chosen.split, known["digest"], known.get("images"), f"evaluation as {chosen.name}")


def read_facts_file(run: RunDirectory) -> dict[str, Any]:
    """What the newest attempt planned, as far as it is known: runs of earlier versions did not write it down."""
    for attempt in reversed(run.attempts()):
        if facts := read_json(attempt / FACTS):
            return dict(facts)
    return {}


def _dataset(path: Path | str, split: str, digest: str, images: int | None, context: str) -> dict[str, Any]:
    source = str(path)
    name = f"{source.rstrip('/').rpartition('/')[2]}/{split}"
    return {"name": name, "digest": digest, "source": source, "images": images, "context": context}
