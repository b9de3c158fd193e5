"""Trains several runs one after another in one process, which has to load torch and DeepSpeed only once.

Arguments: a JSON list of {"config": path, "overrides": [...]}, and a file to write when all is done. Everything is the
project's own.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from cait_dist.config import load_config
from cait_dist.training.preempt import StopRequest
from cait_dist.training.ranks.process_group import World, join
from cait_dist.training.starting.attempt import begin_attempt
from cait_dist.training.starting.plan import make_plan
from cait_dist.training.trainer import Trainer


def main() -> None:
    world = join(120)
    for wanted in json.loads(sys.argv[1]):
        train(wanted, world)
    Path(sys.argv[2]).write_text("{}")
    world.leave()


def train(wanted: dict[str, Any], world: World) -> None:
    config = load_config(Path(wanted["config"]), wanted["overrides"]).config
    attempt = begin_attempt(config, make_plan(config, world.size), "auto")
    assert attempt is not None
    trainer = Trainer(attempt.run, attempt.number, config, world, attempt.resume_step, StopRequest())
    trainer.close(trainer.run())
    os.close(attempt.lock)


if __name__ == "__main__":
    main()
