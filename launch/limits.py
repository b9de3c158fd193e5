"""What a profile says is too much, and folders that not every node sees: refused before SLURM is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cait_dist.config import RunConfig

from .profile import ClusterProfile
from .slurm_commands import SlurmError, longest_time
from .wall_time import seconds_of


def check_limits(profile: ClusterProfile, config: RunConfig) -> None:
    """Compare a run's job with its profile's limits.

    Raises:
        SlurmError: with everything that is beyond them
    """
    check_places(profile, {"'runs_dir'": config.runs_dir, "'data.path'": config.data.path})


def check_places(profile: ClusterProfile, places: Mapping[str, Path | str | None]) -> None:
    """Compare a job with its profile's limits.

    Args:
        profile: with the command line's options laid over it
        places: what the nodes must see, by the name that the user knows it by; URLs and None are passed over

    Raises:
        SlurmError: with everything that is beyond them
    """
    limits, problems = profile.limits, []
    if limits.nodes is not None and profile.nodes > limits.nodes:
        problems.append(f"--nodes {profile.nodes}: this cluster allows {limits.nodes}")
    if limits.gpus_per_node is not None and profile.gpus_per_node > limits.gpus_per_node:
        problems.append(f"--gpus-per-node {profile.gpus_per_node}: its nodes have {limits.gpus_per_node}")
    if limits.time is not None and seconds_of(profile.time) > seconds_of(limits.time):
        problems.append(f"--time {profile.time}: this cluster allows {limits.time}")
    if limits.shared_paths:
        for name, place in places.items():
            problems += _not_shared(name, place, limits.shared_paths) if isinstance(place, Path) else []
    if problems:
        raise SlurmError("\n  ".join(["the profile forbids this job:", *problems]))


def check_partition(profile: ClusterProfile) -> None:
    """Compare a job's time limit with its partition's: many clusters accept a longer one and never start the job.

    Raises:
        SlurmError: if it is too long
    """
    found = longest_time(profile.partition)
    if found is not None and seconds_of(profile.time) > seconds_of(found[1]):
        raise SlurmError(f"--time {profile.time}: partition {found[0]} allows {found[1]}")


def _not_shared(field: str, path: Path, shared: tuple[Path, ...]) -> list[str]:
    place = path.absolute()
    if any(place.is_relative_to(root) for root in shared):
        return []
    return [f"{field} is {path}, which the nodes do not see: choose a folder under {' or '.join(map(str, shared))}"]
