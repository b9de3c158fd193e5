"""Runs many training configurations in one launch and reports every step's loss and sample ids.

Argument: {"config": path, "cases": [{"name", "overrides", "steps", "perturb", "from", "save", "save_at",
"look_at_average"}]}. ``from`` and ``save`` are folders of checkpoints, ``save_at`` is a step and such a folder;
``look_at_average`` runs the model with its average after every step. Everything is the project's own: preflight,
loader, step, engine, checkpoint.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cait_dist.config import RunConfig, load_config
from cait_dist.data.loader import MicroBatch, TrainLoader
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_webdataset import open_split
from cait_dist.training.compilation import keep_compiled_in
from cait_dist.training.distilling.lesson import open_guide
from cait_dist.training.ema import MovingAverage
from cait_dist.training.evaluating.precisely import model_to_evaluate
from cait_dist.training.optimizer import set_learning_rate
from cait_dist.training.parallel import parallelize
from cait_dist.training.ranks.process_group import World, join
from cait_dist.training.saving.checkpoint import load_checkpoint
from cait_dist.training.saving.checkpoint_files import list_checkpoints
from cait_dist.training.saving.checkpoint_saver import CheckpointSaver
from cait_dist.training.schedule import learning_rate
from cait_dist.training.starting.initial_model import initial_model
from cait_dist.training.starting.plan import make_plan
from cait_dist.training.step import TrainingStep
from cait_dist.training.watching.health import HealthCheck
from cait_dist.training.zero_partition import ZeroPartition


def main() -> None:
    arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    world = join(120)
    keep_compiled_in(out.with_name(f"{out.stem}-compiled-{world.rank}"))
    results = {case["name"]: Case(case, arguments["config"], world).run() for case in arguments["cases"]}
    if world.is_main:
        out.write_text(json.dumps(results))
    world.barrier()
    world.leave()


class Case:
    """One configuration on one fresh engine."""

    def __init__(self, case: dict[str, Any], config_path: str, world: World) -> None:
        self.case, self.world = case, world
        self.config = load_config(config_path, case["overrides"]).config
        self.plan = make_plan(self.config, world.size)
        model, _ = initial_model(self.config, self.plan.num_classes)
        if case.get("perturb"):
            perturb(model)
        training = self.config.training
        self.engine = parallelize(model, training, self.config.optimizer, self.plan.batches, world)
        self.partition = ZeroPartition(self.engine, world.rank, world.size)
        self.ema = MovingAverage(self.partition, training.ema_decay or 0.5)
        self.start = self.load()
        self.plain = PlainAverage(model, training.ema_decay or 0.5) if training.zero.stage == 0 else None
        self.average: list[float] = []
        self.average_in_fp32: list[float] = []
        self.seen: list[tuple[int, int]] = []

    def run(self) -> dict[str, Any]:
        accumulation = self.plan.batches.accumulation
        guide = open_guide(self.config, self.plan, self.world.device)
        stepper = TrainingStep(
            self.engine, self.config, self.plan.num_classes, accumulation, self.world, self.ema, guide
        )
        losses, norms, health = [], [], dict[str, float]()
        with self.open_loader() as loader:
            batches = self.watch(loader)
            for step in range(self.start, self.start + self.case["steps"]):
                set_learning_rate(self.engine.optimizer.param_groups, self.lr(step))
                check = HealthCheck(self.engine, self.partition, self.world) if self.is_last(step) else None
                if check:
                    check.begin()
                losses.append(float(self.world.sum(stepper.run(batches).loss) / self.world.size))
                norms.append(as_float(self.engine.get_global_grad_norm()))
                health = check.end() if check else {}
                self.after(step + 1)
        return {
            "losses": losses,
            "norms": norms,
            "health": health,
            "ids": self.gather_ids(),
            "weights": self.digest(),
            "average": self.average,
            "average_in_fp32": self.average_in_fp32,
            "plain_average": self.plain.logits(self.engine.module, self.plan.image_size) if self.plain else None,
        }

    def is_last(self, step: int) -> bool:
        return step == self.start + self.case["steps"] - 1

    def load(self) -> int:
        if not self.case.get("from"):
            return 0
        checkpoint = list_checkpoints(Path(self.case["from"]))[-1]
        load_checkpoint(checkpoint, self.partition, self.ema)
        return checkpoint.step

    def after(self, step: int) -> None:
        if self.plain:
            self.plain.update(self.engine.module)
        if self.case.get("look_at_average"):
            self.average = self.look_at_average(self.config)
            fp32 = self.config.evaluation.model_copy(update={"precision": "fp32"})
            self.average_in_fp32 = self.look_at_average(self.config.model_copy(update={"evaluation": fp32}))
        last = self.start + self.case["steps"]
        for at, folder in ((last, self.case.get("save")), self.case.get("save_at", (None, None))):
            if folder and at == step:
                saver = CheckpointSaver(Path(folder), self.world, self.partition, self.ema, keep=2)
                saver.begin({"step": at})
                saver.wait(last=True)

    def look_at_average(self, config: RunConfig) -> list[float]:
        self.engine.eval()
        with model_to_evaluate(config, self.engine, self.partition, self.ema, self.world) as model, torch.no_grad():
            logits: list[float] = model(fixed_images(self.plan.image_size)).float().flatten().tolist()
        self.engine.train()
        return logits

    def lr(self, step: int) -> float:
        return learning_rate(step, self.plan.calendar, self.config.optimizer, self.config.schedule)

    def open_loader(self) -> TrainLoader:
        reader = open_split(self.config.data.path, self.config.data.train_split)
        return TrainLoader(
            reader,
            SampleOrder(reader.num_samples, self.config.seed),
            self.config.augment,
            image_size=self.plan.image_size,
            seed=self.config.seed,
            global_batch=self.plan.batches.global_batch,
            micro_batch=self.plan.batches.micro_batch,
            rank=self.world.rank,
            world_size=self.world.size,
            start_step=self.start,
        )

    def watch(self, loader: TrainLoader) -> Iterator[tuple[MicroBatch, float]]:
        for batch in loader:
            self.seen.extend(zip(batch.positions.tolist(), batch.ids.tolist(), strict=True))
            yield batch, 0.0

    def gather_ids(self) -> list[int]:
        """Sample ids of all ranks in the order of the stream."""
        return [sample for _, sample in sorted(pair for rank in self.gather(self.seen) for pair in rank)]

    def digest(self) -> str:
        """One hash over every rank's master weights, moments and average: equal only if all bits are."""
        moments = [flat for kind in self.partition.moment_kinds for flat in self.partition.moments(kind)]
        flats = [*self.partition.masters(), *moments, *self.ema.flats]
        mine = hashlib.sha256(b"".join(flat.detach().cpu().numpy().tobytes() for flat in flats)).hexdigest()
        return "".join(self.gather(mine))

    def gather(self, mine: Any) -> list[Any]:
        everyone: list[Any] = [None] * self.world.size
        torch.distributed.all_gather_object(everyone, mine, group=self.world.control)
        return everyone


class PlainAverage:
    """The moving average as one would write it for a whole model in one place: the reference."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, model: torch.nn.Module) -> None:
        for name, p in model.named_parameters():
            self.weights[name] = self.decay * self.weights[name] + (1 - self.decay) * p.detach()

    def logits(self, model: torch.nn.Module, size: int) -> list[float]:
        model.eval()
        with torch.no_grad():
            logits: list[float] = torch.func.functional_call(model, self.weights, fixed_images(size)).flatten().tolist()
        return logits


def perturb(model: torch.nn.Module) -> None:
    """LayerScale of order one and larger maps, so that every part of the network matters to the loss."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def fixed_images(size: int) -> torch.Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))


def as_float(value: Any) -> float | None:
    return None if value is None else float(value)


if __name__ == "__main__":
    main()
