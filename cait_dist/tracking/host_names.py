"""By which names clients may call a server: MLflow answers 403 to all others, against foreign pages in a browser."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

EVERYWHERE = ("0.0.0.0", "::", "")
LOCAL = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether a server there is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_names() -> list[str]:
    """This machine's names and addresses, the ones that others can use best first."""
    import psutil  # noqa: PLC0415 - takes a moment

    name = socket.gethostname()
    names = [name, socket.getfqdn(), name.partition(".")[0]]
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET:
                names.append(address.address)
            elif address.family == socket.AF_INET6 and "%" not in address.address:
                names.append(f"[{address.address}]")
    return [name for name in dict.fromkeys(names) if name not in LOCAL]


def accepted(names: Sequence[str]) -> list[str]:
    """Patterns of Host headers for these names, with any port: a tunnel may give it another. Loopback is always in."""
    patterns = []
    for name in dict.fromkeys([*names, *LOCAL]):
        # Brackets would be read as a choice of characters, but only where there is an asterisk.
        patterns += [name, f"{name.replace('[', '[[]', 1)}:*"]
    return patterns


def origins(names: Sequence[str], port: int) -> list[str]:
    """Where MLflow's own page comes from under these names: it may send what it asks with POST."""
    return [f"http://{name}:{port}" for name in names if "*" not in name]


def name_for_clients(host: str, allowed: Sequence[str], own: Sequence[str]) -> str:
    """The name that is told to users.

    Args:
        host: that the server listens on
        allowed: names that the user has given
        own: names of this machine
    """
    given = [name for name in allowed if "*" not in name]
    if given:
        return given[0]
    if host not in EVERYWHERE:
        return f"[{host}]" if ":" in host else host
    return own[0] if own else LOCAL[0]


def connectable(host: str) -> str:
    """An address at which this machine reaches a server that listens on ``host``."""
    if host in EVERYWHERE:
        return "[::1]" if host == "::" else "127.0.0.1"
    return f"[{host}]" if ":" in host else host
