"""The packages this installation needs, compared with what it asked for when it was installed."""

import sys
from collections.abc import Iterator
from importlib import metadata

from .answer import Check
from .node import version_of

SHOWN = ("torch", "deepspeed", "webdataset", "mlflow", "submitit", "ffcv")
"""The packages a run stands on; the others are named only when something is wrong with them."""
OPTIONAL = {"ffcv": "only betons and data.decoder=ffcv need it"}
OLDEST_PYTHON = (3, 10)
REMEDY = "call scripts/setup.sh again, or pip install -e ."


def examine_packages() -> Iterator[Check]:
    """A line for Python and for each package; versions are read without importing anything."""
    yield _python(sys.version_info[:3])
    wanted = wanted_versions()
    for package in (*SHOWN, *(name for name in wanted if name not in SHOWN)):
        check = examine_package(package, version_of(package), wanted.get(package))
        if package in SHOWN or check.state != "ok":
            yield check


def _python(version: tuple[int, int, int]) -> Check:
    text = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        return Check("Python", "refuse", text, "make the environment with Python 3.10 or newer")
    return Check("Python", "ok", f"{text} ({sys.executable})")


def examine_package(package: str, version: str | None, wanted: str | None) -> Check:
    """Judge one package.

    Args:
        package: its name
        version: the installed one; None: it is not installed
        wanted: as in "==0.19.8"; None: any, or not known
    """
    if version is None and package in OPTIONAL:
        return Check(package, "ok", f"not installed: {OPTIONAL[package]}")
    if version is None:
        return Check(package, "refuse", "not installed", REMEDY)
    if wanted and not _satisfies(version, wanted):
        return Check(package, "refuse", f"{version}, but {wanted} is needed", REMEDY)
    return Check(package, "ok", version)


def wanted_versions() -> dict[str, str]:
    """What this project's metadata ask for, by package; empty where it runs without being installed."""
    try:
        from packaging.requirements import Requirement  # noqa: PLC0415

        lines = metadata.requires("cait-dist") or []
    except (ImportError, metadata.PackageNotFoundError):
        return {}
    parsed = [Requirement(line) for line in lines]
    extras = [r for r in parsed if r.marker is not None and not r.marker.evaluate({"extra": ""})]
    needed = [r for r in parsed if r not in extras]
    return {r.name: str(r.specifier) for r in (*needed, *(r for r in extras if r.name in OPTIONAL))}


def _satisfies(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415

    return SpecifierSet(wanted).contains(version, prereleases=True)
