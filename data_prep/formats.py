"""Bring a plan's data set into the formats that were asked for: WebDataset tars, FFCV betons, or both.

Tars come first in any case: they are what is planned, cleaned and resumed; betons are made from them. Where only betons
are wanted, the tars are removed at the end, so the work needs room for both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar, get_args

from .beton_record import BetonRecord
from .errors import DataPrepError
from .manifest import MANIFEST_FILE, SAMPLES_FILE, load_manifest
from .plan import Plan, claim_folder
from .run import finished, fitting_workers, only_one, run
from .write_ffcv import Mode, finished_beton, write_beton

Formats = Literal["webdataset", "ffcv", "both"]
_T = TypeVar("_T")


def prepare(
    plan: Plan,
    formats: Formats = "webdataset",
    mode: Mode = "jpg",
    *,
    workers: int | None = None,
    progress: bool = True,
) -> str:
    """Build what is missing of a data set in the formats asked for.

    Args:
        plan: from `make_plan`.
        formats: which.
        mode: how a beton stores its images.
        workers: processes; by default as many as there are cores, but no more than the number of images is worth.
        progress: whether to report on standard error.

    Returns:
        What was done, in a line.

    Raises:
        DataPrepError: see `data_prep.run.run` and `data_prep.write_ffcv.write_beton`.
    """
    if formats == "webdataset":
        return str(run(plan, workers, progress))
    claim_folder(plan)
    with only_one(plan, ".ffcv.lock"):
        ready = _finished(plan, mode)
        if formats == "ffcv" and len(ready) == len(plan.splits):
            _remove_tars(plan)
            return f"nothing to do: {_describe(ready)} are there"
        done = str(run(plan, workers, progress))
        betons = [
            ready.get(split)
            or write_beton(
                plan.out / split,
                load_manifest(plan.out / split),
                mode,
                plan.digest,
                workers=workers or fitting_workers(plan),
                shown=progress,
            )
            for split in plan.splits
        ]
        if formats == "ffcv":
            _remove_tars(plan)
    return f"{done}; betons: {_describe(dict(zip(plan.splits, betons, strict=True)))}"


def is_complete(plan: Plan, formats: Formats, mode: Mode) -> bool:
    """Whether all that was asked for is there, in a folder that was claimed."""
    if formats != "webdataset" and len(_finished(plan, mode)) < len(plan.splits):
        return False
    return formats == "ffcv" or finished(plan) is not None


def _finished(plan: Plan, mode: Mode) -> dict[str, BetonRecord]:
    found = {split: finished_beton(plan.out / split, mode, plan.digest) for split in plan.splits}
    return {split: record for split, record in found.items() if record is not None}


def _describe(betons: dict[str, BetonRecord]) -> str:
    return " + ".join(
        f"{record.samples:,} {split} images as {record.mode} ({record.bytes / 1e6:,.0f} MB)"
        for split, record in betons.items()
    )


def _remove_tars(plan: Plan) -> None:
    """Remove what belongs to the tars alone; the manifest first, so that nothing vouches for files that are going."""
    for split in plan.splits:
        folder: Path = plan.out / split
        for name in (MANIFEST_FILE, SAMPLES_FILE):
            (folder / name).unlink(missing_ok=True)
    for number in range(plan.num_shards):
        plan.task(number).path.unlink(missing_ok=True)


def parse_formats(text: str) -> Formats:
    """The formats that a user means.

    Raises:
        DataPrepError: if there are no such formats.
    """
    return _one_of(text, get_args(Formats), "--format")


def parse_mode(text: str) -> Mode:
    """The way of storing images in betons that a user means.

    Raises:
        DataPrepError: if there is no such way.
    """
    return _one_of(text, get_args(Mode), "--ffcv-mode")


def _one_of(text: str, choices: tuple[_T, ...], option: str) -> _T:
    for choice in choices:
        if text == choice:
            return choice
    raise DataPrepError(f"{option} is one of {', '.join(map(str, choices))}, not {text!r}")
