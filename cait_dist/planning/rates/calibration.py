"""Rates of one machine, as `cait bench step` measured them: the only source of times in a plan.

A file holds what one kind of device does at the shapes of the models it was measured for, by precision:

    products    linear layers, forward and backward
    attention   talking-heads attention by backend, likewise
    stream      what surrounds a branch: norm, scale, residual
    gelu        the activation of the feed-forward network, which the backward pass computes again
    bare        steps of a real engine with one token an image, at every ZeRO stage

and a pixel's augmentation. Other shapes take the rate, per multiply-add or per element, of the nearest that was
measured. A bare step is all that does not grow with the tokens: launches, LayerScale's way into the weights, narrow
copies of these, hooks, buckets, the update. Part of it is by block and part by parameter; networks of two widths tell
them apart.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import PlanError
from ..gpus import Gpu

FORMAT = 2


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
class Phases:
    """Seconds of the parts of a step, or of a unit of them; the update is that of all parameters on one rank."""

    forward: float
    backward: float
    update: float

    @property
    def total(self) -> float:
        """The step."""
        return self.forward + self.backward + self.update


@dataclass(frozen=True)
class BareStep:
    """A step with next to no tokens.

    Attributes:
        stage: of ZeRO.
        dim: width of a token.
        blocks: of both kinds.
        parameters: of the network.
        tokens: of the self-attention stage, of all images.
        seconds: it took.
    """

    stage: int
    dim: int
    blocks: int
    parameters: int
    tokens: int
    seconds: Phases


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
        bare: steps with next to no tokens, of this and of a narrow network.
    """

    products: tuple[ProductTime, ...]
    attention: tuple[AttentionTime, ...]
    stream: Both
    gelu: Both
    bare: tuple[BareStep, ...]

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

    def bare_step(self, stage: int, dim: int, blocks: int, parameters: int) -> Phases:
        """Seconds of a step with next to no tokens: so much a block, and so much a parameter of such a width."""
        measured = [step for step in self.bare if step.stage == stage]
        thin = min(measured, key=lambda step: step.dim)
        near = min(measured, key=lambda step: _far((step.dim, dim)))

        def seconds(phase: str) -> float:
            block = getattr(thin.seconds, phase) / thin.blocks
            rest = max(0.0, getattr(near.seconds, phase) - block * near.blocks)
            return block * blocks + rest * parameters / near.parameters

        return Phases(*(seconds(phase.name) for phase in fields(Phases)))

    def joined(self, older: Rates) -> Rates:
        """With what was measured for other shapes."""
        return replace(
            self,
            products=_union(self.products, older.products),
            attention=_union(self.attention, older.attention),
            bare=_union(self.bare, older.bare),
        )


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
        rates: by precision, ``fp32`` and ``bf16``, as far as measured.
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
    augment: float
    checks: tuple[dict[str, Any], ...] = field(default=())

    def joined(self, older: Calibration) -> Calibration:
        """With what an older file has for other shapes, if it is of the same machine and torch."""
        alike = ("hardware", "device", "threads", "torch", "clock")
        if any(getattr(self, name) != getattr(older, name) for name in alike):
            return self
        both = {kind: mine.joined(older.rates[kind]) for kind, mine in self.rates.items() if kind in older.rates}
        return replace(self, rates=older.rates | self.rates | both, checks=(*older.checks, *self.checks))

    def at(self, precision: str) -> Rates:
        """Rates in a precision.

        Raises:
            PlanError: if it was not measured.
        """
        if precision not in self.rates:
            raise PlanError(
                f"the calibration has no rates in {precision}, only in {', '.join(self.rates)}: run `cait bench step`"
                " with this configuration"
            )
        return self.rates[precision]

    def backends(self, precision: str) -> set[str]:
        """Attentions that were measured.

        Raises:
            PlanError: if that precision was not measured.
        """
        return {entry.backend for entry in self.at(precision).attention}

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
        bare=tuple(BareStep(**(entry | {"seconds": Phases(**entry["seconds"])})) for entry in content["bare"]),
    )
