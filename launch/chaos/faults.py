"""All faults, and which of them can be done where."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from .errors import ChaosError
from .fault import Fault
from .machine_faults import MACHINE_FAULTS
from .process_faults import PROCESS_FAULTS
from .storage_faults import STORAGE_FAULTS

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*PROCESS_FAULTS, *MACHINE_FAULTS, *STORAGE_FAULTS)}


def choose_faults(names: Sequence[str], *, mini: bool) -> list[Fault]:
    """The faults of these names, or all that can be done there.

    Args:
        names: none for all
        mini: whether machines may be harmed

    Raises:
        ChaosError: naming what is not known, or not possible there
    """
    for name in names:
        if name not in FAULTS:
            close = get_close_matches(name, FAULTS, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(FAULTS)}"
            raise ChaosError(f"there is no fault {name!r}; {hint}")
        if FAULTS[name].needs_mini and not mini:
            raise ChaosError(
                f"{name} harms machines: leave --cluster out, and it is done to a small one on this machine"
            )
    chosen = [FAULTS[name] for name in dict.fromkeys(names)] or list(FAULTS.values())
    return [fault for fault in chosen if mini or not fault.needs_mini]
