"""A short report of a run, from its directory alone."""

from pathlib import Path
from typing import Any

from .metrics import Row, read_metrics, series
from .run_directory import RunDirectory


def summarize(run: RunDirectory) -> dict[str, Any]:
    """The numbers one asks for first.

    Returns:
        ``step``, ``images_per_second`` (median), ``last`` and ``best`` value of every evaluation metric
    """
    rows = read_metrics(run)
    speeds = sorted(value for _, value in series(rows, "perf/images_per_second"))
    evaluated = {key: series(rows, key) for key in _evaluation_keys(rows)}
    return {
        "step": rows[-1]["step"] if rows else 0,
        "images_per_second": speeds[len(speeds) // 2] if speeds else None,
        "last": {key: values[-1][1] for key, values in evaluated.items()},
        "best": {
            key: (min if key.endswith("/loss") else max)(v for _, v in values) for key, values in evaluated.items()
        },
    }


def write_report(run: RunDirectory) -> Path:
    """Write report.md into the run directory and return its path."""
    summary, record = summarize(run), run.read_record()
    lines = [f"# {run.path.name}", "", f"Steps: {summary['step']}", ""]
    if summary["images_per_second"]:
        lines += [f"Median training speed: {summary['images_per_second']:.0f} images/s", ""]
    lines += ["| metric | last | best |", "|---|---|---|"]
    lines += [f"| {key} | {value:.4f} | {summary['best'][key]:.4f} |" for key, value in summary["last"].items()]
    lines += [
        "",
        "| attempt | started | ended | outcome | resumed from | processes | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for a in record["attempts"]:
        cells = (
            a["number"],
            a["started"],
            a.get("ended", "?"),
            a.get("outcome", "lost"),
            a["resumed_from"],
            a["processes"],
        )
        lines.append(f"| {' | '.join(map(str, cells))} | {a['code'].get('commit', 'unknown')} |")
    report = run.path / "report.md"
    report.write_text("\n".join(lines) + "\n")
    return report


def _evaluation_keys(rows: list[Row]) -> list[str]:
    keys = {key: None for row in rows for key in row if key.partition("/")[2] in ("top1", "top5", "loss")}
    return [key for key in keys if not key.startswith("train/")]
