"""The language of `--fail-if`: ``val/top1 < baseline - 0.3 and significant``.

Metrics by name, ``best(METRIC)``, ``baseline`` (the same quantity of the baseline), numbers, ``+ - * /``, comparisons,
``and or not``, parentheses, and ``significant``. Python's grammar is used for the shape only; every node that is not in
the list below is refused, and nothing is ever evaluated as code.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from ..errors import CompareError, listing, meant
from ..measures import is_evaluation
from .names import fail, hide_names

LONGEST = 500
_WORDS = ("and", "or", "not", "best", "baseline", "significant")
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div)
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


@dataclass(frozen=True)
class Quantity:
    """What an expression looks up.

    Attributes:
        metric: its name.
        best: the best value instead of the last.
        of_baseline: of the baseline instead of the group that is judged.
    """

    metric: str
    best: bool = False
    of_baseline: bool = False


@dataclass(frozen=True)
class Expression:
    """A condition that was understood.

    Attributes:
        text: as it was written.
        tree: Python's tree, of allowed nodes only.
        quantities: what is looked up, by the node that asks for it.
        asks_significance: whether the word ``significant`` is in it.
        baseline_at: where the baseline is needed first; None if it is not.
    """

    text: str
    tree: ast.expr
    quantities: dict[ast.AST, Quantity]
    asks_significance: bool
    baseline_at: int | None


def parse(text: str, metrics: Sequence[str]) -> Expression:
    """Read a condition.

    Args:
        text: as the user wrote it
        metrics: names that are known

    Returns:
        the expression, ready to be judged

    Raises:
        CompareError: with a caret below the place that cannot be understood
    """
    if len(text) > LONGEST:
        raise CompareError(f"--fail-if: {len(text)} characters are more than the {LONGEST} that are read")
    return _Parser(text, metrics).parse()


class _Parser:
    def __init__(self, text: str, metrics: Sequence[str]) -> None:
        self._text, self._known = text, sorted(metrics, key=len, reverse=True)
        self._metrics: dict[int, str] = {}
        self._quantities: dict[ast.AST, Quantity] = {}
        self._significant = False
        self._baseline_at: int | None = None
        self._python = ""

    def parse(self) -> Expression:
        self._python, self._metrics = hide_names(self._text, self._known)
        try:
            tree = ast.parse(self._python, mode="eval").body
        except SyntaxError as error:
            start = (error.offset or 0) - 1 if error.lineno == 1 else -1
            if not 0 <= start < len(self._text):
                start = len(self._text)
            fail(self._text, start, start + 1, _hint(self._text, start))
        except (RecursionError, MemoryError):
            fail(self._text, 0, 1, "nested too deeply")
        self._boolean(tree)
        return Expression(self._text, tree, self._quantities, self._significant, self._baseline_at)

    def _boolean(self, node: ast.expr) -> None:
        if isinstance(node, ast.BoolOp):
            for value in node.values:
                self._boolean(value)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self._boolean(node.operand)
        elif isinstance(node, ast.Compare):
            self._comparison(node)
        elif self._word_of(node) == "significant":
            self._significant = True
            self._need_baseline(node)
        elif self._word_of(node) == "baseline" or self._is_number(node):
            self._refuse(node, "this is a number: compare it with something, as in 'val/top1 < baseline'")
        else:
            self._refuse(node, "this is neither true nor false")

    def _comparison(self, node: ast.Compare) -> None:
        if wrong := next((op for op in node.ops if not isinstance(op, _COMPARISONS)), None):
            self._refuse(node, f"only < <= > >= == != compare, not '{type(wrong).__name__.lower()}'")
        sides = [node.left, *node.comparators]
        baselines = [found for side in sides for found in self._number(side)]
        asked = {self._quantities[each] for side in sides for each in ast.walk(side) if each in self._quantities}
        for baseline in baselines:
            self._need_baseline(baseline)
            if len(asked) != 1:
                why = "there is none" if not asked else f"here are {len(asked)}"
                self._refuse(baseline, f"'baseline' stands for the metric that it is compared with, and {why}")
            quantity = next(iter(asked))
            self._quantities[baseline] = Quantity(quantity.metric, quantity.best, of_baseline=True)

    def _number(self, node: ast.expr) -> list[ast.expr]:
        """Check something that must be a number; returns where it says ``baseline``."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, _OPERATORS):
            return [*self._number(node.left), *self._number(node.right)]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            return self._number(node.operand)
        if self._word_of(node) == "baseline":
            return [node]
        self._one_number(node)
        return []

    def _one_number(self, node: ast.expr) -> None:
        if isinstance(node, ast.Constant):
            self._constant(node)
        elif isinstance(node, ast.Call):
            self._best(node)
        elif self._word_of(node) == "significant":
            self._refuse(node, "'significant' is true or false, not a number: join it with 'and'")
        elif isinstance(node, ast.Name):
            self._quantities[node] = Quantity(self._metric(node))
        else:
            self._refuse(node, "only metrics, 'baseline', numbers and + - * / can stand here")

    def _constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)) or not _is_finite(node.value):
            self._refuse(node, "only plain numbers can stand here")

    def _best(self, node: ast.Call) -> None:
        if self._word_of(node.func) != "best" or node.keywords or len(node.args) != 1:
            self._refuse(node, "the only function is best(METRIC)")
        argument = node.args[0]
        if not isinstance(argument, ast.Name) or self._word_of(argument) in _WORDS:
            self._refuse(argument, "best() takes the name of a metric")
        self._quantities[node] = Quantity(self._metric(argument), best=True)

    def _metric(self, node: ast.Name) -> str:
        start, end = self._span(node)
        name = self._metrics.get(start) or self._text[start:end]
        if name not in self._known:
            names = sorted(self._known, key=lambda known: (not is_evaluation(known), known))
            near = meant(name, [*names, *_WORDS])
            fail(self._text, start, end, f"unknown metric {name!r}{near} ({listing('metric', names)})")
        return name

    def _is_number(self, node: ast.expr) -> bool:
        return isinstance(node, (ast.BinOp, ast.Constant, ast.Call, ast.Name, ast.UnaryOp)) and self._number(node) == []

    def _word_of(self, node: ast.expr) -> str:
        """The word of the language that a node is; empty for a metric and for everything else."""
        if not isinstance(node, ast.Name):
            return ""
        return node.id if self._span(node)[0] not in self._metrics and node.id in _WORDS else ""

    def _need_baseline(self, node: ast.expr) -> None:
        place = self._span(node)[0]
        self._baseline_at = place if self._baseline_at is None else min(self._baseline_at, place)

    def _span(self, node: ast.expr) -> tuple[int, int]:
        # Python counts bytes, and the stand-in of a slash has two.
        line = self._python.encode()
        return len(line[: node.col_offset].decode()), len(line[: node.end_col_offset].decode())

    def _refuse(self, node: ast.expr, message: str) -> NoReturn:
        fail(self._text, *self._span(node), message)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False


def _hint(text: str, place: int) -> str:
    if re.search(r"(?<![<>=!])=(?!=)", text):
        return "'=' compares nothing: write == for equal"
    if "&" in text or "|" in text or "!" in text.replace("!=", ""):
        return "write 'and', 'or', 'not'"
    if text.count("(") != text.count(")"):
        return "parentheses do not match"
    return "this cannot be read here" if place < len(text) else "something is missing here"
