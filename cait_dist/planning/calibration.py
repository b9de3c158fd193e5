"""Rates of one machine, as `cait bench step` measured them: the only source of times in a plan.

A file holds what one kind of device does at the shapes of the models it was measured for, in float32 and bf16:

    products    linear layers, forward and backward
    attention   talking-heads attention by backend, likewise
    stream      what surrounds a branch: norm, scale, residual
    gelu        the activation of the feed-forward network, twice, as the backward pass computes it again

and, whatever the precision, what a block costs that computes next to nothing (launches), a parameter's update, and a
pixel's augmentation. Other shapes take the rate, per multiply-add or per element, of the nearest that was measured.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import PlanError
from .gpus import Gpu

FORMAT = 1


@dataclass(frozen=True)
class Both:
    """Seconds of a forward pass and of a backward pass, or of a unit of them."""

    forward: float
    backward: float

    def __mul__(self, factor: float) -> Both:
        return Both(self.forward * factor, self.backward * factor)

    def __add__(self, other: Both) -> Both:
        return Both(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class ProductTime:
    """A linear layer: ``rows`` tokens from ``inner`` to ``outer`` channels."""

    rows: int
    inner: int
    outer: int
    seconds: Both


@dataclass(frozen=True)
class AttentionTime:
    """The attention of ``images`` images with ``heads`` maps of ``tokens`` squared each."""

    backend: str
    heads: int
    tokens: int
    head_dim: int
    images: int
    seconds: Both

    @property
    def macs(self) -> int:
        """Multiply-adds of its forward pass."""
        return attention_macs(self.backend, self.heads, self.tokens, self.head_dim) * self.images


def attention_macs(backend: str, heads: int, tokens: int, head_dim: int) -> int:
    """Multiply-adds of one image; ``plain`` mixes no heads."""
    mixing = 0 if backend == "plain" else 2 * heads**2
    return tokens**2 * (2 * heads * head_dim + mixing)


@dataclass(frozen=True)
class Rates:
    """What depends on the width of numbers.

    Attributes:
        products: linear layers.
        attention: attentions.
        stream: seconds per token and channel, of one branch.
        gelu: seconds per element.
    """

    products: tuple[ProductTime, ...]
    attention: tuple[AttentionTime, ...]
    stream: Both
    gelu: Both

    def product(self, rows: float, inner: int, outer: int) -> Both:
        """Seconds of a linear layer, at the rate of the nearest that was measured."""
        near = min(self.products, key=lambda p: _far((p.rows, rows), (p.inner, inner), (p.outer, outer)))
        return near.seconds * (rows * inner * outer / (near.rows * near.inner * near.outer))

    def attend(self, backend: str, heads: int, tokens: int, head_dim: int, images: float) -> Both:
        """Seconds of an attention, likewise.

        Raises:
            PlanError: if that backend was not measured.
        """
        measured = [a for a in self.attention if a.backend == backend]
        if not measured:
            raise PlanError(
                f"the calibration has no times of the attention {backend!r}: run `cait bench step` with this"
                " configuration, or choose another with --attention"
            )
        near = min(measured, key=lambda a: _far((a.heads, heads), (a.tokens, tokens), (a.images, images)))
        return near.seconds * (attention_macs(backend, heads, tokens, head_dim) * images / near.macs)


def _far(*pairs: tuple[float, float]) -> float:
    return sum(math.log(a / b) ** 2 for a, b in pairs)


@dataclass(frozen=True)
class Calibration:
    """A file's content.

    Attributes:
        hardware: name of the device.
        device: ``cuda`` or ``cpu``.
        threads: of torch, on a CPU.
        torch: its version.
        commit: of this project, if known.
        date: of the last measurement.
        clock: what seconds are: ``wall``, or ``processor`` on a CPU with one thread, which others do not disturb.
        rates: by ``fp32`` and ``bf16``.
        block_overhead: seconds of a block that computes next to nothing.
        update: seconds per parameter of clipping, AdamW and the moving average.
        bandwidth: bytes/s that a large addition moves.
        augment: seconds per pixel of an image on the device.
        checks: real steps, measured and predicted.
    """

    hardware: str
    device: str
    threads: int
    torch: str
    commit: str | None
    date: str
    clock: str
    rates: dict[str, Rates]
    block_overhead: Both
    update: float
    bandwidth: float
    augment: float
    checks: tuple[dict[str, Any], ...] = field(default=())

    def joined(self, older: Calibration) -> Calibration:
        """With what an older file has for other shapes, if it is of the same machine and torch."""
        alike = ("hardware", "device", "threads", "torch", "clock")
        if any(getattr(self, name) != getattr(older, name) for name in alike):
            return self
        rates = {
            kind: replace(
                mine, products=_union(mine.products, old.products), attention=_union(mine.attention, old.attention)
            )
            for kind, mine in self.rates.items()
            if (old := older.rates.get(kind)) is not None
        }
        return replace(self, rates=self.rates | rates, checks=(*older.checks, *self.checks))

    def backends(self, precision: str) -> set[str]:
        """Attentions that were measured."""
        return {entry.backend for entry in self.rates[precision].attention}

    def suits(self, gpu: Gpu) -> bool:
        """Whether it was measured on such a GPU."""
        return all(part in self.hardware for part in gpu.known_as)


def _union(mine: tuple[Any, ...], older: tuple[Any, ...]) -> tuple[Any, ...]:
    def shape(entry: Any) -> tuple[Any, ...]:
        return tuple(value for name, value in vars(entry).items() if name != "seconds")

    have = {shape(entry) for entry in mine}
    return (*mine, *(entry for entry in older if shape(entry) not in have))


def default_path() -> Path:
    """Where calibrations are kept unless said otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "cait-dist" / "calibration.json"


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps({"format": FORMAT, **asdict(calibration)}, indent=1) + "\n")
    beside.replace(path)


def add_to_file(calibration: Calibration, path: Path) -> None:
    """Write the file; what it already has of this machine for other shapes stays.

    Raises:
        PlanError: if something else is in its place, or it cannot be written.
    """
    if path.exists():
        calibration = calibration.joined(load_calibration(path))
    try:
        save_calibration(calibration, path)
    except OSError as error:
        raise PlanError(f"{path} cannot be written: {error.strerror}") from None


def load_calibration(path: Path) -> Calibration:
    """Read a file.

    Raises:
        PlanError: if it is not there, or nothing that `cait bench step` wrote.
    """
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT:
            raise PlanError(f"{path} is of another version: measure again with `cait bench step`")
        content["rates"] = {kind: _rates(rates) for kind, rates in content["rates"].items()}
        content["block_overhead"] = Both(**content["block_overhead"])
        content["checks"] = tuple(content["checks"])
        return Calibration(**content)
    except OSError as error:
        raise PlanError(f"{path} cannot be read ({error.strerror}): `cait bench step` writes it") from None
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError):
        raise PlanError(f"{path} is no calibration: `cait bench step` writes them") from None


def _rates(content: dict[str, Any]) -> Rates:
    return Rates(
        products=tuple(ProductTime(**(entry | {"seconds": Both(**entry["seconds"])})) for entry in content["products"]),
        attention=tuple(
            AttentionTime(**(entry | {"seconds": Both(**entry["seconds"])})) for entry in content["attention"]
        ),
        stream=Both(**content["stream"]),
        gelu=Both(**content["gelu"]),
    )
