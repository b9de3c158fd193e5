"""A comparison for programs: all of it as JSON, a row for each run as CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..comparison import Comparison, Efficiency, RunRow
from ..measures import is_evaluation
from ..run_data import RunData


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything but the curves, as plain values; what is not finite becomes null, as JSON knows no such number."""
    plain = {each.name: getattr(comparison, each.name) for each in fields(comparison) if each.name != "runs"}
    plain["runs"] = [_run(run) for run in comparison.runs]
    result = _plain(plain)
    assert isinstance(result, dict)
    return result


def write_json(comparison: Comparison, path: Path) -> None:
    """Write `to_json` into a file."""
    text = json.dumps(to_json(comparison), indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write a row for each run: name, group, deciding settings, results, cost, and the paper's row."""
    rows = [_row(comparison, row, place) for place, row in enumerate(comparison.rows)]
    columns = dict.fromkeys(key for row in rows for key in row)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="")
        writer.writeheader()
        writer.writerows(rows)


def _run(run: RunData) -> dict[str, Any]:
    return {
        "name": run.name,
        "source": run.source,
        "config": run.config,
        "facts": asdict(run.facts),
        "attempts": [asdict(attempt) for attempt in run.attempts],
        "totals": {name: asdict(total) for name, total in run.totals.items()},
        "predictions": run.predictions,
    }


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):  # numpy's, too
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _row(comparison: Comparison, row: RunRow, place: int) -> dict[str, Any]:
    group = next(group for group in comparison.groups if row.name in group.runs)
    metrics = [name for name in row.last if is_evaluation(name) or name == comparison.metric]
    deciding = {each.key: each.values[place] for each in comparison.differences if each.decides}
    return {
        "run": row.name,
        "outcome": row.outcome,
        "group": group.label,
        "counts": row.name not in group.left_out,
        "steps": row.steps,
        "epochs": _cell(row.epochs),
        **deciding,
        **{f"last {name}": _cell(row.last[name]) for name in metrics},
        **{f"best {name}": _cell(row.best.get(name)) for name in metrics},
        **{each.name: _cell(getattr(row.efficiency, each.name)) for each in fields(Efficiency)},
        **_paper(row),
    }


def _paper(row: RunRow) -> dict[str, Any]:
    published = row.paper.row
    return {
        "paper_model": published.model if published else "",
        "paper_top1": published.top1 if published else "",
        "paper_source": published.source if published else "",
        "paper_difference": _cell(row.paper.difference),
        "paper_reasons": "; ".join(row.paper.reasons),
    }


def _cell(number: float | None) -> float | str:
    """Empty where nothing is known; NaN is spelled out, as it is a result."""
    return "" if number is None else number
