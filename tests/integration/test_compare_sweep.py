"""Real runs, compared by the command: three settings, of which one is worse and two are as good as equal."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from ranks import run_on_ranks
from training_command import CAIT

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("training_program.py")
GOOD, SAME, BAD = "5e-3", "5.01e-3", "1e-5"
LEARNS_AT_ONCE = (
    "training.epochs=2", "training.global_batch=32", "training.zero.stage=0", "training.checkpoint.every_steps=null",
    "evaluation.every_epochs=1", "evaluation.weights=[raw]", "model.embed_dim=48", "model.drop_path_rate=0",
    "augment.mixup=0", "augment.cutmix=0", "augment.rand_layers=0", "augment.erase_probability=0", "augment.hflip=0",
    "augment.crop_scale=[0.9,1.0]",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shared_config: Path) -> Path:
    """A sweep of 3 × 3 runs on digits, in a process of one rank."""
    place = tmp_path_factory.mktemp("compare") / "runs" / "lr"
    members = {f"lr_{lr}-seed_{seed}": (lr, seed) for lr in (GOOD, SAME, BAD) for seed in range(3)}
    settings = [f"runs_dir={place}", *LEARNS_AT_ONCE]
    runs = [
        {"config": str(shared_config), "overrides": [*settings, f"name={name}", f"optimizer.lr={lr}", f"seed={seed}"]}
        for name, (lr, seed) in members.items()
    ]
    place.mkdir(parents=True)
    (place / "sweep.json").write_text(json.dumps({"axes": {}, "members": list(members), "parent": None}))
    run_on_ranks(PROGRAM, 1, runs, place.parent / "done.json")
    return place


def compare(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(CAIT), "compare", *map(str, words)]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, object]:
    """Everything that the command writes about the whole sweep."""
    out = folder.parent / "all.json"
    files = ("--json", out, "--html", out.with_suffix(".html"), "--csv", out.with_suffix(".csv"))
    done = compare(folder, "--metric", "val/loss", "--baseline", f"lr_{BAD}-seed_0", *files)
    assert done.returncode == 0, done.stderr
    return {"text": done.stdout, **json.loads(out.read_text())}


def test_the_better_setting_is_named_with_its_test(told: dict[str, object]) -> None:
    by_pair = {(test["a"], test["b"]): test for test in told["tests"]}  # type: ignore[attr-defined]
    against_bad = [test for (a, b), test in by_pair.items() if "1e-05" in b]
    assert len(against_bad) == 2
    for test in against_bad:
        assert test["significant"], test
        assert test["difference"] < -0.1, test
    assert str(told["verdict"]) in " ".join(str(told["text"]).split())


def test_two_settings_that_are_as_good_as_equal_are_not_told_apart(folder: Path) -> None:
    out = folder.parent / "equal.json"
    runs = [folder / f"lr_{lr}-seed_{seed}" for lr in (GOOD, SAME) for seed in range(3)]
    done = compare(*runs, "--metric", "val/loss", "--json", out)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert [test["significant"] for test in content["tests"]] == [False]
    assert "no significant difference" in content["verdict"].lower()


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("val/top1 < baseline - 0.3", 0),
        ("val/top1 > baseline + 1", 1),
        ("val/loss < baseline and significant", 1),
        ("best(val/top1) < 1", 0),
        ("val/top1 <", 2),
        ("val/top9 < 3", 2),
    ],
)
def test_the_gate_ends_with_the_right_status(folder: Path, condition: str, status: int) -> None:
    done = compare(folder, "--metric", "val/loss", "--baseline", f"lr_{BAD}-seed_0", "--fail-if", condition)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert ("fails: " in done.stderr) == (status == 1)


def test_what_each_run_said_about_each_image_decides_between_two_runs(folder: Path) -> None:
    out = folder.parent / "two.json"
    done = compare(folder / f"lr_{GOOD}-seed_0", folder / f"lr_{BAD}-seed_0", "--json", out)
    assert done.returncode == 0, done.stderr
    (test,) = json.loads(out.read_text())["tests"]
    assert "McNemar" in test["method"]
    assert test["significant"]


def test_the_page_and_the_row_per_run_are_there(told: dict[str, object], folder: Path) -> None:
    page = (folder.parent / "all.html").read_text()
    assert str(told["verdict"]) in page
    assert len((folder.parent / "all.csv").read_text().strip().splitlines()) == 10


def test_beside_the_paper_it_is_said_why_these_runs_cannot_be_held_against_it(folder: Path) -> None:
    done = compare(folder / f"lr_{GOOD}-seed_0", "--paper")
    assert done.returncode == 0, done.stderr
    assert "embed_dim=48" in done.stdout
    assert "makes another model than CaiT-XXS24" in " ".join(done.stdout.split())
