"""A comparison in the terminal: the answer first, then what to be careful about, then the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .. import wording
from ..comparison import Comparison, Difference, RunRow
from ..judging.labels import short_value
from ..measures import is_evaluation
from .columns import Column, fitted

MOST_GROUPS, MOST_TESTS, MOST_RUNS, MOST_DIFFERENCES, MOST_REASONS = 20, 8, 40, 20, 4
ELSEWHERE = "--html or --json"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print everything there is to say, no line wider than the console."""
    _heading(console, "Verdict")
    _bullets(console, [comparison.verdict], mark="")
    if comparison.cautions:
        _heading(console, "Be careful")
        _bullets(console, [caution.text for caution in comparison.cautions], mark="!", style="yellow")
    _groups(comparison, console)
    _runs(comparison, console)
    if comparison.differences:
        _heading(console, "What differs")
        _differences(comparison, console)
    _cost(comparison, console)
    _paper(comparison, console)
    if comparison.notes:
        _heading(console, "How it was compared")
        _bullets(console, comparison.notes, style="dim")


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold underline" if console.is_terminal else ""))


def _bullets(console: Console, texts: Iterable[str], mark: str = "·", style: str = "") -> None:
    for text in texts:
        line = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
        if mark:
            line.add_column(width=1)
        line.add_column(overflow="fold")
        line.add_row(*([Text(mark, style=style)] if mark else []), Text(text, style=style if not mark else ""))
        console.print(Padding(line, (0, 0, 0, 2), expand=False))


def _show(console: Console, columns: Sequence[Column], more: int = 0) -> None:
    table, dropped = fitted(columns, console.width - 2)
    console.print(Padding(table, (0, 0, 0, 2), expand=False))
    if more:
        _bullets(console, [f"… {more} more: {ELSEWHERE}"], mark="", style="dim")
    if dropped:
        _bullets(console, [f"no room for {wording.names(dropped, 9)}: {ELSEWHERE}"], mark="", style="dim")


def _groups(comparison: Comparison, console: Console) -> None:
    _heading(console, f"{comparison.metric} by setting")
    shown, metric = comparison.groups[:MOST_GROUPS], comparison.metric
    columns = [
        Column("setting", [group.label for group in shown], right=False),
        Column("mean", [wording.value(metric, group.mean) for group in shown]),
        Column("spread", ["" if g.spread is None else f"± {wording.value(metric, g.spread)}" for g in shown], False),
        Column("runs", [f"{group.n}" + (f" of {len(group.runs)}" if group.left_out else "") for group in shown], False),
        Column("", ["baseline" if len(shown) > 1 and g.label == comparison.baseline else "" for g in shown], False),
    ]
    _show(console, columns, len(comparison.groups) - len(shown))
    if comparison.tests:
        console.print()
        tests = comparison.tests
        # The best against the second comes last in the facts, and is what one wants to read first.
        ordered = [*tests[-1:], *tests[:-1]] if len(tests) >= len(comparison.groups) else list(tests)
        _bullets(console, [test.sentence for test in ordered[:MOST_TESTS]])
        if len(tests) > MOST_TESTS:
            _bullets(console, [f"… {len(tests) - MOST_TESTS} more: {ELSEWHERE}"], mark="", style="dim")


def _runs(comparison: Comparison, console: Console) -> None:
    _heading(console, "Runs")
    rows, metric = comparison.rows[:MOST_RUNS], comparison.metric
    asked = [metric, *(name for name in _evaluations(comparison) if name != metric)]
    columns = [
        Column("run", [row.name for row in rows], right=False),
        Column(metric, [_last(row, metric) for row in rows]),
        Column("best", [wording.value(metric, row.best.get(metric)) for row in rows]),
        Column("outcome", [row.outcome for row in rows], right=False),
        Column("steps", [f"{row.steps:,}" for row in rows]),
        Column("epochs", [wording.amount(row.epochs) for row in rows]),
        *(Column(name, [_last(row, name) for row in rows]) for name in asked[1:]),
    ]
    _show(console, columns, len(comparison.rows) - len(rows))


def _last(row: RunRow, metric: str) -> str:
    return wording.value(metric, row.last.get(metric))


def _evaluations(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(name for row in comparison.rows for name in row.last if is_evaluation(name)))


def _differences(comparison: Comparison, console: Console) -> None:
    shown = comparison.differences[:MOST_DIFFERENCES]
    names = [row.name for row in comparison.rows]
    widest = max(len(difference.key) for difference in shown)
    room = max(console.width - 2 - min(widest, 36) - 12, 20)
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for difference in shown:
        key, decides = wording.shortened(difference.key, 36), "decides" if difference.decides else ""
        table.add_row(Text(key), Text(decides), Text(_cut(_values(difference, names), room)))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))
    if more := len(comparison.differences) - len(shown):
        _bullets(console, [f"… {more} more: {ELSEWHERE}"], mark="", style="dim")


def _values(difference: Difference, names: Sequence[str]) -> str:
    """Values of two runs in their order, of more by how many have them."""
    values = [short_value(value) for value in difference.values]
    if len(names) == 2:
        return " | ".join(values)
    return ", ".join(f"{value} ({number}×)" if number > 1 else value for value, number in Counter(values).items())


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _cost(comparison: Comparison, console: Console) -> None:
    rows = comparison.rows[:MOST_RUNS]
    costs = [row.efficiency for row in rows]
    columns = [
        Column("run", [row.name for row in rows], right=False),
        Column("images/s", [wording.amount(cost.images_per_second) for cost in costs]),
        Column("device-h", [wording.amount(cost.device_hours) for cost in costs]),
        Column("cost", [wording.amount(cost.cost) for cost in costs]),
        Column("to target", [wording.duration(cost.seconds_to_target) for cost in costs]),
        Column("target h", [wording.amount(cost.device_hours_to_target) for cost in costs]),
        Column("MFU", [wording.percent(cost.mfu) for cost in costs]),
        Column("scaling", [wording.percent(cost.scaling) for cost in costs]),
        Column("waits", [wording.percent(cost.data_wait_share) for cost in costs]),
        Column("lost", [wording.duration(cost.lost_seconds or None) for cost in costs]),
        Column("redone", [wording.amount(cost.redone_steps or None) for cost in costs]),
        Column("restarts", [wording.amount(cost.restarts or None) for cost in costs]),
        Column("per device", [wording.amount(cost.images_per_second_per_device) for cost in costs]),
        Column("wall", [wording.duration(cost.wall_seconds) for cost in costs]),
        Column("GB", [wording.amount(cost.peak_memory_gb) for cost in costs]),
    ]
    if all(column.empty for column in columns[1:]):
        return
    target = "" if comparison.target is None else f" (target: {comparison.metric} {comparison.target:g})"
    _heading(console, f"Cost{target}")
    _show(console, columns, len(comparison.rows) - len(rows))


def _paper(comparison: Comparison, console: Console) -> None:
    rows = [row for row in comparison.rows if comparison.paper or row.paper.difference is not None][:MOST_RUNS]
    if rows:
        _heading(console, "The paper")
        _bullets(console, _distances(rows))


def _distances(rows: Sequence[RunRow]) -> Iterator[str]:
    """A sentence for each run; runs with the same words share it."""
    together: dict[str, list[str]] = {}
    for row in rows:
        together.setdefault(_distance(row), []).append(row.name)
    for sentence, names in together.items():
        yield f"{wording.names(names)}: {sentence}"


def _distance(row: RunRow) -> str:
    published, reasons = row.paper.row, row.paper.reasons
    name = ""
    if published is not None:
        teacher = " with a teacher" if published.distilled else ""
        name = f"{published.model} at {published.image_size}{teacher}, {published.top1:g} % ({published.source})"
    if row.paper.difference is not None:
        return f"{wording.difference('val/top1', row.paper.difference)} from {name}."
    more = f"; and {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    why = f"{'; '.join(reasons[:MOST_REASONS])}{more}"
    return f"not comparable with {name}: {why}." if name else f"{why}."
