"""What a cluster profile says, as options of a command: written here once, for every command that submits something.

The names are those that users of SLURM and of other trainers know. An option that is not given leaves the profile's
value as it is.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

Cluster = Annotated[str, typer.Option(metavar="PROFILE", help="name in slurm/profiles, a YAML file, or local")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print plan and script, submit nothing")]

PROFILE_OPTIONS: dict[str, Any] = {
    "nodes": Annotated[int | None, typer.Option("--nodes", "--nnodes", min=1, help="machines")],
    "gpus_per_node": Annotated[int | None, typer.Option("--gpus-per-node", "--gpus", "--ngpus", min=0, help="on each")],
    "tasks_per_node": Annotated[int | None, typer.Option(min=1, help="processes on each; default: one per GPU")],
    "cpus_per_task": Annotated[int | None, typer.Option(min=1, help="cores per process")],
    "memory_gb": Annotated[float | None, typer.Option("--mem", min=0, metavar="GB", help="per node; 0: all of it")],
    "time": Annotated[str | None, typer.Option("--time", "--timeout", help="limit: minutes, H:MM:SS or D-HH:MM:SS")],
    "partition": Annotated[str | None, typer.Option(help="partition")],
    "account": Annotated[str | None, typer.Option(help="account to charge")],
    "qos": Annotated[str | None, typer.Option(help="quality of service")],
    "constraint": Annotated[str | None, typer.Option(help="features that nodes must have")],
    "exclude": Annotated[str | None, typer.Option(metavar="NODES", help="nodes to avoid")],
    "comment": Annotated[str | None, typer.Option(help="shown by squeue and sacct")],
}
"""By the profile's field."""


def takes_profile_options(*left_out: str, **other: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of a profile, in place of its parameter ``options``, which gets what was given.

    Args:
        left_out: fields that make no sense for this command
        other: fields that this command describes in its own way
    """
    chosen = {name: other.get(name, kind) for name, kind in PROFILE_OPTIONS.items() if name not in left_out}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_options(**given: Any) -> Any:
            options = {name: given.pop(name) for name in chosen}
            return command(**given, options=options)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            named = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += _parameters(chosen) if parameter.name == "options" else [named]
        # Typer reads both: the order and defaults from one, the kinds from the other.
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_options

    return decorate


def _parameters(kinds: dict[str, Any]) -> list[inspect.Parameter]:
    only = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(name, only, default=None, annotation=kind) for name, kind in kinds.items()]


def refuse_without_cluster(options: dict[str, Any], **more: Any) -> None:
    """Refuse options that only a cluster understands; those that are None were not given.

    Raises:
        ConfigError: naming them
    """
    from launch.profile import refuse_cluster_options  # noqa: PLC0415

    refuse_cluster_options({"nodes": None, **options, **more})
