"""The program every rank runs: ``python -m cait_dist.training.worker RUN_DIR ATTEMPT``.

Started by `cait train` on one machine and by SLURM on many; who it is, it reads from the environment (see
``process_group``), and what to do, from the attempt's directory. It leaves with status 0 when the run is finished,
75 when it saved and stopped, 2 when the user can mend the cause, 1 otherwise; what went wrong is also written into
``attempt-K/rank-R.error.json``, so that the first failure can be told from those it caused.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cait_dist.errors import is_for_user
from cait_dist.tracking.run_directory import RunDirectory, write_json
from cait_dist.tracking.storage import MENDABLE, explain, is_about_storage

from .preempt import EXIT_SAVED, StopRequest
from .recording.output import print_without_fail
from .saving.checkpoint_files import list_checkpoints

if TYPE_CHECKING:
    from .ranks.process_group import World

EXIT_BAD_INPUT = 2

BeforeTraining = Callable[["World", RunDirectory], None]
"""Called on every rank once all have come; an error that it raises ends the attempt."""


def main(run_dir: str, attempt: str, before_training: BeforeTraining | None = None) -> NoReturn:
    """Run one rank; never returns, because a broken process group can hang the interpreter's own shutdown."""
    print_without_fail()
    run, number = RunDirectory(Path(run_dir)), int(attempt)
    stop = StopRequest().listen()
    _follow_parent()
    status = 1
    try:
        status = _train(run, number, stop, before_training)
    except BaseException as error:
        status = _report(run, number, error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _train(run: RunDirectory, number: int, stop: StopRequest, before_training: BeforeTraining | None) -> int:
    from cait_dist.config import load_config  # noqa: PLC0415 - errors while importing are reported too
    from cait_dist.data.loader import death_of_worker  # noqa: PLC0415
    from cait_dist.tracking.inputs import write_environment  # noqa: PLC0415
    from cait_dist.tracking.system_metrics import sampling  # noqa: PLC0415

    from .compilation import keep_compiled_in  # noqa: PLC0415
    from .ranks.process_group import join  # noqa: PLC0415
    from .trainer import Trainer  # noqa: PLC0415
    from .watching.activity import ENDING, enter  # noqa: PLC0415
    from .watching.heartbeat import Heartbeat, hang_limit  # noqa: PLC0415

    config = load_config(run.attempt(number) / "config.yaml").config
    entry = next(a for a in run.read_record()["attempts"] if a["number"] == number)
    world = join(config.training.collective_timeout)
    if config.training.compile:
        keep_compiled_in(run.attempt(number) / "compiled" / f"rank-{world.rank}")
    if before_training is not None:
        before_training(world, run)
    if world.is_main:
        write_environment(run.attempt(number), _gpu_names(world))
    every = config.tracking.system_seconds if world.local_rank == 0 else None
    limit = hang_limit(config.training.hang_timeout, config.training.collective_timeout)
    with (
        Heartbeat(run.attempt(number), world.rank, world.size, limit) as heartbeat,
        sampling(run, number, every, lambda text: print(text, flush=True)),
    ):
        trainer = Trainer(run, number, config, world, entry["resumed_from"], stop)
        outcome = "failed"
        try:
            outcome = trainer.run()
        except Exception as error:
            heartbeat.explain(error)
            raise death_of_worker(error) or error  # noqa: B904 - the same error, or said more plainly
        finally:
            enter(ENDING)
            trainer.close(outcome)
    world.leave()
    return 0 if outcome == "finished" else EXIT_SAVED


def _gpu_names(world: "World") -> list[str]:
    import torch  # noqa: PLC0415

    numbers = range(torch.cuda.device_count()) if world.device.type == "cuda" else ()
    return [torch.cuda.get_device_name(number) for number in numbers]


def _report(run: RunDirectory, number: int, error: BaseException) -> int:
    rank = int(os.environ.get("RANK", "0"))
    explained, message = is_for_user(error), str(error)
    text = "".join(traceback.format_exception(error))
    if isinstance(error, OSError) and is_about_storage(error):
        explained, message = error.errno in MENDABLE, explain(error, run.path, _last_checkpoint(run))
        text += f"{message}\n"
    facts = {"rank": rank, "time": time.time(), "explained": explained, "message": message, "traceback": text}
    print(text, file=sys.stderr)
    try:
        write_json(run.attempt(number) / f"rank-{rank}.error.json", facts)
    except OSError:
        # A full disk takes this report as little: all that is left is the terminal, which rank 0 has.
        print(f"rank {rank}: {message}", flush=True)
    return EXIT_BAD_INPUT if explained else 1


def _last_checkpoint(run: RunDirectory) -> int | None:
    try:
        return max((checkpoint.step for checkpoint in list_checkpoints(run.checkpoints)), default=None)
    except OSError:
        return None


def _follow_parent() -> None:
    """Ask Linux for SIGTERM when the launcher dies: a rank nobody watches saves and ends."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGTERM))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
