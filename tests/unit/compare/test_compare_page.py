"""The report as a file: small, alone, harmless, and with every number that was given."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import comparison_of, long_comparison, make_comparison, make_curve, make_row, make_run

from cait_dist.compare.comparison import Caution, Comparison, Difference, Efficiency, Group, PaperDistance, RunRow
from cait_dist.compare.run_data import RunData, RunFacts
from cait_dist.compare.showing.page.scatter import scatters
from cait_dist.compare.showing.page.write import PARTS, render_page, write_page

EVIL = """</script><script>alert('x')</script><img src=x onerror="alert(1)">&amp;{{ 7 * 7 }}\u2028<!--"""


class Elements(HTMLParser):
    """All elements with their attributes, and the text outside of styles and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.data, self._within = "", "", ""
        self.feed(text)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._within = tag if tag in ("script", "style") else self._within
        if tag == "script" and dict(attrs).get("id") == "data":
            self._within = "data"

    def handle_endtag(self, tag: str) -> None:
        self._within = "" if tag in ("script", "style") else self._within

    def handle_data(self, data: str) -> None:
        if self._within == "data":
            self.data += data
        elif not self._within:
            self.text += f"{data} "


def payload_of(page: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(Elements(page).data, parse_constant=refuse)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return make_comparison()


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    return render_page(comparison)


def test_twenty_runs_of_ten_thousand_points_take_less_than_a_megabyte(tmp_path: Path) -> None:
    written = write_page(long_comparison(runs=20, points=10_000, metrics=15), tmp_path / "new" / "report.html")
    assert written == tmp_path / "new" / "report.html"
    assert written.stat().st_size < 1_000_000
    assert [path.name for path in written.parent.iterdir()] == ["report.html"], "nothing is left beside it"


def test_writing_replaces_an_older_report_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    path.chmod(0o444)
    write_page(comparison_of([make_run()]), path)
    assert path.read_text().startswith("<!doctype html>")


def test_the_page_asks_for_nothing_but_itself(page: str) -> None:
    for tag, attributes in Elements(page).found:
        assert tag not in ("iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith("#") or value == "data:,", f"<{tag} {name}={value}>"
    outside = page.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?://|@import|url\((?!#)", outside)
    assert "default-src 'none'" in page


def test_the_policy_allows_the_scripts_of_the_page_and_no_other(page: str) -> None:
    import base64  # noqa: PLC0415
    import hashlib  # noqa: PLC0415

    policy = next(str(a["content"]) for _, a in Elements(page).found if a.get("http-equiv"))
    bodies = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes
    assert len(hashes) == 2
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_hostile_names_and_values_are_shown_and_do_nothing(comparison: Comparison) -> None:
    runs = [make_run(EVIL, {EVIL: make_curve(np.ones(3)), "val/top1": make_curve(np.ones(3))}), make_run("b\ud800")]
    hostile = comparison_of(
        runs,
        [make_row(run, outcome=EVIL) for run in runs],
        verdict=EVIL,
        baseline=EVIL,
        groups=(Group(EVIL, {EVIL: EVIL}, (EVIL,), (0,), (1.0,), 1.0, None),),
        tests=(dataclasses.replace(comparison.tests[0], sentence=EVIL, a=EVIL, method=EVIL),),
        differences=(Difference("config", f"a.{EVIL}", (EVIL, ""), True), Difference("code", EVIL, (EVIL, "1"), False)),
        cautions=(Caution(EVIL, EVIL, (EVIL,)),),
        paper=(dataclasses.replace(comparison.paper[0], model=EVIL, source=EVIL),),
        notes=(EVIL,),
    )
    elements, harmless = Elements(render_page(hostile)), Elements(render_page(comparison))
    assert [tag for tag, _ in elements.found].count("script") == [tag for tag, _ in harmless.found].count("script")
    assert "img" not in {tag for tag, _ in elements.found}
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert elements.text.count("<script>alert('x')") > 5, "it is shown as what it is"
    assert "49" not in re.findall(r"\{\{.*?\}\}|49", elements.text)
    assert [json.loads(elements.data)["runs"][0][key] for key in ("name", "group")] == [EVIL, EVIL]


def test_every_number_of_the_comparison_is_on_the_page(comparison: Comparison, page: str) -> None:
    text = Elements(page).text
    for row in comparison.rows:
        assert f"{row.steps:,}" in text
        for key in ("val/top1", "val_ema/top1", "val/top5", "val_ema/top5"):
            assert f"{row.last[key]:.2f}" in text
            assert f"{row.best[key]:.2f}" in text
        assert f"{row.last['val/loss']:.4g}" in text
        for value in (row.efficiency.device_hours, row.efficiency.images_per_second, row.efficiency.cost):
            assert (f"{value:,.4g}" if value < 1000 else f"{value:,.0f}") in text
    for group in comparison.groups:
        assert f"{group.mean:.2f} ± {group.spread:.2f}, n = 3" in text
    for test in comparison.tests:
        assert test.sentence in text
        assert f"{test.difference:.2f}" in text
        assert f"{test.low:.2f} to {test.high:.2f}".replace("-", "−") in text
    for said in (*(c.text for c in comparison.cautions), comparison.verdict, *comparison.notes):
        assert said in text
    for row in comparison.paper:
        assert f"{row.top1} {row.parameters:,} {row.macs:,} {row.source}" in text
    for difference in comparison.differences:
        assert difference.key.rpartition(".")[2] in text
        assert set(difference.values) <= set(text.split())
    assert "not comparable: 100 epochs instead of 400; no distillation" in text
    assert "−0." in text, "distances to the paper have a sign"


def test_a_run_that_does_not_count_is_shown_as_such() -> None:
    runs = [make_run(name, {"val/top1": make_curve(np.array([value]))}) for name, value in (("a", 70.0), ("b", 12.5))]
    group = Group("g", {}, ("a", "b"), (0, -1), (70.0, 12.5), 70.0, None, left_out=("b",))
    page = render_page(comparison_of(runs, groups=(group,)))
    assert "70.00 ± –, n = 1" in Elements(page).text
    assert "does not count: b: 12.50" in Elements(page).text
    assert page.count('class="dot out ') == 1


def test_cost_says_time_money_and_what_was_lost() -> None:
    cost = Efficiency(2625.6, 328.2, 0.371, 108.42, 52_380.0, 271.05, 0.021, 351.0, 900, 1, 41.7, 0.94, 43_200.0, 87.8)
    row = make_row(make_run("a"), efficiency=cost)
    text = Elements(render_page(comparison_of([make_run("a")], [row]))).text
    for shown in ("2,626", "328.2", "37.1 %", "94 %", "108.4", "271", "14 h 33 min", "12 h 00 min", "87.8"):
        assert shown in text
    for shown in ("2.1 %", "5 min 51 s", "900", "41.7", "8 × NVIDIA H100"):
        assert shown in text


def test_a_run_that_was_stopped_early_is_not_praised_for_its_low_cost() -> None:
    runs = [make_run(name) for name in "abc"]
    told = [("finished", 20.5), ("finished", 30.5), ("stopped", 1.5)]
    rows = [
        make_row(run, outcome=outcome, efficiency=Efficiency(device_hours=hours))
        for run, (outcome, hours) in zip(runs, told, strict=True)
    ]
    cost = render_page(comparison_of(runs, rows)).partition('id="cost"')[2]
    assert re.findall(r'<td class="best"[^>]*>([^<]*)</td>', cost) == ["20.5"]


def test_what_is_not_known_is_a_dash_that_the_page_explains() -> None:
    row = RunRow("a", "running", 5, None, {}, {}, Efficiency(), PaperDistance(None, None, ()))
    page = render_page(comparison_of([make_run("a")], [row]))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert cells.count("–") == 2 + 14, "epochs and the metric; every cost"
    assert "None" not in Elements(page).text
    assert not {"nan", "None", "null"} & set(cells)
    assert "What a dash means" in page


def test_the_parts_come_in_the_order_in_which_one_asks(page: str) -> None:
    places = [page.index(f'<section id="{name}"') for name in ("results", "differences", "curves", "tradeoffs", "cost")]
    assert places == sorted(places)
    assert page.index("<h1>") < page.index('class="cautions"') < places[0]


def test_cautions_and_groups_keep_their_order(comparison: Comparison, page: str) -> None:
    text = Elements(page).text
    kinds = [text.index(caution.text) for caution in comparison.cautions]
    assert kinds == sorted(kinds)
    means = [text.index(f"{group.mean:.2f} ±") for group in comparison.groups]
    assert means == sorted(means)


def test_what_decides_is_shown_open_and_the_rest_folded(page: str) -> None:
    differences = page[page.index('id="differences"') : page.index('id="curves"')]
    folded = "".join(re.findall(r"<details.*?</details>", differences, flags=re.DOTALL))
    assert 'title="optimizer.lr"' in differences
    assert 'title="optimizer.lr"' not in folded
    assert all(f'title="{key}"' in folded for key in ("data.workers", "commit", "host"))


def test_a_value_unlike_the_baselines_stands_out() -> None:
    runs = [make_run("other"), make_run("base")]
    groups = tuple(Group(name, {}, (name,), (0,), (1.0,), 1.0, None) for name in ("other", "base"))
    differences = (Difference("config", "optimizer.lr", ("0.25", "0.125"), True),)
    page = render_page(comparison_of(runs, groups=groups, baseline="base", differences=differences))
    assert "<td class=other>0.25</td><td>0.125</td>" in page, "the best group's run comes first"


def test_the_best_of_each_column_is_marked_for_losses_the_lowest() -> None:
    runs = [
        make_run(name, {"val/top1": make_curve(np.array([top1])), "val/loss": make_curve(np.array([loss]))})
        for name, top1, loss in (("a", 71.25, 1.5), ("b", 70.5, 1.25))
    ]
    page = render_page(comparison_of(runs))
    marked = re.findall(r'<td class="best"[^>]*>([^<]*)</td>', page)
    assert "71.25" in marked
    assert "70.50" not in marked
    assert "1.25" in marked
    assert "1.5" not in marked


NAN = np.full(30, np.nan)
BARE = RunData("bare", "mlflow:0", {}, RunFacts(), (), {"val/top1": make_curve(np.array([50.0]))}, {})
ALONE = {
    "no run": comparison_of([]),
    "no curve": comparison_of([make_run()]),
    "an empty curve": comparison_of([make_run("a", {"val/top1": make_curve(np.array([]))})]),
    "one point": comparison_of([make_run("a", {"val/top1": make_curve(np.array([50.0]))})]),
    "only NaN": comparison_of(
        [make_run("a", {"val/top1": make_curve(NAN), "train/loss": make_curve(NAN * np.inf)})],
        groups=(Group("g", {}, ("a",), (0,), (float("nan"),), float("nan"), None),),
    ),
    "a foreign run that tells nothing": comparison_of(
        [BARE],
        [RunRow("bare", "running", 1, None, {"val/top1": 50.0}, {}, Efficiency(), PaperDistance(None, None, ()))],
    ),
    "another deciding metric": dataclasses.replace(
        make_comparison(1, 1), metric="val_ema/loss", higher_is_better=False
    ),
    "a metric that no run has": dataclasses.replace(make_comparison(1, 2), metric="real/top1"),
    "infinite numbers": comparison_of(
        [make_run("a", {"val/top1": make_curve(np.array([1.0, np.inf, -np.inf]))})], target=float("inf")
    ),
}


@pytest.mark.parametrize("case", ALONE)
def test_there_is_a_page_for(case: str) -> None:
    page = render_page(ALONE[case])
    assert len(payload_of(page)["runs"]) == len(ALONE[case].runs)
    assert "</html>" in page


def test_a_metric_that_was_never_finite_is_named_as_such() -> None:
    text = Elements(render_page(ALONE["only NaN"])).text
    assert "not finite" in text
    assert "does not count: a, seed 0: no finite value" in text


def test_runs_that_share_a_cost_are_not_spread_over_an_empty_plot() -> None:
    runs = [make_run(name, {"val/top1": make_curve(np.array([50.0]))}) for name in "ab"]
    assert "Not drawn: all runs have the same: 46.9 M." in Elements(render_page(comparison_of(runs))).text


def test_texts_of_an_axis_have_room_beside_each_other(comparison: Comparison) -> None:
    tiny = [
        dataclasses.replace(run, facts=RunFacts(parameters=3 * 10 ** (4 + n))) for n, run in enumerate(comparison.runs)
    ]
    plot = scatters(dataclasses.replace(comparison, runs=tuple(tiny)))[0]
    places = np.array([tick.at for tick in plot.across])
    assert len(places) >= 3
    assert np.diff(places).min() > 15


def test_the_frontier_leaves_out_what_a_cheaper_run_beats() -> None:
    spent = {"cheap": (1.0, 60.0), "worse": (2.0, 55.0), "best": (4.0, 70.0)}
    runs = [make_run(name, {"val/top1": make_curve(np.array([top1]))}) for name, (_, top1) in spent.items()]
    rows = [make_row(run, efficiency=Efficiency(device_hours=spent[run.name][0])) for run in runs]
    plot = scatters(comparison_of(runs, rows))[2]
    x = {point.text.split(":")[0]: round(10 * point.x) for point in plot.points}
    y = {point.text.split(":")[0]: round(10 * point.y) for point in plot.points}
    assert plot.frontier == f"M{x['cheap']} {y['cheap']}H{x['best']}V{y['best']}H1000"


def test_the_page_works_without_a_script(page: str) -> None:
    assert len(re.findall(r'<path class="curve ', page)) == 18, "the deciding metric of nine runs, raw and average"


def simulated(colours: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """CIELAB of sRGB colours (0 to 1) as somebody sees them who lacks a kind of cones (Machado et al. 2009)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(linear @ seen.T, 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


SIGHT = {
    "all cones": np.eye(3),
    "no green cones": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "no red cones": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
}


@pytest.mark.parametrize("sheet", ["style.css", "dark.css"])
@pytest.mark.parametrize("sight", SIGHT)
def test_the_eight_colours_can_be_told_apart_with(sight: str, sheet: str) -> None:
    text = (PARTS / sheet).read_text()
    codes = [re.search(rf"--c{n}: #(\w{{6}});", text)[1] for n in range(8)]  # type: ignore[index]
    colours = np.array([[int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)] for code in codes])
    seen = simulated(colours, SIGHT[sight])
    first, second = np.triu_indices(8, 1)
    assert np.linalg.norm(seen[first] - seen[second], axis=1).min() > 25, "2 can just be seen side by side"
