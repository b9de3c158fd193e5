"""What `cait bench step` measured, in tables."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..counting.gpu_demand import FLOPS_PER_MAC
from .calibration import Both, Calibration
from .step_time import StepTime


def print_check(
    calibration: Calibration, predicted: StepTime, measured: float, images: int, console: Console | None = None
) -> None:
    """Print rates, and the real step beside its prediction."""
    head = Text(f"{calibration.hardware}, torch {calibration.torch}; seconds of the {calibration.clock} clock")
    tables = _rates(calibration), _bare(calibration), _step(predicted, measured, images)
    (console or Console()).print(Group(head, *tables), soft_wrap=True)


def _rates(calibration: Calibration) -> Table:
    table = Table(title="GFLOP/s, forward and backward", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for index, heading in enumerate(("what", "shape", *(f"{kind}" for kind in calibration.rates))):
        table.add_column(heading, justify="left" if index < 2 else "right")
    kinds = list(calibration.rates.values())
    for product in zip(*(rates.products for rates in kinds), strict=False):
        first = product[0]
        macs = first.rows * first.inner * first.outer
        table.add_row(
            "linear layer",
            f"{first.rows} × {first.inner} → {first.outer}",
            *(_rate(macs, entry.seconds) for entry in product),
        )
    for attention in zip(*(rates.attention for rates in kinds), strict=False):
        first_one = attention[0]
        table.add_row(
            f"attention, {first_one.backend}",
            f"{first_one.images} images, {first_one.heads} heads, {first_one.tokens} tokens",
            *(_rate(entry.macs, entry.seconds) for entry in attention),
        )
    return table


def _bare(calibration: Calibration) -> Table:
    table = Table(title="ms of a step with one token an image", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("ZeRO stage", "width", "blocks", "million parameters", "forward", "backward", "update"):
        table.add_column(heading, justify="right")
    for precision, rates in calibration.rates.items():
        for step in rates.bare:
            seconds = (f"{1e3 * part:,.1f}" for part in vars(step.seconds).values())
            millions = f"{step.parameters / 1e6:,.1f}"
            table.add_row(f"{precision}, {step.stage}", str(step.dim), str(step.blocks), millions, *seconds)
    return table


def _rate(macs: float, seconds: Both) -> str:
    forward, backward = (
        FLOPS_PER_MAC * work / time / 1e9 for work, time in ((macs, seconds.forward), (2 * macs, seconds.backward))
    )
    return f"{forward:,.0f} / {backward:,.0f}"


def _step(predicted: StepTime, measured: float, images: int) -> Table:
    table = Table(title=f"a training step of {images} images", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("what")
    table.add_column("ms", justify="right")
    for name, seconds in vars(predicted).items():
        if seconds:
            table.add_row(name, f"{1e3 * seconds:,.1f}")
    table.add_row("predicted", f"{1e3 * predicted.total:,.1f}")
    table.add_row("measured", f"{1e3 * measured:,.1f}")
    table.add_row("ratio", f"{predicted.total / measured:.2f}")
    return table
