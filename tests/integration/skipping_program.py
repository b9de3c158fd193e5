"""Trains a tiny network with masks of stochastic depth that the caller chooses, and reports losses and gradient norms.

Argument: {"cases": [{"name", "stage", "policy", "backend", "keep": masks by step, block, branch and sample}]}. Every
rank takes its slice of the samples, so that the same masks mean the same training on any number of ranks.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from cait_dist.config.optimizer import OptimizerConfig
from cait_dist.config.training import TrainingConfig
from cait_dist.models import create_model
from cait_dist.ops import override_backend
from cait_dist.planning.counting.batch_plan import plan_batches
from cait_dist.training.parallel import parallelize
from cait_dist.training.ranks.process_group import World, join

SHAPE = {
    "image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5,
    "layer_scale_init": 0.5, "drop_path_rate": 0.5,
}  # fmt: skip
TIMEOUT = 60


def main() -> None:
    arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    world = join(TIMEOUT)
    results = {case["name"]: run_case(case, world) for case in arguments["cases"]}
    if world.is_main:
        out.write_text(json.dumps(results))
    world.barrier()
    world.leave()


def run_case(case: dict[str, Any], world: World) -> dict[str, Any]:
    keep = torch.tensor(case["keep"])  # (steps, depth, 2, global batch)
    torch.manual_seed(0)
    model = create_model("cait_xxs24_224", **SHAPE)
    training = TrainingConfig(
        precision="fp32",
        activation_checkpointing=case["policy"],
        zero={"stage": case["stage"], "bucket_size": 5000, "param_persistence_threshold": 0},
        collective_timeout=TIMEOUT,
    )
    batches = plan_batches(keep.shape[-1], world.size, None)
    engine = parallelize(model, training, OptimizerConfig(lr=1e-3, clip_grad=1.0), batches, world)
    mine = slice(world.rank * batches.micro_batch, (world.rank + 1) * batches.micro_batch)
    losses, norms = [], []
    for step, masks in enumerate(keep):
        images, labels = samples(step, keep.shape[-1])
        with override_backend(case["backend"]):
            logits = engine(images[mine], masks.permute(2, 0, 1)[mine])
            loss = F.cross_entropy(logits, labels[mine])
            engine.backward(loss)
        engine.step()
        losses.append(float(world.sum(loss) / world.size))
        norms.append(float(engine.get_global_grad_norm() or 0.0))
    return {"losses": losses, "norms": norms}


def samples(step: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(batch, 3, 16, 16, generator=generator), torch.randint(5, (batch,), generator=generator)


if __name__ == "__main__":
    main()
