"""`--fail-if`: whether a comparison violates a condition, for a pipeline that must stop then.

The condition is asked of every group but the baseline, with means over seeds; where there is only one group, of every
run. What cannot be judged fails: a gate that lets a diverged run pass is none.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import wording
from ..comparison import Comparison, Group, RunRow
from .language import Expression, Quantity, parse
from .names import fail

_CALCULATE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True)
class Violation:
    """Something for which the condition holds, or could not be judged.

    Attributes:
        name: label of the group, or name of the run.
        sentence: what was found, with the numbers.
    """

    name: str
    sentence: str


@dataclass(frozen=True)
class _Judged:
    """What is judged at once: the runs whose mean is taken."""

    name: str
    rows: Sequence[RunRow]
    diverged: Sequence[str] = ()
    significant: bool = False


def check_gate(comparison: Comparison, condition: str) -> list[Violation]:
    """Ask a condition of a comparison.

    Args:
        comparison: of any number of runs
        condition: in the language of `gate_language`

    Returns:
        what violates it; empty if nothing does

    Raises:
        CompareError: if the condition cannot be understood, or needs a baseline where there is only one group
    """
    metrics = dict.fromkeys(metric for row in comparison.rows for metric in (*row.last, *row.best))
    expression = parse(condition, list(metrics))
    judged, baseline = _sides(comparison)
    if baseline is None and expression.baseline_at is not None:
        start = expression.baseline_at
        word = condition[start:].partition(" ")[0].rstrip(")")
        only = "there is only one setting among these runs" if len(comparison.groups) == 1 else "there is none"
        fail(condition, start, start + len(word), f"'{word}' needs a baseline to compare with, and {only}")
    return [violation for each in judged if (violation := _judge(expression, each, baseline))]


def _sides(comparison: Comparison) -> tuple[list[_Judged], _Judged | None]:
    rows = {row.name: row for row in comparison.rows}
    if len(comparison.groups) == 1:
        gone = comparison.groups[0].left_out
        return [_Judged(row.name, [row], _broken(comparison, [row.name], gone)) for row in comparison.rows], None
    significant = {test.a for test in comparison.tests if test.b == comparison.baseline and test.significant}
    sides = {group.label: _side(comparison, group, rows, group.label in significant) for group in comparison.groups}
    baseline = sides.pop(comparison.baseline)
    return list(sides.values()), baseline


def _side(comparison: Comparison, group: Group, rows: Mapping[str, RunRow], significant: bool) -> _Judged:
    kept = [rows[name] for name in group.runs if name not in group.left_out]
    return _Judged(group.label, kept, _broken(comparison, group.runs, group.left_out), significant)


def _broken(comparison: Comparison, names: Sequence[str], left_out: Sequence[str]) -> list[str]:
    """Runs without a number to judge: not those left out as unfinished beside finished ones."""
    values = {name: value for group in comparison.groups for name, value in zip(group.runs, group.values, strict=True)}
    return [name for name in names if name in left_out and not math.isfinite(values[name])]


def _judge(expression: Expression, judged: _Judged, baseline: _Judged | None) -> Violation | None:
    if judged.diverged:
        text = f"{judged.name}: {wording.names(judged.diverged)} diverged or has no value, so that it cannot pass."
        return Violation(judged.name, text)
    values = {
        node: _value((baseline or judged) if quantity.of_baseline else judged, quantity)
        for node, quantity in expression.quantities.items()
    }
    for node, value in values.items():
        if not math.isfinite(value):
            text = f"{judged.name}: there is no {_spell(expression.quantities[node])}, so that it cannot pass."
            return Violation(judged.name, text)
    try:
        holds = _holds(expression.tree, values, judged.significant)
    except ZeroDivisionError:
        return Violation(judged.name, f"{judged.name}: {expression.text.strip()} divides by zero, so it cannot pass.")
    if not holds:
        return None
    quantities = {quantity: values[node] for node, quantity in expression.quantities.items()}
    looked_up = {_spell(each): wording.value(each.metric, value) for each, value in quantities.items()}
    numbers = ", ".join(f"{name} = {value}" for name, value in looked_up.items())
    significance = (
        f"{', ' if numbers else ''}{'' if judged.significant else 'not '}significant"
        if expression.asks_significance
        else ""
    )
    found = f" ({numbers}{significance})" if numbers or significance else ""
    return Violation(judged.name, f"{judged.name}: {expression.text.strip()}{found}.")


def _spell(quantity: Quantity) -> str:
    name = f"best({quantity.metric})" if quantity.best else quantity.metric
    return f"baseline's {name}" if quantity.of_baseline else name


def _value(judged: _Judged, quantity: Quantity) -> float:
    values = [(row.best if quantity.best else row.last).get(quantity.metric, math.nan) for row in judged.rows]
    return float(np.mean(values)) if values else math.nan


def _holds(node: ast.expr, values: Mapping[ast.AST, float], significant: bool) -> bool:
    if isinstance(node, ast.BoolOp):
        # All of them, even where the first decides: what cannot be judged must not hide behind it.
        results = [_holds(value, values, significant) for value in node.values]
        return all(results) if isinstance(node.op, ast.And) else any(results)
    if isinstance(node, ast.UnaryOp):
        return not _holds(node.operand, values, significant)
    if isinstance(node, ast.Compare):
        sides = [_number(side, values) for side in (node.left, *node.comparators)]
        pairs = zip(node.ops, sides, sides[1:], strict=False)
        return all(_CALCULATE[type(op)](a, b) for op, a, b in pairs)
    return significant


def _number(node: ast.expr, values: Mapping[ast.AST, float]) -> float:
    if node in values:
        return values[node]
    if isinstance(node, ast.BinOp):
        return float(_CALCULATE[type(node.op)](_number(node.left, values), _number(node.right, values)))
    if isinstance(node, ast.UnaryOp):
        inner = _number(node.operand, values)
        return -inner if isinstance(node.op, ast.USub) else inner
    assert isinstance(node, ast.Constant)
    return float(node.value)  # type: ignore[arg-type]
