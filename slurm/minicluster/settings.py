"""What a cluster is like, and where things lie inside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import MiniClusterError
from .namespaces import as_user

INSIDE = Path("/var/spool")
"""The cluster's folder, as its processes see it.

A Unix socket's path may have 107 characters, and munge and every step of a job make such sockets; so the folder, which
may lie anywhere, is mounted on a short name that exists on every machine and holds nothing that a job would miss.
"""
SLURM_FOLDER = Path("/etc/slurm")
"""Where Slurm's programs look for their configuration, and where the cluster's is mounted: no variable is needed."""
SETTINGS_FILE = "minicluster.json"
READY = "run/ready"
"""This file says that everything has been started."""
STAY = b"s"
"""Tells the holder to go on when the process that started it ends."""
SUBNET = "10.231.77"
"""Exists only in the cluster's own network namespace: several clusters may use it at once."""
HEAD = "head"
HEAD_ADDRESS = f"{SUBNET}.254"
MOST_NODES = 200


@dataclass(frozen=True)
class Settings:
    """One cluster. GPUs are pretended, and so are processors and memory: Slurm shares out what it is told of.

    Attributes:
        nodes: how many, named ``n1``, ``n2`` and so on.
        cpus: of each node.
        memory: of each node, in MB.
        gpus: of each node.
        accounting: whether there is a database, which ``sacct`` needs.
        enforce: whether an unknown account or QOS is refused; needs accounting.
        private: folders that every node has for itself, empty at first.
        disks: folders on a disk of their own, so many MB large, that exists in the cluster only; shared by all.
        conf: lines of slurm.conf that win over the cluster's own.
        user: name of who runs it.
        uid: their number; 0 needs no user namespace.
        gid: their group.
    """

    nodes: int
    cpus: int
    memory: int
    gpus: int
    accounting: bool
    enforce: bool
    user: str
    uid: int
    gid: int
    private: tuple[str, ...] = ("/dev/shm",)
    disks: dict[str, int] = field(default_factory=dict)
    conf: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least, most in (
            ("nodes", 1, MOST_NODES),
            ("cpus", 1, 4096),
            ("memory", 100, 10**8),
            ("gpus", 0, 64),
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise MiniClusterError(f"{name}: {value} is not between {least} and {most}")
        for name, folder in [*(("private", each) for each in self.private), *(("disks", each) for each in self.disks)]:
            if not Path(folder).is_absolute() or not Path(folder).is_dir():
                raise MiniClusterError(f"{name}: {folder} is not the full path of a folder on this machine")

    @property
    def node_names(self) -> tuple[str, ...]:
        """The compute nodes; the head is not among them."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    @property
    def in_user_namespace(self) -> bool:
        """Whether the cluster needs a user namespace to be allowed the others."""
        return self.uid != 0

    def as_user(self, command: list[str]) -> list[str]:
        """Run a command, in the cluster, as the user and not as the root that sets it up."""
        return as_user(command, self.uid, self.gid)

    def save(self, folder: Path) -> None:
        """Write them into the cluster's folder, which thereby is one."""
        (folder / SETTINGS_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Read the settings of the cluster in this folder."""
        known = json.loads((folder / SETTINGS_FILE).read_text())
        return cls(**{**known, "private": tuple(known["private"])})


def address_of(node: str) -> str:
    """The address of a node, which follows from its name."""
    return f"{SUBNET}.{node.removeprefix('n')}"


def hardware_address_of(node: str | None) -> str:
    """The Ethernet address of a node, or of the head for None: known beforehand, so that nobody has to ask for it."""
    number = 0 if node is None else int(node.removeprefix("n"))
    return f"02:ca:17:00:{number // 256:02x}:{number % 256:02x}"


def process_file(folder: Path, node: str) -> Path:
    """Says which process keeps a node alive, while it is on."""
    return folder / "run" / f"{node}.process"
