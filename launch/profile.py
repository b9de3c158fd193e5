"""Cluster profiles: what a site wants said in every job, in one YAML file.

``cait launch … --cluster h100`` reads ``slurm/profiles/h100.yaml``; ``--cluster ./mine.yaml`` any file. Options on the
command line win over the profile. ``local`` needs no file: it is this machine.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from cait_dist.config.errors import ConfigError, Place, Problem, key_text, value_text
from cait_dist.config.section import Section, UserPath
from cait_dist.config.yaml_places import Layer, parse_file

from .check import Limits as NodeLimits
from .job_record import SIGNAL_SECONDS
from .wall_time import minutes_of, seconds_of

PROFILES = Path(__file__).resolve().parents[1] / "slurm" / "profiles"
LOCAL = "local"


def _check_time(text: str) -> str:
    seconds_of(text)
    return text


WallTime = Annotated[str, BeforeValidator(str), AfterValidator(_check_time)]


class Limits(Section):
    """What the site allows; a job beyond it is refused before it is submitted."""

    nodes: int | None = Field(None, ge=1, description="most nodes of one job")
    gpus_per_node: int | None = Field(None, ge=0, description="GPUs that a node has")
    time: WallTime | None = Field(None, description="longest time limit, D-HH:MM:SS")
    shared_paths: tuple[UserPath, ...] = Field((), description="folders that every node sees; empty: not checked")


class ClusterProfile(Section):
    """How to ask one cluster for nodes, and what to run there before Python starts."""

    description: str = Field("", description="one line for `cait launch --help` and the log")
    partition: str | None = Field(None, description="null: the cluster's default")
    account: str | None = None
    qos: str | None = None
    constraint: str | None = Field(None, description="features a node must have")
    exclude: str | None = Field(None, description="nodes to avoid")
    comment: str | None = None
    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(8, ge=0, description="0: a cluster without GPUs")
    tasks_per_node: int | None = Field(None, ge=1, description="processes; null: one per GPU")
    cpus_per_task: int | None = Field(None, ge=1, description="cores per process; null: the cluster's default")
    memory_gb: float | None = Field(None, ge=0, description="per node; 0: all of it; null: the cluster's default")
    time: WallTime = Field(
        "1-00:00:00", description="time limit; the job is requeued and goes on until the run is done"
    )
    signal_seconds: int = Field(SIGNAL_SECONDS, ge=1, description="warning before the time limit: time to save")
    requeue: bool = Field(True, description="go on after the time limit, a preemption or a lost node")
    max_restarts: int = Field(100, ge=0, description="requeues after which a job is given up")
    python: str | None = Field(None, description="command that starts Python on a node; null: this Python")
    setup: tuple[str, ...] = Field((), description="shell lines before Python: modules, environments")
    environment: dict[str, str] = Field(default={}, description="variables for every process, e.g. NCCL_SOCKET_IFNAME")
    sbatch: dict[str, str | int | bool] = Field(default={}, description="further sbatch options")
    srun: tuple[str, ...] = Field((), description="further srun options")
    limits: Limits = Limits()
    checks: NodeLimits = Field(default=NodeLimits(), description="from where on a node is refused when the job starts")

    @model_validator(mode="after")
    def _fits_together(self) -> ClusterProfile:
        if self.signal_seconds >= seconds_of(self.time):
            raise ValueError(
                f"signal_seconds ({self.signal_seconds}) must be shorter than the time limit ({self.time}):"
                " the job would be told to stop as soon as it starts"
            )
        return self

    @property
    def tasks(self) -> int:
        """Processes per node: one per GPU if nothing else is said."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def world_size(self) -> int:
        """Processes of a job."""
        return self.nodes * self.tasks

    @property
    def minutes(self) -> int:
        """Time limit in minutes."""
        return minutes_of(self.time)


def load_profile(name: str, options: dict[str, Any]) -> ClusterProfile:
    """Read a profile and lay command-line options over it.

    Args:
        name: of a file in ``slurm/profiles``, or a path
        options: fields that win; those that are None are passed over

    Raises:
        ConfigError: if there is no such profile, or something in it or in the options is wrong
    """
    path = _find(name)
    layer, problems = parse_file(path.read_text(), str(path))
    given = {key: value for key, value in options.items() if value is not None}
    try:
        profile = ClusterProfile.model_validate(layer.values | given)
    except ValidationError as error:
        raise ConfigError([*problems, *_explain(error, layer, path, given)]) from None
    if problems:
        raise ConfigError(problems)
    return profile


def refuse_cluster_options(options: dict[str, Any]) -> None:
    """This machine has no partitions to choose from.

    Raises:
        ConfigError: naming the options that only a cluster understands
    """
    meant = [key for key, value in options.items() if value is not None and key not in _LOCAL_OPTIONS]
    if meant and (meant, options["nodes"]) != (["nodes"], 1):
        flags = ", ".join("--" + key.replace("_", "-") for key in meant)
        message = (
            f"local is this machine alone: leave out {flags}, or name a profile ({', '.join(profile_names()[1:])})"
        )
        raise ConfigError([Problem(message, Place("--cluster"))])


_LOCAL_OPTIONS = ("tasks_per_node", "gpus_per_node")


def profile_names() -> list[str]:
    """Names that `--cluster` knows."""
    return [LOCAL, *sorted(path.stem for path in PROFILES.glob("*.yaml"))]


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or os.sep in name:
        if path.is_file():
            return path
        raise ConfigError([Problem(f"there is no profile {name}", Place("--cluster"))])
    if (PROFILES / f"{name}.yaml").is_file():
        return PROFILES / f"{name}.yaml"
    near = get_close_matches(name, profile_names(), 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ConfigError(
        [
            Problem(
                f"no profile '{name}' (there are {', '.join(profile_names())}; or give a file){hint}",
                Place("--cluster"),
            )
        ]
    )


def _explain(error: ValidationError, layer: Layer, path: Path, given: dict[str, Any]) -> list[Problem]:
    problems = []
    for found in error.errors(include_url=False):
        keys = tuple(key for key in found["loc"] if key != "function-after")
        place = layer.places.get(keys, Place(str(path)))
        if keys and keys[0] in given:
            place = Place(f"--{str(keys[0]).replace('_', '-')}", argument=0)
        problems.append(Problem(f"'{key_text(keys)}': {_what(found, keys)}" if keys else _what(found, keys), place))
    return problems


def _what(found: Any, keys: tuple[str | int, ...]) -> str:
    if found["type"] == "extra_forbidden":
        inner: dict[str, type[Section]] = {"limits": Limits, "checks": NodeLimits}
        known = inner.get(str(keys[0]), ClusterProfile).model_fields
        near = get_close_matches(str(keys[-1]), list(known), 1)
        return "is no setting of a cluster profile" + (f"; did you mean '{near[0]}'?" if near else "")
    message = str(found["msg"]).removeprefix("Value error, ")
    return message if not keys or ", got " in message else f"{message} (got {value_text(found['input'])})"
