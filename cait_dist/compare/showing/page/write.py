"""The report as one HTML file that needs nothing else: no server, no network; without a script all numbers are there.

Everything is put into `parts/`: what the user named is escaped by jinja, and the curves go in as JSON that cannot
end its element. A policy in the page's head forbids every request and every script but its own two.
"""

from __future__ import annotations

import base64
import hashlib
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...comparison import Comparison
from .differences import kinds_of, nested_differences
from .format import DASH, score
from .looks import by_group, in_order, looks_of
from .metrics import FAMILIES, title_of
from .payload import as_json, payload
from .plots import group_lines, interval_lines, still_curves
from .scatter import paper_name, scatters
from .tables import cost_table, results_table

PARTS = Path(__file__).parent / "parts"
SCRIPTS = ("data.js", "axes.js", "chart.js", "readout.js", "controls.js", "tables.js", "main.js")


def write_page(comparison: Comparison, path: Path) -> Path:
    """Write the report of a comparison; a reader sees the old file or the whole new one.

    Args:
        comparison: what to show.
        path: of the HTML file; its folder is made.

    Returns:
        The same path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(render_page(comparison), encoding="utf-8", errors="replace")
    aside.replace(path)
    return path


def render_page(comparison: Comparison, when: datetime | None = None) -> str:
    """The report as text.

    Args:
        comparison: what to show.
        when: it was made; now if not given.
    """
    environment = Environment(
        loader=FileSystemLoader(PARTS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("template.html").render(
        **_parts(), **_content(comparison), when=when or datetime.now()
    )


def _parts() -> dict[str, Any]:
    head = _part("theme.js")
    script = "(function () {\n'use strict';\n" + "".join(_part(name) for name in SCRIPTS) + "})();\n"
    return {
        "style": Markup(_part("style.css").replace("/* DARK */", _part("dark.css"))),
        "head_script": Markup(head),
        "script": Markup(script),
        "hashes": " ".join(f"'sha256-{_digest(text)}'" for text in (head, script)),
    }


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _content(comparison: Comparison) -> dict[str, Any]:
    looks, order = looks_of(comparison), in_order(comparison)
    groups, group_ticks = group_lines(comparison)
    intervals, interval_ticks, zero = interval_lines(comparison)
    data = payload(comparison)
    return {
        "c": comparison,
        "dash": DASH,
        "metric": title_of(comparison.metric),
        "target": score(comparison.metric, comparison.target),
        "runs": [(comparison.runs[n], looks[comparison.runs[n].name]) for n in order],
        "by_group": by_group(comparison),
        "groups": groups,
        "group_ticks": group_ticks,
        "intervals": intervals,
        "interval_ticks": interval_ticks,
        "zero": zero,
        "results": results_table(comparison),
        "kinds": [
            (title, nested_differences(comparison, found), len(found), shown)
            for title, found, shown in kinds_of(comparison.differences)
        ],
        "families": {key: title for key, title in FAMILIES.items() if any(m["family"] == key for m in data["metrics"])},
        "metrics": data["metrics"],
        "still": still_curves(comparison),
        "scatters": scatters(comparison),
        "costs": cost_table(comparison),
        "paper_name": paper_name,
        "payload": Markup(as_json(data)),
    }
