"""What this machine is called, in every message that names one."""

import os
import socket
from collections.abc import Mapping


def host_name(environment: Mapping[str, str] = os.environ) -> str:
    """The scheduler's name of this node where there is a scheduler: it is the one that `sinfo` and `scancel` know."""
    return environment.get("SLURMD_NODENAME") or socket.gethostname()
