"""`cait cluster …`: a small real Slurm cluster on this machine."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from slurm.minicluster import MiniCluster

cluster_app = typer.Typer(
    help="A real Slurm cluster on this machine, to try launches on: pretended GPUs, and nodes that can be lost.",
    no_args_is_help=True,
)
FOLDER_HELP = "the cluster's folder; default: ~/.cache/cait/minicluster"
Folder = Annotated[Path | None, typer.Option("--dir", "-d", help=FOLDER_HELP, show_default=False)]
Node = Annotated[str, typer.Argument(help="its name, e.g. n2", show_default=False)]
Command = Annotated[list[str] | None, typer.Argument(help="what to run; default: a shell", show_default=False)]
_WHOLE_COMMAND = {"allow_interspersed_args": False}  # options after the first word are the command's


@cluster_app.command("up")
def up(
    folder: Folder = None,
    nodes: Annotated[int, typer.Option("--nodes", "-n", help="how many")] = 4,
    cpus: Annotated[int, typer.Option(help="of each node, pretended")] = 16,
    memory: Annotated[int, typer.Option(metavar="MB", help="of each node, pretended")] = 64000,
    gpus: Annotated[int, typer.Option(help="of each node, pretended")] = 8,
    accounting: Annotated[str, typer.Option(help="sacct's database: auto, none or mariadb")] = "auto",
    private: Annotated[list[str], typer.Option(metavar="DIR", help="not shared by the nodes (repeat)")] = ["/dev/shm"],  # noqa: B006
    conf: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="line of slurm.conf (repeat)")] = [],  # noqa: B006
    wait: Annotated[float, typer.Option(metavar="S", help="give up after so many seconds")] = 60,
) -> None:
    """Start it; it stays until `cait cluster down`. No root needed where the kernel allows user namespaces.

    Partitions main (a day at most), low (may be preempted) and high. Account team, QOS normal and lowq.
    """
    from slurm.minicluster import MiniCluster, MiniClusterError  # noqa: PLC0415

    if wrong := [line for line in conf if "=" not in line]:
        raise MiniClusterError(f"--conf {wrong[0]}: write KEY=VALUE")
    lines = dict(line.split("=", 1) for line in conf)
    cluster = MiniCluster.up(_folder(folder), nodes, cpus, memory, gpus, accounting, private, lines, wait)
    option = f" --dir {folder}" if folder else ""
    typer.echo(f"up: nodes {cluster.nodes[0]} to {cluster.nodes[-1]} with {gpus} pretended GPUs each; now for instance")
    typer.echo(f"  cait cluster exec{option} -- srun -N {min(2, nodes)} hostname")
    typer.echo(f"  cait cluster kill-node{option} n1      (start-node n1 brings it back)")
    typer.echo(f"  cait cluster down{option}")


@cluster_app.command("exec", context_settings=_WHOLE_COMMAND)
def run_on_head(command: Command = None, folder: Folder = None) -> None:
    """Run a command on the head, where one submits.

    For instance `cait cluster exec -- squeue`; without a command: a shell.
    """
    _become(_existing(folder), command, None)


@cluster_app.command("node", context_settings=_WHOLE_COMMAND)
def run_on_node(node: Node, command: Command = None, folder: Folder = None) -> None:
    """Run a command on a node, past Slurm.

    For instance `cait cluster node n2 -- ps ax`; without a command: a shell.
    """
    _become(_existing(folder), command, node)


@cluster_app.command("status")
def status(folder: Folder = None) -> None:
    """Nodes and jobs, and where the logs are."""
    cluster = _existing(folder)
    typer.echo(f"up in {cluster.folder}; logs in {cluster.folder / 'log'}\n")
    cluster.run(["sinfo", "--Node", "--partition=main", "--format=%8N %12T %10f %E"])
    typer.echo()
    cluster.run(["squeue", "--format=%8i %10P %16j %12T %6D %R"])


@cluster_app.command("kill-node")
def kill_node(node: Node, folder: Folder = None) -> None:
    """Switch a node off without warning."""
    _existing(folder).kill_node(node)


@cluster_app.command("start-node")
def start_node(node: Node, folder: Folder = None) -> None:
    """Switch a node on again."""
    _existing(folder).start_node(node)


@cluster_app.command("stop-slurmd")
def stop_slurmd(node: Node, folder: Folder = None) -> None:
    """Kill a node's daemon; what jobs run there goes on."""
    _existing(folder).stop_slurmd(node)


@cluster_app.command("start-slurmd")
def start_slurmd(node: Node, folder: Folder = None) -> None:
    """Start a node's daemon again."""
    _existing(folder).start_slurmd(node)


@cluster_app.command("stop-controller")
def stop_controller(folder: Folder = None) -> None:
    """Kill Slurm's controller; what jobs run goes on."""
    _existing(folder).stop_controller()


@cluster_app.command("start-controller")
def start_controller(folder: Folder = None) -> None:
    """Start Slurm's controller again."""
    _existing(folder).start_controller()


@cluster_app.command("cut")
def cut(node: Node, folder: Folder = None) -> None:
    """Pull a node's network cable."""
    _existing(folder).cut(node)


@cluster_app.command("heal")
def heal(node: Node, folder: Folder = None) -> None:
    """Plug it in again."""
    _existing(folder).heal(node)


@cluster_app.command("down")
def down(folder: Folder = None) -> None:
    """End it: nothing remains but its logs."""
    from slurm.minicluster import MiniClusterError  # noqa: PLC0415

    try:
        cluster = _existing(folder)
    except MiniClusterError:
        typer.echo(f"no cluster is up in {_folder(folder)}")
        return
    cluster.down()
    typer.echo(f"down; its logs are in {cluster.folder / 'log'}")


def _folder(folder: Path | None) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return folder or cache / "cait/minicluster"


def _existing(folder: Path | None) -> "MiniCluster":
    from slurm.minicluster import MiniCluster  # noqa: PLC0415

    return MiniCluster.existing(_folder(folder))


def _become(cluster: "MiniCluster", command: list[str] | None, node: str | None) -> None:
    """Turn into the command, which so has this terminal, its signals and the exit status."""
    words = command[1:] if command and command[0] == "--" else command
    # Last, so that it changes nothing: this very cait is found in there, though its environment be not activated.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    argv = cluster.command(words or [os.environ.get("SHELL", "bash")], node)
    os.execvp(argv[0], argv)
