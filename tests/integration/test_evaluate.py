"""`cait evaluate` gets the trainer's own numbers from its checkpoints, gets them once, and follows a run to its end."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_command import CAIT, start, train
from typer.testing import CliRunner

from cait_dist.augment.normalize import Normalize
from cait_dist.cli import app
from cait_dist.config import load_config
from cait_dist.data.crop import eval_view
from cait_dist.data.reader_webdataset import open_split
from cait_dist.errors import is_for_user
from cait_dist.tracking.metrics import read_metrics
from cait_dist.tracking.run_directory import RunDirectory, read_json
from cait_dist.training.evaluating import run as evaluate_run
from cait_dist.training.evaluating.request import Request
from cait_dist.training.evaluating.run import Evaluation
from cait_dist.training.saving.checkpoint import read_weights
from cait_dist.training.saving.checkpoint_files import list_checkpoints
from cait_dist.training.saving.saved_weights import open_weights
from cait_dist.training.starting.initial_model import initial_model
from cait_dist.training.starting.plan import CannotStartError
from cait_dist.training.starting.preflight import preflight

pytestmark = pytest.mark.slow

SETTINGS = (
    "training.epochs=0.5", "optimizer.lr=5e-3",
    "training.checkpoint.every_steps=null", "training.checkpoint.every_epochs=0.125", "training.checkpoint.keep=9",
    "evaluation.every_epochs=0.125", "evaluation.sets=[{name: val}, {name: again}]", "--processes", "2",
)  # fmt: skip
"""Evaluations and checkpoints at the same steps."""
STEPS = [12, 23, 34, 45]

KINDS_OF_RUN = {
    "zero2": ("training.zero.stage=2",),
    "zero3": (
        "training.zero.stage=3",
        "training.precision=bf16",
        "evaluation.sets=[{name: val}]",
        "training.epochs=0.25",
    ),
}
KINDS_OF_RUN["zero3 in fp32"] = (*KINDS_OF_RUN["zero3"], "evaluation.precision=fp32")


@pytest.fixture(scope="module")
def runs(shared_config: Path) -> dict[str, RunDirectory]:
    return {
        name: train(shared_config, *SETTINGS, *settings, name=f"measured-{name.replace(' ', '-')}")
        for name, settings in KINDS_OF_RUN.items()
    }


@pytest.fixture
def run(runs: dict[str, RunDirectory], tmp_path: Path) -> RunDirectory:
    """A copy that a test may change."""
    shutil.copytree(runs["zero2"].path, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    return RunDirectory(tmp_path / "run")


def evaluate(place: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [str(CAIT), "evaluate", str(place), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def recorded(run: RunDirectory) -> dict[tuple[int, str, str], dict[str, Any]]:
    """What the evaluations' files say, by step, set and weights."""
    files = sorted((run.path / "evaluations").glob("*.json"))
    contents = [json.loads(file.read_text()) for file in files]
    return {(c["step"], entry["set"], entry["weights"]): entry for c in contents for entry in c["results"]}


def percent(right: Any) -> float:
    return 100 * float(np.mean(right))


def while_training(run: RunDirectory, step: int, name: str, weights: str) -> dict[str, float]:
    prefix = f"{name}_ema/" if weights == "ema" else f"{name}/"
    row = next(row for row in read_metrics(run) if row["step"] == step and f"{prefix}loss" in row)
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}


@pytest.mark.parametrize("kind", KINDS_OF_RUN)
def test_the_numbers_are_the_trainers_own(runs: dict[str, RunDirectory], kind: str) -> None:
    done = evaluate(runs[kind].path, "--step", "all")
    assert done.returncode == 0, done.stderr
    found = recorded(runs[kind])
    sets = ("val", "again") if kind == "zero2" else ("val",)
    steps = STEPS if kind == "zero2" else STEPS[:2]
    assert list(found) == [(step, name, weights) for step in steps for weights in ("raw", "ema") for name in sets]
    for (step, name, weights), entry in found.items():
        theirs = while_training(runs[kind], step, name, weights)
        assert (entry["top1"], entry["top5"]) == (theirs["top1"], theirs["top5"])
        assert entry["loss"] == pytest.approx(theirs["loss"], abs=1e-7)
        assert entry["count"] == 359
    losses = sorted(entry["loss"] for (_, name, _), entry in found.items() if name == "val")
    assert min(b - a for a, b in pairwise(losses)) > 1e-6, "a mix-up of weights could go unseen"


def test_the_table_is_that_of_training(run: RunDirectory, shared_config: Path) -> None:
    from cait_dist.evaluation import Accuracy  # noqa: PLC0415
    from cait_dist.training.recording.console import EvaluationTable  # noqa: PLC0415

    out = evaluate(run.path, "--set", "val", "--weights", "raw").stdout.splitlines()
    lines: list[str] = []
    theirs = while_training(run, 45, "val", "raw")
    EvaluationTable(lines.append).row(0.5, "val", "raw", Accuracy(**theirs, count=359))
    assert out[:2] == lines
    assert "1 measured" in out[2]
    assert str(run.path / "evaluations") in out[2]


def test_a_file_says_what_it_is_of(run: RunDirectory) -> None:
    assert evaluate(run.path / "checkpoints" / "step-00000023", "--set", "val").returncode == 0
    content = read_json(run.path / "evaluations" / "step-00000023.json")
    checkpoint = next(c for c in list_checkpoints(run.checkpoints) if c.step == 23)
    assert content["checkpoint"] == checkpoint.digest == (checkpoint.path / "COMPLETE").read_text().strip()
    entry = content["results"][0]
    assert entry["code"]["version"]
    assert time.strptime(entry["time"], "%Y-%m-%dT%H:%M:%SZ")
    assert [entry[key] for key in ("image_size", "crop_ratio", "precision")] == [16, 1.0, "fp32"]


def test_sets_of_every_kind_are_measured_in_fp32_if_asked_and_the_answers_kept(
    runs: dict[str, RunDirectory], digits: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs["zero3"].path, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    run, step = RunDirectory(tmp_path / "run"), STEPS[1]
    with np.load(run.predictions("val", "raw")) as kept:  # of training, in bf16
        labels, predicted = kept["label"], kept["predicted"]
    data = tmp_path / "data"
    shutil.copytree(digits / "val", data / "val")
    # No label, the split's and the class after it, or the class after it alone.
    after = [(int(label) + 1) % 10 for label in labels]
    real = [[[], [int(label), after[i]], [after[i]]][i % 3] for i, label in enumerate(labels)]
    (data / "val" / "real.json").write_text(json.dumps(real))
    (tmp_path / "classes.txt").write_text("\n".join(map(str, reversed(range(10)))))
    sets = (
        f"evaluation.sets=[{{name: val}}, {{name: real, kind: real, path: {data}}},"
        f" {{name: few, subset: {tmp_path / 'classes.txt'}, path: {data}}}]"
    )
    asked = Request(run.path, weights=("raw", "ema"), overrides=(sets, "evaluation.precision=fp32"))
    lines: list[str] = []
    Evaluation(asked, lines.append).work()
    found = recorded(run)
    assert "6 measured, 0 known" in lines[-1]
    assert {entry["precision"] for entry in found.values()} == {"fp32"}
    assert len({entry["data"] for entry in found.values()}) == 3, "other labels are other sets"
    for weights in ("raw", "ema"):
        answers = {}
        for name in ("val", "real", "few"):
            with np.load(run.path / f"evaluations/step-{step:08d}/{name}-{weights}.npz") as kept:
                answers[name] = dict(kept)
                assert found[step, name, weights]["top1"] == pytest.approx(percent(kept["label"] == kept["predicted"]))
                assert (str(kept["precision"]), int(kept["step"])) == ("fp32", step)
                assert str(kept["digest"]) == found[step, name, weights]["data"]
        said = answers["val"]["predicted"]
        assert (said != predicted).mean() < 0.5, "the weights are those of the run"
        assert answers["few"]["predicted"].tolist() == (9 - said).tolist()
        assert answers["real"]["sample"].tolist() == [i for i in range(359) if i % 3]
        right = [int(said[i]) in real[i] for i in range(359) if i % 3]
        entry = found[step, "real", weights]
        assert (entry["count"], entry["excluded"], entry["top5"]) == (239, 120, None)
        assert entry["top1"] == pytest.approx(percent(right))
    # The model in fp32, built by itself.
    model, _ = initial_model(load_config(run.config).config, 10)
    model.load_state_dict(read_weights(list_checkpoints(run.checkpoints)[-1], "ema"))
    reader = open_split(digits, "val")
    images = torch.stack([eval_view(reader.read(i), 16, 1.0) for i in range(359)])
    config = load_config(run.config).config
    with torch.no_grad():
        logits = model.eval()(Normalize(config.augment.mean, config.augment.std)(images))
    assert found[step, "val", "ema"]["loss"] == pytest.approx(
        float(F.cross_entropy(logits.double(), torch.from_numpy(reader.labels))), abs=1e-6
    )
    before = {path: path.stat().st_mtime_ns for path in (run.path / "evaluations").rglob("*.npz")}
    Evaluation(asked, lines.append).work()
    assert "0 measured, 6 known" in lines[-1]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    Evaluation(Request(run.path, weights=("raw",), sets=("val",)), lines.append).work()
    assert "1 measured, 0 known" in lines[-1], "in bf16 it is another question"


def test_a_run_can_be_looked_into(run: RunDirectory, tmp_path: Path) -> None:
    for arguments in (
        ["residual-norms", run.path, "--step", "23", "--weights", "ema", "--count", "20"],
        ["attention-maps", run.path, "--count", "2"],
        ["layer-scale", run.checkpoints / "step-00000012"],
        ["head-mixing", run.path, "--out", tmp_path / "out"],
    ):
        done = CliRunner().invoke(app, ["analyse", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert len([Path(line.removeprefix("wrote ")).stat() for line in done.stdout.splitlines()]) == 2
    content = read_json(run.path / "analysis" / "step-00000023-ema" / "residual-norms.json")
    checkpoint = next(c for c in list_checkpoints(run.checkpoints) if c.step == 23)
    assert [content[key] for key in ("step", "weights", "checkpoint")] == [23, "ema", checkpoint.digest]
    assert (content["images"], len(content["layers"])) == (20, 2 * (3 + 2))
    scales = read_json(run.path / "analysis" / "step-00000012-raw" / "layer-scale.json")
    gamma = read_weights(next(c for c in list_checkpoints(run.checkpoints) if c.step == 12), "master")[
        "blocks.1.gamma_2"
    ]
    assert scales["started_at"] == 0.1
    assert scales["layers"][3]["mean"] == pytest.approx(float(gamma.abs().mean()))
    with np.load(run.path / "analysis" / "step-00000045-raw" / "attention-maps.npz") as kept:
        assert kept["images"].tolist()[0].startswith("0: ")
        np.testing.assert_allclose(kept["maps"].sum((3, 4)) + kept["self"], 1, rtol=1e-5)
    assert (tmp_path / "out" / "head-mixing.svg").is_file()
    for step, message in (("24", "of step 24 (complete: 12, 23, 34, 45)"), ("all", "--step must be a number")):
        with pytest.raises(ValueError, match=re.escape(message)):
            open_weights(run.path, step)


def test_what_says_what_is_right_is_looked_at_before_any_process_starts(shared_config: Path, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("\n".join(map(str, [*range(9), 11])))
    sets = (
        "evaluation.sets=[{name: a, kind: real}, {name: b, subset: /nowhere.txt},"
        f" {{name: c, subset: {tmp_path / 'few.txt'}}}]"
    )
    with pytest.raises(CannotStartError) as caught:
        preflight(load_config(shared_config, [sets]).config, 1)
    problems = str(caught.value).splitlines()[1:]
    assert len(problems) == 3
    assert "'evaluation.sets.0'" in problems[0]
    assert "val/real.json" in problems[0]
    assert "cait prep … --real" in problems[0]
    assert "'evaluation.sets.1': /nowhere.txt: cannot be read" in problems[1]
    assert "asks of output 11" in problems[2]
    assert "the model distinguishes 10" in problems[2]


def test_nothing_is_measured_twice(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(**asked: Any) -> str:
        lines: list[str] = []
        Evaluation(Request(run.path, **asked), lines.append).work()
        return lines[-1]

    assert "1 measured, 0 known" in said(sets=("val",), weights=("raw",))
    assert "0 measured, 1 known" in said(sets=("val",), weights=("raw",))
    assert "1 measured, 1 known" in said(sets=("val",))
    assert "2 measured, 2 known" in said()
    assert "0 measured, 4 known" in said()
    before = recorded(run)
    # Another view of the images is another question; the answer to the first one stays.
    assert "1 measured, 0 known" in said(sets=("val",), weights=("raw",), overrides=("evaluation.crop_ratio=0.5",))
    assert "0 measured, 4 known" in said()
    # Another checkpoint of the same step.
    state = run.checkpoints / "step-00000045" / "state.json"
    state.write_text(state.read_text().replace('"trained_seconds"', '"trained_seconds_"'))
    import hashlib  # noqa: PLC0415

    (state.parent / "COMPLETE").write_text(hashlib.sha256(state.read_bytes()).hexdigest())
    assert "4 measured, 0 known" in said()
    after = recorded(run)
    assert {key: entry["loss"] for key, entry in after.items()} == {key: before[key]["loss"] for key in before}


def test_it_follows_a_run_that_is_training(tmp_path: Path, tiny_config: Path) -> None:
    run_dir = tmp_path / "runs" / "tiny"
    settings = ("training.checkpoint.every_steps=3", "evaluation.every_epochs=0.1", "training.checkpoint.keep=99")
    training = start(tiny_config, *settings)
    training.wait_for_checkpoint(3)
    following = subprocess.Popen([str(CAIT), "evaluate", str(run_dir), "--follow"], stdout=subprocess.PIPE, text=True)
    assert training.finish()[0] == 0
    out, _ = following.communicate(timeout=240)
    assert following.returncode == 0
    assert "the run is finished: 24 measured" in out
    found = recorded(training.run)
    assert sorted({step for step, _, _ in found}) == list(range(3, 37, 3))
    for step in (9, 18, 27, 36):
        for weights in ("raw", "ema"):
            theirs = while_training(training.run, step, "val", weights)
            assert found[step, "val", weights]["top1"] == theirs["top1"]
            assert found[step, "val", weights]["loss"] == pytest.approx(theirs["loss"], abs=1e-7)


def follow(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[int], None]) -> list[str]:
    """Follow a run; ``meanwhile`` is called with a counter each time that it waits."""
    calls = iter(range(99))
    monkeypatch.setattr(evaluate_run, "time", SimpleNamespace(sleep=lambda _: meanwhile(next(calls))))
    lines: list[str] = []
    Evaluation(Request(run.path, follow=True, sets=("val",), weights=("raw",)), lines.append).work()
    return lines


def test_it_waits_until_the_run_is_finished_or_given_up(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    run.update_attempt(1, outcome="stopped")

    def go_on(call: int) -> None:
        if call == 1:
            run.update_attempt(1, outcome="failed", verdict="stop: requeued 3 times", ended="2026-01-01T00:00:02Z")

    lines = follow(run, monkeypatch, go_on)
    assert "the run was given up: 4 measured" in lines[-1]

    def submit_again_and_finish(call: int) -> None:
        if call == 1:
            run.update_attempt(2, outcome="finished")

    (run.path / "launch").mkdir()
    (run.path / "launch" / "job.json").write_text('{"submitted": "2026-01-01T00:00:03Z"}')
    lines = follow(run, monkeypatch, submit_again_and_finish)
    assert "the run is finished: 0 measured, 4 known" in lines[-1]


def test_a_run_that_waits_in_a_queue_can_be_followed(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.path / "launch").mkdir()
    shutil.copy(run.config, run.path / "launch" / "config.yaml")
    aside = run.path.with_name("aside")
    aside.mkdir()
    for name in ("run.json", "config.yaml", "attempt-1", "checkpoints"):
        (run.path / name).rename(aside / name)

    def begin(call: int) -> None:
        if call == 1:
            for path in aside.iterdir():
                path.rename(run.path / path.name)

    assert "4 measured" in follow(run, monkeypatch, begin)[-1]


def test_a_checkpoint_that_is_deleted_meanwhile_is_passed_over(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = evaluate_run.Evaluation._measure

    def delete_first(self: Evaluation, checkpoint: Any) -> None:
        if checkpoint.step == 23:
            (checkpoint.path / "COMPLETE").unlink()
            shutil.rmtree(checkpoint.path)
        original(self, checkpoint)

    monkeypatch.setattr(evaluate_run.Evaluation, "_measure", delete_first)
    lines: list[str] = []
    Evaluation(Request(run.path, step="all", sets=("val",), weights=("raw",)), lines.append).work()
    assert "step 23: its checkpoint was deleted meanwhile, passed over" in lines
    assert sorted(step for step, _, _ in recorded(run)) == [12, 34, 45]


def test_a_damaged_checkpoint_is_named_after_the_others_are_measured(run: RunDirectory) -> None:
    file = run.checkpoints / "step-00000023" / "rank-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    done = evaluate(run.path, "--step", "all", "--set", "val", "--weights", "raw")
    assert done.returncode == 2
    assert "step-00000023" in done.stderr
    assert "checksum" in done.stderr
    assert sorted(step for step, _, _ in recorded(run)) == [12, 34, 45]


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no such step": ({"step": "24"}, ["of step 24 (complete: 12, 23, 34, 45)"]),
    "a word for a step": ({"step": "last"}, ["--step", "'last'", "newest"]),
    "no such set": ({"sets": ("test",)}, ["--set test", "val, again"]),
    "no such weights": ({"weights": ("swa",)}, ["--weights", "'swa'"]),
    "a step while following": ({"follow": True, "step": "23"}, ["--follow", "--step 23"]),
    "a step of a checkpoint": ({"at": "checkpoints/step-00000023", "step": "23"}, ["--step", "run"]),
    "no checkpoint": ({"at": "checkpoints/step-00000024"}, ["step-00000024", "there is no complete checkpoint"]),
    "another model": ({"overrides": ("model.depth=2",)}, ["'model.depth'", "evaluation"]),
    "no such split": ({"overrides": ("evaluation.sets=[{split: tset}]",)}, ["tset"]),
    "no data": ({"overrides": ("data.path=/nowhere",)}, ["/nowhere"]),
    "no sets": ({"overrides": ("evaluation.sets=[]",)}, ["evaluation.sets", "empty"]),
    "no ReaL labels": (
        {"overrides": ("evaluation.sets=[{name: real, kind: real}]",)},
        ["val/real.json", "cannot be read", "cait prep"],
    ),
    "no list of classes": (
        {"overrides": ("evaluation.sets=[{subset: /nowhere.txt}]",)},
        ["/nowhere.txt", "a line per class", "leave subset out"],
    ),
    "two kinds of labels": (
        {"overrides": ("evaluation.sets=[{kind: real, subset: a}]",)},
        ["set 'val'", "leave one of them out"],
    ),
    "a setting that is none": ({"overrides": ("evaluation.crop=1",)}, ["evaluation.crop"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_known_before_anything_is_written(runs: dict[str, RunDirectory], case: str) -> None:
    asked, words = dict(WRONG[case][0]), WRONG[case][1]
    place = runs["zero2"].path / asked.pop("at", "")
    before = set(runs["zero2"].path.rglob("*"))
    with pytest.raises(ValueError, match=r".+") as caught:
        Evaluation(Request(place, **asked))
    assert is_for_user(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)
    assert set(runs["zero2"].path.rglob("*")) == before


def test_what_is_wrong_is_said_in_a_line() -> None:
    done = evaluate(Path("nothing"))
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "cait: nothing is not a run directory (it has no run.json): pass runs/NAME of a training run\n"
    )
