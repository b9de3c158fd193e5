"""Runs many training configurations in one launch and reports every step's loss and sample ids.

Argument: {"config": path, "cases": [{"name", "overrides", "steps", "perturb", "from", "save", "save_at"}]}, where
``from`` and ``save`` are folders of checkpoints and ``save_at`` is a step and such a folder. Everything is the
project's own: preflight, loader, step, engine, checkpoint.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from cait_dist.config import load_config
from cait_dist.data.loader import TrainLoader
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_webdataset import open_split
from cait_dist.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from cait_dist.training.ema import MovingAverage
from cait_dist.training.optimizer import set_learning_rate
from cait_dist.training.parallel import parallelize
from cait_dist.training.preflight import initial_model, make_plan
from cait_dist.training.process_group import World, join
from cait_dist.training.schedule import learning_rate
from cait_dist.training.step import TrainingStep
from cait_dist.training.zero_partition import ZeroPartition


def main() -> None:
    arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    world = join(120)
    results = {case["name"]: run_case(case, arguments["config"], world) for case in arguments["cases"]}
    if world.is_main:
        out.write_text(json.dumps(results))
    world.barrier()
    world.leave()


def run_case(case: dict[str, Any], config_path: str, world: World) -> dict[str, Any]:
    config = load_config(config_path, case["overrides"]).config
    plan = make_plan(config, world.size)
    model, _ = initial_model(config, plan.num_classes)
    if case.get("perturb"):
        perturb(model)
    engine = parallelize(model, config.training, config.optimizer, plan.batches, world)
    partition = ZeroPartition(engine, world.rank, world.size)
    ema = MovingAverage(partition, config.training.ema_decay) if config.training.ema_decay else None
    start = 0
    if case.get("from"):
        checkpoint = list_checkpoints(Path(case["from"]))[-1]
        load_checkpoint(checkpoint, partition, ema)
        start = checkpoint.step
    stepper = TrainingStep(engine, config, plan.num_classes, plan.batches.accumulation, world, ema)
    losses, norms = [], []
    ids: list[tuple[int, int]] = []
    with open_loader(config, plan, world, start) as loader:
        batches = watch(loader, ids)
        for step in range(start, start + case["steps"]):
            set_learning_rate(
                engine.optimizer.param_groups, learning_rate(step, plan.calendar, config.optimizer, config.schedule)
            )
            result = stepper.run(batches)
            losses.append(float(world.sum(result.loss) / world.size))
            norm = engine.get_global_grad_norm()
            norms.append(None if norm is None else float(norm))
            at, folder = case.get("save_at", (None, None))
            if at == step + 1:
                save_checkpoint(Path(folder), world, partition, ema, {"step": at}, keep=2)
    if case.get("save"):
        save_checkpoint(Path(case["save"]), world, partition, ema, {"step": start + case["steps"]}, keep=2)
    return {"losses": losses, "norms": norms, "ids": gather_ids(ids, world), "weights": digest(partition, ema, world)}


def perturb(model: torch.nn.Module) -> None:
    """LayerScale of order one and larger maps, so that every part of the network matters to the loss."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def open_loader(config: Any, plan: Any, world: World, start: int) -> TrainLoader:
    reader = open_split(config.data.path, config.data.train_split)
    order = SampleOrder(reader.num_samples, config.seed, repeats=config.data.repeats)
    return TrainLoader(
        reader,
        order,
        config.augment,
        image_size=plan.image_size,
        seed=config.seed,
        global_batch=plan.batches.global_batch,
        micro_batch=plan.batches.micro_batch,
        rank=world.rank,
        world_size=world.size,
        start_step=start,
    )


def watch(loader: TrainLoader, seen: list[tuple[int, int]]) -> Any:
    for batch in loader:
        seen.extend(zip(batch.positions.tolist(), batch.ids.tolist(), strict=True))
        yield batch, 0.0


def gather_ids(seen: list[tuple[int, int]], world: World) -> list[int]:
    """Sample ids of all ranks in the order of the stream."""
    everyone: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(everyone, seen, group=world.control)
    return [sample for _, sample in sorted(pair for rank in everyone for pair in rank)]


def digest(partition: ZeroPartition, ema: MovingAverage | None, world: World) -> str:
    """One hash over every rank's master weights, moments and average: equal only if all bits are."""
    flats = [*partition.masters(), *partition.moments("exp_avg"), *partition.moments("exp_avg_sq")]
    flats += ema.flats if ema else []
    mine = hashlib.sha256(b"".join(flat.detach().cpu().numpy().tobytes() for flat in flats)).hexdigest()
    everyone: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(everyone, mine, group=world.control)
    return "".join(everyone)


if __name__ == "__main__":
    main()
