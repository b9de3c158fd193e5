"""Steps with a loss that is no number on one rank, or with a gradient that overflows, in every stage.

Argument: {"config": path, "folder": path}.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from zero_program import Case

from cait_dist.training.optimizer import set_learning_rate
from cait_dist.training.ranks.process_group import World, join
from cait_dist.training.recovering.skipped_steps import NonFiniteLossError, SkippedSteps
from cait_dist.training.step import TrainingStep

BAD_RANK, BAD_STEPS = 1, (2, 3)
SETTINGS = ["training.micro_batch_limit=4", "training.global_batch=16", "optimizer.clip_grad=1.0"]


class Broken(Case):
    """A case whose network says NaN on one rank at some steps; or whose loss is finite and its gradient is not."""

    def __init__(self, name: str, settings: list[str], arguments: dict[str, Any], world: World) -> None:
        case = {"name": name, "overrides": [*SETTINGS, *settings], "steps": 6, "perturb": True}
        super().__init__(case, arguments["config"], world)
        self.folder, self.told, self.breaks = Path(arguments["folder"]) / name, list[str](), ""
        self.folder.mkdir(exist_ok=True)
        self.engine.module.head.register_forward_hook(self.spoil)
        self.calls = 0

    def spoil(self, _: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        first = self.calls % self.plan.batches.accumulation == 1  # of the step's micro-batches
        if self.world.rank != BAD_RANK or not first or not self.breaks:
            return logits
        if self.breaks == "loss":
            return logits * torch.nan
        return logits + (logits - logits.detach()) * 3e38 * 3e38

    def run(self) -> dict[str, Any]:
        skipped = SkippedSteps(self.folder, self.world, 10, self.told.append)
        stepper = TrainingStep(
            self.engine, self.config, self.plan.num_classes, self.plan.batches.accumulation, self.world, self.ema
        )
        found: dict[str, list[Any]] = {"left_out": [], "changed": [], "average_changed": [], "losses": [], "ids": []}
        with self.open_loader() as loader:
            batches = self.watch(loader)
            for step in range(6):
                self.breaks = {2: "loss", 3: "gradient"}.get(step, "")
                before, average = self.copy(self.partition.masters()), self.copy(self.ema.flats)
                set_learning_rate(self.engine.optimizer.param_groups, self.lr(step))
                result = stepper.run(batches)
                skipped.note(step + 1, result)
                found["left_out"].append(result.left_out)
                found["changed"].append(self.differs(before, self.partition.masters()))
                found["average_changed"].append(self.differs(average, self.ema.flats))
                found["losses"].append(float(result.loss))
                found["ids"].append([int(number) for ids in result.ids[:1] for number in ids])
        if self.world.is_main:
            found["lines"] = [json.loads(line) for line in (self.folder / "skipped.jsonl").read_text().splitlines()]
        others: list[Any] = [None] * self.world.size
        torch.distributed.all_gather_object(others, found, group=self.world.control)
        return {"ranks": others, "told": self.told}

    def copy(self, flats: list[torch.Tensor]) -> list[torch.Tensor]:
        return [flat.clone() for flat in flats]

    def differs(self, before: list[torch.Tensor], now: list[torch.Tensor]) -> bool:
        mine = any(not torch.equal(old, new) for old, new in zip(before, now, strict=True))
        return self.world.largest(float(mine)) > 0


class Hopeless(Broken):
    """A network that says NaN from some step on."""

    def run(self) -> dict[str, Any]:
        skipped = SkippedSteps(self.folder, self.world, 3, self.told.append)
        stepper = TrainingStep(
            self.engine, self.config, self.plan.num_classes, self.plan.batches.accumulation, self.world, self.ema
        )
        with self.open_loader() as loader:
            batches = self.watch(loader)
            for step in range(10):
                self.breaks = "loss" if step >= 2 else ""
                try:
                    skipped.note(step + 1, stepper.run(batches))
                except NonFiniteLossError as error:
                    return {"step": step + 1, "error": str(error), "finite": self.all_finite()}
        return {}

    def all_finite(self) -> bool:
        return all(bool(flat.isfinite().all()) for flat in self.partition.masters())


def main() -> None:
    arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    world, results = join(120), dict[str, Any]()
    for stage in (0, 1, 2, 3):
        for precision in ("fp32", "bf16"):
            settings = [f"training.zero.stage={stage}", f"training.precision={precision}"]
            results[f"z{stage}-{precision}"] = Broken(f"z{stage}-{precision}", settings, arguments, world).run()
        if stage == 2:
            results["hopeless"] = Hopeless("hopeless", ["training.zero.stage=2"], arguments, world).run()
    if world.is_main:
        out.write_text(json.dumps(results))
    world.barrier()
    world.leave()


if __name__ == "__main__":
    main()
