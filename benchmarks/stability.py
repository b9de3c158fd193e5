"""Which residual designs train at depth 24 and 36, which stall and which diverge: `model.residual` on digits.

    cait prep digits --out data/digits --image-size 24
    python benchmarks/stability.py                           ten designs, two depths: half an hour on an idle core
    python benchmarks/stability.py --settings recipe harsh   and again without a net
    python benchmarks/stability.py --variants pre_norm layer_scale --depths 36 --seeds 0 1 2

Every training is a `cait train` of configs/ablations/table1_stabilisation/digits.yaml: width 48, the class token there
from the start, no stochastic depth. Designs without a norm (figure 1 (b) of the paper) are trained in their own form,
digits_own_form.yaml, without warm-up either. `harsh` is the same at ten times the learning rate, 3e-2, and without
clipping the gradient.

The verdict is about the training loss, with mixup and label smoothing as it is. `chance` is the loss of a model that
predicts the frequencies of the classes, and the end is the mean of the last 20 steps.

    diverges    a loss was not finite, or the end lies more than 5 % above chance
    stalls      the end lies within 5 % of chance
    trains      the end lies below that

Ctrl-C stops the training at work, which saves; the same command goes on from there and does nothing twice. Remove a run
directory to do that run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cait_dist.tracking.code_version import describe_code
from parts.circumstances import processor
from parts.stability.picture import LARGE, draw
from parts.stability.runs import (
    EVERY,
    LAST_STEPS,
    RULE,
    SETTINGS,
    VARIANTS,
    Member,
    Place,
    StabilityError,
    chance_loss,
    code_of,
    is_over,
    members,
    read,
    train,
)


def main() -> None:
    """Train what is not trained yet, and print the table."""
    options = _options()
    place = Place(options.runs.resolve(), options.data.resolve(), options.steps)
    wanted = list(members(options.settings, options.depths, options.variants, options.seeds))
    try:
        chance = chance_loss(place)
        if options.report:
            wanted = [member for member in wanted if is_over(member, place)]
        rows = train_all(wanted, place, chance)
    except StabilityError as error:
        print(f"stability: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    record = {**about(place, wanted), "chance": round(chance, 4), "rule": RULE, "settings": SETTINGS, "rows": rows}
    print(f"\n{table(rows, chance)}")
    if options.out:
        write_record(record, options.out)
        print(f"wrote {options.out}")
    if options.figure:
        print(f"wrote {draw(record, options.figure)}")


def train_all(wanted: Sequence[Member], place: Place, chance: float) -> list[dict[str, Any]]:
    """All trainings one after another, with a line for each.

    Raises:
        StabilityError: if one fails in another way than by diverging
        KeyboardInterrupt: once the one at work has saved
    """
    rows, trained, spent = [], 0, 0.0
    for number, member in enumerate(wanted, 1):
        began, fresh = time.monotonic(), not is_over(member, place)
        print(f"[{number:{len(str(len(wanted)))}d}/{len(wanted)}] {member}: ", end="", flush=True)
        train(member, place)
        row = read(member, place, chance)
        rows.append(row)
        trained, spent = trained + fresh, spent + (time.monotonic() - began) * fresh
        left = sum(not is_over(other, place) for other in wanted[number:]) * spent / trained if trained else 0
        news = f"{time.monotonic() - began:.0f} s" if fresh else "done before"
        print(f"{news}, loss {_shown(row['loss_start'])} → {_shown(row['loss_end'])}, {row['verdict']}"
              + (f" (about {left / 60:.0f} min left)" if left else ""), flush=True)  # fmt: skip
    return rows


def about(place: Place, wanted: Sequence[Member]) -> dict[str, Any]:
    """What has to stand beside numbers for others to repeat them."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        **describe_code(),
        "trained_at_commits": code_of(wanted, place),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": processor(),
        "load_average": os.getloadavg(),
        "steps": place.steps,
        "curve": f"means of {EVERY} steps",
    }


def table(rows: Sequence[dict[str, Any]], chance: float) -> str:
    """As Markdown, which a terminal shows just as well."""
    lines = [
        f"Training loss; chance is {chance:.3f}. end: mean of the last {LAST_STEPS} steps. {RULE}.",
        "",
        "| setting | depth | residual        | seed | start | step 50 | end   | top-1 % | verdict  |",
        "|---------|-------|-----------------|------|-------|---------|-------|---------|----------|",
    ]
    for row in rows:
        losses = [_shown(row[f"loss_{when}"]) for when in ("start", "step_50", "end")]
        top1 = "–" if row["top1"] is None else f"{row['top1']:.1f}"
        lines.append(
            f"| {row['setting']:<7} | {row['depth']:<5} | {row['residual']:<15} | {row['seed']:<4} | {losses[0]} | "
            f"{losses[1]:<7} | {losses[2]} | {top1:<7} | {row['verdict']:<8} |"
        )
    return "\n".join(lines)


def write_record(record: dict[str, Any], path: Path) -> None:
    """As JSON, a row in a line, so that a difference is one that can be read."""
    rows = record["rows"]
    head = json.dumps({key: value for key, value in record.items() if key != "rows"}, indent=1, ensure_ascii=False)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head.removesuffix("\n}") + f',\n "rows": [\n{lines}\n ]\n}}\n')


def _shown(loss: float | None) -> str:
    return "–    " if loss is None else f"{loss:.3f}" if loss < LARGE else f"{loss:.0e}"


def add_place(parser: argparse.ArgumentParser) -> None:
    """Options that say where the trainings are, and which."""
    parser.add_argument(
        "--depths", type=int, nargs="+", metavar="N", default=[24, 36], help="self-attention layers; default: 24 36"
    )
    parser.add_argument("--steps", type=int, metavar="N", default=200, help="of each training; default: 200")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", default=[0], help="default: 0")
    parser.add_argument("--data", type=Path, metavar="DIR", default=Path("data/digits"), help="default: data/digits")
    parser.add_argument("--runs", type=Path, metavar="DIR", default=Path("runs/stability"),
                        help="of the run directories; default: runs/stability")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the numbers")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--variants", **known, choices=VARIANTS, default=list(VARIANTS),
                        help=f"of {', '.join(VARIANTS)}; default: all")  # fmt: skip
    parser.add_argument("--settings", **known, choices=list(SETTINGS), default=["recipe"],
                        help=f"of {', '.join(SETTINGS)}; default: recipe")  # fmt: skip
    add_place(parser)
    parser.add_argument("--report", action="store_true", help="train nothing: show those that are over")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="SVG (or PNG) file for the curves")
    return parser.parse_args()


if __name__ == "__main__":
    main()
