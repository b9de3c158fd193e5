"""How messages name machines and ranks, everywhere the same."""

import os
import socket
from collections.abc import Iterable, Mapping


def host_name(environment: Mapping[str, str] = os.environ) -> str:
    """The scheduler's name of this node where there is a scheduler: it is the one that `sinfo` and `scancel` know."""
    return environment.get("SLURMD_NODENAME") or socket.gethostname()


def in_ranges(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
