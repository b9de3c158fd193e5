"""The training stream of a run: the data of one step after the other, or of another place where training goes back."""

from collections.abc import Iterator

from cait_dist.config import RunConfig
from cait_dist.data.loader import MicroBatch, TrainLoader
from cait_dist.data.loader_ffcv import FfcvTrainLoader, make_train_loader
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_webdataset import open_train_split

from .ranks.process_group import World
from .recording.step_metrics import timed
from .starting.plan import Plan


class TrainStream:
    """This rank's part of the training stream, for one step after the other.

    Args:
        config: of the run
        plan: its batches and the images' size
        world: the process group
    """

    def __init__(self, config: RunConfig, plan: Plan, world: World) -> None:
        self._config, self._plan, self._world = config, plan, world
        self._loader: TrainLoader | FfcvTrainLoader | None = None
        self._next = -1
        self.batches: Iterator[tuple[MicroBatch, float]] = iter(())
        """each with the seconds it was waited for"""

    def go_to(self, place: int) -> None:
        """Have the data of the next step ready; to be called before each.

        Args:
            place: global batches that lie before them
        """
        if place != self._next:
            self.close()
            self._loader = self._open(place)
            self.batches = timed(iter(self._loader))
        self._next = place + 1

    def close(self) -> None:
        """Release workers; harmless if done twice."""
        if self._loader is not None:
            self._loader.close()

    def _open(self, place: int) -> TrainLoader | FfcvTrainLoader:
        config, batches = self._config, self._plan.batches
        reader = open_train_split(config.data)
        order = SampleOrder(
            reader.num_samples,
            config.seed,
            mode=config.data.order,
            repeats=config.data.repeats,
            shard_sizes=reader.shard_sizes,
            block_shards=config.data.block_shards,
        )
        return make_train_loader(
            config.data.decoder,
            reader,
            order,
            config.augment,
            image_size=self._plan.image_size,
            seed=config.seed,
            global_batch=batches.global_batch,
            micro_batch=batches.micro_batch,
            rank=self._world.rank,
            world_size=batches.world_size,
            start_step=place,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            reuse_memory=True,
            skip_corrupt=config.data.on_corrupt == "skip",
        )
