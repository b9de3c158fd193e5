"""One line of the doctor's answer."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """What was looked at, and what came out.

    Attributes:
        name: what was looked at
        state: "ok", "warn" or "refuse" (nothing can be trained here until that is mended)
        detail: the fact
        remedy: what to do; empty if all is well
    """

    name: str
    state: Literal["ok", "warn", "refuse"]
    detail: str
    remedy: str = ""
