"""Dependencies point one way, heavy packages are loaded only where they are used, and the command answers at once."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

MAY_IMPORT = {
    "cait_dist.config": set(),
    "cait_dist.ops": set(),
    "cait_dist.augment": set(),
    "data_prep": set(),
    "cait_dist.errors": set(),
    "cait_dist.models": {"cait_dist.ops"},
    "cait_dist.data": {"data_prep", "cait_dist.config"},
    "cait_dist.tracking": {"cait_dist.config"},
    "cait_dist.compare": {"cait_dist.tracking", "cait_dist.config"},
    "cait_dist.planning": {
        "cait_dist.data",
        "cait_dist.augment",
        "cait_dist.models",
        "cait_dist.ops",
        "cait_dist.config",
    },
    "cait_dist.evaluation": {"cait_dist.data", "cait_dist.models", "cait_dist.config"},
    "cait_dist.analysis": {"cait_dist.data", "cait_dist.models", "cait_dist.config"},
    "cait_dist.training": {
        "cait_dist.evaluation",
        "cait_dist.planning",
        "cait_dist.data",
        "cait_dist.augment",
        "cait_dist.models",
        "cait_dist.tracking",
        "cait_dist.config",
        "cait_dist.errors",
    },
    "launch": {
        "cait_dist.training",
        "cait_dist.tracking",
        "cait_dist.config",
        "data_prep",
        "cait_dist.evaluation",
        "cait_dist.errors",
        "slurm",
    },
    "slurm": set(),
}
"""Room by room, what it may know of; the command line alone may know everything."""

HEAVY = ("torch", "deepspeed", "mlflow", "webdataset", "sklearn", "scipy", "submitit", "numpy", "PIL", "ffcv", "triton")


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "cait_dist" else parts[0]


def imports_of(path: Path) -> set[str]:
    """Our own rooms that a file imports, wherever in the file."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            found.add(".".join([*base, *([node.module] if node.module else [])]))
    ours = {name for name in found if name.split(".")[0] in ("cait_dist", "data_prep", "launch", "slurm")}
    return {room_of(name) for name in ours if name != "cait_dist"}


def files_of(room: str) -> list[Path]:
    folder = ROOT / room.replace(".", "/")
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    for path in files_of(room):
        too_much = imports_of(path) - {room} - MAY_IMPORT[room]
        assert not too_much, f"{path.relative_to(ROOT)} imports {too_much}"


def test_every_room_is_in_the_drawing() -> None:
    rooms = {f"cait_dist.{p.name}" for p in (ROOT / "cait_dist").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms - {"cait_dist.cli"} <= set(MAY_IMPORT)


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("statement", ["import cait_dist", "import cait_dist.cli", "import cait_dist.config"])
def test_nothing_heavy_is_loaded_before_it_is_needed(statement: str) -> None:
    assert not loaded_after(statement) & set(HEAVY)


def test_preparing_data_does_not_load_torch() -> None:
    assert "torch" not in loaded_after("import data_prep.run, data_prep.sources, data_prep.verify")


def test_a_job_starts_and_ends_without_torch() -> None:
    # While these run, every node of the allocation waits.
    jobs = "import launch.job.begin, launch.job.end, launch.job.task, launch.status, launch.cancel"
    assert not loaded_after(jobs) & {"torch", "deepspeed", "mlflow"}


def test_ranks_load_deepspeed_without_the_mlflow_that_it_would_bring_along() -> None:
    prepare = (
        "import torch, cait_dist.training.ranks.process_group as group; group._prepare_deepspeed(torch.device('cpu'))"
    )
    loaded = loaded_after(prepare)
    assert "deepspeed" in loaded
    assert "mlflow" not in loaded


def test_help_answers_within_a_few_interpreter_starts() -> None:
    # A ratio within one run: half a second on an idle machine is about fifteen starts of a bare interpreter.
    bare = min(seconds([sys.executable, "-c", "pass"]) for _ in range(5))
    cait = min(seconds([str(Path(sys.executable).with_name("cait")), "--help"]) for _ in range(5))
    assert cait < 15 * bare


def seconds(command: list[str]) -> float:
    """Of a processor: other work on the machine does not count."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
