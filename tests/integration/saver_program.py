"""Saves checkpoints in every way that can go right or wrong, on several ranks, and reports what happened.

Argument: {"config": path, "folder": path, "small": path of a file system that can be filled}.
"""

import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from zero_program import Case

from cait_dist.training.ranks.process_group import World, join
from cait_dist.training.saving import checkpoint_files
from cait_dist.training.saving.checkpoint_files import CheckpointError, list_checkpoints
from cait_dist.training.saving.checkpoint_saver import CheckpointSaver

LARGER = ["model.embed_dim=256", "model.num_heads=8", "model.depth=4", "training.global_batch=16"]
ROUNDS = 5


class Saving:
    """A model in training, and what is saved of it."""

    def __init__(self, arguments: dict[str, Any], world: World) -> None:
        case = {"name": "saving", "overrides": LARGER, "steps": 10**6, "perturb": True}
        self.case, self.world, self.told = Case(case, arguments["config"], world), world, list[str]()
        self.folder, self.small = Path(arguments["folder"]), Path(arguments["small"])

    def saver(self, place: Path, **settings: Any) -> CheckpointSaver:
        settings = {"keep": 2, "say": self.told.append, **settings}
        return CheckpointSaver(place, self.world, self.case.partition, self.case.ema, **settings)

    @torch.no_grad()
    def change_weights(self) -> None:
        """What a step of training would do, at once."""
        for flat in self.case.partition.masters():
            flat.add_(1e-3)

    def anyone_busy(self, saver: CheckpointSaver) -> bool:
        return self.world.largest(float(saver.busy)) > 0


def stalls(saving: Saving) -> dict[str, Any]:
    """How long training waits, with and without a thread; and that both write the same."""
    waited: dict[str, list[float]] = {"asynchronous": [], "synchronous": []}
    digests: dict[str, list[Any]] = {"asynchronous": [], "synchronous": []}
    savers = {way: saving.saver(saving.folder / way, keep=ROUNDS) for way in waited}
    for step in range(1, ROUNDS + 1):
        for way, saver in savers.items():
            saving.world.barrier()
            before = [flat.clone() for flat in saving.case.partition.masters()]
            saver.begin({"step": step})
            if way == "asynchronous":
                saving.change_weights()  # while it is written
            while saving.anyone_busy(saver):
                pass
            saved = saver.advance(anyone_busy=False) or saver.wait()
            if saved is not None:
                waited[way].append(saved.stalled if way == "asynchronous" else saved.seconds)
            saving.world.barrier()
            for flat, kept in zip(saving.case.partition.masters(), before, strict=True):
                flat.copy_(kept)
        saving.change_weights()
    if not saving.world.is_main:
        return {}
    for way in digests:
        found = list_checkpoints(saving.folder / way)
        digests[way] = [sorted(entry["sha256"] for entry in c.state["files"].values()) for c in found]
    return {"digests": digests, "medians": {way: statistics.median(times) for way, times in waited.items()}}


def full_disk(saving: Saving) -> dict[str, Any]:
    """The second save does not fit; then there is room again; then there is none for the last."""
    saver = saving.saver(saving.small / "checkpoints")
    ballast = saving.small / "ballast"
    steps, states = [], []
    for step, fits in ((1, True), (2, False), (3, True), (4, False)):
        saving.world.barrier()
        if saving.world.is_main:
            ballast.unlink(missing_ok=True)
            for old in list_checkpoints(saving.small / "checkpoints")[:-1]:
                shutil.rmtree(old.path)
            if not fits:
                fill(ballast)
        saving.world.barrier()
        saver.begin({"step": step})
        try:
            saver.wait(last=step == 4)
            steps.append(step)
        except CheckpointError as error:
            states.append(str(error))
    saving.world.barrier()
    left = sorted(path.name for path in (saving.small / "checkpoints").iterdir())
    intact = [c.step for c in list_checkpoints(saving.small / "checkpoints") if c.damage() is None]
    return {"told": list(saving.told), "passed": steps, "error": states, "left": left, "intact": intact}


def too_many_failures(saving: Saving) -> list[str]:
    """No room three times in a row, though each is not the last."""
    saver, told = saving.saver(saving.small / "none"), list[str]()
    if saving.world.is_main:
        fill(saving.small / "ballast")
    for step in (1, 2, 3):
        saving.world.barrier()
        try:
            saver.begin({"step": step})
            saver.wait()
        except (CheckpointError, OSError) as error:
            told.append(f"{type(error).__name__}: {error}")
    saving.world.barrier()
    if saving.world.is_main:
        (saving.small / "ballast").unlink()
    return told


def milestones(saving: Saving) -> list[int]:
    """Which of seven checkpoints are left when every third is kept for good, and the newest two."""
    place = saving.folder / "milestones"
    saver = saving.saver(place, is_milestone=lambda step: step % 3 == 0)
    for step in range(1, 8):
        saver.begin({"step": step})
    saver.wait(last=True)
    return [checkpoint.step for checkpoint in list_checkpoints(place)]


def forgotten_rename(saving: Saving) -> dict[str, Any]:
    """A stand-in for a server that forgets the third rename, however often it is asked."""
    place, rename, told = saving.folder / "forgotten", os.rename, list[str]()
    saver, there = saving.saver(place, keep=1, say=told.append), dict[int, list[int]]()
    checkpoint_files.SEEN_WITHIN_SECONDS = 0.3
    for step in (1, 2, 3, 4):
        if step == 3:
            os.rename = lambda *names: None
        saver.begin({"step": step})
        saver.wait()
        os.rename = rename
        there[step] = [checkpoint.step for checkpoint in list_checkpoints(place)]
    left = sorted(path.name for path in place.iterdir()) if saving.world.is_main else []
    return {"told": told, "there": list(there.values()), "left": left}


def superseded(saving: Saving) -> dict[str, Any]:
    """A process that may not write any more completes nothing."""

    def fence() -> None:
        raise ValueError("a later attempt has begun")

    place, error = saving.folder / "superseded", ""
    saver = saving.saver(place, fence=fence)
    saver.begin({"step": 1})
    try:
        saver.wait()
    except ValueError as raised:
        error = str(raised)
    return {"error": error, "complete": len(list_checkpoints(place))}


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def main() -> None:
    arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    world = join(120)
    saving = Saving(arguments, world)
    found = {"stalls": stalls(saving), "full_disk": full_disk(saving), "milestones": milestones(saving)}
    found |= {"forgotten_rename": forgotten_rename(saving)}
    found |= {"too_many_failures": too_many_failures(saving), "superseded": superseded(saving)}
    if world.is_main:
        out.write_text(json.dumps(found))
    world.barrier()
    world.leave()


if __name__ == "__main__":
    main()
