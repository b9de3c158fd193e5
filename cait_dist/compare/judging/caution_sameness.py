"""Cautions about what was not the same in all runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from .. import wording
from ..comparison import Caution
from ..measures import is_evaluation
from .caution_case import Case
from .run_state import steps_done


def other_validation_set(case: Case) -> Iterator[Caution]:
    """Values that were measured on other images."""
    seen = {run.name: run.facts.sets[case.set].digest for run in case.runs if case.set in run.facts.sets}
    if len(set(seen.values())) > 1:
        usual = Counter(seen.values()).most_common(1)[0][0]
        others = [name for name, digest in seen.items() if digest != usual]
        sizes = {run.facts.sets[case.set].images for run in case.runs if case.set in run.facts.sets}
        counts = f" ({' and '.join(f'{size:,}' for size in sorted(sizes))} images)" if len(sizes) > 1 else ""
        text = (
            f"{wording.names(others)} measured {case.set} on other images than the rest{counts}: the values cannot be "
            f"compared."
        )
        yield Caution("other-validation-set", text, tuple(others))


def other_image_size(case: Case) -> Iterator[Caution]:
    """Images of another size, or cut in another way."""
    yield from _unequal(case, "image-size", "image size", [run.facts.image_size for run in case.runs], "pixels")
    crops = [run.config.get("evaluation.crop_ratio") for run in case.runs]
    yield from _unequal(case, "crop-ratio", "crop ratio in evaluation", crops, "")


def other_images(case: Case) -> Iterator[Caution]:
    """Training on other images, or another number of them."""
    digests = [run.facts.train_digest for run in case.runs]
    sizes = [run.facts.train_images for run in case.runs]
    if len({digest for digest in digests if digest is not None}) > 1:
        counts = _spelled(sizes, "images")
        text = f"The runs were trained on different images{f': {counts}' if counts else ''}."
        yield Caution("other-training-set", text, tuple(run.name for run in case.runs))
    else:
        yield from _unequal(case, "image-count", "number of training images", sizes, "images")


def _unequal(case: Case, kind: str, what: str, values: Sequence[object], unit: str) -> Iterator[Caution]:
    if spelled := _spelled(values, unit):
        names = tuple(run.name for run, value in zip(case.runs, values, strict=True) if value is not None)
        yield Caution(kind, f"The {what} is not the same in all runs: {spelled}.", names)


def _spelled(values: Sequence[object], unit: str) -> str:
    """``24 and 32 pixels``; nothing unless known values differ."""
    known = dict.fromkeys(wording.setting(value) for value in values if value is not None)
    return f"{wording.names(list(known))} {unit}".strip() if len(known) > 1 else ""


def ema_against_raw(case: Case) -> Iterator[Caution]:
    """Runs without the metric, and with its twin of the other weights."""
    lacking = [run for run in case.runs if case.metric not in run.curves]
    if not lacking:
        return
    quantity = case.metric.rpartition("/")[2]
    twin = f"{case.set}/{quantity}" if case.metric.startswith(f"{case.set}_ema/") else f"{case.set}_ema/{quantity}"
    averaged = tuple(run.name for run in lacking if twin in run.curves)
    if averaged:
        text = (
            f"{wording.names(averaged)} measured {twin} only, not {case.metric}: raw weights and their moving average "
            f"are not compared with each other; name --metric {twin} if all runs have it."
        )
        yield Caution("ema-against-raw", text, averaged)
    missing = tuple(run.name for run in lacking if run.name not in averaged)
    if missing:
        yield Caution("no-value", f"There is no {case.metric} of {wording.names(missing)}.", missing)


def fewer_steps(case: Case) -> Iterator[Caution]:
    """Finished runs that were shorter than others."""
    steps = {run.name: steps_done(run) for run in case.runs if run.finished}
    most = max(steps.values(), default=0)
    fewer = tuple(name for name, done in steps.items() if done < most)
    if fewer:
        few = min(steps[name] for name in fewer)
        text = f"Fewer training steps than others: {wording.names(fewer)} ({few:,} against {most:,})."
        yield Caution("fewer-steps", text, fewer)


def other_code(case: Case) -> Iterator[Caution]:
    """Other versions of the code, and versions that nobody can get."""
    commits = {run.name: run.facts.code.get("commit", run.facts.code.get("version")) for run in case.runs}
    known = {commit for commit in commits.values() if commit is not None}
    changed = tuple(name for name, commit in commits.items() if commit is not None and "+changes" in commit)
    if len({commit.partition("+")[0] for commit in known}) > 1:
        text = f"The runs were made with {len({c.partition('+')[0] for c in known})} different versions of the code."
        yield Caution("other-code", text, tuple(commits))
    if changed:
        text = f"The code of {wording.names(changed)} had changes that no commit holds: nobody can run it again."
        yield Caution("uncommitted-changes", text, changed)


def other_hardware(case: Case) -> Iterator[Caution]:
    """Speeds of different devices."""
    kinds = dict.fromkeys(run.facts.device for run in case.runs if run.facts.device is not None)
    if len(kinds) > 1:
        text = f"Speeds, hours and costs are of different devices: {wording.names(list(kinds))}."
        yield Caution("other-hardware", text, tuple(run.name for run in case.runs))


def untold(case: Case) -> Iterator[Caution]:
    """Runs that do not tell which images they saw."""
    silent = tuple(run.name for run in case.runs if run.facts.train_digest is None or case.set not in run.facts.sets)
    if silent and is_evaluation(case.metric):
        text = f"Which images {wording.names(silent)} saw is not known, nor whether others saw the same."
        yield Caution("old-run", text, silent)
