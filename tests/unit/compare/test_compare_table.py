"""The terminal: the answer first, nothing wider than the window, no cell broken, readable in a pipe."""

import io
import math

import pytest
from compared_runs import a_run, attempt, seeds, two_settings
from rich.console import Console

from cait_dist.compare.compare_runs import compare_runs
from cait_dist.compare.run_data import RunData, SetFacts
from cait_dist.compare.showing.table import print_comparison

PROCEDURE = "How it was compared"


def printed(runs: list[RunData], width: int = 80, terminal: bool = False, **options: object) -> str:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=terminal, color_system="standard" if terminal else None
    )
    print_comparison(compare_runs(runs, **options), console)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def everything() -> list[RunData]:
    restarted = (attempt(1, outcome="lost"), attempt(2, processes=4, lost_seconds=300.0, redone_steps=20))
    return [
        *two_settings(),
        *seeds("a-name-much-longer-than-any-table-wants-to-have-it", [70.0, 71.0], settings={"optimizer.lr": 2}),
        *seeds("odd", [40.0, math.nan], settings={"optimizer.lr": 3}, device="NVIDIA H100", attempts=restarted),
        *seeds("other", [1.0, 2.0], settings={"optimizer.lr": 4}, sets={"val": SetFacts("9", 3)}),
    ]


def section(text: str, heading: str) -> list[str]:
    """Lines below a heading."""
    lines = [line.rstrip() for line in text.splitlines()]
    start = next(place for place, line in enumerate(lines) if line.startswith(heading))
    end = next((place for place in range(start + 1, len(lines)) if lines[place][:1].strip()), len(lines))
    return [line for line in lines[start + 1 : end] if line]


@pytest.mark.parametrize(("width", "last"), [(40, "best"), (80, "val/loss"), (120, "val/loss")])
def test_no_line_is_wider_than_the_window_and_no_table_cell_is_broken(width: int, last: str) -> None:
    names = [run.name for run in everything()]
    text = printed(everything(), width, paper=True, price=2.0, target=70.0)
    assert max(map(len, text.splitlines())) <= width
    runs = section(text, "Runs")
    assert runs[0].split()[-1] == last
    assert [line.split()[1] for line in runs[1:4]] == ["71.10", "71.70", "71.00"]
    rows = [line for line in runs if line.split()[0] in ("run", *names) or "…" in line.split()[0]]
    assert len(rows) == 1 + len(everything())


def test_what_found_no_room_is_said() -> None:
    text = " ".join(section(printed(everything(), 80, price=2.0, target=70.0), "Cost")[-1].split())
    assert text.startswith("no room for ")
    assert text.endswith("--html or --json")
    wide = printed(everything(), 200, price=2.0, target=70.0)
    assert "no room" not in wide
    assert "restarts" in wide


def test_sections_come_in_the_order_in_which_one_asks() -> None:
    text = printed(everything(), paper=True)
    headings = [line.rstrip() for line in text.splitlines() if line[:1].strip()]
    assert headings == [
        "Verdict",
        "Be careful",
        "val/top1 by setting",
        "Runs",
        "What differs",
        "Cost",
        "The paper",
        PROCEDURE,
    ]


def test_verdict_cautions_and_tests_are_those_of_the_comparison() -> None:
    comparison = compare_runs(everything())
    text = " ".join(printed(everything()).split())
    for sentence in [
        comparison.verdict,
        *(c.text for c in comparison.cautions),
        *(t.sentence for t in comparison.tests),
    ]:
        assert " ".join(sentence.split()) in text


def test_groups_show_mean_spread_and_how_many_runs_count() -> None:
    rows = [line.split() for line in section(printed(everything()), "val/top1 by setting")]
    assert rows[0] == ["setting", "mean", "spread", "runs"]
    assert ["lr=0.001,", "val.digest=22222222", "71.27", "±", "0.38", "3", "baseline"] in rows
    assert "1 of 2" in " ".join(" ".join(row) for row in rows)


def test_the_best_against_the_second_is_said_before_the_baseline() -> None:
    runs = [a_run(f"r{i}", 70.0 + i, settings={"optimizer.lr": i + 1}) for i in range(4)]
    rows = section(printed(runs, 120), "val/top1 by setting")
    said = [row.strip().partition(":")[0] for row in rows if row.strip().startswith("·")]
    assert said == ["· lr=4 against lr=3", "· lr=4 against lr=1", "· lr=3 against lr=1", "· lr=2 against lr=1"]


def test_a_run_is_a_row_with_its_name_shortened_in_the_middle() -> None:
    rows = section(printed(everything()), "Runs")
    assert rows[1].split()[:5] == ["high-seed_0", "71.10", "71.10", "finished", "300"]
    long = next(row.split()[0] for row in rows if "seed_1" in row and "…" in row)
    assert long.startswith("a-name")
    assert long.endswith("seed_1")
    assert "a-name-much-longer-than-any-table-wants-to-have-it-seed_1" in printed(everything(), 140)


def test_what_decides_is_marked_and_comes_first() -> None:
    rows = section(printed(everything()), "What differs")
    assert rows[0].split()[:3] == ["optimizer.lr", "decides", "0.001"]
    assert any(row.split()[0] == "device" and "decides" not in row for row in rows)


def test_of_two_runs_both_values_are_shown() -> None:
    (row,) = section(printed([a_run("a"), a_run("b", settings={"optimizer.lr": 1})]), "What differs")
    assert row.split() == ["optimizer.lr", "decides", "0.003", "|", "1"]


def test_long_lists_end_with_how_many_more_there_are() -> None:
    text = printed([a_run("a"), a_run("b", config="cait_s24_224.yaml")])
    assert len(section(text, "What differs")) == 21
    assert section(text, "What differs")[-1].split()[:3] == ["…", "13", "more:"]
    many = [a_run(f"r{i}", 70.0 + i, settings={"optimizer.lr": i + 1}) for i in range(50)]
    assert "… 10 more: --html or --json" in printed(many)
    assert "… 30 more: --html or --json" in printed(many)


def test_the_paper_is_shown_if_asked_for_with_its_source_or_the_reasons() -> None:
    imagenet = {"train_images": 1_281_167, "image_size": 224, "parameters": 46_916_200}
    exact = a_run("s24", 82.5, config="cait_s24_224.yaml", sets={"val": SetFacts("7", 50_000)}, **imagenet)
    text = " ".join(printed([exact]).split())
    assert "s24: −0.20 points from CaiT-S24 at 224, 82.7 % (quoted in NViT's comparison table)." in text
    short = a_run("s", 70.0, config="cait_s24_224.yaml", settings={"training.epochs": 9}, **imagenet)
    assert "not comparable with CaiT-S24" in printed([short], paper=True)
    assert "The paper" not in printed([short])


def test_a_single_run_is_printed_without_what_needs_two() -> None:
    text = printed([a_run("x", 90.0)])
    assert "What differs" not in text
    assert "baseline" not in text
    assert "Be careful" not in text


def test_in_a_pipe_there_are_no_control_characters_and_in_a_terminal_there_is_colour() -> None:
    assert "\x1b" not in printed(everything(), paper=True)
    assert "\x1b[33m" in printed(everything(), terminal=True)


def test_names_with_brackets_are_names_and_no_markup() -> None:
    assert "[red]x" in printed([a_run("[red]x", 90.0)])
