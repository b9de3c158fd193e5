"""What strangers may send: weights, tars, images, manifests, configurations and whole runs that mean harm.

Each is met where users meet it. It ends with status 2 and a line; nothing in it is run, nothing is written outside of
the folder that was asked for, and neither time nor memory is spent on what it states. All is tried in one process.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_files import DEEP, JPEG, LAUGHS, MANIFESTS, images, pickles, tars, weights, zipped

PROGRAM = Path(__file__).with_name("hostile_program.py")
SECONDS, MEGABYTES = 20, 1024
"""For one of them on a busy machine, and for all of them together."""

pytestmark = pytest.mark.slow


def written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class Tried:
    """What was tried, by name, and how it ended."""

    def __init__(self, place: Path, config: Path, digits: Path) -> None:
        self.place, self.proof, self._config, self._digits = place, place / "proof", config, digits
        self.commands: dict[str, list[str]] = {}
        self.weights: dict[str, str] = {}
        for gather in (self._sources, self._data_sets, self._configurations, self._runs, self._weights):
            gather()

    def _sources(self) -> None:
        for number, (what, content) in enumerate(tars().items()):
            source = written(self.place / f"source-{number}" / "train.tar", content).parent
            self._prep(f"tar: {what}", source)
        folder = self.place / "images"
        for number, content in enumerate(images(self.proof).values()):
            written(folder / "train" / "a" / f"{number}.jpg", content)
        self._prep("images", folder)
        written(self.place / "v" / "train" / "a" / "0.jpg", JPEG)
        for number in range(3):
            written(self.place / "v" / "val" / "a" / f"ILSVRC2012_val_{number + 1:08d}.jpg", JPEG)
        for what, content in {"deep": DEEP, "huge": b"[[" + b"9" * 9000 + b"]]", "no text": b"\xff\xfe\x00"}.items():
            real = written(self.place / f"real {what}.json", content)
            self._prep(f"real.json: {what}", self.place / "v", "--real", str(real))
        os.mkfifo(self.place / "real pipe.json")
        self._prep("real.json: a pipe", self.place / "v", "--real", str(self.place / "real pipe.json"))
        written(self.place / "out of plan" / "plan.json", DEEP)
        self.commands["plan.json: deep"] = ["prep", str(self.place / "v"), "--out", str(self.place / "out of plan")]

    def _prep(self, what: str, source: Path, *more: str) -> None:
        out = str(self.place / "outs" / f"{len(self.commands)}")
        self.commands[what] = ["prep", str(source), "--out", out, "--workers", "1", *more]

    def _data_sets(self) -> None:
        for number, (what, harm) in enumerate(MANIFESTS.items()):
            data = Path(shutil.copytree(self._digits, self.place / f"data-{number}"))
            harm(data / "val")
            self.commands[f"verify, manifest: {what}"] = ["verify", str(data), "--workers", "1"]
            if number < 3:
                self._train(f"train, manifest: {what}", f"data.path={data}")

    def _train(self, what: str, setting: str) -> None:
        name = f"name=run-{len(self.commands)}"  # a run that was begun stays locked while this process lives
        self.commands[what] = ["train", str(self._config), setting, name, "--processes", "1"]

    def _configurations(self) -> None:
        files = {
            "laughs": LAUGHS, "a tag": f"name: !!python/object/apply:os.system ['touch {self.proof}']\n",
            "deep": "a: " + "[" * 100_000, "a device": "base: /dev/zero\n", "a pipe": "base: pipe.yaml\n",
            "bases without end": f"base: [{', '.join(['b.yaml'] * 9000)}]\nname: a\n", "huge": "seed: " + "9" * 9000,
        }  # fmt: skip
        os.mkfifo(self.place / "pipe.yaml")
        written(self.place / "b.yaml", "".join(f"k{number}: 1\n" for number in range(9000)))
        for number, (what, content) in enumerate(files.items()):
            self.commands[f"configuration: {what}"] = [
                "config",
                "show",
                str(written(self.place / f"{number}.yaml", content)),
            ]

    def _runs(self) -> None:
        state: dict[str, Any] = {"format": 1, "step": 10, "best": {}, "evaluated_step": 0, "trained_seconds": 0.0}
        hostile = {
            "a file elsewhere": {"files": {"../../../../etc/passwd": {"bytes": 9, "sha256": "0"}}, "shapes": {}},
            "weights without end": {"files": {}, "shapes": {"head.weight": [1 << 40, 1 << 20]}},
            "no shapes": {"files": {}},
            "deep": None,
        }
        for number, (what, more) in enumerate(hostile.items()):
            run = self._run(number)
            described = DEEP if more is None else json.dumps(state | more).encode()
            step = written(run / "checkpoints" / "step-00000010" / "state.json", described).parent
            written(step / "COMPLETE", hashlib.sha256(described).hexdigest())
            self.commands[f"run: {what}"] = ["evaluate", str(run)]
        for number, (name, content) in enumerate(
            {"run.json": DEEP, "config.yaml": LAUGHS.encode()}.items(), len(hostile)
        ):
            written(self._run(number) / name, content)
            self.commands[f"run: {name}"] = ["evaluate", str(self.place / f"run-{number}")]
        self.commands["compare: run.json"] = ["compare", str(self.place / "run-4")]
        written(self._run(6) / "run.json", '{"attempts": [{"number": 1}]}')
        written(self.place / "run-6" / "attempt-1" / "metrics.jsonl", DEEP + b"\n5\n")
        self.commands["compare: metrics"] = ["compare", str(self.place / "run-6")]

    def _run(self, number: int) -> Path:
        run = self.place / f"run-{number}"
        written(run / "config.yaml", self._config.read_text())
        written(run / "run.json", '{"attempts": []}')
        return run

    def _weights(self) -> None:
        for number, (what, (name, content)) in enumerate(weights(self.proof).items()):
            self.weights[what] = str(written(self.place / f"weights-{number}" / name, content))
        for what, content in (("a program", zipped(pickles(self.proof)["protocol 2"])), ("nothing", b"")):
            path = written(self.place / f"{what}.pth", content)
            self._train(f"init_from: {what}", f"model.init_from={path}")


@pytest.fixture(scope="module")
def tried(shared_config: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    place = tmp_path_factory.mktemp("hostile")
    config = written(place / "tiny.yaml", shared_config.read_text().replace(str(shared_config.parent), str(place)))
    return Tried(place, config, digits)


@pytest.fixture(scope="module")
def ended(tried: Tried) -> dict[str, Any]:
    asked = {"commands": list(tried.commands.values()), "weights": list(tried.weights.values())}
    before = set(tried.place.parent.rglob("*"))
    arguments, out = written(tried.place / "asked.json", json.dumps(asked)), tried.place / "ended.json"
    subprocess.run([sys.executable, str(PROGRAM), str(arguments), str(out)], check=True, timeout=240, cwd=tried.place)
    found: dict[str, Any] = json.loads(out.read_text())
    new = {path.relative_to(tried.place).parts[0] for path in set(tried.place.parent.rglob("*")) - before}
    return {**found, "new": new, "commands": dict(zip(tried.commands, found["commands"], strict=True)),
            "weights": dict(zip(tried.weights, found["weights"], strict=True))}  # fmt: skip


@pytest.mark.timeout(300)
def test_every_command_ends_with_status_2_and_says_why(tried: Tried, ended: dict[str, Any]) -> None:
    for what, end in ended["commands"].items():
        # `cait verify` reports what it finds, with a status of its own.
        assert end["status"] in ((1, 2) if what.startswith("verify") else (2,)), (what, end)
        assert "Traceback" not in end["err"], (what, end)
        lines = end["err"].splitlines()
        # A configuration is told all that is wrong with it, and has a line for each.
        assert len(lines) <= (6 if "in the configuration" in end["err"] else 2), (what, end)
        assert all(line.isprintable() for line in lines), (what, end)
        assert end["seconds"] < SECONDS, (what, end)


def test_every_file_of_weights_is_refused_in_a_line(ended: dict[str, Any]) -> None:
    assert len(ended["weights"]) > 40
    for what, end in ended["weights"].items():
        assert end["refused"], (what, end)
        assert end["err"].isprintable(), (what, end)
        assert end["seconds"] < SECONDS, (what, end)


def test_programs_among_the_weights_are_called_so(ended: dict[str, Any]) -> None:
    for what in ("pickle: protocol 2", "pickle in a zip: protocol 2"):
        assert "w.pth is a pickle that would run posix.system when loaded; refused" in ended["weights"][what]["err"]
    assert "would run posix.system when loaded; refused" in ended["commands"]["init_from: a program"]["err"]


def test_nothing_was_run_and_nothing_written_elsewhere(tried: Tried, ended: dict[str, Any]) -> None:
    assert not tried.proof.exists()
    assert ended["new"] <= {"outs", "ended.json", "asked.json", "runs", "out of plan"} | {
        f"source-{number}" for number in range(len(tars()))
    }
    assert not list(tried.place.parent.rglob("outside*"))


def test_memory_does_not_follow_what_files_state(ended: dict[str, Any]) -> None:
    assert ended["megabytes"] < MEGABYTES


def test_the_programs_are_live(tmp_path: Path) -> None:
    # A reader that trusts them would have run them.
    proof = tmp_path / "proof"
    written(tmp_path / "w.pth", zipped(pickles(proof)["protocol 2"]))
    code = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "w.pth")], check=False, capture_output=True)
    assert proof.exists()
