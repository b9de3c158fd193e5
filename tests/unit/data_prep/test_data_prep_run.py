import fcntl
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from image_folders import encode, picture, write_image_folder
from rich.console import Console

from data_prep import run as run_module
from data_prep.errors import DataPrepError
from data_prep.manifest import load_manifest, read_source_names
from data_prep.plan import Plan, claim_folder, make_plan
from data_prep.progress import ImageProgress
from data_prep.run import finish, run
from data_prep.shard import Built, build_shard
from data_prep.sources import FolderSource

SHARDS = 10


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"), {"train": 60, "val": 25})


def plan_for(images: Path, out: Path, **changes) -> Plan:
    return make_plan(FolderSource(images), out, **{"shard_size": 10, **changes})


def content(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected") / "out"
    summary = run(plan_for(images, out), workers=1, progress=False)
    assert (summary.images, summary.shards) == ({"train": 60, "val": 25}, 9)
    return content(out)


def test_files_are_those_promised(expected: dict[str, bytes]) -> None:
    train = {f"train/train-{i:06d}.tar" for i in range(6)}
    val = {f"val/val-{i:06d}.tar" for i in range(3)}
    others = {
        f"{split}/{name}" for split in ("train", "val") for name in ("manifest.json", "samples.npy", "sources.txt.gz")
    }
    assert set(expected) == train | val | others | {"plan.json"}


def test_bytes_do_not_depend_on_the_number_of_workers(images: Path, expected, tmp_path: Path) -> None:
    run(plan_for(images, tmp_path / "out"), workers=3, progress=False)
    assert content(tmp_path / "out") == expected


def test_bytes_do_not_depend_on_who_builds_which_shard_when(images: Path, expected, tmp_path: Path) -> None:
    plan = plan_for(images, tmp_path / "out")
    claim_folder(plan)
    numbers = list(range(plan.num_shards))
    random.Random(0).shuffle(numbers)
    with pytest.raises(DataPrepError, match="not built yet"):
        finish(plan)
    for number in numbers:
        build_shard(pickle.loads(pickle.dumps(plan)), number)
    finish(plan)
    assert content(tmp_path / "out") == expected
    with pytest.raises(IndexError, match="9 shards, there is no number 9"):
        plan.task(9)


def test_shuffled_images_reach_all_shards(images: Path, expected, tmp_path: Path) -> None:
    run(plan_for(images, tmp_path / "out"), progress=False)
    manifest = load_manifest(tmp_path / "out" / "train")
    names = read_source_names(tmp_path / "out" / "train")
    assert sorted(names) == sorted(FolderSource(images).splits["train"].names)
    assert names != sorted(names)
    assert min(len(shard.class_counts) for shard in manifest.shards) >= 3
    other = tmp_path / "other"
    run(plan_for(images, other, seed=1), progress=False)
    assert read_source_names(other / "train") != names


def test_a_finished_folder_is_left_alone(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(images, tmp_path / "out")
    assert not run(plan, progress=False).nothing_to_do
    before = content(plan.out)
    monkeypatch.setattr(run_module, "build_task", lambda *_: pytest.fail("built again"))
    summary = run(plan, progress=False)
    assert summary.nothing_to_do
    assert str(summary) == "nothing to do: 60 train + 25 val images in 9 shards are there"
    assert content(plan.out) == before


@dataclass
class StopAfter:
    """Builds some shards, then behaves as if Ctrl-C were pressed."""

    left: int

    def __call__(self, task, stopped) -> Built:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return run_module_build(task, stopped)


run_module_build = run_module.build_task


def interrupt(plan: Plan, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "build_task", StopAfter(after))
        with pytest.raises(KeyboardInterrupt):
            run(plan, progress=False)


@pytest.mark.parametrize("built", [0, 1, 4, 8])
def test_an_interrupted_run_goes_on_where_it_was(
    images: Path, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: int
) -> None:
    plan = plan_for(images, tmp_path / "out")
    interrupt(plan, monkeypatch, built)
    (plan.out / "train" / ".train-000003.tar.x.part").write_bytes(b"left by a killed process")
    summary = run(plan, progress=False)
    assert summary.found_finished == built
    assert content(plan.out) == expected


def test_damaged_leftovers_are_built_again(images: Path, expected, tmp_path: Path, monkeypatch) -> None:
    plan = plan_for(images, tmp_path / "out")
    interrupt(plan, monkeypatch, 5)
    train = plan.out / "train"
    flipped = bytearray((train / "train-000000.tar").read_bytes())
    flipped[3000] ^= 1
    (train / "train-000000.tar").write_bytes(flipped)
    (train / "train-000001.tar").write_bytes(b"")
    (train / "train-000002.tar.json").write_text("{")
    (train / "train-000003.tar").unlink()
    assert run(plan, progress=False).found_finished == 1
    assert content(plan.out) == expected


def test_a_finished_folder_that_lost_a_shard_is_mended(images: Path, expected, tmp_path: Path) -> None:
    plan = plan_for(images, tmp_path / "out")
    run(plan, progress=False)
    (plan.out / "val" / "val-000001.tar").unlink()
    (plan.out / "train" / "train-000003.tar").write_bytes(b"")
    assert run(plan, progress=False).found_finished == 7
    assert content(plan.out) == expected
    (plan.out / "val" / "sources.txt.gz").unlink()
    (plan.out / "train" / "train-000001.tar").unlink()
    assert run(plan, progress=False).found_finished == 5
    assert content(plan.out) == expected


def test_mending_keeps_what_was_changed_and_looks_again_at_what_was_put_aside(mixed: Path, tmp_path: Path) -> None:
    plan = plan_for(mixed, tmp_path / "out")
    run(plan, progress=False)
    before = content(plan.out)
    whole = next(
        i for i in range(20) if not {"train/class0/00000.jpg", "train/class1/00001.jpg"} & set(plan.task(i).names)
    )
    plan.task(whole).path.unlink()
    assert run(plan, progress=False).found_finished == 18
    assert content(plan.out) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": 1}, "seed: 0 there, 1 now"), ({"shard_size": 20}, "shards of train: 6 there, 3 now")],
)
def test_a_folder_of_another_plan_is_refused(images: Path, tmp_path: Path, changes, message: str) -> None:
    out = tmp_path / "out"
    claim_folder(plan_for(images, out))
    with pytest.raises(DataPrepError, match=message):
        run(plan_for(images, out, **changes), progress=False)


def test_a_folder_of_other_images_is_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(plan_for(images, out), progress=False)
    before = content(out)
    other = write_image_folder(tmp_path / "images", {"train": 61, "val": 25})
    with pytest.raises(DataPrepError, match=r"images of train: 60, list .* there, 61, list"):
        run(plan_for(other, out), progress=False)
    assert content(out) == before


def test_folders_that_are_not_ours_are_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataPrepError, match=r"files that are not ours \(thesis.tex"):
        run(plan_for(images, tmp_path), progress=False)
    with pytest.raises(DataPrepError, match="cannot be used as output"):
        run(plan_for(images, tmp_path / "thesis.tex"), progress=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.json").write_text("{")
    with pytest.raises(DataPrepError, match="cannot be used as output"):
        run(plan_for(images, tmp_path / "out"), progress=False)
    (tmp_path / "out" / "plan.json").write_text("[]")
    with pytest.raises(DataPrepError, match="is damaged"):
        run(plan_for(images, tmp_path / "out"), progress=False)


def test_two_at_a_time_are_refused(images: Path, tmp_path: Path) -> None:
    plan = plan_for(images, tmp_path / "out")
    claim_folder(plan)
    ready, done = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(20)
        with (plan.out / ".lock").open("w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(DataPrepError, match="another process is preparing"):
        run(plan, progress=False)
    os.write(done[1], b"x")
    os.waitpid(child, 0)
    run(plan, progress=False)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """200 images, one of which is a PNG named jpg, and one is cut off."""
    root = write_image_folder(tmp_path / "mixed", {"train": 200})
    (root / "train/class0/00000.jpg").write_bytes(encode(picture(0), "PNG"))
    broken = root / "train/class1/00001.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    return root


def test_odd_images_are_changed_or_put_aside_and_listed(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(plan_for(mixed, out), progress=False)
    assert (summary.images, summary.changed, summary.quarantined) == ({"train": 199}, 1, 1)
    assert "1 images changed, see manifest.json; 1 broken images put aside, see quarantine.jsonl" in str(summary)
    manifest = load_manifest(out / "train")
    assert manifest.changes == (("train/class0/00000.jpg", "PNG RGB encoded anew as JPEG RGB, quality 95"),)
    assert manifest.quarantined == 1
    lines = (out / "train/quarantine.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["source"] == "train/class1/00001.jpg"
    assert "truncated" in json.loads(lines[0])["reason"].lower()
    assert "train/class1/00001.jpg" not in read_source_names(out / "train")


def test_too_many_broken_images_are_an_error_until_they_are_repaired(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    strict = plan_for(mixed, out, max_broken=0.001)
    with pytest.raises(
        DataPrepError, match=r"1 of 200 images of train are broken, more than 0.1% \(train/class1/00001.jpg"
    ):
        run(strict, progress=False)
    (mixed / "train/class1/00001.jpg").write_bytes(encode(picture(1)))
    summary = run(strict, progress=False)
    assert (summary.images, summary.quarantined) == ({"train": 200}, 0)
    assert summary.found_finished > 0
    assert not (out / "train/quarantine.jsonl").exists()


def test_a_shard_without_a_sound_image_is_none(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", {"train": 4})
    plan = plan_for(root, tmp_path / "out", shard_size=1, max_broken=0.5)
    gone = plan.task(1).names[0]
    (root / gone).unlink()
    summary = run(plan, progress=False)
    assert (summary.images, summary.shards, summary.quarantined) == ({"train": 3}, 3, 1)
    assert not plan.task(1).path.exists()
    assert run(plan, progress=False).nothing_to_do
    for name in plan.splits["train"].images.names:
        (root / name).write_bytes(b"")
    with pytest.raises(DataPrepError, match="no image is left, all 4 are broken"):
        run(plan_for(root, tmp_path / "other", max_broken=1), progress=False)


class KillsItsWorker(FolderSource):
    """A source with an image that costs too much memory."""

    def read(self, name: str) -> bytes:
        if name.endswith("00033.jpg"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(name)


def test_a_killed_worker_is_reported_and_work_is_kept(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataPrepError, match=r"worker process was killed.*run the same command again"):
        run(make_plan(KillsItsWorker(images), out, shard_size=10), workers=2, progress=False)
    assert run(plan_for(images, out), progress=False).images == {"train": 60, "val": 25}


def test_a_full_disk_is_named(images: Path, tmp_path: Path) -> None:
    plan = plan_for(images, tmp_path / "out")
    claim_folder(plan)
    (plan.out / "train").rmdir()
    with pytest.raises(DataPrepError, match=r"train-000000.tar: cannot be written \(No such file"):
        build_shard(plan, 0)


def test_progress_is_told_in_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.progress._SECONDS_BETWEEN_LINES", 0.0)
    out = io.StringIO()
    with ImageProgress("preparing", 30, console=Console(file=out)) as progress:
        progress.add(10, found_finished=True)
        progress.add(10)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("preparing: 10 of 30 images")
    assert "20 of 30 images" in lines[1]
    assert "images/s" in lines[1]
    assert "s left" in lines[1]


def test_progress_is_a_bar_on_a_terminal() -> None:
    out = io.StringIO()
    with ImageProgress("preparing", 30, console=Console(file=out, force_terminal=True, width=100)) as progress:
        progress.add(15)
        progress.say("a remark [in brackets]")
    assert "15/30" in out.getvalue()
    assert "a remark [in brackets]" in out.getvalue()


def test_shard_sizes_fit_the_set(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", {"train": 130})
    assert plan_for(root, tmp_path / "out", shard_size=None).num_shards == 3
    sizes = [len(plan_for(root, tmp_path / "out", shard_size=40).task(i).names) for i in range(4)]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == 130
    for bad in ({"shard_size": 0}, {"max_broken": 2.0}, {"seed": -1}):
        with pytest.raises(DataPrepError):
            plan_for(root, tmp_path / "out", **bad)


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, data_prep.run, data_prep.verify, data_prep.sources\n"
        "print([name for name in ('torch', 'sklearn', 'webdataset', 'scipy', 'cait_dist') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"
