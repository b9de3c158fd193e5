"""The whole check at the start of a job, and the program that does nothing else.

Torch is loaded only when ranks are really asked, so that limits and findings can be named on a login node at no cost.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .finding import ClusterCheckError, Finding, Limits
from .table import table
from .tracking_server import unreachable
from .verdict import judge

if TYPE_CHECKING:
    from cait_dist.training.ranks.process_group import World

JOIN_SECONDS = 120.0


def check_cluster(
    world: "World", run_dir: Path, limits: Limits, say: Callable[[str], None], tracking_uri: str | None = None
) -> None:
    """Look at all nodes together before training. Collective.

    Args:
        world: the ranks, all of which call this
        run_dir: the run directory, which exists
        limits: from where on a node is refused
        say: prints a line; called on rank 0 only, for every warning
        tracking_uri: MLflow's place, which rank 0 tries to reach; failing that only warns

    Raises:
        ClusterCheckError: on every rank, with the same text
    """
    from .collective import gather_reports  # noqa: PLC0415

    reports = gather_reports(world, run_dir)
    findings = judge(reports, limits)
    if world.is_main:
        for finding in [f for f in findings if f.severity == "warn"] + _mlflow(reports[0].host, tracking_uri):
            say(f"warning: {finding}")
    if refusals := [finding for finding in findings if finding.severity == "refuse"]:
        raise ClusterCheckError(refusals)


def _mlflow(host: str, uri: str | None) -> list[Finding]:
    reason = None if uri is None else unreachable(uri)
    if reason is None:
        return []
    return [Finding("warn", host, f"MLflow: {reason}", "the run goes on; `cait track sync` sends its metrics later")]


def check_program(run_dir: Path, limits: Limits | None = None, join_seconds: float = JOIN_SECONDS) -> int:
    """Join the ranks that the environment describes, check, print a table on rank 0; returns 0: fit, 1: refused.

    The environment is that of training: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    Raises:
        RendezvousError: naming the ranks that did not come
    """
    from cait_dist.training.ranks.process_group import join  # noqa: PLC0415

    from .collective import gather_reports  # noqa: PLC0415

    world = join(join_seconds, to_train=False)
    reports = gather_reports(world, run_dir)
    findings = judge(reports, limits or Limits())
    if world.is_main:
        print("\n".join([table(reports), *(f"{finding.severity}: {finding}" for finding in findings)]), flush=True)
    if any(finding.severity == "refuse" for finding in findings):
        return 1  # the groups may be stuck: they are not left in order
    world.leave()
    return 0
